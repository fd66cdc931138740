"""Which service a request belongs to, as HAProxy rules: hosts before plain prefixes, longer prefixes before shorter.

Paths are compared decoded, as the app gets them: "/%72eports" is "/reports" to the app, and must not pass by its class.
What is sent on stays as it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from headway.edge.servers import learned_file
from headway.edge.words import comment, word
from headway.model.edge import EdgeService
from headway.model.overload import SLOW, class_name

# A path with a percent sign that begins no two digits, or with %00, is not decoded by HAProxy, but an app decodes the
# rest: there these stand for themselves. Twice, for those that follow each other are found in pairs.
_STRAY = (
    ("%00", "%2500", ",g"),
    *(("%([^0-9A-Fa-f])", r"%25\1", ",g"),) * 2,
    *(("%([0-9A-Fa-f][^0-9A-Fa-f])", r"%25\1", ",g"),) * 2,
    ("%([0-9A-Fa-f]?)$", r"%25\1", ""),
)
_DECODABLE = ",".join(f'regsub("{found}","{instead}"{how})' for found, instead, how in _STRAY)
_DECODED = (
    "# The path as the app gets it, so that no other spelling of it passes by its route; it is sent on as it came.",
    "http-request set-var(txn.path) path",
    f"http-request set-var(txn.path) 'path,{_DECODABLE}' unless {{ path,url_dec -m found }}",
    "http-request set-var(txn.path) var(txn.path),url_dec",
    "",
)


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
    if lines or any(route.prefix for route in ordered_routes(services)):
        lines = [*_DECODED, *lines]
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


def class_route_lines(service: EdgeService, run_folder: str) -> list[str]:
    """The same where all requests are for one service."""
    lines = _class_acls(service, run_folder)
    if lines:
        lines = [*_DECODED, *lines, *_class_rules(service, Route("", "", service.name), [])]
    return [*lines, f"default_backend {word(service.name)}"]


def learned_key(prefix: str) -> str:
    """A learned prefix as the list has it: "/reports" is "/reports/". "/" is the root alone, "//" with its slash.

    Spelt as browsers spell it in a request, so that no character of it can mean anything to HAProxy.
    """
    return quote(prefix.rstrip("/") or "/", safe="/-._~!$&()*+,=:@%") + "/"


def _below(acl: str, prefix: str) -> list[str]:
    decoded = unquote(prefix)
    if not decoded.isprintable() or "\ufffd" in decoded:  # no word of HAProxy's file, or no text
        return [f"acl {acl} path -m str -- {word(prefix)}", f"acl {acl} path -m beg -- {word(prefix + '/')}"]
    fetch = "var(txn.path)"
    return [f"acl {acl} {fetch} -m str -- {word(decoded)}", f"acl {acl} {fetch} -m beg -- {word(decoded + '/')}"]


def _class_acls(service: EdgeService, run_folder: str) -> list[str]:
    lines: list[str] = []
    for cls in service.classes:
        acl = f"in_{class_name(service.name, cls.number)}"
        if cls.number == SLOW:
            # A slash is put behind the path, so that "/reports/" of the list is found in "/reports" and "/reports/7".
            # Where the list spells a route with percent signs it means the path as it came.
            listed = word(learned_file(run_folder, service.name))
            lines += [
                f"acl {acl} var(txn.path),concat(/) -m beg -f {listed}"
                f"  # routes of {service.name} that were found to be slow",
                f"acl {acl} path,concat(/) -m beg -f {listed}",
            ]
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
