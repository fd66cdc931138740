"""How many requests at once the memory of a replica bears, when each holds some of it.

What one request costs nobody declares; it shows in the resident size, which grows with the requests in flight. Python
gives back little of what it once took, so only one direction tells: while requests become more than they were, the
growth of the resident size over their growth is what each holds. While they become fewer the size stays, and a quotient
of the two would say that each holds ever more.

What is learned that way may be too much: caches and imports grow with the first requests as well. But all that are in
flight together hold no more than the size has grown since nothing was. So the estimate comes down, slowly, to what the
most of them at once would leave each. A little below that it tries whether more fit: if they do not, the size shows it.

Where the whole machine or our control group runs short, what was estimated does not count any more, and every limit
goes down at once. Short is where work waits for memory, or where little is left and that became less of late: a machine
may be nearly full all its life and want for nothing.

Pure: what was measured comes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

USED_SHARE = 0.8  # of what a replica may take; the rest is for garbage not collected yet
REQUEST_MIN_BYTES = 16 * 1024
NOISE_BYTES = 4 << 20  # growth below this is the interpreter's own
NOISE_REQUESTS = 4
RISE_OVER = 0.5  # of the most in flight since it began: with fewer a rise is over, and the next one begins
RISE_SHOWS_S = 1.0  # since the resident size last grew; after that it says no more of those that come
# Until what looked like a request's cost and was none is forgotten: longer than most requests take to hold all they
# will, for as long as they hold less they look cheaper than they are.
FORGET_S = 30.0
TRIED = 0.9  # of what the most at once would leave each: with USED_SHARE, nine tenths of the memory are touched
SHORT_SHARE = 0.10  # of the memory available to us: below it limits shrink, where it fell by a part of what was usual
FELL_SHARE = 0.2
USUAL_S = 60.0  # until what is available passes for usual, where no work waits for memory
NONE_SHARE = 0.02  # no usual makes this enough
STALLED_SHARE = 0.10  # of the time in which some work waited for memory (PSI, 10 s average)
SHRINK = 0.8
RECOVER = 1.05
SHRUNK_MIN = 0.02


@dataclass(frozen=True, slots=True)
class Footprint:
    """What is known of one replica's memory."""

    idle_bytes: int = 0  # resident with next to nothing in flight, the lowest seen since it began to serve
    request_bytes: int = 0  # of one request; 0 = unknown
    low_bytes: int = 0  # resident where the present rise began
    low_in_flight: int = 0
    high_in_flight: int = 0  # the most since then
    high_bytes: int = 0  # the largest resident size since then
    still_s: float = 0.0  # since it was reached
    top_bytes: int = 0  # the largest resident size
    top_in_flight: int = 0  # the most at once that were seen to fit into it
    usual_bytes: float = 0.0  # follows the largest size slowly


@dataclass(frozen=True, slots=True)
class Shortage:
    """How far limits are shrunk for want of memory: a factor of 1 = not at all."""

    factor: float = 1.0
    usual_bytes: float = 0.0  # available lately, SHORT_SHARE at the most; 0 = not known yet


def observe(state: Footprint, rss_bytes: int, in_flight: int, duration_s: float) -> Footprint:
    """The footprint after one look at a replica."""
    if rss_bytes <= 0:
        return state
    if not state.idle_bytes:
        # Of a burst before the first look its requests are counted, and hold nothing yet.
        state = Footprint(idle_bytes=rss_bytes, low_bytes=rss_bytes, high_bytes=rss_bytes, usual_bytes=rss_bytes)
    elif in_flight <= 1 and rss_bytes < state.idle_bytes:
        state = replace(state, idle_bytes=rss_bytes)
    high = max(state.high_in_flight, in_flight)
    if in_flight <= state.low_in_flight or in_flight < RISE_OVER * high:
        state = replace(state, low_bytes=rss_bytes, low_in_flight=in_flight, high_bytes=rss_bytes)
        high = in_flight
    still_s = 0.0 if rss_bytes > state.high_bytes else state.still_s + max(0.0, duration_s)
    state = replace(
        state,
        high_in_flight=high,
        high_bytes=max(state.high_bytes, rss_bytes),
        still_s=still_s,
        top_bytes=max(state.top_bytes, rss_bytes),
        top_in_flight=max(state.top_in_flight, in_flight),
    )
    more, grown = high - state.low_in_flight, rss_bytes - state.low_bytes
    shows = more >= NOISE_REQUESTS and grown > NOISE_BYTES and still_s < RISE_SHOWS_S
    each = grown // more if shows else 0
    if shows and rss_bytes - state.usual_bytes > NOISE_BYTES:
        # All that was ever taken is in use again, and it did not do. (One that leaks gets there too, but slowly.)
        each = max(each, (rss_bytes - state.idle_bytes) // high)
    kept = exp(-max(0.0, duration_s) / FORGET_S)
    state = replace(state, usual_bytes=state.top_bytes + (state.usual_bytes - state.top_bytes) * kept)
    if each > state.request_bytes:
        # A part of the way, for the counts of requests may be a moment older than the resident size; the first time all
        # of it, for until then nothing bounds the limit.
        learned = state.request_bytes + max(1, (each - state.request_bytes) // (2 if state.request_bytes else 1))
        return replace(state, request_bytes=learned, top_in_flight=high)
    return _forget(state, kept)


def _forget(state: Footprint, kept: float) -> Footprint:
    """The estimate comes down to a little less than what is known to be enough."""
    if not state.request_bytes or state.top_in_flight < NOISE_REQUESTS:
        return state
    enough = int(TRIED * (state.top_bytes - state.idle_bytes) / state.top_in_flight)
    if enough >= state.request_bytes:
        return state
    return replace(state, request_bytes=max(1, enough + int((state.request_bytes - enough) * kept)))


def ceiling(state: Footprint, share_bytes: int) -> int | None:
    """Requests at once that fit into `share_bytes` of one replica; None while nothing is known."""
    if not state.request_bytes:
        return None
    room = USED_SHARE * share_bytes - state.idle_bytes
    return max(1, int(room / max(REQUEST_MIN_BYTES, state.request_bytes)))


def shorten(
    state: Shortage, available_bytes: int, total_bytes: int, stalled_share: float, duration_s: float
) -> Shortage:
    """The shortage after one look at the machine: down at once, up slowly."""
    enough = SHORT_SHARE * total_bytes
    usual = min(enough, state.usual_bytes or available_bytes)
    fell = available_bytes < (1.0 - FELL_SHARE) * usual
    is_short = total_bytes > 0 and (fell or available_bytes < NONE_SHARE * total_bytes)
    kept = exp(-max(0.0, duration_s) / USUAL_S) if available_bytes < usual else 0.0
    usual = min(enough, available_bytes + (usual - available_bytes) * kept)
    if is_short or stalled_share > STALLED_SHARE:
        return Shortage(max(SHRUNK_MIN, state.factor * SHRINK), usual)
    return Shortage(min(1.0, state.factor * RECOVER), usual)
