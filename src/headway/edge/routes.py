"""Which service a request belongs to, as HAProxy rules: hosts before plain prefixes, longer prefixes before shorter."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from headway.edge.servers import learned_file
from headway.edge.words import comment, word
from headway.model.edge import EdgeService
from headway.model.overload import SLOW, class_name


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


def route_lines(services: tuple[EdgeService, ...], unrouted: str, run_folder: str) -> list[str]:
    """`use_backend` rules with their conditions, ending in the backend for everything else."""
    lines = [line for service in services for line in _class_acls(service, run_folder)]
    known = {service.name: service for service in services}
    otherwise = unrouted
    hosts: dict[str, str] = {}
    for number, route in enumerate(ordered_routes(services), start=1):
        if not route.host and not route.prefix:
            otherwise = route.service
            lines += _class_rules(known[route.service], route, [])
            continue
        conditions = []
        if route.host and route.host not in hosts:
            hosts[route.host] = f"host_{number}"
            lines.append(f"acl host_{number} req.hdr(host),host_only -i -m str -- {word(route.host)}")
        if route.host:
            conditions.append(hosts[route.host])
        if route.prefix:
            lines += _below(f"path_{number}", route.prefix)
            conditions.append(f"path_{number}")
        shown = comment(f"{route.host}{route.prefix or '/'}")
        lines += _class_rules(known[route.service], route, conditions)
        lines.append(f"use_backend {word(route.service)} if {' '.join(conditions)}  # {shown}")
    lines.append(f"default_backend {word(otherwise)}")
    return lines


def learned_key(prefix: str) -> str:
    """A learned prefix as the list has it: "/reports" is "/reports/". "/" is the root alone, "//" with its slash.

    Spelt as browsers spell it in a request, so that no character of it can mean anything to HAProxy.
    """
    return quote(prefix.rstrip("/") or "/", safe="/-._~!$&()*+,=:@%") + "/"


def _below(acl: str, prefix: str) -> list[str]:
    return [f"acl {acl} path -m str -- {word(prefix)}", f"acl {acl} path -m beg -- {word(prefix + '/')}"]


def _class_acls(service: EdgeService, run_folder: str) -> list[str]:
    lines: list[str] = []
    for cls in service.classes:
        acl = f"in_{class_name(service.name, cls.number)}"
        if cls.number == SLOW:
            # A slash is put behind the path, so that "/reports/" of the list is found in "/reports" and "/reports/7".
            lines.append(
                f"acl {acl} path,concat(/) -m beg -f {word(learned_file(run_folder, service.name))}"
                f"  # routes of {service.name} that were found to be slow"
            )
        for prefix in cls.prefixes if cls.number != SLOW else ():
            lines += _below(acl, prefix.rstrip("/"))
    return lines


def _class_rules(service: EdgeService, route: Route, conditions: list[str]) -> list[str]:
    """The classes of the service that requests of this route may belong to: declared ones first, the longest prefix
    first, then those that were learned."""
    declared = sorted(
        ((prefix.rstrip("/"), cls.number) for cls in service.classes if cls.number != SLOW for prefix in cls.prefixes),
        key=lambda item: (-len(item[0]), item[0]),
    )
    found = [number for prefix, number in declared if _meet(prefix, route.prefix)]
    found += [cls.number for cls in service.classes if cls.number == SLOW]
    names = [class_name(service.name, number) for number in dict.fromkeys(found)]
    return [f"use_backend {name} if {' '.join([*conditions, f'in_{name}'])}" for name in names]


def _meet(one: str, other: str) -> bool:
    """Whether some path lies below both prefixes."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
