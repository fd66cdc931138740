"""The eyes of `headway init`: finds the app in a folder and what it needs, reading its source and never running it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headway.declaration.candidates import Candidate, find_candidates, own_servers
from headway.declaration.findings import EnvRead, Finding, find_env_reads, find_findings
from headway.declaration.modules import SourceTree, read_tree
from headway.errors import AppError

# Variables that hold a whole database URL, and those that hold a part of it, by the habits of the field.
_URL_NAMES = frozenset(
    {
        "DATABASE_URL",
        "DATABASE_URI",
        "DB_URL",
        "DB_URI",
        "POSTGRES_URL",
        "POSTGRESQL_URL",
        "PG_URL",
        "SQLALCHEMY_DATABASE_URI",
        "SQLALCHEMY_DATABASE_URL",
    }
)
_PART_NAMES = {
    "HOST": "host",
    "SERVER": "host",
    "PORT": "port",
    "USER": "user",
    "USERNAME": "user",
    "PASSWORD": "password",
    "NAME": "name",
    "DB": "name",
    "DATABASE": "name",
}
_DRIVERS = re.compile(r"\b(psycopg2?|asyncpg|pg8000|aiopg|psycopg2-binary)\b")
# Words that PostgreSQL does not know in a schema: it was written for another database.
_FOREIGN_SQL = re.compile(r"\b(AUTOINCREMENT|PRAGMA|AUTO_INCREMENT|ENGINE\s*=)\b|`", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DatabaseUse:
    """How the app wants its database: variables -> text with references.

    `certain`: it will speak PostgreSQL. `schema` is the path of its schema.sql, `where` the place in the source.
    """

    variables: Mapping[str, str]
    certain: bool
    where: str
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """All that was found; `app` is the best candidate, `others` the rest."""

    app: Candidate
    others: tuple[Candidate, ...]
    findings: tuple[Finding, ...]
    environment: tuple[EnvRead, ...]  # required variables besides the database's
    database: DatabaseUse | None
    truncated: bool = False


def discover(folder: Path) -> Discovery:
    """Look through a folder; AppError with what to do when there is no app in it."""
    tree = read_tree(folder)
    candidates = find_candidates(tree.modules)
    if not candidates:
        raise _nothing(folder, tree)
    app = candidates[0]
    others = tuple(candidate for candidate in candidates[1:] if candidate.target != app.target)
    reads = find_env_reads(tree.modules)
    findings = find_findings(tree.modules)
    database = _database(reads, findings, tree)
    taken = database.variables if database else {}
    required = tuple(read for read in reads if read.required and read.name not in taken)
    return Discovery(app, others, findings, required, database, tree.truncated)


def _nothing(folder: Path, tree: SourceTree) -> AppError:
    others = own_servers(tree.modules)
    if others:
        framework, where = others[0]
        return AppError(
            f"{where}: {framework} brings its own server and speaks neither ASGI nor WSGI",
            hint='run it without a port as command = ["python", "…"], or serve an ASGI or WSGI app',
        )
    what = "no Python source" if not tree.modules else f"no ASGI or WSGI app in {_files(len(tree.modules))}"
    return AppError(
        f"found {what} in {folder}",
        hint="change to the app's folder, or name the app: `headway up module:app`",
    )


def _files(count: int) -> str:
    return "1 Python file" if count == 1 else f"{count:,} Python files"


def _database(reads: tuple[EnvRead, ...], findings: tuple[Finding, ...], tree: SourceTree) -> DatabaseUse | None:
    schema = next((path for path, text in tree.schemas if not _FOREIGN_SQL.search(text)), None)
    postgres = bool(_DRIVERS.search(tree.dependencies)) or _imports_driver(tree)
    urls = [read for read in reads if read.name in _URL_NAMES]
    if urls:
        others = [read for read in urls if read.default and not read.default.startswith(("postgres", "postgresql"))]
        variables = {read.name: _url_reference(read.default) for read in urls}
        return DatabaseUse(variables, certain=postgres or not others, where=urls[0].where, schema=schema)
    parts = {read.name: f"{{main.{field}}}" for read in reads if (field := _part(read.name))}
    if postgres and any(text == "{main.host}" for text in parts.values()):
        where = next(read.where for read in reads if read.name in parts)
        return DatabaseUse(parts, certain=True, where=where, schema=schema)
    return None


def _url_reference(default: str | None) -> str:
    """`{main.url}`, or with the driver that the app's own default names: SQLAlchemy reads it from the URL."""
    match = re.match(r"(postgresql\+\w+)://", default or "")
    if match is None:
        return "{main.url}"
    return f"{match[1]}://{{main.user}}:{{main.password}}@{{main.host}}:{{main.port}}/{{main.name}}"


def _part(name: str) -> str | None:
    """Which field of a database a variable like POSTGRES_HOST or PGPORT holds."""
    match = re.fullmatch(r"(?:PG|(?:POSTGRES|POSTGRESQL|DB|DATABASE|PG|SQL)_)(\w+)", name)
    return _PART_NAMES.get(match[1]) if match else None


def _imports_driver(tree: SourceTree) -> bool:
    words = (value for module in tree.modules for value in module.names.values())
    return any(_DRIVERS.fullmatch(word.partition(".")[0]) or "django.db.backends.postgresql" in word for word in words)
