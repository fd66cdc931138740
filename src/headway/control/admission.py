"""What the edge should have against what it has: each tick mends what a restart or a lost command left wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

from headway.model.action import (
    Action,
    AdmitReplica,
    DrainReplica,
    LimitReplica,
    RemoveReplica,
    ReplaceEdge,
    SuspendReplica,
)
from headway.model.observed import EdgeObserved, EdgeServer, Observed, ReplicaObserved
from headway.model.overload import MAIN, SLOW
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted

EDGE_HANG_S = 0.8  # a live edge answers in well under a millisecond; replaced within the promised two seconds
EDGE_START_S = 5.0  # until its first answer: a slow machine must not see it killed again and again while it starts

# Of a declared limit one part stays with each class, however little it asks for, so that it never begins with nothing.
RESERVE_PART = 8


def reconcile(
    replicas: Iterable[Replica],
    wanted: Wanted,
    observed: Observed,
    limits: Mapping[tuple[str, int], int] | None = None,
    slow: Mapping[str, frozenset[str]] | None = None,
) -> list[Action]:
    """Actions on the edge for every public replica, and for servers nobody knows any more.

    `limits` by replica and class, where they are not the declared ones; `slow`: services with slow routes.
    """
    edge = observed.edge
    if not edge.reachable:
        if edge.pid is not None and edge.unreachable_s > (EDGE_HANG_S if edge.answered else EDGE_START_S):
            return [ReplaceEdge(f"no answer for {edge.unreachable_s:.1f} s")]
        return []
    actions: list[Action] = []
    known = set()
    for replica in replicas:
        service = wanted.service(replica.service)
        known.add(replica.name)
        if service is not None and not service.is_at_edge and replica.name not in edge.servers:
            continue
        seen = observed.replicas.get(replica.name)
        otherwise = service.limit_of(is_wsgi=seen.is_wsgi if seen else False) if service else 1
        numbers = [MAIN]
        if service is not None:
            numbers += [cls.number for cls in service.at] + ([SLOW] if (slow or {}).get(service.name) else [])
        streams = open_streams(replica.name, numbers, seen, edge)
        own = {number: (limits or {}).get((replica.name, number), otherwise) for number in numbers}
        if service is not None and not service.adapts and len(numbers) > 1:
            own = _shared(replica, own[MAIN], numbers, streams, edge)
        found = {number: own[number] + streams.get(number, 0) for number in numbers}
        actions += _one(replica, found[MAIN], edge)
        if replica.phase is Phase.READY and replica.name in edge.servers:
            actions += [action for number in numbers[1:] for action in _in_class(replica, number, found[number], edge)]
    for name in edge.servers:
        if name not in known:
            service_name = name.rpartition(".")[0]
            actions.append(RemoveReplica(name, service_name, "nobody knows it any more"))
    return actions


def open_streams(
    replica: str, numbers: Iterable[int], seen: ReplicaObserved | None, edge: EdgeObserved
) -> dict[int, int]:
    """Open streams by class: each holds a place for long, and must not take that of a request.

    A worker counts its streams together, but requests by class without them: what the edge has in a class beyond these
    are its streams. Where the two readings, of two moments, leave it open, a class gets a place too many, never one too
    few: full of streams, it would serve nobody.
    """
    if seen is None or not seen.streams:
        return {}
    servers = ((number, edge_server(replica, number, edge)) for number in numbers)
    sessions = {number: server.sessions for number, server in servers if server is not None and server.sessions}
    if len(sessions) == 1:
        return dict.fromkeys(sessions, seen.streams)
    at_work = dict(enumerate(cls.in_flight for cls in seen.counts.classes)) if seen.counts is not None else {}
    return {number: max(0, min(seen.streams, count - at_work.get(number, 0))) for number, count in sessions.items()}


def _shared(
    replica: Replica, total: int, numbers: list[int], streams: Mapping[int, int], edge: EdgeObserved
) -> dict[int, int]:
    """A limit that was declared is that of the whole replica: its classes share the places, by what each asks for.

    HAProxy counts each class by itself, so a place is taken from one class now and given to another once it is free.
    """
    ready = sum(1 for name, server in edge.servers.items() if _is_sibling(name, replica) and server.admin == "ready")
    reserve = max(1, min(total // RESERVE_PART, total // len(numbers)))
    asked, in_force, taken = {}, {}, {}
    for number in numbers:
        server, queue = edge_server(replica.name, number, edge), edge.queues.get((replica.service, number))
        held = streams.get(number, 0)
        at_work = max(0, server.sessions - held) if server is not None else 0
        in_force[number] = max(0, server.limit - held) if server is not None else 0
        taken[number] = max(at_work, in_force[number])
        waiting = ceil(queue.queued / max(1, ready)) if queue is not None else 0
        asked[number] = max(reserve, at_work + waiting)
    if sum(in_force.values()) == total and all(in_force[number] >= asked[number] for number in numbers):
        return in_force  # each has what it asks for: nothing moves for its own sake
    free = total - sum(taken.values())
    shares = {}
    for number, target in _fair_shares(total, asked).items():
        more = max(0, min(target - in_force[number], free))
        free -= more
        shares[number] = max(1, min(target, in_force[number] + more))
    return shares


def _is_sibling(name: str, replica: Replica) -> bool:
    return name.rpartition(".")[0] == replica.service


def _fair_shares(total: int, asked: Mapping[int, int]) -> dict[int, int]:
    """Max-min fair: who asks for little gets it, the others the same; what nobody asks for goes to the main class."""
    shares, left = {}, total
    in_order = sorted(asked, key=lambda number: (asked[number], -number))
    for position, number in enumerate(in_order):
        shares[number] = min(asked[number], left // (len(in_order) - position))
        left -= shares[number]
    shares[MAIN] += max(0, left)
    return {number: max(1, shares[number]) for number in asked}


def edge_server(replica: str, number: int, edge: EdgeObserved) -> EdgeServer | None:
    """What the edge has of a replica in a class."""
    return edge.servers.get(replica) if number == MAIN else edge.classes.get((replica, number))


def _in_class(replica: Replica, number: int, limit: int, edge: EdgeObserved) -> list[Action]:
    """The same replica in a class beside the main one, where only being there and the limit are to be mended."""
    server = edge.classes.get((replica.name, number))
    if server is None or server.admin != "ready":
        return [AdmitReplica(replica.name, replica.service, limit, "ready", number)]
    if server.limit != limit:
        return [LimitReplica(replica.name, replica.service, limit, "its limit and open streams", number)]
    return []


def _one(replica: Replica, limit: int, edge: EdgeObserved) -> list[Action]:
    name, service = replica.name, replica.service
    server = edge.servers.get(name)
    match replica.phase:
        case Phase.READY:
            if server is None or server.admin != "ready":
                return [AdmitReplica(name, service, limit, "ready")]
            if server.limit != limit:
                return [LimitReplica(name, service, limit, "its limit and open streams")]
        case Phase.DRAINING if server is not None and server.admin == "ready":
            return [DrainReplica(name, service, "leaves")]
        case Phase.DOWN if server is not None:
            if replica.leave:
                return [RemoveReplica(name, service, "it has ended")]
            if server.admin == "ready":
                return [SuspendReplica(name, service, replica.failure.message if replica.failure else "down")]
        case Phase.STARTING if server is not None and server.admin == "ready":
            return [SuspendReplica(name, service, "starting")]
        case _:
            pass
    return []
