"""Reads a schema's definition with pg_dump, which knows every kind of object, and puts it on the target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg

from headway.errors import AppError
from headway.process.run import run
from headway.sharding import programs as client
from headway.sharding.engine import Engine

_TIMEOUT_S = 120.0


def dump_schema(admin: str, server: str, schema: str, programs: Sequence[Engine]) -> str:
    """The SQL that creates the schema and all in it, without rows.

    EngineError when pg_dump is missing or refuses; OperationalError when the server went away meanwhile.
    The password goes by the environment, never by the arguments.
    """
    place, env = client.way(admin, "headway move")
    where, told = f"server {server}: schema {schema}", ""
    for engine in client.needed(programs):
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
                    place,
                ],
                timeout_s=_TIMEOUT_S,
                env=env,
                cwd="/",
            )
            if done.status == 0:
                return file.read_text(encoding="utf-8")
        told = client.said(done.stderr)
        if not client.needs_other_program(told):
            break
    error = client.undumped(where, told)
    if client.went_away(told):
        raise psycopg.OperationalError(error.message)
    raise error


def _pattern(schema: str) -> str:
    return '"' + schema.replace('"', '""') + '"'


def refused_ddl(error: psycopg.Error, schema: str, server: str) -> AppError:
    """The error for a definition that the target does not take: an extension or a role is missing there."""
    said = error.diag.message_primary or str(error)
    return AppError(
        f"server {server} does not take the definition of schema {schema}: {said}",
        hint="Create there what it lacks (an extension, a role, a type of another schema), then move again.",
    )
