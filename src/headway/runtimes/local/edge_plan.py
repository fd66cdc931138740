"""From the declaration and the replicas to the edge's plan. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from headway.declaration.calls import callers
from headway.model.bind import parse_bind
from headway.model.declared import Service, System
from headway.model.edge import QUEUE_MAX_UNKNOWN, EdgeClass, EdgePlan, EdgeReplica, EdgeService, Listener
from headway.model.overload import CRITICALITIES, FIRST_AT, MAIN, SLOW, Criticality, QueueBound
from headway.model.replica import Phase, Replica, stays_in_edge
from headway.process.machine import Machine
from headway.process.spec import FIRST_LISTENER_FD

RESERVE = 512  # descriptors of the edge that are neither a client's nor a replica's
CONNECTIONS_MIN, CONNECTIONS_MAX = 1000, 50_000
AT_REPLICAS_MAX = 8192
CALL_CONNECTIONS_MIN, CALL_CONNECTIONS_MAX = 256, 4096  # of services that call others, which no flood takes from them
UNBOUND = QueueBound(QUEUE_MAX_UNKNOWN)
REPLICAS_PER_THREAD = 4  # cores: one thread of HAProxy feeds several replicas' worth of requests


def addresses(system: System) -> tuple[str, ...]:
    """The addresses to listen on for clients, `host:port`; none when no service is public."""
    if not any(service.routes for service in system.services.values()):
        return ()
    return tuple(parse_bind(text).text for text in system.edge.bind)


def urls(system: System) -> tuple[str, ...]:
    """Where a person on this machine reaches the edge, the best first."""
    if not addresses(system):
        return ()
    tls = system.edge.tls is not None
    binds = sorted((parse_bind(text) for text in system.edge.bind), key=lambda bind: bind.redirects(tls=tls))
    found = []
    for bind in binds:
        scheme = "https" if tls and not bind.redirects(tls=tls) else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            bind.host, f"[{bind.host}]" if ":" in bind.host else bind.host
        )
        standard = {"http": 80, "https": 443}[scheme]
        found.append(f"{scheme}://{host}" + ("" if bind.port == standard else f":{bind.port}"))
    return tuple(found)


def listeners(system: System) -> tuple[Listener, ...]:
    """The inherited listening sockets for clients, in the order of their descriptors; first among all."""
    if not addresses(system):
        return ()
    tls = system.edge.tls is not None
    binds = [parse_bind(text) for text in system.edge.bind]
    secure = next((bind.port for bind in binds if tls and not bind.redirects(tls=True)), None)
    return tuple(
        Listener(
            address=bind.text,
            fd=FIRST_LISTENER_FD + index,
            tls=tls and not bind.redirects(tls=True),
            redirect_to_port=secure if bind.redirects(tls=tls) else None,
        )
        for index, bind in enumerate(binds)
    )


def edge_replicas(
    replicas: Mapping[str, Replica], service: str, limits: Mapping[str, int], socket: Callable[[str], str]
) -> tuple[EdgeReplica, ...]:
    """Replicas of one service that belong into the file: those that serve, and those that will again."""
    mine = sorted((r for r in replicas.values() if r.service == service), key=lambda r: r.number)
    return tuple(
        EdgeReplica(r.name, socket(r.name), limits.get(r.name, 1), enabled=r.phase is Phase.READY)
        for r in mine
        if r.name in limits and stays_in_edge(r)
    )


def call_listeners(system: System, called_at: Mapping[str, Sequence[str]]) -> dict[str, tuple[Listener, ...]]:
    """By service the inherited listening sockets for calls, whose descriptors follow those for clients."""
    fd = FIRST_LISTENER_FD + len(addresses(system))
    found = {}
    for name, places in called_at.items():
        found[name] = tuple(Listener(address, fd + index) for index, address in enumerate(places))
        fd += len(places)
    return found


def class_numbers(service: Service) -> tuple[int, ...]:
    """The classes of a service at the edge beside the main one: the slow routes, and each declared under `at`."""
    return (SLOW, *(FIRST_AT + index for index in range(len(service.at))))


def connections(descriptors_max: int, at_replicas: int, *, has_calls: bool) -> tuple[int, int]:
    """Connections at once: of clients, and beside them of services that call others (0 without `has_calls`).

    `at_replicas` is how many requests replicas may hold together, each with a second descriptor. All others wait in a
    queue or say nothing, and have one: with two for each, ten thousand silent clients would fill the edge.
    """
    free = descriptors_max - min(at_replicas, AT_REPLICAS_MAX) - RESERVE
    calls = min(CALL_CONNECTIONS_MAX, max(CALL_CONNECTIONS_MIN, free // 4)) if has_calls else 0
    return max(CONNECTIONS_MIN, min(CONNECTIONS_MAX, free - calls)), calls


def edge_plan(
    system: System,
    *,
    folder: str,
    machine: Machine,
    certificate: str | None,
    at_replicas: int,
    replicas: Mapping[tuple[str, int], Sequence[EdgeReplica]],
    bounds: Mapping[tuple[str, int], QueueBound],
    learned: Mapping[str, tuple[str, ...]],
    called_at: Mapping[str, Sequence[str]],
    exports: bool = False,
) -> EdgePlan:
    """The whole plan. `at_replicas` is how many requests replicas may hold together, a descriptor each; `exports`:
    spans are sent to a collector.

    Replicas and bounds come by service and class; `called_at`: by service that is called, the addresses of its ways.
    """
    edge = system.edge
    ways = call_listeners(system, called_at)
    connections_max, calls_max = connections(machine.descriptors_max, at_replicas, has_calls=bool(ways))
    called = callers(system)
    call = {caller for by in called.values() for caller in by}
    return EdgePlan(
        system=system.name,
        run_folder=folder,
        listeners=listeners(system),
        services=tuple(
            EdgeService(
                name=name,
                routes=service.routes,
                replicas=tuple(replicas.get((name, MAIN), ())),
                deadline_s=service.deadline_s,
                body_max_bytes=service.body_max_bytes,
                sticky=service.sticky,
                level=CRITICALITIES.index(service.criticality),
                bound=bounds.get((name, MAIN), UNBOUND),
                classes=tuple(
                    EdgeClass(
                        number=number,
                        prefixes=prefixes,
                        replicas=tuple(replicas.get((name, number), ())),
                        deadline_s=deadline_s,
                        level=CRITICALITIES.index(criticality),
                        bound=bounds.get((name, number), UNBOUND),
                        cancels=cancels,
                    )
                    for number, prefixes, deadline_s, criticality, cancels in _classes(service, learned.get(name, ()))
                ),
                cancels=service.cancel,
                refuses=service.overload != "observe",
                called_at=ways.get(name, ()),
                calls=name in call,
            )
            for name, service in system.services.items()
            if service.routes or name in ways
        ),
        connections_max=connections_max,
        call_connections_max=calls_max,
        descriptors_max=machine.descriptors_max,
        trusted=edge.trusted,
        proxy_protocol=edge.proxy_protocol,
        client_rate_per_s=edge.client_rate_per_s,
        access_log=edge.access_log,
        exports=exports,
        certificate=certificate,
        header_timeout_s=edge.header_timeout_s,
        idle_timeout_s=edge.idle_timeout_s,
        threads=max(1, int(machine.cores) // REPLICAS_PER_THREAD),
    )


def _classes(
    service: Service, learned: tuple[str, ...]
) -> Iterator[tuple[int, tuple[str, ...], float, Criticality, bool]]:
    """Number, prefixes, deadline, criticality and `cancel` of each class beside the main one."""
    yield SLOW, learned, service.deadline_s, service.criticality, service.cancel
    for number, (prefix, at) in enumerate(service.at.items(), start=FIRST_AT):
        deadline_s = at.deadline_s if at.deadline_s is not None else service.deadline_s
        cancels = at.cancel if at.cancel is not None else service.cancel
        yield number, (prefix,), deadline_s, at.criticality or service.criticality, cancels
