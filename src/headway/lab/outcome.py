"""What becomes of requests: which of them count as what, and the nouns of a load's result. Pure.

A request ends in exactly one of four ways, so that ok + late + refused + failed = offered. Only an answer that its
user still wanted (2xx or 3xx within the SLO) is goodput; a 503 or 429 is the system's honest "no", no failure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headway.lab.generator import Generator

Ending = Literal["ok", "late", "refused", "failed"]

DEADLINE = "deadline"


def classify(status: int, latency_s: float, slo_s: float | None) -> Ending:
    """How a request ended that was answered in full with `status`, `latency_s` after its intended start."""
    if 200 <= status < 400:
        return "ok" if slo_s is None or latency_s <= slo_s else "late"
    return "refused" if status in (503, 429) else "failed"


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the sorted values do not exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    # Rounded first: 0.07 * 100 is a little over 7 in binary and must not become rank 8.
    return ordered[max(0, math.ceil(round(share * len(ordered), 9)) - 1)]


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request. `at_s` is its intended start on the machine's monotonic clock."""

    at_s: float
    method: str
    path: str
    reason: str
    load_id: str


@dataclass(frozen=True, slots=True)
class Second:
    """The requests that were meant to start in one second of the load, and how they ended."""

    second: int
    offered: int
    ok: int
    late: int
    refused: int
    failed: int
    p50_ms: float | None = None  # of ok and late, within 2.2 %
    p90_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How a load stands while it runs; counts are from its beginning."""

    elapsed_s: float
    duration_s: float
    offered: int
    ok: int
    late: int
    refused: int
    failed: int
    in_flight: int
    p50_ms: float | None = None  # so far, within 2.2 %
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of the schedule, or one kind of request: what was offered of it, and how it ended."""

    name: str  # "100..200/s for 60 s", "POST /cart"
    offered: int
    ok: int
    late: int
    refused: int
    failed: int
    goodput_per_s: float
    latency_ms: Mapping[str, float | None]  # p50, p99 of ok and late
    start_s: float  # a kind of request: 0
    duration_s: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load measured. Times in milliseconds; percentiles are None where nothing was counted."""

    offered: int
    goodput_per_s: float
    ok: int
    late: int
    refused: int
    failed: int
    latency_ms: Mapping[str, float | None]  # p50, p90, p99, max of ok and late
    refused_ms: Mapping[str, float | None]  # p50, p99
    statuses: Mapping[str, int]
    failures: Mapping[str, int]  # reason -> count, the most frequent first
    generator: Generator
    duration_s: float
    pieces: tuple[Part, ...] = ()  # of the schedule, in their order
    requests: tuple[Part, ...] = ()  # kinds of them
    timeline: tuple[Second, ...] = ()
    failed_requests: tuple[Failure, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that `headway load --json` prints; the single failures stay out of it."""
        document = asdict(self)
        del document["failed_requests"]
        return document
