"""A service pinned by hand for a time: no automatic step touches it, and where a number was given, it is at that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """Who pinned what, and until when. Times are seconds since the epoch: a hold outlives the machine's clock."""

    service: str
    until_s: float
    limit: int | None = None
    replicas: int | None = None
    by: str = ""
    since_s: float = 0.0
