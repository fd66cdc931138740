"""Which service a request belongs to, as HAProxy rules: hosts before plain prefixes, longer prefixes before shorter."""

from __future__ import annotations

from dataclasses import dataclass

from headway.edge.words import comment, word
from headway.model.edge import EdgeService


@dataclass(frozen=True, slots=True)
class Route:
    """One public route. `host` is empty for any host; `prefix` has no slash at its end and is empty for any path."""

    host: str
    prefix: str
    service: str


def parse_route(text: str, service: str) -> Route:
    """ "/api", "api.example.com" or "api.example.com/v2" taken apart."""
    host, slash, path = text.partition("/")
    return Route(host.lower(), f"{slash}{path}".rstrip("/"), service)


def ordered_routes(services: tuple[EdgeService, ...]) -> tuple[Route, ...]:
    """All routes, the most specific first; a request belongs to the first that matches."""
    routes = [parse_route(text, service.name) for service in services for text in service.routes]
    return tuple(sorted(routes, key=lambda route: (not route.host, -len(route.prefix), route.host, route.prefix)))


def route_lines(services: tuple[EdgeService, ...], unrouted: str) -> list[str]:
    """`use_backend` rules with their conditions, ending in the backend for everything else."""
    lines: list[str] = []
    otherwise = unrouted
    hosts: dict[str, str] = {}
    for number, route in enumerate(ordered_routes(services), start=1):
        if not route.host and not route.prefix:
            otherwise = route.service
            continue
        conditions = []
        if route.host and route.host not in hosts:
            hosts[route.host] = f"host_{number}"
            lines.append(f"acl host_{number} req.hdr(host),host_only -i -m str -- {word(route.host)}")
        if route.host:
            conditions.append(hosts[route.host])
        if route.prefix:
            lines.append(f"acl path_{number} path -m str -- {word(route.prefix)}")
            lines.append(f"acl path_{number} path -m beg -- {word(route.prefix + '/')}")
            conditions.append(f"path_{number}")
        shown = comment(f"{route.host}{route.prefix or '/'}")
        lines.append(f"use_backend {word(route.service)} if {' '.join(conditions)}  # {shown}")
    lines.append(f"default_backend {word(otherwise)}")
    return lines
