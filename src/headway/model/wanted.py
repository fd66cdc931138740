"""What the control loop works towards: the declaration, overrides and the machine boiled down to numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class WantedService:
    """One service as the loop sees it.

    `key` names everything a running replica was started with; a replica with another key is replaced.
    `limit` is the number of requests a replica may work on at once. Times are seconds, sizes bytes.
    """

    name: str
    kind: Literal["app", "command"]
    key: str
    replicas: int
    limit: int
    is_public: bool
    waits_for: tuple[str, ...] = ()  # databases that must be ready before a replica starts
    memory_max_bytes: int | None = None
    start_timeout_s: float = 60.0
    drain_timeout_s: float = 30.0
    hang_timeout_s: float = 10.0
    is_wsgi_patience_s: float = 30.0  # all WSGI threads busy without one answer for this long: hung


@dataclass(frozen=True, slots=True)
class Wanted:
    """The whole system; `stopping` wants nothing to run any more."""

    services: tuple[WantedService, ...] = ()
    stopping: bool = False
    starts_max: int = 4  # replicas that may be starting at the same time

    def service(self, name: str) -> WantedService | None:
        return next((service for service in self.services if service.name == name), None)
