"""From the declaration, the overrides and the machine to what the loop works towards. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from headway.caching.place import CACHES_VARIABLE
from headway.errors import HeadwayError
from headway.model.calls import SERVICES_VARIABLE
from headway.model.declared import ReplicaRange, Responses, Service, System
from headway.model.hold import Hold
from headway.model.launch import SLOTS_MIN, Launch, slots_for
from headway.model.overload import CLASSES_MAX, CRITICALITIES, FIRST_AT
from headway.model.sharding import DATABASES_VARIABLE, RUN_VARIABLE
from headway.model.span import TRACE_VARIABLE
from headway.model.wanted import Wanted, WantedClass, WantedService
from headway.process.machine import Machine

THREADS = 8
# An async request costs an app some hundred KiB with its buffers, session and objects: half of a replica's share of the
# memory divided by this bounds how many it may hold. Too high risks memory, too low leaves slow endpoints queueing.
ASYNC_REQUEST_BYTES = 256 * 1024
ASYNC_LIMIT_MIN, ASYNC_LIMIT_MAX = 64, SLOTS_MIN
REPLICA_BYTES = 48 << 20  # what an idle replica takes at the least
REPLICAS_PER_CORE = 64
MEMORY_SHARE = 0.7  # of the machine's memory that all replicas together may fill; the rest is the engines' and yours


def replicas_declared(system: System, machine: Machine) -> dict[str, int]:
    """Replicas of each service without overrides: public services share the cores, others get one.

    Of a range it is the lower bound, with which a service starts.
    """
    public = [name for name, service in system.services.items() if service.routes]
    share = max(1, int(machine.cores) // max(1, len(public)))
    found = {}
    for name, service in system.services.items():
        wished = service.replicas.min if isinstance(service.replicas, ReplicaRange) else service.replicas
        found[name] = wished if wished is not None else (share if service.routes else 1)
    return found


def declared_as(system: System, machine: Machine) -> dict[str, int | str]:
    """What each service declares about its replicas, to tell whether a declaration says something else."""
    found: dict[str, int | str] = dict(replicas_declared(system, machine))
    for name, service in system.services.items():
        if isinstance(service.replicas, ReplicaRange):
            found[name] = f"{service.replicas.min}–{service.replicas.max}"
    return found


def replicas_max(machine: Machine) -> int:
    """More replicas of one service than this cannot make sense on this machine."""
    return int(min(1000, machine.memory_bytes // REPLICA_BYTES, machine.cores * REPLICAS_PER_CORE))


def check_scale(system: System, service: str, replicas: int, machine: Machine) -> None:
    """HeadwayError when `scale SERVICE N` asks for what does not exist or cannot be."""
    if service not in system.services:
        known = ", ".join(system.services)
        raise HeadwayError(f"there is no service {service!r}", hint=f"services are: {known}")
    most = replicas_max(machine)
    if not 0 <= replicas <= most:
        raise HeadwayError(
            f"{service} cannot have {replicas} replicas on this machine: at most {most} "
            f"({machine.cores:g} cores, {machine.memory_bytes / 2**30:.0f} GiB)",
            hint=f"more than a few per core only costs memory: headway scale {service} {max(1, int(machine.cores))}",
        )


def request_limit(service: Service, replicas_total: int, machine: Machine) -> int:
    """Requests an async replica may work on at once: `limit`, else bounded by its share of the memory."""
    if service.limit is not None:
        return service.limit
    share = service.memory_max_bytes or machine.memory_bytes // max(1, replicas_total)
    by_memory = share // 2 // ASYNC_REQUEST_BYTES
    # Never above the accept backlog: a full one refuses connections that a queue would have kept.
    return int(max(ASYNC_LIMIT_MIN, min(by_memory, ASYNC_LIMIT_MAX, machine.somaxconn // 2)))


def needs(service: Service, databases: Mapping[str, object]) -> tuple[str, ...]:
    """Databases a service waits for: those it `uses` and those its environment speaks of."""
    named = [name for name in databases if any(f"{{{name}." in text for text in service.env.values())]
    used = [name for name in service.uses if name in databases] + named
    # Where rows are until they are imported, the app looks for them as well.
    sources = [str(getattr(databases[name], "import_from", None)) for name in used]
    return tuple(dict.fromkeys(used + [name for name in sources if name in databases]))


def caches_of(service: Service, caches: Mapping[str, object]) -> tuple[str, ...]:
    """Caches a service uses: those that it lists and those its environment speaks of."""
    named = (name for name in caches if any(f"{{{name}." in text for text in service.env.values()))
    return tuple(dict.fromkeys((*(name for name in service.uses if name in caches), *named)))


def told_of_caches(access: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """What a service's processes are told of the caches they use, in their environment."""
    return {CACHES_VARIABLE: json.dumps(access, sort_keys=True)} if access else {}


def told_of_traces(system: System, service: Service, folder: str) -> dict[str, str]:
    """Where the processes of an app keep what its requests spend their time on, in their environment."""
    return {TRACE_VARIABLE: folder} if system.traces and service.app else {}


