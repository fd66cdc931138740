"""Measures what passes the edge: totals from HAProxy's counters, latencies from the access log's latest lines."""

from __future__ import annotations

from pathlib import Path

from headway.edge.access_log import summary
from headway.edge.observed import EdgeTotals
from headway.edge.tail import Tail
from headway.model.traffic import Traffic


class Meter:
    """Called about once a second; each reading covers the time since the one before."""

    def __init__(self, access_log: Path) -> None:
        self._tail = Tail(str(access_log))
        self._requests: int | None = None
        self._at_s: float | None = None

    def read(self, totals: EdgeTotals | None, now_s: float) -> Traffic:
        """What passed since the last reading; zeros while the edge has not been seen."""
        if totals is None:
            return Traffic()
        window_s = now_s - self._at_s if self._at_s is not None else 0.0
        before, self._requests, self._at_s = self._requests, totals.requests, now_s
        lines = self._tail.lines()
        if before is None or window_s <= 0:
            return Traffic(requests_total=totals.requests)
        # A HAProxy that was started again counts from zero.
        passed = totals.requests - before if totals.requests >= before else totals.requests
        found = summary(lines, window_s)
        return Traffic(
            requests_per_s=passed / window_s,
            refused_per_s=found.refused / window_s,
            errors_per_s=found.failed / window_s,
            p50_ms=found.p50_ms,
            p99_ms=found.p99_ms,
            queued=totals.queued,
            connections=totals.connections,
            requests_total=totals.requests,
        )
