"""How many requests at once the memory of a replica bears, when each holds some of it.

What one request costs nobody declares; it shows in the resident size, which grows with the requests in flight. The
estimate is the largest growth per request seen, because memory that Python once took it seldom gives back: a later
burst looks cheaper than it is. Where the whole machine or our control group runs short, what was estimated does not
count any more, and every limit goes down at once.

Pure: what was measured comes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

USED_SHARE = 0.8  # of what a replica may take; the rest is for garbage not collected yet
REQUEST_MIN_BYTES = 16 * 1024
NOISE_BYTES = 4 << 20  # growth below this is the interpreter's own
NOISE_REQUESTS = 4
SHORT_SHARE = 0.10  # of the memory available to us: below it limits shrink
STALLED_SHARE = 0.10  # of the time in which some work waited for memory (PSI, 10 s average)
SHRINK = 0.8
RECOVER = 1.05
SHRUNK_MIN = 0.02


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is known of one replica's memory."""

    idle_bytes: int = 0  # resident with next to nothing in flight, the lowest seen since it began to serve
    request_bytes: int = 0  # of one request, the most seen; 0 = unknown


@dataclass(frozen=True, slots=True)
class Shortage:
    """How far limits are shrunk for want of memory: a factor of 1 = not at all."""

    factor: float = 1.0


def observe(state: Footprint, rss_bytes: int, in_flight: int) -> Footprint:
    """The footprint after one look at a replica."""
    if rss_bytes <= 0:
        return state
    if not state.idle_bytes or (in_flight <= 1 and rss_bytes < state.idle_bytes):
        state = replace(state, idle_bytes=rss_bytes)
    grown = rss_bytes - state.idle_bytes
    if grown > NOISE_BYTES and in_flight >= NOISE_REQUESTS:
        each = grown // in_flight
        if each > state.request_bytes:
            # A part of the way: garbage and caches that grow once look like a cost of each request.
            state = replace(state, request_bytes=state.request_bytes + max(1, (each - state.request_bytes) // 2))
    return state


def ceiling(state: Footprint, share_bytes: int) -> int | None:
    """Requests at once that fit into `share_bytes` of one replica; None while nothing is known."""
    if not state.request_bytes:
        return None
    room = USED_SHARE * share_bytes - state.idle_bytes
    return max(1, int(room / max(REQUEST_MIN_BYTES, state.request_bytes)))


def shorten(state: Shortage, available_bytes: int, total_bytes: int, stalled_share: float) -> Shortage:
    """The shortage after one look at the machine: down at once, up slowly."""
    is_short = total_bytes > 0 and available_bytes < SHORT_SHARE * total_bytes
    if is_short or stalled_share > STALLED_SHARE:
        return Shortage(max(SHRUNK_MIN, state.factor * SHRINK))
    return Shortage(min(1.0, state.factor * RECOVER)) if state.factor < 1.0 else state
