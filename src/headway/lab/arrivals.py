"""When the requests of a load are meant to start: users arrive by chance and do not wait for each other.

A generator that sends the next request when the last one was answered slows down together with the system it measures
and hides the worst of it (coordinated omission). So the moments are fixed here beforehand, from rate and seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random
from typing import Literal

from headway.lab.schedule import Piece

Pattern = Literal["poisson", "constant", "burst"]


def arrivals(rate_per_s: float, duration_s: float, seed: int = 0, pattern: Pattern = "poisson") -> Iterator[float]:
    """Intended start times in seconds from 0 up to `duration_s`, ascending; the same arguments give the same times.

    `poisson`: independent users, exponential gaps; the count varies by chance around rate x duration.
    `constant`: evenly spaced, the first at 0. `burst`: all rate x duration requests at 0.
    """
    if pattern == "burst":
        return iter([0.0] * round(rate_per_s * duration_s))
    return scheduled_arrivals((Piece(duration_s, rate_per_s, rate_per_s),), seed, pattern)


def scheduled_arrivals(pieces: Sequence[Piece], seed: int = 0, pattern: Pattern = "poisson") -> Iterator[float]:
    """The same under a rate that changes.

    Arrivals at rate 1 are laid along the count of requests due so far, and read back as time: where the rate is high,
    the same gap passes faster. This keeps a Poisson process one, and even spacing as even as a ramp allows.
    """
    due = (float(number) for number in count()) if pattern == "constant" else _unit_arrivals(seed)
    now = next(due)
    began_s = began_count = 0.0
    for piece in pieces:
        ends_count = began_count + piece.offered_expected
        # A pause has no moment for anybody, not even for one whom rounding left over from the piece before.
        while piece.offered_expected > 0 and now < ends_count:
            at_s = piece.time_s(max(0.0, now - began_count))
            if at_s >= piece.duration_s:  # by rounding alone: it belongs to the beginning of what follows
                break
            yield began_s + at_s
            now = next(due)
        began_s, began_count = began_s + piece.duration_s, ends_count


def _unit_arrivals(seed: int) -> Iterator[float]:
    gaps = Random(seed)
    moment = 0.0
    while True:
        moment += gaps.expovariate(1.0)
        yield moment
