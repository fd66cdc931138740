"""The schema file of a sharded database: it is read once, and applied to every shard and server.

It is one transaction a shard, so what cannot be in one is refused before any shard is made; what PostgreSQL refuses is
told with the line of the file.
"""

from __future__ import annotations

import hashlib

import psycopg

from headway.errors import AppError, EngineError, HeadwayError
from headway.sharding.admin import Connection
from headway.sharding.script import single_transaction
from headway.sharding.wanted import Layout

SCHEMA_MAX_BYTES = 16 * 1024 * 1024


def read_schema(wanted: Layout) -> tuple[str, str]:
    """The schema file as it is applied to each shard, and its checksum. AppError where it cannot be."""
    file = wanted.schema_file
    if file is None:
        return "", ""
    path = f"{wanted.path}.schema"
    try:
        with file.open("rb") as opened:
            content = opened.read(SCHEMA_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise AppError(f"{path}: {file} cannot be read: {error.strerror}", hint="Correct the name.") from error
    except UnicodeDecodeError as error:
        raise AppError(f"{path}: {file} is not UTF-8: {error.reason}", hint="Save it as UTF-8.") from error
    if len(content) > SCHEMA_MAX_BYTES:
        hint = "Keep the schema alone in that file; it is applied to every shard."
        raise AppError(f"{path}: {file} is larger than {SCHEMA_MAX_BYTES // 2**20} MiB", hint=hint)
    script = single_transaction(text)
    if script.refused:
        line, word = script.refused[0]
        told = f"{path}: {file}:{line}: {word} does not go into a schema, which is one transaction"
        raise AppError(told, hint=f"Take {word} out of the file.")
    return script.text, hashlib.sha256(content).hexdigest()


def apply_schema(wanted: Layout, connection: Connection, sql: str) -> None:
    """Carry out statements of the schema file where the search path leads. AppError where PostgreSQL refuses them."""
    if not sql.strip():
        return
    try:
        connection.execute(sql)
    except psycopg.Error as error:
        raise refused(error, sql, f"{wanted.path}.schema: {wanted.schema_file}") from error


def refused(error: psycopg.Error, sql: str, where: str, to: str = " to this shard") -> HeadwayError:
    """The error for SQL of the user's that a server did not take; `to`: what it would have been applied to."""
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    line = ""
    if position := error.diag.statement_position:
        line = f":{sql.count(chr(10), 0, int(position)) + 1}"
    hint = f"Nothing of it was applied{to}; correct the statement."
    if error.diag.message_hint:
        hint += f" ({error.diag.message_hint})"
    if isinstance(error, psycopg.OperationalError):
        return EngineError(f"{where}: {message}", hint="headway status")
    return AppError(f"{where}{line}: {message}", hint=hint)
