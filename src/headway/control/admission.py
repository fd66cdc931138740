"""What the edge should have against what it has: each tick mends what a restart or a lost command left wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headway.model.action import (
    Action,
    AdmitReplica,
    DrainReplica,
    LimitReplica,
    RemoveReplica,
    ReplaceEdge,
    SuspendReplica,
)
from headway.model.observed import EdgeObserved, Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted

EDGE_HANG_S = 0.8  # a live edge answers in well under a millisecond; replaced within the promised two seconds


def reconcile(replicas: Iterable[Replica], wanted: Wanted, observed: Observed) -> list[Action]:
    """Actions on the edge for every public replica, and for servers nobody knows any more."""
    edge = observed.edge
    if not edge.reachable:
        if edge.pid is not None and edge.unreachable_s > EDGE_HANG_S:
            return [ReplaceEdge(f"no answer for {edge.unreachable_s:.1f} s")]
        return []
    actions: list[Action] = []
    known = set()
    for replica in replicas:
        service = wanted.service(replica.service)
        known.add(replica.name)
        if service is not None and not service.is_public and replica.name not in edge.servers:
            continue
        streams = observed.replicas[replica.name].streams if replica.name in observed.replicas else 0
        limit = (service.limit if service else 1) + streams
        actions += _one(replica, limit, edge)
    for name in edge.servers:
        if name not in known:
            service_name = name.rpartition(".")[0]
            actions.append(RemoveReplica(name, service_name, "nobody knows it any more"))
    return actions


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


def servers_by_service(replicas: Mapping[str, Replica]) -> dict[str, list[Replica]]:
    """Replicas that belong into the edge's file, by service, in the order of their numbers."""
    found: dict[str, list[Replica]] = {}
    for replica in sorted(replicas.values(), key=lambda r: r.number):
        if replica.phase is Phase.READY or (replica.ready_once and not replica.leave):
            found.setdefault(replica.service, []).append(replica)
    return found
