"""When the requests of a load are meant to start: users arrive by chance and do not wait for each other.

A generator that sends the next request when the last one was answered slows down together with the system it measures
and hides the worst of it (coordinated omission). So the moments are fixed here beforehand, from rate and seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

Pattern = Literal["poisson", "constant", "burst"]


def arrivals(rate_per_s: float, duration_s: float, seed: int = 0, pattern: Pattern = "poisson") -> Iterator[float]:
    """Intended start times in seconds from 0 up to `duration_s`, ascending; the same arguments give the same times.

    `poisson`: independent users, exponential gaps; the count varies by chance around rate x duration.
    `constant`: evenly spaced, the first at 0. `burst`: all rate x duration requests at 0.
    """
    if pattern == "burst":
        yield from (0.0 for _ in range(round(rate_per_s * duration_s)))
    elif pattern == "constant":
        number = 0
        # A product instead of a running sum: a million steps must not drift.
        while (moment_s := number / rate_per_s) < duration_s:
            yield moment_s
            number += 1
    else:
        gaps = Random(seed)
        moment_s = gaps.expovariate(rate_per_s)
        while moment_s < duration_s:
            yield moment_s
            moment_s += gaps.expovariate(rate_per_s)
