"""What the control loop works towards: the declaration, overrides and the machine boiled down to numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headway.model.overload import DEFAULT_LEVEL, MAIN, SLOW


@dataclass(frozen=True, slots=True)
class WantedClass:
    """A class of requests of a service, and what was promised to them."""

    number: int
    slo_s: float | None
    deadline_s: float
    level: int = DEFAULT_LEVEL


@dataclass(frozen=True, slots=True)
class WantedService:
    """One service as the loop sees it.

    `key` names everything a running replica was started with; a replica with another key is replaced. It is empty while
    a reference has no value yet (a database on its way up): then what runs stays, and nothing starts.
    `limit` is the number of requests a replica may work on at once; where the app turns out to be WSGI, its `threads`
    bound it too. Times are seconds, sizes bytes.
    """

    name: str
    kind: Literal["app", "command"]
    key: str
    replicas: int
    limit: int
    threads: int
    is_at_edge: bool
    waits_for: tuple[str, ...] = ()  # databases and caches that must be ready before a replica starts
    memory_max_bytes: int | None = None
    start_timeout_s: float = 60.0
    drain_timeout_s: float = 30.0
    hang_timeout_s: float = 10.0
    threads_patience_s: float = 30.0  # WSGI: all threads busy without one answer for this long is a hang
    slo_s: float | None = None
    deadline_s: float = 30.0
    level: int = DEFAULT_LEVEL
    at: tuple[WantedClass, ...] = ()  # classes of their own by declaration
    at_prefixes: tuple[str, ...] = ()  # of those classes, in the same order
    adapts: bool = True  # False: the limit was declared, and `limit` is in force as it is
    refuses: bool = True  # False: overload = "observe"
    held: bool = False  # pinned by hand: no automatic step; at `held_limit`, where that was given
    held_limit: int | None = None
    memory_share_bytes: int = 0  # of one replica; 0 = unknown

    @property
    def classes(self) -> tuple[WantedClass, ...]:
        """All of them: the main one, the slow routes, which promise the same, and those that were declared."""
        main = WantedClass(MAIN, self.slo_s, self.deadline_s, self.level)
        return (main, WantedClass(SLOW, self.slo_s, self.deadline_s, self.level), *self.at)

    def limit_of(self, *, is_wsgi: bool) -> int:
        """Requests at once of one replica, by what it turned out to be."""
        return min(self.limit, self.threads) if is_wsgi else self.limit


@dataclass(frozen=True, slots=True)
class Wanted:
    """The whole system; `stopping` wants nothing to run any more."""

    services: tuple[WantedService, ...] = ()
    stopping: bool = False
    starts_max: int = 4  # replicas that may be starting at the same time

    def service(self, name: str) -> WantedService | None:
        return next((service for service in self.services if service.name == name), None)
