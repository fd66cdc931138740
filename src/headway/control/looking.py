"""What a replica did since the last look, from its own counters and the edge's: the input of its limits. Pure.

Counters may stand still, begin anew, or say what cannot be: then nothing was measured, or the edge is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from headway.model.action import Action, Tell
from headway.model.observed import EdgeObserved, EdgeServer, ReplicaObserved
from headway.model.overload import MAIN, ClassCounts, Counts, RouteCounts
from headway.model.replica import Phase, Replica
from headway.overload import limiter, routes

BLIND_S = 1.0  # a replica that works but tells nothing for so long
LIE_FACTOR = 0.1  # a claimed service time below this share of what Little's law says is no service time
IDLE_SHARE = 0.5  # of its places free: it is not for this replica that requests wait
# Slow requests that hold the places, and are not done yet, look like that as well, beside quick ones that are done.
LIE_TOLD_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a replica at the last look, to tell what happened since."""

    counts: Counts | None  # None: it has told nothing yet
    cpu_s: float
    at_s: float  # when the counts last moved on
    saturated: frozenset[int] = frozenset()
    told_blind: bool = False
    lied_s: float = 0.0  # it said what cannot be, look after look
    told_lie: bool = False
    duration_s: float = 0.0  # that `done` took
    done: Mapping[int, ClassCounts] = field(default_factory=dict)  # when the counts last moved on

    def lately(self, now_s: float) -> bool:
        """Whether what it did is still worth something at a look that brought nothing new."""
        return self.duration_s > 0 and now_s - self.at_s <= BLIND_S


@dataclass(frozen=True, slots=True)
class View:
    """What one replica did since the last look."""

    look: Look | None
    new: bool = False  # its counters moved on
    duration_s: float = 0.0
    measured: Mapping[int, limiter.Measured] = field(default_factory=dict)
    done: Mapping[int, ClassCounts] = field(default_factory=dict)
    sampled: tuple[RouteCounts, ...] = ()
    told: tuple[Action, ...] = ()


def view(
    last: Look | None,
    limits: Mapping[int, int],
    numbers: Collection[int],
    replica: Replica,
    seen: ReplicaObserved | None,
    edge: EdgeObserved,
    now_s: float,
) -> View:
    """What it did, class by class, since `last`; `limits` in force by class, `numbers` the classes at the edge."""
    if last is not None and replica.phase is not Phase.READY and (seen is None or seen.counts is None):
        last = None
    if seen is None or not seen.alive or (seen.counts is None and replica.phase is not Phase.READY):
        return View(last)
    if seen.counts is None:
        return _blind(last or Look(None, seen.cpu_s, now_s), replica, numbers, edge, now_s)
    counts = seen.counts
    saturated = frozenset(number for number in numbers if _is_saturated(replica, number, edge, limits.get(number)))
    told: list[Action] = []
    if last is not None and last.told_blind and (last.counts is None or counts.at_s != last.counts.at_s):
        told.append(Tell(replica.name, "tells again what it does: its limit adapts again"))
    if last is None or last.counts is None or counts.at_s < last.counts.at_s or _went_back(last.counts, counts):
        # Another process, or the first look.
        return View(Look(counts, seen.cpu_s, now_s, saturated), told=tuple(told))
    if counts.at_s == last.counts.at_s:
        return _blind(last, replica, numbers, edge, now_s)
    duration_s = counts.at_s - last.counts.at_s
    cpu_share = max(0.0, seen.cpu_s - last.cpu_s) / duration_s if seen.cpu_s else 1.0
    measured: dict[int, limiter.Measured] = {}
    done: dict[int, ClassCounts] = {}
    lies: set[bool] = set()
    known = min(len(counts.classes), len(last.counts.classes))
    busy = [number for number in numbers if number < known and counts.classes[number].in_flight]
    for number in numbers:
        since = _since(counts, last.counts, number)
        both = number in saturated and number in last.saturated
        service_s, lie = _believed(since, limits.get(number, 0), duration_s, both)
        if lie is not None:
            lies.add(lie)
        done[number] = replace(since, service_s=service_s)
        measured[number] = limiter.Measured(
            duration_s,
            since.completed,
            since.failed,
            service_s,
            since.in_flight,
            both,
            cpu_share,
            shares=len(busy) > 1,
        )
    # A reading that proves nothing, as while a place was free, says neither: what was seen before still counts.
    lied_s = last.lied_s + duration_s if True in lies else 0.0 if lies else last.lied_s
    tells_lie = lied_s > LIE_TOLD_AFTER_S and not last.told_lie
    if tells_lie:
        told.append(
            Tell(replica.name, "claims service times that cannot be: Little's law is believed instead", "warning")
        )
    look = Look(
        counts,
        seen.cpu_s,
        now_s,
        saturated,
        lied_s=lied_s,
        told_lie=tells_lie or last.told_lie,
        duration_s=duration_s,
        done=done,
    )
    sampled = routes.fresh(counts.routes, last.counts.routes)
    return View(look, True, duration_s, measured, done, sampled, tuple(told))


