"""Holding under overload, once a tick: from the workers' counters and the edge's queues to limits and bounds. Pure.

The rules are in `headway.overload`; here they are applied to every class of every replica, and their state is kept from
tick to tick. What cannot be measured is not changed: a worker that tells nothing, an edge that does not answer, a
service held by hand all keep the limits that are in force. Queues go on following what replicas do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from headway.control.admission import edge_server, open_streams
from headway.control.looking import Look, together, view
from headway.model.action import Action, AssignRoute, BoundQueue, CapReplica, Tell
from headway.model.observed import EdgeObserved, Observed, ReplicaObserved
from headway.model.overload import (
    CRITICALITIES,
    MAIN,
    SLOW,
    ClassCounts,
    EdgeQueue,
    QueueBound,
    RouteCounts,
    class_name,
)
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedClass, WantedService
from headway.overload import limiter, memory, queueing, routes

START_LIMIT = 16  # of an async replica that knows nothing: found in a second or two from here, up or down
# Until it was measured, a replica is taken to need this, and a request this on top: few apps hold more.
REPLICA_BYTES, UNKNOWN_REQUEST_BYTES = 64 << 20, 4 << 20
# Above the limits: whoever goes away leaves its place at the edge at once, while the app still works for it, and an
# edge that is replaced ends what it has. More than that does not come from one edge, for the worker knows a higher cap
# before the edge knows the limit.
CAP_FACTOR, CAP_MIN_ROOM = 2, 8
THREADS_FLOOR = 2
REST_PART = 10  # of a replica's places one part at least stays for the less critical
OVER_AFTER_S = 2.0  # nothing waited or was refused for so long: the overload is over

_UNBOUND = queueing.begin().bound  # as an edge begins that was never told

Key = tuple[str, int]  # a replica or a service, and the number of a class


@dataclass(frozen=True, slots=True)
class Pressure:
    """An overload of a service from its beginning to its end, for the journal."""

    since_s: float
    last_s: float = 0.0
    refused: int = 0
    rate_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Adapted:
    """All that is remembered from tick to tick. `limits` are to be in force at the edge."""

    limits: Mapping[Key, int] = field(default_factory=dict)  # by replica and class
    limiters: Mapping[Key, limiter.Limiter] = field(default_factory=dict)
    queues: Mapping[Key, queueing.Queue] = field(default_factory=dict)  # by service and class
    in_force: Mapping[Key, QueueBound] = field(default_factory=dict)  # what the edge was told last
    edge_queues: Mapping[Key, EdgeQueue] = field(default_factory=dict)
    refused_per_s: Mapping[Key, float] = field(default_factory=dict)
    looks: Mapping[str, Look] = field(default_factory=dict)
    footprints: Mapping[str, memory.Footprint] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    shortage: memory.Shortage = field(default_factory=memory.Shortage)
    slow: Mapping[str, frozenset[str]] = field(default_factory=dict)  # learned slow prefixes by service
    windows: Mapping[str, routes.Windows] = field(default_factory=dict)  # what routes took lately, by service
    pressure: Mapping[str, Pressure] = field(default_factory=dict)
    at_s: float = 0.0

    def active(self, service: WantedService) -> tuple[WantedClass, ...]:
        """The classes of a service that have servers at the edge."""
        return tuple(c for c in service.classes if c.number != SLOW or self.slow.get(service.name))


def adapt(
    before: Adapted, replicas: Mapping[str, Replica], wanted: Wanted, observed: Observed, now_s: float
) -> tuple[Adapted, list[Action]]:
    """The limits of this tick, and what is to be told to the edge, the workers and the journal."""
    shortage = memory.shorten(
        before.shortage,
        observed.memory.available_bytes,
        observed.memory.total_bytes,
        observed.memory.stalled_share,
        now_s - before.at_s if before.at_s else 0.0,
    )
    actions: list[Action] = []
    if shortage.factor < 1.0 and before.shortage.factor == 1.0:
        actions.append(Tell("controller", "memory is short: all limits shrink until it is not", "warning"))
    after = _of_what_exists(before, replicas, wanted)
    after = replace(after, shortage=shortage, limits={}, limiters={}, looks={}, footprints={}, queues={}, at_s=now_s)
    for service in wanted.services:
        if service.kind != "app" or not service.is_at_edge:
            continue
        mine = [r for r in replicas.values() if r.service == service.name]
        after, told = _service(before, after, service, mine, observed, now_s)
        actions += told
    return after, actions


def _of_what_exists(before: Adapted, replicas: Mapping[str, Replica], wanted: Wanted) -> Adapted:
    """Without what was remembered of replicas and services that are gone: one that comes again under the same name is
    another, and is told everything anew."""
    names = {service.name for service in wanted.services}
    return replace(
        before,
        caps={name: cap for name, cap in before.caps.items() if name in replicas},
        in_force={key: bound for key, bound in before.in_force.items() if key[0] in names},
        edge_queues={key: queue for key, queue in before.edge_queues.items() if key[0] in names},
        refused_per_s={key: rate for key, rate in before.refused_per_s.items() if key[0] in names},
        slow={name: prefixes for name, prefixes in before.slow.items() if name in names},
        windows={name: windows for name, windows in before.windows.items() if name in names},
        pressure={name: held for name, held in before.pressure.items() if name in names},
    )


def _service(
    before: Adapted,
    after: Adapted,
    service: WantedService,
    mine: Iterable[Replica],
    observed: Observed,
    now_s: float,
) -> tuple[Adapted, list[Action]]:
    actions: list[Action] = []
    limits, limiters = dict(after.limits), dict(after.limiters)
    looks, footprints, caps = dict(after.looks), dict(after.footprints), dict(after.caps)
    sampled: list[RouteCounts] = []
    lately: list[Look] = []
    is_new = False
    numbers = [cls.number for cls in before.active(service)]
    first_level = _first_waiting(service, observed.edge)
    for replica in mine:
        seen = observed.replicas.get(replica.name)
        mine_limits = {number: n for (name, number), n in before.limits.items() if name == replica.name}
        did = view(before.looks.get(replica.name), mine_limits, numbers, replica, seen, observed.edge, now_s)
        if did.look is not None:
            looks[replica.name] = did.look
        actions += did.told
        sampled += did.sampled
        is_new = is_new or did.new
        if did.look is not None and did.look.lately(now_s):
            lately.append(did.look)
        foot = before.footprints.get(replica.name, memory.Footprint())
        if seen is not None and seen.alive and did.new:
            foot = memory.observe(foot, seen.rss_bytes, seen.in_flight, did.duration_s)
        footprints[replica.name] = foot
        if (seen is None or seen.counts is None) and (replica.name, MAIN) not in before.limiters:
            left = _left_in_force(before, service, replica, seen, observed.edge)
            for cls in service.classes:
                if (limit := left.get((replica.name, cls.number))) is not None:
                    most = _bounds(service, cls, seen, foot, before.shortage).ceiling
                    limits[replica.name, cls.number] = min(limit, most)
            continue  # it tells nothing (yet, or a worker from before an upgrade)
        for cls in before.active(service):
            key = (replica.name, cls.number)
            bounds = _bounds(service, cls, seen, foot, before.shortage)
            state = before.limiters.get(key) or limiter.begin(
                bounds, _inherited(before, service, replica, cls.number, seen, observed.edge)
            )
            if service.held_limit is not None and cls.number == MAIN:
                state = limiter.begin(replace(bounds, ceiling=service.held_limit), service.held_limit)
            elif not service.adapts:
                state = limiter.begin(bounds, bounds.ceiling)
            elif not service.held and not did.new:
                state = limiter.within(state, bounds)
            elif not service.held and replica.phase is Phase.READY:
                state = limiter.step(state, did.measured[cls.number], bounds, now_s)
                if cls.level > first_level:
                    state = limiter.give_way(
                        state, replace(bounds, floor=max(1, sum(mine_limits.values()) // REST_PART))
                    )
            limiters[key], limits[key] = state, state.limit
        if replica.phase is Phase.READY:
            places = [max(limits[key], before.limits.get(key, 0)) for key in _keys(before, service, replica)]
            cap = _cap(sum(places) if service.adapts else max(places))  # a declared limit is that of all its classes
            known = caps.get(replica.name, 0)
            if cap > known or cap < known * 4 // 5:
                caps[replica.name] = cap
                actions.append(CapReplica(replica.name, cap, "above its limits"))
        else:
            caps.pop(replica.name, None)  # the next process of this name knows none
    after = replace(after, limits=limits, limiters=limiters, looks=looks, footprints=footprints, caps=caps)
    looked_s, total = together(lately if is_new else [])
    after, told = _queues(before, after, service, total, looked_s, observed.edge, now_s)
    actions += told
    windows = _windows(before, after, service, mine, sampled, now_s)
    after, told = _learn_routes(before, after, service, windows, observed.edge)
    return after, actions + told


def _bounds(
    service: WantedService,
    cls: WantedClass,
    seen: ReplicaObserved | None,
    foot: memory.Footprint,
    shortage: memory.Shortage,
) -> limiter.Bounds:
    is_wsgi = seen is not None and seen.is_wsgi
    ceiling = service.limit_of(is_wsgi=is_wsgi)
    if is_wsgi and cls.number != MAIN:
        ceiling = max(1, ceiling // 2)  # the threads are the same: slow routes must leave some to the rest
    if service.memory_share_bytes and (fit := memory.ceiling(foot, service.memory_share_bytes)) is not None:
        ceiling = min(ceiling, fit)
    ceiling = max(1, int(ceiling * shortage.factor))
    # One place would let a single request that takes long keep all others waiting beside threads that are free.
    floor = min(THREADS_FLOOR, ceiling) if is_wsgi and cls.number == MAIN else 1
    start = _start(service, cls, ceiling, is_wsgi=is_wsgi)
    return limiter.Bounds(start=start, ceiling=ceiling, slo_s=cls.slo_s, floor=floor)


def _start(service: WantedService, cls: WantedClass, ceiling: int, *, is_wsgi: bool) -> int:
    """Where a limit begins that nothing is known of. Without an SLO nothing is late, and memory alone is the bound."""
    if is_wsgi:
        return ceiling
    if cls.slo_s is not None:
        return min(START_LIMIT, ceiling)
    room = memory.USED_SHARE * service.memory_share_bytes - REPLICA_BYTES
    return max(min(START_LIMIT, ceiling), min(ceiling, int(room / UNKNOWN_REQUEST_BYTES)))


def _left_in_force(
    before: Adapted, service: WantedService, replica: Replica, seen: ReplicaObserved | None, edge: EdgeObserved
) -> dict[Key, int]:
    """Limits that a former controller left at the edge, of a replica of which this one can read nothing at all: they
    stay. Of one that has just started there are none, and the declared limit holds."""
    if seen is None or not seen.alive or seen.serving or not service.adapts:
        return {}
    if before.at_s or replica.phase is not Phase.READY:
        return {key: limit for key, limit in before.limits.items() if key[0] == replica.name}
    left = ((cls.number, _left_at_edge(replica, cls.number, seen, edge)) for cls in service.classes)
    return {(replica.name, number): limit for number, limit in left if limit is not None}


def _left_at_edge(replica: Replica, number: int, seen: ReplicaObserved | None, edge: EdgeObserved) -> int | None:
    """The limit in force at the edge, without the places that were added for open streams."""
    server = edge_server(replica.name, number, edge)
    if server is None:
        return None
    numbers = [MAIN, *(other for name, other in edge.classes if name == replica.name)]
    return max(1, server.limit - open_streams(replica.name, numbers, seen, edge).get(number, 0))


def _inherited(
    before: Adapted,
    service: WantedService,
    replica: Replica,
    number: int,
    seen: ReplicaObserved | None,
    edge: EdgeObserved,
) -> int | None:
    """Where a limiter begins: what a former controller left at the edge, else what its siblings have learned."""
    left = _left_at_edge(replica, number, seen, edge)
    if left is not None and (not before.at_s or (replica.name, number) in before.limits):
        return left
    if seen is not None and seen.is_wsgi:
        return None  # its threads are the measure, and their number may be another than its siblings had
    siblings = sorted(
        state.limit
        for (name, other), state in before.limiters.items()
        if other == number and name.rpartition(".")[0] == service.name and state.rate_per_s
    )
    return siblings[len(siblings) // 2] if siblings else None


def _first_waiting(service: WantedService, edge: EdgeObserved) -> int:
    """The most critical level of which requests wait; the less critical classes give way to it."""
    waiting = [
        cls.level
        for cls in service.classes
        if (queue := edge.queues.get((service.name, cls.number))) is not None and queue.queued
    ]
    return min(waiting, default=len(CRITICALITIES))


def _keys(before: Adapted, service: WantedService, replica: Replica) -> list[Key]:
    return [(replica.name, cls.number) for cls in before.active(service)]


def _cap(places: int) -> int:
    """What the worker itself refuses above, where its limits, or those that the edge still has, are so many together:
    for several edges, which know nothing of each other, and for those that come past them."""
    return max(CAP_FACTOR * places, places + CAP_MIN_ROOM)


# -- one service ----------------------------------------------------------------------------------------------------


def _queues(
    before: Adapted,
    after: Adapted,
    service: WantedService,
    total: Mapping[int, ClassCounts],
    duration_s: float,
    edge: EdgeObserved,
    now_s: float,
) -> tuple[Adapted, list[Action]]:
    actions: list[Action] = []
    queues, in_force = dict(after.queues), dict(after.in_force)
    edge_queues, rates = dict(after.edge_queues), dict(after.refused_per_s)
    refused_now = 0
    for cls in service.classes:
        key = (service.name, cls.number)
        state = before.queues.get(key) or queueing.begin(before.in_force.get(key))
        now, last = edge.queues.get(key), before.edge_queues.get(key)
        if edge.reachable and now is not None:
            elapsed_s = max(1e-3, now_s - before.at_s)
            refused = max(0, now.refused - last.refused) if last is not None else 0
            rates[key] = rates.get(key, 0.0) + 0.3 * (refused / elapsed_s - rates.get(key, 0.0))
            refused_now += refused
            edge_queues[key] = now
            done, looked_s = total.get(cls.number), duration_s
            if done is None and not (now.queued or now.in_flight):
                done, looked_s = ClassCounts(), elapsed_s  # workers at rest tell nothing new, and an overload ends
            if done is not None and looked_s > 0:  # held by hand as well: the queue follows the limit that was given
                places = sum(n for (name, c), n in after.limits.items() if c == cls.number and _of(name, service))
                seen = queueing.Seen(
                    duration_s=looked_s,
                    completed=done.completed,
                    service_s=done.service_s,
                    places=places,
                    queued=now.queued,
                    refused=refused,
                    saturated=bool(now.queued and last is not None and last.queued),
                )
                state = queueing.step(state, seen, queueing.Promise(cls.slo_s, cls.deadline_s))
        queues[key] = state
        if edge.reachable and in_force.get(key, _UNBOUND) != state.bound and cls in before.active(service):
            in_force[key] = state.bound
            actions.append(BoundQueue(service.name, cls.number, state.bound, state.reason))
    after = replace(after, queues=queues, in_force=in_force, edge_queues=edge_queues, refused_per_s=rates)
    return _tell(before, after, service, refused_now, now_s, actions)


def _of(replica: str, service: WantedService) -> bool:
    return replica.rpartition(".")[0] == service.name


def _tell(
    before: Adapted, after: Adapted, service: WantedService, refused: int, now_s: float, actions: list[Action]
) -> tuple[Adapted, list[Action]]:
    """When an overload begins and when it is over, for the journal."""
    pressure = dict(after.pressure)
    over = any(after.queues[service.name, c.number].bound.overloaded for c in service.classes)
    held = pressure.get(service.name)
    rate = sum(after.queues[service.name, c.number].rate_per_s for c in service.classes)
    word = "refused" if service.refuses else "would have been refused"
    if refused or (over and held is not None):
        if held is None:
            what = "the rest is refused at once" if service.refuses else "nothing is refused, it is only observed"
            at = f" ({rate:,.0f}/s)" if rate else ""
            actions.append(Tell(service.name, f"more comes than is answered in time{at}: {what}", "warning"))
            held = Pressure(now_s, now_s)
        pressure[service.name] = Pressure(held.since_s, now_s, held.refused + refused, rate or held.rate_per_s)
    elif held is not None and now_s - held.last_s > OVER_AFTER_S:
        took_s = held.last_s - held.since_s
        actions.append(Tell(service.name, f"the overload is over after {took_s:.0f} s: {held.refused:,} {word}"))
        del pressure[service.name]
    return replace(after, pressure=pressure), actions


def _windows(
    before: Adapted,
    after: Adapted,
    service: WantedService,
    mine: Iterable[Replica],
    sampled: Iterable[RouteCounts],
    now_s: float,
) -> routes.Windows:
    """What its routes took lately; those that were declared have their class."""
    looks = (look for replica in mine if (look := after.looks.get(replica.name)) is not None)
    counted = (look.counts.routes for look in looks if look.counts is not None)
    known = {route.prefix for of_replica in counted for route in of_replica} - set(service.at_prefixes)
    return routes.extend(before.windows.get(service.name, {}), sampled, known, now_s)


def _learn_routes(
    before: Adapted, after: Adapted, service: WantedService, windows: routes.Windows, edge: EdgeObserved
) -> tuple[Adapted, list[Action]]:
    """Routes that are much slower than the rest queue by themselves from now on."""
    slow = before.slow.get(service.name, frozenset())
    may = service.adapts and not service.held and edge.reachable
    found = routes.assign(windows, slow, after.at_s) if may else None
    if found is None:
        return replace(after, windows={**after.windows, service.name: windows}), []
    slow = slow | {found.prefix} if found.slow else slow - {found.prefix}
    number = SLOW if found.slow else MAIN
    where = "queues by itself" if found.slow else "queues with the rest again"
    return (
        replace(after, slow={**after.slow, service.name: slow}, windows={**after.windows, service.name: {}}),
        [
            AssignRoute(service.name, found.prefix, number, found.reason),
            Tell(class_name(service.name, number), f"{found.prefix} {where}: it {found.reason}"),
        ],
    )
