"""Which services call which: from `uses`, and from environments that refer to a service's URL. Pure.

A call goes through the edge, so a service that is called is at the edge as one with routes is. Services may call each
other in a circle: nothing waits for a service to start, and a call that goes round ends with its deadline.
"""

from __future__ import annotations

from headway.declaration.references import references
from headway.model.declared import System


def callers(system: System) -> dict[str, tuple[str, ...]]:
    """The services that are called, each with those that call it, in the order of the declaration."""
    found: dict[str, list[str]] = {}
    for name, service in system.services.items():
        referred = (reference.owner for _, reference in references(service))
        for used in dict.fromkeys((*service.uses, *referred)):
            if used in system.services and used not in system.databases:
                found.setdefault(used, []).append(name)
    return {name: tuple(found[name]) for name in system.services if name in found}


def called_by(system: System, name: str) -> tuple[str, ...]:
    """The services that a service calls, in the order of the declaration."""
    return tuple(called for called, by in callers(system).items() if name in by)


def by_url(system: System) -> tuple[str, ...]:
    """The services that some environment refers to by URL: those alone listen on a port of their own."""
    referred = {
        reference.owner
        for service in system.services.values()
        for _, reference in references(service)
        if reference.field == "url"
    }
    return tuple(name for name in system.services if name in referred and name not in system.databases)


def at_edge(system: System) -> frozenset[str]:
    """The services that the edge knows: those with routes, and those that are called."""
    return frozenset(name for name, service in system.services.items() if service.routes) | callers(system).keys()
