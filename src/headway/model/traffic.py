"""What passes the edge, in figures for a person."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """What passed the edge lately: rates per second, milliseconds to the first byte as clients see them."""

    requests_per_s: float = 0.0
    refused_per_s: float = 0.0
    errors_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    queued: int = 0
    connections: int = 0
    requests_total: int = 0
