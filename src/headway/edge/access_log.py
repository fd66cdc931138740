"""What the last seconds looked like, from the access log: pure, and cheap enough to be drawn each second."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

# Above this many lines a sample tells as much; parsing all of a busy second would cost more than it says.
SAMPLE_MAX = 1000
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One answered request. `ttfb_ms`: from the complete request to the answer's head, as its client saw it; None when
    there was no answer. `service` and `replica` are None when the edge answered by itself. The log names the class of a
    request, "web.slow"; here all classes of a service are the service. `caller`: of a call, the service that calls or
    "?"; empty for a request from outside."""

    time_s: float
    status: int
    ttfb_ms: float | None
    total_ms: float
    queue_ms: float | None
    service: str | None
    replica: str | None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class AccessSummary:
    """A window of the log, without calls between services. Counts are of the window; percentiles are of a sample, None
    when it holds no answer.

    `refused`: 429 and 503 that the edge gave by itself; `failed`: other 5xx.
    """

    requests: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    failed: int


def parse_line(line: bytes | str) -> LoggedRequest | None:
    """One line; None for what is no request (a start message, a line cut by rotation)."""
    try:
        entry = json.loads(line)
        service, replica = str(entry["service"]), str(entry["replica"])
        ttfb_ms, queue_ms = float(entry["ttfb_ms"]), float(entry["queue_ms"])
        return LoggedRequest(
            time_s=entry["time"] / 1000,
            status=int(entry["status"]),
            ttfb_ms=ttfb_ms if ttfb_ms >= 0 else None,
            total_ms=float(entry["total_ms"]),
            queue_ms=queue_ms if queue_ms >= 0 else None,
            service=None if service.startswith("headway.") else service.partition(".")[0],
            replica=None if replica.startswith("<") else replica,
            caller=str(entry.get("caller", "")),
        )
    except (ValueError, KeyError, TypeError):
        return None


def sample(lines: Sequence[bytes], count_max: int = SAMPLE_MAX) -> Sequence[bytes]:
    """At most `count_max` of the lines, spread evenly but in no step that the log itself could be in."""
    if len(lines) <= count_max:
        return lines
    return [lines[int(at * _GOLDEN % 1 * len(lines))] for at in range(count_max)]


def summary(lines: Sequence[bytes], window_s: float, *, sample_max: int = SAMPLE_MAX) -> AccessSummary:
    """The lines written in the last `window_s` seconds, summed up. Counts of a sampled window are scaled up."""
    chosen = sample(lines, sample_max)
    requests = [request for line in chosen if (request := parse_line(line)) is not None]
    requests = [request for request in requests if not request.caller]
    scale = len(lines) / len(chosen) if chosen else 1.0
    answered = sorted(
        request.ttfb_ms for request in requests if request.ttfb_ms is not None and request.replica is not None
    )
    refused = sum(request.status in (429, 503) and request.replica is None for request in requests)
    failed = sum(request.status >= 500 for request in requests) - sum(
        request.status == 503 and request.replica is None for request in requests
    )
    return AccessSummary(
        requests=round(len(requests) * scale),
        requests_per_s=len(requests) * scale / window_s,
        p50_ms=percentile(answered, 0.50),
        p99_ms=percentile(answered, 0.99),
        refused=round(refused * scale),
        failed=round(failed * scale),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of `ordered` (ascending) do not exceed; None without values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
