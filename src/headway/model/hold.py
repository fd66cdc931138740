"""A service pinned by hand for a time: no automatic step touches it, and where a number was given, it is at that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hold:
    """Who pinned what, and until when. Times are seconds since the epoch: a hold outlives the machine's clock."""

    service: str
    until_s: float
    limit: int | None = None
    replicas: int | None = None
    by: str = ""
    since_s: float = 0.0

    @property
    def what(self) -> str:
        """Its numbers, for people."""
        numbers = [f"{self.replicas} replicas"] if self.replicas is not None else []
        numbers += [f"limit {self.limit}"] if self.limit is not None else []
        return " and ".join(numbers) or "as it is"

    @property
    def told(self) -> dict[str, Any]:
        """Its entry in the status document."""
        return {
            "by": self.by,
            "since": round(self.since_s, 3),
            "until": round(self.until_s, 3),
            "limit": self.limit,
            "replicas": self.replicas,
        }


def ended(holds: Mapping[str, Hold], services: Collection[str], now_s: float) -> dict[str, str]:
    """The holds that end now, each with the reason."""
    return {
        name: "it is over" if name in services else "its service is gone"
        for name, hold in holds.items()
        if hold.until_s <= now_s or name not in services
    }