def _is_saturated(replica: Replica, number: int, edge: EdgeObserved, limit: int | None) -> bool:
    """All places taken at the edge, so that what the limit allows is what was measured."""
    server = _server(replica, number, edge)
    if server is None or server.admin != "ready":
        return False
    if server.sessions >= server.limit:
        return True
    queue = edge.queues.get((replica.service, number))
    # A limit that was lowered a moment ago is still overrun; one that was raised is filled at once where many wait. But
    # sticky clients may wait for the other replicas, while this one has nothing to do. (Streams are in both numbers.)
    is_idle = server.limit - server.sessions > IDLE_SHARE * (limit or server.limit)
    return queue is not None and queue.queued > 0 and not is_idle


def _server(replica: Replica, number: int, edge: EdgeObserved) -> EdgeServer | None:
    return edge.servers.get(replica.name) if number == MAIN else edge.classes.get((replica.name, number))


def _blind(last: Look, replica: Replica, numbers: Collection[int], edge: EdgeObserved, now_s: float) -> View:
    """Its counters stand still, or cannot be read at all: the same to whoever wants to know what it does."""
    servers = (_server(replica, number, edge) for number in numbers)
    if not any(server.sessions for server in servers if server is not None):
        return View(replace(last, at_s=now_s, duration_s=0.0))  # nothing to tell of
    is_blind = now_s - last.at_s > BLIND_S
    if not is_blind or last.told_blind:
        return View(last)
    told = Tell(replica.name, f"tells nothing for {BLIND_S:g} s while it works: its limit stays as it is", "warning")
    return View(replace(last, told_blind=True), told=(told,))


def _went_back(last: Counts, now: Counts) -> bool:
    return any(new.completed < old.completed for old, new in zip(last.classes, now.classes, strict=False))


def _since(now: Counts, last: Counts, number: int) -> ClassCounts:
    if number >= len(now.classes) or number >= len(last.classes):
        return ClassCounts()
    new, old = now.classes[number], last.classes[number]
    return ClassCounts(
        completed=new.completed - old.completed,
        failed=max(0, new.failed - old.failed),
        service_s=max(0.0, new.service_s - old.service_s),
        in_flight=new.in_flight,
        dropped=max(0, new.dropped - old.dropped),
        refused=max(0, new.refused - old.refused),
    )


def _believed(since: ClassCounts, limit: int, duration_s: float, saturated: bool) -> tuple[float, bool | None]:
    """The sum of service times, or what Little's law makes of the edge's own count where that cannot be.

    And whether it was a lie: None where nothing can be held against it.
    """
    if not saturated or since.completed < 5 or limit < 2:
        return since.service_s, None
    by_little_s = limit * duration_s  # of all completed together
    if since.service_s < LIE_FACTOR * by_little_s:
        return by_little_s, True
    return since.service_s, False


def together(looks: Collection[Look]) -> tuple[float, dict[int, ClassCounts]]:
    """What replicas do together, class by class, in a time.

    Each tells at moments of its own, of a time of its own: what adds up are rates.
    """
    duration_s = max((look.duration_s for look in looks), default=0.0)
    total: dict[int, ClassCounts] = {}
    for look in looks:
        for number, did in look.done.items():
            times = duration_s / look.duration_s
            before = total.get(number, ClassCounts())
            total[number] = replace(
                before,
                completed=before.completed + round(times * did.completed),
                service_s=before.service_s + times * did.service_s,
            )
    return duration_s, total
