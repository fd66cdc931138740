"""`headway doctor`: looks at everything a system needs from this machine, and says what to do where it is missing."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
import psutil

from headway.caching.engine import find_valkey
from headway.cli import checks
from headway.cli.checks import Check, overall
from headway.cli.preflight import check_certificate
from headway.cli.start import System
from headway.declaration.load import Loaded, load
from headway.declaration.sources import find
from headway.edge.haproxy import find_haproxy
from headway.errors import DeclarationError, HeadwayError, MachineError
from headway.lab.wall_look import connections_max
from headway.process.identity import engine_identity
from headway.process.linux import is_same
from headway.process.listeners import check_address, port_owner
from headway.process.machine import available_cores, available_memory_bytes, descriptors_allowed, look
from headway.process.record import read_record
from headway.process.run import run
from headway.runtimes.local.edge_plan import addresses
from headway.sharding.engine import find_postgresql

_MARKS = {"good": "✓", "warning": "!", "bad": "✗"}
_PYTHON_S = 20.0
_GRANIAN = "import granian; print(granian.__version__)"


def doctor(system: System, *, as_json: bool) -> None:
    """Print every check; MachineError naming those that keep a system from running, after all were printed."""
    found: list[Check] = []
    width = 18
    for check in _look(system):
        found.append(check)
        if not as_json:
            click.echo(f"{_MARKS[check.state]} {check.name:<{width}}  {check.value}")
            if check.hint:
                click.echo(f"  {'':<{width}}  hint: {check.hint}")
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in found], "state": overall(found)}))
    if overall(found) == "bad":
        names = ", ".join(check.name for check in found if check.state == "bad")
        raise MachineError(f"not everything a system needs is there: {names}", hint="each has its own hint above")


def _look(system: System) -> Iterator[Check]:
    """The checks, in the order in which a system needs what they look at."""
    loaded, declaration = _declaration()
    yield Check("Python", "good", f"{platform.python_version()} at {sys.executable}")
    yield _haproxy()
    yield _postgresql(loaded)
    yield _valkey(loaded)
    yield from _granian(loaded)
    yield _user()
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    clients = connections_max(loaded.system, look()) if loaded is not None else None
    yield checks.descriptors(soft, descriptors_allowed(), clients)
    yield checks.somaxconn(look().somaxconn)
    yield checks.cores(available_cores(), os.cpu_count() or 1)
    memory = psutil.virtual_memory()
    yield checks.memory(available_memory_bytes(), memory.total, memory.available)
    if (mode := _overcommit()) is not None:
        yield checks.overcommit(mode)
    yield _folder("state folder", system.folders.state)
    yield _folder("run folder", system.folders.run)
    yield declaration
    if loaded is not None and loaded.system.edge.tls is not None:
        yield _certificate(loaded)
    if loaded is not None:
        for address in addresses(loaded.system):
            yield _address(system, address)
    yield from _open_files(system)


def _declaration() -> tuple[Loaded | None, Check]:
    """The declaration that `headway up` would take from here."""
    name = "declaration"
    cwd = Path.cwd()
    try:
        find(None, cwd=cwd)
    except DeclarationError:
        pass  # there is one; loading it tells what is wrong
    except HeadwayError as error:
        return None, Check(name, "good", "none here", error.hint)
    try:
        loaded = load(None, cwd=cwd, environment=os.environ)
    except HeadwayError as error:
        return None, Check(name, "bad", error.message, "headway check")
    if loaded.warnings:
        count = len(loaded.warnings)
        return loaded, Check(
            name, "warning", f"{loaded.source}, {count} warning{'s' if count != 1 else ''}", "headway check"
        )
    return loaded, Check(name, "good", f"{loaded.source} of {loaded.system.name}")


def _certificate(loaded: Loaded) -> Check:
    try:
        check_certificate(loaded.system)
    except HeadwayError as error:
        return Check("certificate", "bad", error.message, error.hint)
    assert loaded.system.edge.tls is not None
    return Check("certificate", "good", loaded.system.edge.tls.certificate)


def _haproxy() -> Check:
    try:
        engine = find_haproxy()
    except HeadwayError as error:
        return Check("HAProxy", "bad", error.message, error.hint)
    return Check("HAProxy", "good", f"{engine.version} of the {engine.origin} at {engine.path}")


def _postgresql(loaded: Loaded | None) -> Check:
    try:
        engine = find_postgresql()
    except HeadwayError as error:
        embedded = loaded is not None and any(not base.urls for base in loaded.system.databases.values())
        return Check("PostgreSQL", "bad" if embedded else "warning", error.message, error.hint)
    return Check("PostgreSQL", "good", f"{engine.version}, {engine.origin}, in {engine.bin_folder}")


def _valkey(loaded: Loaded | None) -> Check:
    try:
        engine = find_valkey()
    except HeadwayError as error:
        embedded = loaded is not None and any(cache.is_embedded for cache in loaded.system.caches.values())
        return Check("Valkey", "bad" if embedded else "warning", error.message, error.hint)
    flavour = "" if engine.flavour == "Valkey" else f"{engine.flavour} "
    return Check("Valkey", "good", f"{flavour}{engine.version} of the {engine.origin} at {engine.path}")


def _granian(loaded: Loaded | None) -> Iterator[Check]:
    """One check an interpreter: those of the services, else ours."""
    served: dict[str, list[str]] = {}
    for name, service in loaded.system.services.items() if loaded else ():
        if service.app and service.python:
            served.setdefault(service.python, []).append(name)
    for python, names in (served or {sys.executable: []}).items():
        title = f"granian ({', '.join(names)})" if names else "granian"
        try:
            done = run([python, "-c", _GRANIAN], timeout_s=_PYTHON_S)
        except HeadwayError as error:
            yield checks.granian(title, python, None, error.message)
            continue
        said = (done.stdout if done.status == 0 else done.stderr).strip().splitlines()
        last = said[-1] if said else f"exit status {done.status}"
        if done.status == 0 and said:
            yield checks.granian(title, python, last)
        else:
            yield checks.granian(title, python, None, last)


def _user() -> Check:
    name = "engines run as"
    if os.geteuid() != 0:
        return Check(name, "good", f"this user ({os.geteuid()})")
    identity = engine_identity()
    if identity is None:
        hint = "PostgreSQL refuses to run as root: useradd --system headway"
        return Check(name, "bad", "root, for there is no other user", hint)
    return Check(name, "good", identity.name)


def _overcommit() -> int | None:
    try:
        return int(Path("/proc/sys/vm/overcommit_memory").read_text())
    except (OSError, ValueError):
        return None


def _folder(name: str, path: Path) -> Check:
    there = next(place for place in (path, *path.parents) if place.exists())
    free_bytes = shutil.disk_usage(there).free
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return checks.disk(name, str(path), free_bytes, writable=writable, there=there == path)


def _address(system: System, address: str) -> Check:
    try:
        check_address(address)
    except MachineError as error:
        record = read_record(system.folders)
        ours = {entry["pid"] for entry in (*record["processes"], record["supervisor"])} if record else set()
        owner = port_owner(address)
        if owner is not None and owner.pid in ours:
            return Check(address, "good", "this system listens on it")
        return Check(address, "bad", error.message.removeprefix("edge.bind: "), error.hint)
    return Check(address, "good", "free")


def _open_files(system: System) -> Iterator[Check]:
    record = read_record(system.folders)
    used = []
    supervisor = [{"name": "supervisor", **record["supervisor"]}] if record else []
    for entry in [*supervisor, *(record["processes"] if record else ())]:
        if is_same(entry["pid"], entry["ticks"]):
            try:
                number = len(os.listdir(f"/proc/{entry['pid']}/fd"))
                limit = _open_files_max(entry["pid"])
            except OSError:
                continue  # it has just ended, or is another user's: its files are not ours to count
            used.append((entry["name"], number, limit))
    if used:
        yield checks.open_files(used)


def _open_files_max(pid: int) -> int:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    soft = next((line.split()[3] for line in lines if line.startswith("Max open files")), "unlimited")
    return int(soft) if soft.isdigit() else sys.maxsize
