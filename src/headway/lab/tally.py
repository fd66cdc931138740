"""Counts endings as they come in, whole and by second, piece of the schedule and kind of request. No clock in here."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from headway.lab.generator import OWN_FAULTS, SEND_LAG_MAX_MS, Effort, judged
from headway.lab.outcome import Ending, Failure, LoadResult, Part, Second, classify, percentile
from headway.lab.schedule import Piece
from headway.lab.spread import Spread, bucket_of, percentiles_s


class _Count:
    """Endings of one part of a load; latencies one by one where asked for."""

    __slots__ = ("endings", "offered", "served_s")

    def __init__(self) -> None:
        self.offered = 0
        self.endings: Counter[Ending] = Counter()
        self.served_s: array[float] = array("d")

    def part(self, name: str, start_s: float, duration_s: float) -> Part:
        served = sorted(self.served_s)
        return Part(
            name=name,
            offered=self.offered,
            ok=self.endings["ok"],
            late=self.endings["late"],
            refused=self.endings["refused"],
            failed=self.endings["failed"],
            goodput_per_s=round(self.endings["ok"] / duration_s, 2) if duration_s > 0 else 0.0,
            latency_ms={"p50": _ms(percentile(served, 0.5)), "p99": _ms(percentile(served, 0.99))},
            start_s=round(start_s, 3),
            duration_s=round(duration_s, 3),
        )


class _SecondCount:
    """Endings of one second; latencies in buckets, so that a day of seconds stays small."""

    __slots__ = ("endings", "offered", "served")

    def __init__(self) -> None:
        self.offered = 0
        self.endings: Counter[Ending] = Counter()
        self.served = Spread()

    def second(self, number: int) -> Second:
        ends, shares = self.endings, percentiles_s(self.served, 0.5, 0.9, 0.99)
        return Second(
            number, self.offered, ends["ok"], ends["late"], ends["refused"], ends["failed"], *map(_ms, shares)
        )


@dataclass(slots=True)
class Tally:
    """Counts endings as they come in and sums them up at the end."""

    slo_s: float | None
    failures_max: int
    pieces: Sequence[Piece] = ()
    kinds: Sequence[str] = ()  # names of the requests
    offered: int = 0
    counts: Counter[Ending] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    failed_requests: list[Failure] = field(default_factory=list)
    served_s: array[float] = field(default_factory=lambda: array("d"))
    refused_s: array[float] = field(default_factory=lambda: array("d"))
    send_lag_s: array[float] = field(default_factory=lambda: array("d"))
    served: Spread = field(default_factory=Spread)
    seconds: list[_SecondCount] = field(default_factory=list)
    _ends_s: list[float] = field(init=False)
    _by_piece: list[_Count] = field(init=False)
    _by_kind: list[_Count] = field(init=False)

    def __post_init__(self) -> None:
        # A single piece or kind is the whole, and its latencies are not kept twice.
        self._ends_s = list(accumulate(piece.duration_s for piece in self.pieces))[:-1]
        self._by_piece = [_Count() for _ in self.pieces] if len(self.pieces) > 1 else []
        self._by_kind = [_Count() for _ in self.kinds] if len(self.kinds) > 1 else []

    @property
    def ended(self) -> int:
        """Requests whose fate is known."""
        return self.counts.total()

    def offer(self, intended_s: float, kind: int = 0) -> None:
        """A request was due at `intended_s` of the load."""
        self.offered += 1
        while len(self.seconds) <= int(intended_s):
            self.seconds.append(_SecondCount())
        self.seconds[int(intended_s)].offered += 1
        for part in self._parts(intended_s, kind):
            part.offered += 1

    def forget(self, intended_s: float, kind: int = 0) -> None:
        """A request was offered whose fate nobody will know: it was none."""
        self.offered -= 1
        self.seconds[int(intended_s)].offered -= 1
        for part in self._parts(intended_s, kind):
            part.offered -= 1

    def answered(self, intended_s: float, latency_s: float, status: int, kind: int = 0) -> Ending:
        """A request got its whole answer in time; failed ones (4xx, 5xx) still need `failed`."""
        self.statuses[status] += 1
        ending = classify(status, latency_s, self.slo_s)
        if ending == "failed":
            return ending
        if ending == "refused":
            self.refused_s.append(latency_s)
        else:
            bucket = bucket_of(latency_s)
            self.served_s.append(latency_s)
            self.served[bucket] += 1
            self.seconds[int(intended_s)].served[bucket] += 1
            for part in self._parts(intended_s, kind):
                part.served_s.append(latency_s)
        self._count(intended_s, ending, kind)
        return ending

    def failed(self, intended_s: float, failure: Failure, kind: int = 0) -> None:
        """A request came to nothing."""
        self.failures[failure.reason] += 1
        if len(self.failed_requests) < self.failures_max:
            self.failed_requests.append(failure)
        self._count(intended_s, "failed", kind)

    def _parts(self, intended_s: float, kind: int) -> list[_Count]:
        parts = [self._by_piece[bisect_right(self._ends_s, intended_s)]] if self._by_piece else []
        if self._by_kind:
            parts.append(self._by_kind[kind])
        return parts

    def _count(self, intended_s: float, ending: Ending, kind: int) -> None:
        self.counts[ending] += 1
        self.seconds[int(intended_s)].endings[ending] += 1
        for part in self._parts(intended_s, kind):
            part.endings[ending] += 1

    def result(self, *, duration_s: float, effort: Effort) -> LoadResult:
        """Everything counted, over the `duration_s` in which requests started (a burst: until its last one ended)."""
        served, refused, lags = sorted(self.served_s), sorted(self.refused_s), sorted(self.send_lag_s)
        lag_ms = _ms(percentile(lags, 0.99)) or 0.0
        sent_late = len(lags) - bisect_right(lags, SEND_LAG_MAX_MS / 1000)
        # A generator that took longer to send than it was to: its answers came in that longer time, not in the plan's.
        goodput_s = effort.sent_s if effort.asked_s and effort.sent_s > 1.05 * effort.asked_s else duration_s
        own_faults = {reason: self.failures[reason] for reason in OWN_FAULTS if self.failures[reason]}
        return LoadResult(
            offered=self.offered,
            goodput_per_s=round(self.counts["ok"] / goodput_s, 2) if goodput_s > 0 else 0.0,
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
            generator=judged(effort, self.offered, own_faults, sent_late, lag_ms),
            duration_s=round(duration_s, 3),
            pieces=self._piece_parts(duration_s),
            requests=tuple(
                count.part(name, 0.0, duration_s) for name, count in zip(self.kinds, self._by_kind, strict=False)
            ),
            timeline=tuple(second.second(number) for number, second in enumerate(self.seconds)),
            failed_requests=tuple(self.failed_requests),
        )

    def _piece_parts(self, duration_s: float) -> tuple[Part, ...]:
        """Pieces that were not reached are left out; the last may have been stopped in its middle."""
        parts, start_s = [], 0.0
        for piece, count in zip(self.pieces, self._by_piece, strict=False):
            lasted_s = min(piece.duration_s, duration_s - start_s)
            if lasted_s <= 0:
                break
            parts.append(count.part(str(piece), start_s, lasted_s))
            start_s += piece.duration_s
        return tuple(parts)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
