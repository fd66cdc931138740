"""What a type cannot say about a declaration: names that must exist, keys that exclude each other, clashing addresses.

Pure: the environment comes in as an argument, files are looked at in `paths`. `broken` holds the paths of values that
were refused already, so that one mistake is told once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from headway.declaration.caches import check_caches
from headway.declaration.calls import callers
from headway.declaration.databases import check_databases
from headway.declaration.keys import TAKEN_OUT, path_text
from headway.declaration.references import CACHE_FIELDS, FIELDS, SERVICE_FIELDS, Reference, parse, references, unset
from headway.declaration.responses import check_responses
from headway.declaration.routes import covers, parse_route, sole_app
from headway.declaration.translate import did_you_mean
from headway.errors import Problem
from headway.model.bind import Bind, parse_bind
from headway.model.declared import At, Edge, Service, System
from headway.model.overload import CLASSES_MAX, FIRST_AT
from headway.model.units import format_bytes, format_duration

# A Python process that has imported nothing takes more than this: a lower `memory_max` would replace it for ever.
MEMORY_MIN_BYTES = 32 * 2**20
# The longest a wait may be: beyond it a typing mistake is likelier than a wish.
WAIT_MAX_S = 24 * 3600.0
# Keys that a command, which has no port, cannot obey.
_APP_ONLY = (
    "routes", "static", "sticky", "threads", "interface", "health", "at", "cache", "criticality", "overload", "cancel",
)  # fmt: skip
# Each has a queue and limits of its own, and workers count so many of them.
_AT_MAX = CLASSES_MAX - FIRST_AT


def check(
    system: System, *, environment: Mapping[str, str], broken: frozenset[str] = frozenset()
) -> tuple[Problem, ...]:
    """Everything wrong with a system of right types, except what files and folders decide."""
    problems = [
        *_edge(system.edge, broken),
        *_services(system, environment, broken),
        *check_databases(system, environment, broken),
        *check_caches(system, environment, broken),
    ]
    return tuple(problem for problem in problems if problem.path not in broken)


def _said(path: str, read: Callable[[str], object], text: str) -> Iterator[Problem]:
    """The problem of a reader that raises ValueError "what is wrong; what to write"."""
    try:
        read(text)
    except ValueError as error:
        message, _, hint = str(error).partition("; ")
        yield Problem(path, message, hint)


def _items(texts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    return ((index, text) for index, text in enumerate(texts) if text != TAKEN_OUT)


# ── edge


def _edge(edge: Edge, broken: frozenset[str]) -> Iterator[Problem]:
    seen: list[tuple[str, Bind]] = []
    for index, text in _items(edge.bind):
        path = f"edge.bind[{index}]"
        yield from _said(path, parse_bind, text)
        try:
            bind = parse_bind(text)
        except ValueError:
            continue
        other = next((shown for shown, earlier in seen if _clash(bind, earlier)), None)
        if other is not None:
            yield Problem(path, f'"{text}" and "{other}" are the same address', "keep one of the two")
        if bind.scheme == "https" and edge.tls is None and "edge.tls" not in broken:
            yield Problem(path, f'"{text}" needs a certificate', 'add tls = { certificate = "…" } to [edge]')
        seen.append((text, bind))
    if edge.tls and seen and all(bind.redirects(tls=True) for _, bind in seen):
        yield Problem(
            "edge.bind", "nothing here speaks HTTPS: every address only redirects", 'add one, like "0.0.0.0:443"'
        )
    for index, text in _items(edge.trusted):
        yield from _said(f"edge.trusted[{index}]", parse_network, text)
    if edge.proxy_protocol and not edge.trusted:
        yield Problem(
            "edge.proxy_protocol", "needs to know from whom it is believed", 'add trusted = ["10.0.0.0/8"] to [edge]'
        )
    for key, wait_s in (("header_timeout", edge.header_timeout_s), ("idle_timeout", edge.idle_timeout_s)):
        yield from _wait(f"edge.{key}", wait_s)


def _clash(one: Bind, other: Bind) -> bool:
    everywhere = {"0.0.0.0", "::"}
    return one.port == other.port and (one.host == other.host or bool(everywhere & {one.host, other.host}))


def parse_network(text: str) -> str:
    """A network's one spelling, `10.0.0.0/8`; host bits are forgiven. ValueError otherwise."""
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not a network; write it like "10.0.0.0/8" or "192.0.2.7"') from None
    return str(network)


