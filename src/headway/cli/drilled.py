"""The system that a drill loads: the declared one, started beside what may run already, and gone afterwards.

It has a state folder of its own, so that its embedded databases are fresh, and a loopback port of its own. It is
started in the foreground way: whatever ends the command, be it SIGKILL, ends all of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headway.cli.preflight import check_start
from headway.cli.start import System, await_ready, start, stop_and_wait, system_of
from headway.declaration.load import Loaded
from headway.declaration.references import Reference, parse, read_secret
from headway.errors import HeadwayError
from headway.lab.target import Target
from headway.model.declared import Service
from headway.model.declared import System as Declared

_STOP_S = 30.0
_KEPT_LINES = 40
# A server of somebody's data or messages, as its URL begins: postgresql+asyncpg://, rediss://, …
_DATA_URL = re.compile(
    r"(postgres|postgresql|cockroachdb|mysql|mariadb|mssql|oracle|mongodb|redis|rediss|valkey|amqp|amqps|kafka|nats)"
    r"(\+\w+)*://"
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A declaration made fit for a drill, and what had to be changed for that."""

    system: Declared
    notes: tuple[str, ...]


def copy_of(declared: Declared, port: int) -> Copy:
    """The declaration on a loopback port: without TLS, bounds per client, and commands. HeadwayError: nothing public.

    All load comes from one address, and a command (a worker, a scheduler) would do real work beside the real one.
    """
    notes: list[str] = []
    services = {name: service for name, service in declared.services.items() if service.command is None}
    if left_out := [name for name in declared.services if name not in services]:
        notes.append(f"commands were left out: {', '.join(left_out)}")
    if not any(service.routes for service in services.values()):
        raise HeadwayError(
            "no service is public, so there is nothing to drill", hint='give one a route: routes = ["/"]'
        )
    if any(not route.startswith("/") for service in services.values() for route in service.routes):
        services = _without_hosts(services)
        notes.append("routes by host were drilled by their path")
    edge = declared.edge
    if edge.client_rate_per_s is not None:
        notes.append("client_rate was left out: all load comes from one address")
    if edge.tls is not None:
        notes.append("TLS was left out")
    plain = edge.model_copy(
        update={
            "bind": (f"127.0.0.1:{port}",),
            "tls": None,
            "trusted": (),
            "proxy_protocol": False,
            "client_rate_per_s": None,
        }
    )
    return Copy(declared.model_copy(update={"edge": plain, "services": services}), tuple(notes))


def _without_hosts(services: Mapping[str, Service]) -> dict[str, Service]:
    taken: dict[str, str] = {}
    found = {}
    for name, service in services.items():
        routes = tuple(dict.fromkeys("/" + route.partition("/")[2].strip("/") for route in service.routes))
        for route in routes:
            if taken.setdefault(route, name) != name:
                raise HeadwayError(
                    f"{name} and {taken[route]} differ by host alone, and a drill has one address",
                    hint="drill them where they run: headway drill --url URL",
                )
        found[name] = service.model_copy(update={"routes": routes})
    return found


def service_of(declared: Declared, path: str) -> str:
    """The service that answers `path`: that with the longest route over it."""
    plain = path.partition("?")[0]
    found = [
        (len(prefix), name)
        for name, service in declared.services.items()
        for prefix in (route.rstrip("/") for route in service.routes)
        if plain == prefix or plain.startswith(prefix + "/")
    ]
    if not found:
        routes = ", ".join(route for service in declared.services.values() for route in service.routes)
        raise HeadwayError(f"no service answers {path}", hint=f"routes are: {routes}")
    return max(found)[1]


def first_path(declared: Declared) -> str:
    """The path to drill when none is named: the shortest public route."""
    return min((route for service in declared.services.values() for route in service.routes), key=len)


def real_data(declared: Declared, environment: Mapping[str, str], root: Path) -> tuple[str, ...]:
    """What a drill would put under load beside the app: databases and caches by URL, variables with such URLs.

    Names alone: values are secrets.
    """
    found = [f"databases.{name}.{key}" for name, database in declared.databases.items() for key in database.urls]
    found += [f"caches.{name}" for name, cache in declared.caches.items() if not cache.is_embedded]
    for name, service in declared.services.items():
        found += [
            f"services.{name}.env.{variable}"
            for variable, text in service.env.items()
            if _DATA_URL.match(_start(text, environment, root))
        ]
    own = {variable for service in declared.services.values() for variable in service.env}
    found += [f"${variable}" for variable, text in environment.items() if variable not in own and _DATA_URL.match(text)]
    return tuple(found)


def is_here(target: Target) -> bool:
    """Whether a load on it stays on this machine; also where nobody can be loaded because the name is unknown."""
    if target.socket_path is not None:
        return True
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError):
        return True
    return all(_is_own(family, address) for family, _type, _protocol, _name, address in found)


def _is_own(family: int, address: tuple[Any, ...]) -> bool:
    """The kernel talks to an address of this machine from that address itself; to ask, nothing is sent."""
    number = ipaddress.ip_address(str(address[0]).partition("%")[0])
    if number.is_loopback or number.is_unspecified:
        return True
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            return bool(sock.getsockname()[0] == address[0])
    except OSError:
        return False


def _start(text: str, environment: Mapping[str, str], root: Path) -> str:
    """How a value begins once its references are known; those to embedded databases stay empty: they are our own."""
    known = []
    for piece in parse(text):
        if not isinstance(piece, Reference):
            known.append(piece)
        elif piece.owner == "env":
            known.append(environment.get(piece.field, ""))
        elif piece.owner == "file":
            with contextlib.suppress(ValueError):
                known.append(read_secret(root / Path(piece.field).expanduser(), piece.field))
        elif piece.field == "url":
            return ""
    return "".join(known)


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def temporary(loaded: Loaded, declared: Declared) -> Iterator[System]:
    """`declared` running in a state folder of its own; everything is gone afterwards, whatever happened."""
    check_start(declared, check_addresses=True)
    folder = Path(tempfile.mkdtemp(prefix="headway-drill-"))
    try:
        folder.chmod(0o711)  # as root the engines are another user, who has to pass through
        system = system_of(str(folder / "state"), loaded.root)
        started = start(system, replace(loaded, system=declared), detached=False, reload=False, keep_applied=False)
        try:
            await_ready(
                system,
                started,
                on_status=lambda _document: None,
                patience_s=60.0 + sum(service.start_timeout_s for service in declared.services.values()),
                is_interrupted=lambda: False,
            )
            yield system
        finally:
            if started.poll() is None:
                _stop(system, started)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(system: System, started: Any) -> None:
    """In order, and when that takes too long, in a hurry: nobody needs the data."""
    if not stop_and_wait(system, started, _STOP_S):
        started.terminate()
        started.terminate()
        stop_and_wait(system, started, _STOP_S)


def log_tail(system: System, service: str) -> str:
    """The last lines that replicas of a service wrote."""
    lines: list[str] = []
    for path in sorted(system.folders.logs.glob(f"{service}.*.log")):
        with contextlib.suppress(OSError):
            lines += path.read_text(errors="replace").splitlines()
    return "\n".join(lines[-_KEPT_LINES:])
