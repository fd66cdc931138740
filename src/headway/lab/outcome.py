"""What became of the requests: which of them count, and the figures that follow. Nothing here knows a clock.

A request ends in exactly one of four ways, so that ok + late + refused + failed = offered. Only an answer that its
user still wanted (2xx or 3xx within the SLO) is goodput; a 503 or 429 is the system's honest "no", no failure.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Ending = Literal["ok", "late", "refused", "failed"]

# Reasons for which the generator, not the system, is to blame.
CONNECTION_LIMIT = "client connection limit"
TOO_SLOW = "client too slow"
OUT_OF_PORTS = "client out of ports"
OUT_OF_DESCRIPTORS = "client out of descriptors"
DEADLINE = "deadline"
_OWN_FAULTS = (TOO_SLOW, OUT_OF_PORTS, OUT_OF_DESCRIPTORS)

# Above this share of a core the generator has no room to be on time.
CPU_SHARE_MAX = 0.9
# The lag is part of every latency reported; beyond this it colours figures that people act on.
SEND_LAG_MAX_MS = 10.0
# A burst cannot leave at one instant (about 0.1 ms a connection); a tenth of the deadline is still "at once".
BURST_LAG_SHARE_MAX = 0.1


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


@dataclass(frozen=True, slots=True)
class Generator:
    """The generator's view of itself: were its figures limited by the system, or by itself?"""

    cpu_share: float
    send_lag_ms_p99: float
    bottleneck: bool


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
    timeline: tuple[Second, ...] = ()
    failed_requests: tuple[Failure, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The document that `headway load --json` prints; the single failures stay out of it."""
        document = asdict(self)
        del document["failed_requests"]
        return document


@dataclass(slots=True)
class Tally:
    """Counts endings as they come in and sums them up at the end."""

    slo_s: float | None
    failures_max: int
    offered: int = 0
    counts: Counter[Ending] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    failed_requests: list[Failure] = field(default_factory=list)
    served_s: array[float] = field(default_factory=lambda: array("d"))
    refused_s: array[float] = field(default_factory=lambda: array("d"))
    send_lag_s: array[float] = field(default_factory=lambda: array("d"))
    seconds: list[Counter[str]] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """Requests whose fate is known."""
        return self.counts.total()

    def offer(self, intended_s: float) -> None:
        """A request was due at `intended_s` of the load."""
        self.offered += 1
        while len(self.seconds) <= int(intended_s):
            self.seconds.append(Counter())
        self.seconds[int(intended_s)]["offered"] += 1

    def answered(self, intended_s: float, latency_s: float, status: int) -> Ending:
        """A request got its whole answer in time; failed ones (4xx, 5xx) still need `failed`."""
        self.statuses[status] += 1
        ending = classify(status, latency_s, self.slo_s)
        if ending == "failed":
            return ending
        (self.refused_s if ending == "refused" else self.served_s).append(latency_s)
        self._count(intended_s, ending)
        return ending

    def failed(self, intended_s: float, failure: Failure) -> None:
        """A request came to nothing."""
        self.failures[failure.reason] += 1
        if len(self.failed_requests) < self.failures_max:
            self.failed_requests.append(failure)
        self._count(intended_s, "failed")

    def _count(self, intended_s: float, ending: Ending) -> None:
        self.counts[ending] += 1
        self.seconds[int(intended_s)][ending] += 1

    def result(self, *, duration_s: float, cpu_share: float, burst_deadline_s: float | None) -> LoadResult:
        """Everything counted, over the `duration_s` in which requests started (a burst: until its last one ended)."""
        served, refused = sorted(self.served_s), sorted(self.refused_s)
        lag_ms = _ms(percentile(sorted(self.send_lag_s), 0.99)) or 0.0
        return LoadResult(
            offered=self.offered,
            goodput_per_s=round(self.counts["ok"] / duration_s, 2) if duration_s > 0 else 0.0,
            ok=self.counts["ok"],
            late=self.counts["late"],
            refused=self.counts["refused"],
            failed=self.counts["failed"],
            latency_ms={
                "p50": _ms(percentile(served, 0.5)),
                "p90": _ms(percentile(served, 0.9)),
                "p99": _ms(percentile(served, 0.99)),
                "max": _ms(served[-1] if served else None),
            },
            refused_ms={"p50": _ms(percentile(refused, 0.5)), "p99": _ms(percentile(refused, 0.99))},
            statuses={str(status): count for status, count in sorted(self.statuses.items())},
            failures=dict(self.failures.most_common()),
            generator=Generator(round(cpu_share, 3), lag_ms, self._bottleneck(cpu_share, lag_ms, burst_deadline_s)),
            duration_s=round(duration_s, 3),
            timeline=tuple(
                Second(number, *(counts[key] for key in ("offered", "ok", "late", "refused", "failed")))
                for number, counts in enumerate(self.seconds)
            ),
            failed_requests=tuple(self.failed_requests),
        )

    def _bottleneck(self, cpu_share: float, lag_ms: float, burst_deadline_s: float | None) -> bool:
        if any(self.failures[reason] for reason in _OWN_FAULTS):
            return True
        if burst_deadline_s is not None:
            return lag_ms > burst_deadline_s * 1000 * BURST_LAG_SHARE_MAX
        return cpu_share > CPU_SHARE_MAX or lag_ms > SEND_LAG_MAX_MS


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