def _wait(path: str, wait_s: float | None) -> Iterator[Problem]:
    if wait_s is not None and wait_s > WAIT_MAX_S:
        yield Problem(path, f"{format_duration(wait_s)} is longer than a day", 'write it like "30s" or "5m"')


# ── services


def _services(system: System, environment: Mapping[str, str], broken: frozenset[str]) -> Iterator[Problem]:
    if not system.services and not any(path.startswith("services") for path in broken):
        yield Problem(
            "services",
            "no service is declared",
            'write [services.web] and app = "module:app" below, or delete the file and run `headway init`',
        )
    owners: dict[str, str] = {}
    sole, called = sole_app(system), callers(system)
    for name, service in system.services.items():
        yield from _what_it_runs(name, service, broken)
        yield from _routes(name, service, owners)
        if service.app is not None:
            yield from _at(name, service, ("/",) if name == sole or name in called else service.routes, broken)
            yield from check_responses(name, service, system, broken)
        yield from _uses(name, service, system, broken)
        yield from _env(name, service, system, environment, broken)
        yield from _limits(name, service)


def _what_it_runs(name: str, service: Service, broken: frozenset[str]) -> Iterator[Problem]:
    path = f"services.{name}"
    unreadable = {f"{path}.app", f"{path}.command"} & broken
    if service.app is not None and service.command is not None:
        yield Problem(f"{path}.command", "a service has an app or a command, not both", "make two services of them")
    elif service.app is None and service.command is None and not unreadable:
        yield Problem(
            f"{path}.app", "is missing: a service needs an app or a command", 'write it like app = "shop.web:app"'
        )
    if service.app is not None:
        yield from _said(f"{path}.app", parse_target, service.app)
    if service.command is not None and not service.command[0].strip():
        yield Problem(
            f"{path}.command", "names no program", 'write it like command = ["celery", "-A", "shop", "worker"]'
        )
    if service.command is not None and service.app is None:
        for key in _APP_ONLY:
            if key in service.model_fields_set:
                yield Problem(
                    f"{path}.{key}", "has no meaning for a command, which has no port", "take it out, or write `app`"
                )
    if service.cancel and service.interface == "wsgi":
        yield Problem(f"{path}.cancel", "is for ASGI apps; a thread cannot be stopped", "take out cancel or interface")
    if service.threads is not None and service.interface == "asgi":
        yield Problem(
            f"{path}.threads", "is for WSGI apps; an ASGI app has its event loop", "take out threads or interface"
        )


def parse_target(text: str) -> tuple[str, str, bool]:
    """Module, attribute, and whether it is called, of `module:attribute` or `module:factory()`."""
    module, colon, attribute = text.strip().partition(":")
    called = attribute.endswith("()")
    name = attribute.removesuffix("()")
    plain = module.removesuffix(".py").strip("./").replace("/", ".")
    if not colon:
        raise ValueError(f'"{text}" names no attribute; write it like "{plain or "shop.web"}:app"')
    if "/" in module or module.endswith(".py"):
        raise ValueError(f'"{text}" is a file, not a module; write "{plain}:{attribute}"')
    if "(" in name:
        raise ValueError(
            f'"{text}" calls a factory with arguments; write a function without, like "{module}:create_app()"'
        )
    if not _dotted(module) or not _dotted(name):
        raise ValueError(f'"{text}" is not module:attribute; write it like "shop.web:app"')
    return module, name, called


