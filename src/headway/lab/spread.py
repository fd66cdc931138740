"""How latencies are spread, in little memory: counts of buckets that are each 4.4 % wider than the one before.

A load keeps every latency once, for exact figures at its end. For every second of it, and for the live picture, that
would be too much; there a percentile within 2.2 % does. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_BUCKETS_PER_DOUBLING = 16
_LEAST_S = 1e-5


def bucket_of(latency_s: float) -> int:
    """The bucket that counts this latency; below 10 microseconds all are one."""
    return int(_BUCKETS_PER_DOUBLING * math.log2(latency_s / _LEAST_S)) if latency_s > _LEAST_S else 0


def middle_s(bucket: int) -> float:
    """The latency that stands for a bucket."""
    return float(_LEAST_S * 2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING))


def percentiles_s(counts: Mapping[int, int], *shares: float) -> tuple[float | None, ...]:
    """For each share (ascending) the latency that so many do not exceed; None when nothing was counted."""
    total = sum(counts.values())
    if not total:
        return (None,) * len(shares)
    found: list[float | None] = []
    seen, ordered = 0, iter(sorted(counts.items()))
    bucket = 0
    for share in shares:
        while seen < math.ceil(round(share * total, 9)):
            bucket, count = next(ordered)
            seen += count
        found.append(middle_s(bucket))
    return tuple(found)


Spread = Counter[int]  # bucket -> how many
