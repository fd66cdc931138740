"""What works as declared but will surprise: told by `check` and `up`, never refused."""

from __future__ import annotations

from collections.abc import Iterator

from headway.declaration.calls import called_by, callers
from headway.declaration.keys import path_text
from headway.declaration.routes import covers
from headway.errors import Problem
from headway.model.calls import CALLS_MAX
from headway.model.declared import ReplicaRange, Service, System
from headway.model.units import format_duration

# Keys that a command accepts and that change nothing for it.
_IDLE_FOR_COMMANDS = {
    "slo_s": "slo",
    "deadline_s": "deadline",
    "limit": "limit",
    "body_max_bytes": "body_max",
    "streams_max": "streams_max",
    "hang_timeout_s": "hang_timeout",
}


def advise(system: System) -> tuple[Problem, ...]:
    """Warnings about a system that `check` found right, its routes completed."""
    warnings = [*_edge(system)]
    called = callers(system)
    for name, service in system.services.items():
        warnings.extend(_service(name, service, is_called=name in called))
        warnings.extend(_calls(name, service, calls=bool(called_by(system, name))))
    return tuple(warnings)


def _edge(system: System) -> Iterator[Problem]:
    for index, network in enumerate(system.edge.trusted):
        if network.endswith("/0"):
            yield Problem(
                f"edge.trusted[{index}]",
                f"{network} is everybody: any client can claim any address",
                "name the networks of your own proxies alone",
            )


def _service(name: str, service: Service, *, is_called: bool) -> Iterator[Problem]:
    path = f"services.{name}"
    if isinstance(service.replicas, ReplicaRange) and service.replicas.min == service.replicas.max:
        told = f"leaves no room: there are always {service.replicas.min}"
        yield Problem(f"{path}.replicas", told, f"write replicas = {service.replicas.min}")
    if service.app is None:
        for field, key in _IDLE_FOR_COMMANDS.items():
            if field in service.model_fields_set:
                yield Problem(f"{path}.{key}", "changes nothing for a command", "take it out")
        return
    if not service.routes and not is_called:
        told = "is empty, and no service calls it, so nothing reaches this service"
        yield Problem(f"{path}.routes", told, 'write it like routes = ["/api"], or name it in the `uses` of a service')
    for index, route in enumerate(service.routes):
        if "." not in route and not route.startswith("/") and route.partition("/")[0] != "localhost":
            yield Problem(f"{path}.routes[{index}]", f'"{route}" is read as a host', f'for a path write "/{route}"')
    for prefix in service.static:
        if service.routes and not any(covers(route, prefix) for route in service.routes):
            told = f"no route of {name} leads here, so its files are not reached"
            yield Problem(path_text(("services", name, "static", prefix)), told, f'add "{prefix}" to its routes')
    if "deadline_s" in service.model_fields_set and service.drain_timeout_s < service.deadline_s:
        drain, deadline = format_duration(service.drain_timeout_s), format_duration(service.deadline_s)
        told = f"{drain} is shorter than the deadline of {deadline}: a replica that is replaced cuts longer requests"
        yield Problem(f"{path}.drain_timeout", told, "raise drain_timeout to the deadline")
    if service.limit is not None and service.threads is not None and service.limit > service.threads:
        told = f"is above its {service.threads} threads; the rest waits inside the replica"
        yield Problem(f"{path}.limit", told, "lower limit to threads, so that requests wait at the edge")


def _calls(name: str, service: Service, *, calls: bool) -> Iterator[Problem]:
    path = f"services.{name}.calls_max"
    if service.calls_max == CALLS_MAX:  # as if it were not declared
        return
    if not calls:
        yield Problem(path, "changes nothing: it calls no service", "take it out, or name a service in `uses`")
    elif service.threads is not None and service.calls_max > max(1, service.threads // 2):
        told = f"is above half of its {service.threads} threads, and no more of them wait for one service"
        yield Problem(path, told, f"lower it to {max(1, service.threads // 2)} at most, or raise threads")