def _dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _routes(name: str, service: Service, owners: dict[str, str]) -> Iterator[Problem]:
    for index, text in _items(service.routes):
        path = f"services.{name}.routes[{index}]"
        yield from _said(path, parse_route, text)
        try:
            route = parse_route(text)
        except ValueError:
            continue
        owner = owners.setdefault(route, name)
        if owner != name:
            yield Problem(path, f'"{route}" belongs to service {owner} already', "give each route to one service")
    for prefix in service.static:
        path = path_text(("services", name, "static", prefix))
        if not prefix.startswith("/"):
            yield Problem(path, 'a static prefix begins with "/"', f'write "/{prefix}" = "folder/"')
        elif prefix.rstrip("/") == "":
            yield Problem(path, "static files at / would hide the app", 'write a prefix, like "/static" = "static/"')
        else:
            yield from _said(path, parse_route, prefix)


def _at(name: str, service: Service, routes: tuple[str, ...], broken: frozenset[str]) -> Iterator[Problem]:
    """Routes that differ: each must lie inside the service's own, and its times must make sense together."""
    path = f"services.{name}.at"
    inside = list(_parsed(routes))
    if service.at and not routes and f"services.{name}.routes" not in broken:
        told = "is for requests that come through the edge, and this service has no routes and nobody calls it"
        yield Problem(path, told, 'add routes = ["/"], or take `at` out')
        return
    if len(service.at) > _AT_MAX:
        yield Problem(
            path, f"has {len(service.at)} routes, and at most {_AT_MAX} can differ", "keep those that differ most"
        )
    seen: dict[str, str] = {}
    for text, at in service.at.items():
        where = path_text(("services", name, "at", text))
        yield from _times(where, at, service)
        try:
            prefix = parse_route(text)
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            yield Problem(where, message, hint)
            continue
        other = seen.setdefault(prefix, text)
        if not prefix.startswith("/"):
            yield Problem(where, 'must begin with "/"', f'write the path alone, like "/{prefix.partition("/")[2]}"')
        elif other != text:
            yield Problem(where, f'means the same as "{other}"', "keep one of the two")
        elif any(prefix == "/" + route.partition("/")[2] for route in inside):
            yield Problem(where, "is a whole route of the service", f"write its keys into [services.{name}] itself")
        elif inside and not any(covers(route, prefix) for route in inside):
            shown = ", ".join(f'"{route}"' for route in inside)
            yield Problem(where, f"lies outside the routes of {name}: {shown}", "write a path below one of them")


def _parsed(routes: tuple[str, ...]) -> Iterator[str]:
    """Those that can be read; the others were told where they are written."""
    for _, text in _items(routes):
        try:
            yield parse_route(text)
        except ValueError:
            continue


def _times(path: str, at: At, service: Service) -> Iterator[Problem]:
    """`slo` and `deadline` of a route, each the service's where it has none of its own."""
    yield from _wait(f"{path}.slo", at.slo_s)
    yield from _wait(f"{path}.deadline", at.deadline_s)
    if at.slo_s is None and at.deadline_s is None:
        return
    slo_s = at.slo_s if at.slo_s is not None else service.slo_s
    deadline_s = at.deadline_s if at.deadline_s is not None else service.deadline_s
    if slo_s is None or slo_s <= deadline_s:
        return
    if at.slo_s is not None:
        whose = "the" if at.deadline_s is not None else "the service's"
        told = f"is above {whose} deadline of {format_duration(deadline_s)}"
        yield Problem(f"{path}.slo", f"{told}: nobody would wait for a late answer", "lower it or raise the deadline")
    else:
        told = f"is below the service's slo of {format_duration(slo_s)}: nobody would wait for a late answer"
        yield Problem(f"{path}.deadline", told, "raise it, or give this route an slo of its own")


def _uses(name: str, service: Service, system: System, broken: frozenset[str]) -> Iterator[Problem]:
    for index, used in _items(service.uses):
        path = f"services.{name}.uses[{index}]"
        known = (*system.databases, *system.caches, *(other for other in system.services if other != name))
        if used in system.services:
            yield from _called(path, f'"{used}"', used, name, system)
        elif used not in known and not _was_refused(used, broken):
            hint = did_you_mean(used, known) or (
                f"add [databases.{used}], [caches.{used}] or [services.{used}], or take it out of `uses`"
            )
            yield Problem(path, f'no database, cache or service is called "{used}"', hint)


