"""Files and folders that a declaration names: are they there, and where exactly.

Paths are relative to the declaration's folder. Symbolic links are kept: an interpreter in a virtual environment is one.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from headway.declaration.keys import path_text
from headway.declaration.references import Reference, parse, read_secret, references
from headway.errors import Problem
from headway.model.declared import Database, Migrations, Service, System


def find_python(folder: Path, fallback: str) -> str:
    """The interpreter of the nearest `.venv` or `venv`, from the folder upwards; else the fallback."""
    start = _absolute(Path.cwd(), str(folder))
    for place in (start, *start.parents):
        for name in (".venv", "venv"):
            python = place / name / "bin" / "python"
            if os.access(python, os.X_OK) and python.is_file():
                return str(python)
    return fallback


def check_paths(system: System, root: Path, broken: frozenset[str] = frozenset()) -> tuple[Problem, ...]:
    """Every file and folder of the system that is missing or of the wrong kind."""
    problems: list[Problem] = []
    if system.edge.tls is not None:
        problems += _file("edge.tls.certificate", root, system.edge.tls.certificate, "the certificate's PEM file")
        if system.edge.tls.key is not None:
            problems += _file("edge.tls.key", root, system.edge.tls.key, "the private key's PEM file")
    for name, service in system.services.items():
        problems += _service(f"services.{name}", name, service, root)
    for name, database in system.databases.items():
        if database.schema_file is not None:
            problems += _file(f"databases.{name}.schema", root, database.schema_file, "an SQL file")
        if database.migrations is not None:
            problems += _migrations(f"databases.{name}.migrations", database.migrations, root)
        problems += _secrets_of(f"databases.{name}.url", database.url or "", root)
    for name, cache in system.caches.items():
        for key, text in cache.texts.items():
            problems += _secrets_of(f"caches.{name}.{key}", text, root)
    return tuple(problem for problem in problems if problem.path not in broken)


def absolute(system: System, root: Path, default_python: str) -> System:
    """The system with every path absolute and every app's interpreter known."""
    edge = system.edge
    if edge.tls is not None:
        key = str(_absolute(root, edge.tls.key)) if edge.tls.key is not None else None
        tls = edge.tls.model_copy(update={"certificate": str(_absolute(root, edge.tls.certificate)), "key": key})
        edge = edge.model_copy(update={"tls": tls})
    services = {name: _absolute_service(service, root, default_python) for name, service in system.services.items()}
    databases = {name: _absolute_database(database, root) for name, database in system.databases.items()}
    return system.model_copy(update={"edge": edge, "services": services, "databases": databases})


def _absolute_database(database: Database, root: Path) -> Database:
    schema_file, migrations = database.schema_file, database.migrations
    if migrations is not None:
        places = {kind: getattr(migrations, kind) for kind in type(migrations).model_fields}
        whole = {kind: str(_absolute(root, place)) for kind, place in places.items() if place is not None}
        migrations = migrations.model_copy(update=whole)
    if schema_file is not None:
        schema_file = str(_absolute(root, schema_file))
    return database.model_copy(update={"schema_file": schema_file, "migrations": migrations})


def _absolute_service(service: Service, root: Path, default_python: str) -> Service:
    folder = _absolute(root, service.folder)
    python = str(_absolute(root, service.python)) if service.python is not None else find_python(folder, default_python)
    static = {prefix: str(_absolute(root, place)) for prefix, place in service.static.items()}
    return service.model_copy(update={"folder": str(folder), "python": python, "static": static})


def _absolute(root: Path, text: str) -> Path:
    """Absolute and without `..`, links left as they are."""
    return Path(os.path.normpath(root / Path(text).expanduser()))


def _service(path: str, name: str, service: Service, root: Path) -> Iterator[Problem]:
    folder = _absolute(root, service.folder)
    if not folder.is_dir():
        yield Problem(f"{path}.folder", _missing(folder, service.folder, "folder"), f"paths are relative to {root}")
    if service.python is not None:
        yield from _program(f"{path}.python", _absolute(root, service.python), service.python)
    for prefix, place in service.static.items():
        if not _absolute(root, place).is_dir():
            told = _missing(_absolute(root, place), place, "folder")
            yield Problem(path_text(("services", name, "static", prefix)), told, f"create it: mkdir -p {place}")
    if service.command is not None and "/" in service.command[0] and folder.is_dir():
        yield from _program(f"{path}.command", _absolute(folder, service.command[0]), service.command[0])
    for variable, reference in references(service):
        if reference.owner == "file":
            yield from _secret(path_text((*path.split("."), "env", variable)), reference, root)


def _migrations(path: str, migrations: Migrations, root: Path) -> Iterator[Problem]:
    if sum(place is not None for place in migrations.model_dump().values()) > 1:
        return  # told where one of them is asked for
    if migrations.sql is not None and not _absolute(root, migrations.sql).is_dir():
        yield Problem(f"{path}.sql", f"there is no folder {migrations.sql}", "it is relative to headway.toml")
    if migrations.alembic is not None:
        yield from _file(f"{path}.alembic", root, migrations.alembic, "the file that `alembic init` has written")
    if migrations.django is not None:
        yield from _file(f"{path}.django", root, migrations.django, "the manage.py of a Django project")


def _secrets_of(path: str, text: str, root: Path) -> Iterator[Problem]:
    try:
        pieces = parse(text)
    except ValueError:
        return
    for piece in pieces:
        if isinstance(piece, Reference) and piece.owner == "file":
            yield from _secret(path, piece, root)


def _secret(path: str, reference: Reference, root: Path) -> Iterator[Problem]:
    try:
        read_secret(_absolute(root, reference.field), reference.field)
    except ValueError as error:
        yield Problem(path, *str(error).split("; ", 1))


def _file(path: str, root: Path, text: str, what: str) -> Iterator[Problem]:
    place = _absolute(root, text)
    if not place.is_file():
        yield Problem(path, _missing(place, text, "file"), f"name {what}, relative to {root}")
    elif not os.access(place, os.R_OK, effective_ids=True):
        yield Problem(path, f"{text} cannot be read", f"check its owner and mode: ls -l {text}")


def _program(path: str, place: Path, text: str) -> Iterator[Problem]:
    if not place.is_file():
        hint = f"name the interpreter itself: {text.rstrip('/')}/bin/python" if place.is_dir() else ""
        if not hint and path.endswith(".python"):
            hint = "create it (python3 -m venv .venv), or take `python` out to use the nearest .venv"
        yield Problem(path, _missing(place, text, "program"), hint or "check the path, or name a program on PATH")
    elif not os.access(place, os.X_OK):
        yield Problem(path, f"{text} cannot be executed", f"chmod +x {shlex.quote(text)}, or name another program")


def _missing(place: Path, text: str, kind: str) -> str:
    return f"{text} is not a {kind}" if place.exists() else f"{kind} {text} is missing"
