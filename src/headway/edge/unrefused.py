"""What a queue would have refused, where nothing is refused (overload = "observe"). Pure.

There the queue grows without a bound, and to count whoever comes while it is long would be to count nearly everybody:
those who would have been refused stand in it. So a second queue is kept in mind, of those alone who would have been
let in. It loses as many as HAProxy hands to replicas, and never has more than really wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from headway.edge.observed import EdgeObserved
from headway.edge.queues import FILLED, classes
from headway.model.edge import EdgeService

Key = tuple[str, int]  # a service and a class of it


@dataclass(frozen=True, slots=True)
class Unrefused:
    """The queue of a class as it would be; counters as HAProxy has them."""

    waiting: int
    refused: int
    arrived: int
    begun: int


def step(before: Unrefused | None, *, queued: int, arrived: int, begun: int, queue_max: int, level: int) -> Unrefused:
    """After one look: `queued` really wait; `arrived` and `begun` count from HAProxy's start."""
    most = max(1, ceil(queue_max * FILLED[level]))
    if before is None or arrived < before.arrived or begun < before.begun:  # another process counts anew
        return Unrefused(min(queued, most), before.refused if before else 0, arrived, begun)
    came = arrived - before.arrived
    waiting = max(0, min(queued, before.waiting + came - (begun - before.begun)))
    refused = min(came, max(0, waiting - most))  # who waits already is not refused by a bound that shrinks
    return Unrefused(waiting - refused, before.refused + refused, arrived, begun)


def look(before: dict[Key, Unrefused], services: tuple[EdgeService, ...], seen: EdgeObserved) -> dict[Key, Unrefused]:
    """Of all classes of services where nothing is refused; their bounds are those in force."""
    begun: dict[Key, int] = {}
    for server in seen.replicas:
        begun[server.service, server.number] = begun.get((server.service, server.number), 0) + server.requests
    found = {(cls.service, cls.number): cls for cls in seen.classes}
    after: dict[Key, Unrefused] = {}
    for service in services:
        for cls in classes(service) if not service.refuses else ():
            key = service.name, cls.number
            if (state := found.get(key)) is not None:
                after[key] = step(
                    before.get(key),
                    queued=state.queued,
                    arrived=state.requests,
                    begun=begun.get(key, 0),
                    queue_max=cls.bound.queue_max,
                    level=cls.level,
                )
    return after