def _called(path: str, shown: str, used: str, name: str, system: System) -> Iterator[Problem]:
    """A service that another one calls: it needs a port, and one that calls itself would only call a function."""
    if used == name:
        yield Problem(path, f"{shown} is the service itself", "call the function instead, and take it out")
    elif system.services[used].app is None and system.services[used].command is not None:
        yield Problem(path, f"{shown} is a command, which has no port to be called at", "take it out")


def _was_refused(name: str, broken: frozenset[str]) -> bool:
    """Whether something of this name was declared, but could not be read."""
    return not broken.isdisjoint({f"databases.{name}", f"caches.{name}", f"services.{name}", "databases", "caches"})


def _env(
    name: str, service: Service, system: System, environment: Mapping[str, str], broken: frozenset[str]
) -> Iterator[Problem]:
    for variable, text in service.env.items():
        path = path_text(("services", name, "env", variable))
        if not variable or "=" in variable or "\0" in variable + text:
            yield Problem(
                path, "cannot be an environment variable", "use letters, digits and _ for its name, and no zero byte"
            )
        else:
            yield from _said(path, parse, text)
    for variable, reference in references(service):
        path = path_text(("services", name, "env", variable))
        if reference.owner == "env":
            if reference.field not in environment:
                yield Problem(path, *unset(reference.field).split("; ", 1))
        elif reference.owner != "file":
            yield from _named_reference(path, reference, name, system, broken)


def _named_reference(
    path: str, reference: Reference, name: str, system: System, broken: frozenset[str]
) -> Iterator[Problem]:
    if (cache := system.caches.get(reference.owner)) is not None:
        if reference.field not in CACHE_FIELDS:
            yield Problem(path, f'{reference.text}: a cache has no "{reference.field}"', "a cache has: url")
        elif cache.sentinel is not None:
            told = f"{reference.text}: its server is found by Sentinel, and has no URL that stays"
            yield Problem(path, told, f'list it in the service: uses = ["{reference.owner}"]')
    elif reference.owner not in system.databases:
        if reference.owner in system.services:
            yield from _called(path, reference.text, reference.owner, name, system)
            if reference.field not in SERVICE_FIELDS:
                yield Problem(path, f'{reference.text}: a service has no "{reference.field}"', "a service has: url")
        elif not _was_refused(reference.owner, broken):
            others = (other for other in system.services if other != name)
            hint = did_you_mean(reference.owner, [*system.databases, *system.caches, *others, "env", "file"])
            hint = hint or f"add [databases.{reference.owner}]; plain braces are written {{{{ }}}}"
            told = f'{reference.text}: no database, cache or service is called "{reference.owner}"'
            yield Problem(path, told, hint)
    elif reference.field not in FIELDS:
        hint = f"a database has: {', '.join(FIELDS)}"
        yield Problem(path, f'{reference.text}: a database has no "{reference.field}"', hint)


def _limits(name: str, service: Service) -> Iterator[Problem]:
    path = f"services.{name}"
    for key, wait_s in (
        ("slo", service.slo_s),
        ("deadline", service.deadline_s),
        ("start_timeout", service.start_timeout_s),
        ("drain_timeout", service.drain_timeout_s),
        ("hang_timeout", service.hang_timeout_s),
    ):
        yield from _wait(f"{path}.{key}", wait_s)
    if service.slo_s is not None and service.slo_s > service.deadline_s:
        told = f"is above the deadline of {format_duration(service.deadline_s)}: nobody would wait for a late answer"
        yield Problem(f"{path}.slo", told, "lower the slo or raise the deadline")
    if service.memory_max_bytes is not None and service.memory_max_bytes < MEMORY_MIN_BYTES:
        told = f"{format_bytes(service.memory_max_bytes)} is less than an empty Python process takes"
        yield Problem(f"{path}.memory_max", told, 'write it like "512MiB"')