def told_of_services(called: Mapping[str, Mapping[str, object]], folder: str) -> dict[str, str]:
    """What a service's processes are told of the services that they call, in their environment."""
    return {SERVICES_VARIABLE: json.dumps(called, sort_keys=True), RUN_VARIABLE: folder} if called else {}


def active_max(machine: Machine) -> int:
    """Transactions at work at once on a server: twice the cores, for each may wait for a lock or the disk."""
    return max(4, 2 * int(machine.cores))


def told(service: Service, access: Mapping[str, Mapping[str, object]], folder: str) -> dict[str, str]:
    """What a service's processes are told of the databases they use, in their environment."""
    if not access:
        return {}
    return {DATABASES_VARIABLE: json.dumps(access, sort_keys=True), RUN_VARIABLE: folder}


def launch_of(name: str, service: Service, env: Mapping[str, str], machine: Machine) -> Launch:
    """How replicas of a service start; `env` is the service's own, resolved."""
    return Launch(
        service=name,
        kind="command" if service.command else "app",
        folder=service.folder,
        env=dict(env),
        python=service.python or "",
        target=service.app or "",
        interface=service.interface,
        threads=service.threads or THREADS,
        static=dict(service.static),
        responses=tuple(responses_told(path, each) for path, each in service.cache.items()),
        body_max_bytes=service.body_max_bytes,
        streams_max=service.streams_max,
        cancels=cancels(service),
        limit=slots_for(max(service.limit or 1, service.threads or THREADS)),
        backlog=machine.somaxconn,
        command=service.command or (),
        health=service.health,
    )


def responses_told(path: str, responses: Responses) -> dict[str, Any]:
    """What a worker is told of a path whose responses are kept."""
    return {
        "path": path,
        "cache": responses.cache,
        "ttl_s": responses.ttl_s,
        "stale_s": responses.stale_s or 0.0,
        "tags": list(responses.tags),
        "query": None if responses.query is None else list(responses.query),
        "vary": list(responses.vary),
        "host": responses.host,
        "cookies": responses.cookies,
        "authorization": responses.authorization,
        "statuses": list(responses.statuses),
        "body_max_bytes": responses.body_max_bytes,
    }


def cancels(service: Service) -> tuple[int, ...]:
    """Classes whose work is cancelled when nobody waits for it. Numbers that no route has yet are as the service."""
    differ = dict(enumerate((at.cancel for at in service.at.values()), FIRST_AT))
    told = {number: differ.get(number) for number in range(CLASSES_MAX)}
    return tuple(number for number, own in told.items() if (service.cancel if own is None else own))


def at_classes(service: Service) -> tuple[WantedClass, ...]:
    """The routes that differ, each a class of its own; what they leave out is as for the whole service."""
    return tuple(
        WantedClass(
            number=FIRST_AT + index,
            slo_s=at.slo_s if at.slo_s is not None else service.slo_s,
            deadline_s=at.deadline_s if at.deadline_s is not None else service.deadline_s,
            level=CRITICALITIES.index(at.criticality or service.criticality),
        )
        for index, at in enumerate(service.at.values())
    )


def want(
    system: System,
    *,
    replicas: Mapping[str, int],
    keys: Mapping[str, str],
    limits: Mapping[str, int],
    machine: Machine,
    at_edge: Collection[str],
    stopping: bool = False,
    holds: Mapping[str, Hold] | None = None,
) -> Wanted:
    """The whole target. `keys`: of each launch, none while it cannot be resolved; `replicas` include overrides;
    `at_edge`: services that the edge is to know."""
    holds = holds or {}
    total = max(1, sum(replicas.values()))
    services = tuple(
        WantedService(
            name=name,
            kind="command" if service.command else "app",
            key=keys.get(name, ""),
            replicas=replicas[name],
            limit=limits[name],
            threads=service.threads or THREADS,
            is_at_edge=name in at_edge,
            waits_for=(*needs(service, system.databases), *caches_of(service, system.caches)),
            memory_max_bytes=service.memory_max_bytes,
            start_timeout_s=service.start_timeout_s,
            drain_timeout_s=service.drain_timeout_s,
            hang_timeout_s=service.hang_timeout_s,
            threads_patience_s=max(service.hang_timeout_s, service.deadline_s),
            slo_s=service.slo_s,
            deadline_s=service.deadline_s,
            level=CRITICALITIES.index(service.criticality),
            at=at_classes(service),
            at_prefixes=tuple(service.at),
            adapts=service.limit is None,
            refuses=service.overload != "observe",
            held=name in holds,
            held_limit=holds[name].limit if name in holds else None,
            memory_share_bytes=service.memory_max_bytes or int(machine.memory_bytes * MEMORY_SHARE) // total,
        )
        for name, service in system.services.items()
    )
    return Wanted(services, stopping=stopping, starts_max=max(2, int(machine.cores) * 2))
