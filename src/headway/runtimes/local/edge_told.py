"""What the edge was told last and cannot be asked for in full: limits, bounds and learned routes.

Its file is written from this, so that a HAProxy that is started again begins with the same; and a controller that is
started again reads it back from the file, so that writing the file changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from headway.edge.queues import read_bounds
from headway.edge.servers import read_limits
from headway.model.overload import QueueBound

LEARNED_MAX = 256  # routes of one service


@dataclass(slots=True)
class Told:
    """Limits by replica and class; bounds by service and class; keys of slow routes ("/reports/") by service."""

    limits: dict[tuple[str, int], int] = field(default_factory=dict)
    bounds: dict[tuple[str, int], QueueBound] = field(default_factory=dict)
    learned: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def limits_of(self, number: int) -> dict[str, int]:
        """Limits of one class by replica."""
        return {name: limit for (name, of), limit in self.limits.items() if of == number}

    def forget(self, replica: str) -> None:
        """It has left the edge."""
        self.limits = {key: limit for key, limit in self.limits.items() if key[0] != replica}

    def keep(self, services: Iterable[str]) -> None:
        """Of services that are not declared any more nothing is remembered."""
        kept = set(services)
        self.bounds = {key: bound for key, bound in self.bounds.items() if key[0] in kept}
        self.learned = {name: keys for name, keys in self.learned.items() if name in kept}

    def recall(self, config: str, services: Iterable[str], learned_text: Callable[[str], str]) -> None:
        """What the files hold."""
        self.limits, self.bounds = read_limits(config), read_bounds(config)
        for name in services:
            keys = (line.strip() for line in learned_text(name).splitlines())
            self.learned[name] = tuple(key for key in keys if key.startswith("/"))

    def learned_text(self, service: str) -> str:
        """The list of a service's slow routes as HAProxy reads it."""
        lines = [
            f"# Routes of {service} that were found to be slow, written by Headway.",
            *self.learned.get(service, ()),
        ]
        return "\n".join(lines) + "\n"
