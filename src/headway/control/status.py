"""The status document that `headway status --json` prints, from what the loop remembers and sees. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headway.control.adapting import Adapted
from headway.control.admission import edge_server, open_streams
from headway.control.stored import ServersByHand
from headway.model.declared import ReplicaRange
from headway.model.hold import Hold
from headway.model.observed import Observed
from headway.model.overload import MAIN, class_name
from headway.model.replica import Phase, Replica, public_state
from headway.model.sharding import ShardMap
from headway.model.traffic import Traffic
from headway.model.wanted import Wanted, WantedService

State = Literal["starting", "ready", "degraded", "stopping"]


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """One database for the document; `servers` are name, state and URL without a password."""

    name: str
    state: str
    servers: tuple[tuple[str, str, str], ...]
    error: str = ""
    map: ShardMap | None = None
    write: str = ""  # the line that would declare its servers by hand
    departing: str = ""  # the server that is leaving


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """One cache for the document; `told` is what its server said at the last look, `url` has no password."""

    name: str
    state: str
    url: str
    told: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the document tells beside the loop's own memory."""

    system: str
    source: str
    controller_pid: int
    supervisor: str  # ready, silent or gone
    edge_urls: tuple[str, ...]
    edge_reloads: int
    detached: bool
    was_ready: bool
    declared: Mapping[str, int]
    overrides: Mapping[str, int]
    ranges: Mapping[str, ReplicaRange]
    holds: Mapping[str, Hold]
    routes: Mapping[str, tuple[str, ...]]
    calls_from: Mapping[str, tuple[str, ...]]  # by service that is called
    addresses: Mapping[str, str]
    logs: str
    calls: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)  # by caller, and the called
    databases: tuple[DatabaseStatus, ...] = ()
    caches: tuple[CacheStatus, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    adapted: Adapted = field(default_factory=Adapted)
    failure: Mapping[str, str] | None = None


def servers_line(by_hand: ServersByHand | None) -> str:
    """What to write into the declaration for servers that are there by hand; empty: nothing."""
    if by_hand is None:
        return ""
    if not isinstance(by_hand.servers, dict):
        return f"servers = {by_hand.servers}"
    # The URLs of the others are there already, and may hold passwords.
    declared = by_hand.declared if isinstance(by_hand.declared, dict) else {}
    added = [f'add {name} = "{url}"' for name, url in by_hand.servers.items() if name not in declared]
    return ", ".join([*added, *(f"take out {name}" for name in declared if name not in by_hand.servers)])


def state_of(wanted: Wanted, replicas: Mapping[str, Replica], observed: Observed, facts: Facts) -> State:
    """The word for the whole system."""
    if wanted.stopping:
        return "stopping"
    whole = observed.edge.reachable or not any(service.is_at_edge for service in wanted.services)
    for service in wanted.services:
        ready = sum(
            r.phase is Phase.READY and r.service == service.name and (not service.is_at_edge or _is_served(r, observed))
            for r in replicas.values()
        )
        whole = whole and ready >= service.replicas and bool(service.key)
    states = {database.state for database in facts.databases}
    caches = {cache.state for cache in facts.caches}
    if whole and states <= {"ready"} and caches <= {"ready"}:
        return "ready"
    # A first start may find one of several servers away; what is on the others is served. A cache is no need.
    serves = whole and states <= {"ready", "degraded"} and caches <= {"ready", "down"}
    return "degraded" if serves or facts.was_ready else "starting"


def _is_served(replica: Replica, observed: Observed) -> bool:
    """Whether the edge sends requests to it."""
    server = observed.edge.servers.get(replica.name)
    return server is not None and server.admin == "ready" and server.is_up


def document(wanted: Wanted, replicas: Mapping[str, Replica], observed: Observed, facts: Facts) -> dict[str, Any]:
    """The whole document; keys are a contract."""
    services: dict[str, Any] = {}
    for service in wanted.services:
        mine = sorted((r for r in replicas.values() if r.service == service.name), key=lambda r: r.number)
        services[service.name] = {
            "declared": facts.declared.get(service.name, 0),
            "wanted": service.replicas,
            "override": facts.overrides.get(service.name),
            "range": facts.ranges[service.name].model_dump() if service.name in facts.ranges else None,
            "hold": facts.holds[service.name].told if service.name in facts.holds else None,
            "ready": sum(r.phase is Phase.READY for r in mine),
            "release": service.key,
            "limit": service.limit,
            "routes": list(facts.routes.get(service.name, ())),
            "calls_from": list(facts.calls_from.get(service.name, ())),
            "calls": dict(facts.calls.get(service.name, {})),
            "overload": overload_of(service, observed, facts.adapted),
            "replicas": [_replica(r, observed, facts) for r in mine],
        }
    return {
        "system": facts.system,
        "source": facts.source,
        "state": state_of(wanted, replicas, observed, facts),
        "mode": "detached" if facts.detached else "foreground",
        "controller": {"pid": facts.controller_pid},
        "supervisor": facts.supervisor,
        "edge": {
            "url": facts.edge_urls[0] if facts.edge_urls else None,
            "urls": list(facts.edge_urls),
            "pid": observed.edge.pid,
            "reloads": facts.edge_reloads,
            "state": "ready" if observed.edge.reachable else "down",
        },
        "dashboard": None,
        "services": services,
        "databases": {
            database.name: {
                "state": database.state,
                "shards": database.map.shards if database.map else None,
                "epoch": database.map.epoch if database.map else None,
                "servers": [
                    {
                        "name": name,
                        "state": state,
                        "url": url,
                        "shards": len(database.map.on(name)) if database.map else None,
                    }
                    for name, state, url in database.servers
                ],
                "error": database.error or None,
                "servers_by_hand": database.write or None,
                "departing": database.departing or None,
            }
            for database in facts.databases
        },
        "caches": {cache.name: _cache(cache) for cache in facts.caches},
        "nodes": [{"name": "local", "address": "127.0.0.1", "state": "ready"}],
        "traffic": {
            "requests_per_s": round(facts.traffic.requests_per_s, 1),
            "refused_per_s": round(facts.traffic.refused_per_s, 1),
            "errors_per_s": round(facts.traffic.errors_per_s, 1),
            "p50_ms": facts.traffic.p50_ms,
            "p99_ms": facts.traffic.p99_ms,
            "queued": facts.traffic.queued,
            "connections": facts.traffic.connections,
            "requests_total": facts.traffic.requests_total,
        },
        "logs": facts.logs,
        "failure": dict(facts.failure) if facts.failure else None,
    }


def _cache(cache: CacheStatus) -> dict[str, Any]:
    known = cache.told if cache.state == "ready" else {}
    numbers = {key: known.get(key) for key in ("used_bytes", "max_bytes", "evicted", "keys", "connected")}
    return {"state": cache.state, "url": cache.url, **numbers, "error": cache.error or None}


def overload_of(service: WantedService, observed: Observed, adapted: Adapted) -> dict[str, Any] | None:
    """How a service at the edge holds: its classes with their limits and queues; None for others."""
    if service.kind != "app" or not service.is_at_edge:
        return None
    classes = {}
    for cls in adapted.active(service):
        key = (service.name, cls.number)
        queue, edge = adapted.queues.get(key), observed.edge.queues.get(key)
        bound = adapted.in_force.get(key)
        classes[class_name(*key)] = {
            "limit": _limit(service, observed, adapted, cls.number),
            "queued": edge.queued if edge else 0,
            "queue_max": bound.queue_max if bound else None,
            "overloaded": bool(bound and bound.overloaded),
            "newest_first": bool(bound and bound.newest_first),
            "refused_per_s": round(adapted.refused_per_s.get(key, 0.0), 1),
            "capacity_per_s": round(queue.rate_per_s, 1) if queue and queue.rate_per_s else None,
            "service_ms": round(queue.service_s * 1000, 1) if queue and queue.service_s else None,
            "reason": _why(service, adapted, cls.number),
        }
    return {
        "mode": "fixed" if not service.adapts else "adapt" if service.refuses else "observe",
        "overloaded": service.name in adapted.pressure,
        "slow_routes": sorted(adapted.slow.get(service.name, ())),
        "slo_ms": round(service.slo_s * 1000) if service.slo_s else None,
        "classes": classes,
    }


def _limit(service: WantedService, observed: Observed, adapted: Adapted, number: int) -> int:
    """Requests at once of a class, over all replicas. Of a declared limit: the part of it that the class has now."""
    limits = {name: n for (name, c), n in adapted.limits.items() if c == number and _of(name, service)}
    numbers = [cls.number for cls in adapted.active(service)]
    if service.adapts or len(numbers) == 1:
        return sum(limits.values())
    total = 0
    for name in limits:
        server = edge_server(name, number, observed.edge)
        streams = open_streams(name, numbers, observed.replicas.get(name), observed.edge)
        total += max(0, server.limit - streams.get(number, 0)) if server is not None else 0
    return total


def _of(replica: str, service: WantedService) -> bool:
    return replica.rpartition(".")[0] == service.name


def _why(service: WantedService, adapted: Adapted, number: int) -> str:
    if service.held:
        return "held by hand"
    if not service.adapts and number == MAIN:
        return "declared"
    reasons = [s.reason for (name, c), s in adapted.limiters.items() if c == number and _of(name, service)]
    return reasons[0] if reasons else ""


def _replica(replica: Replica, observed: Observed, facts: Facts) -> dict[str, Any]:
    seen = observed.replicas.get(replica.name)
    server = observed.edge.servers.get(replica.name)
    alive = seen is not None and seen.alive
    return {
        "name": replica.name,
        "node": "local",
        "state": public_state(replica.phase),
        "pid": seen.pid if seen and alive else None,
        "release": replica.key,
        "address": facts.addresses.get(replica.name, ""),
        "limit": server.limit if server else None,
        "in_flight": seen.in_flight if seen and alive else 0,
        "streams": seen.streams if seen and alive else 0,
        "cancelled": sum(cls.cancelled for cls in seen.counts.classes) if seen and alive and seen.counts else 0,
        "restarts": replica.restarts,
        "ready_once": replica.ready_once,
        "rss_bytes": seen.rss_bytes if seen and alive else 0,
        "failure": replica.failure.message if replica.failure and replica.phase is not Phase.READY else None,
        "retire": replica.retire or None,
    }


# Failures that no second try will mend: at the first start they end `headway up` with the reason.
_FINAL = frozenset({"import", "attribute", "shape", "factory", "startup", "granian", "spawn", "start_timeout"})
_TRIES = 3


def start_failure(replicas: Mapping[str, Replica]) -> dict[str, str] | None:
    """Why a first start cannot succeed; None while it still may."""
    for replica in sorted(replicas.values(), key=lambda r: r.name):
        failure = replica.failure
        if failure is None or replica.ready_once or replica.phase is Phase.READY:
            continue
        if (failure.kind in _FINAL and replica.failures >= 1) or replica.failures >= _TRIES:
            return {
                "message": f"services.{replica.service}: {failure.message}",
                "hint": failure.hint,
                "detail": failure.detail,
            }
    return None
