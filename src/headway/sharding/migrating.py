"""Applies migrations to all shards, or a plain database: server by server at once, each file and its ledger row as one.

A file is finished on all shards before the next one begins. So when a shard refuses it, all others are alike: they have
this file and none of the following ones, and the same command goes on from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from headway.errors import AppError, HeadwayError
from headway.model.sharding import LEDGER_TABLE, ShardMap
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, on_each
from headway.sharding.migrations import FILE_MAX_BYTES, Migration, migrations, pending
from headway.sharding.schema_file import refused
from headway.sharding.targets import Targets, ledgers, targets, tell_clients, with_ledger

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done: shards by file that were given it, and how many files there are. A plain database is one, and
    `shards` is 0."""

    applied: Mapping[str, int]
    files: int
    shards: int


def read_folder(folder: Path, path: str) -> tuple[Migration, ...]:
    """The migrations of a folder. AppError naming the first thing wrong with them."""
    files = {}
    try:
        for file in sorted(folder.iterdir()):
            if file.suffix == ".sql" and file.is_file():
                if file.stat().st_size > FILE_MAX_BYTES:
                    raise AppError(f"{path}: {file} is larger than {FILE_MAX_BYTES // 2**20} MiB", hint="Split it.")
                files[file.name] = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AppError(f"{path}: {folder} cannot be read: {error.strerror}", hint="Correct the folder.") from error
    except UnicodeDecodeError as error:
        raise AppError(f"{path}: a file is not UTF-8: {error.reason}", hint="Save it as UTF-8.") from error
    found, problems = migrations(files)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise AppError(f"{path}: {problems[0].path} {problems[0].message}{more}", hint=problems[0].hint)
    return found


def migrate(
    database: str, wanted: Sequence[Migration], servers: Sequence[AdminServer], *, dry_run: bool = False, say: Say
) -> Migrated:
    """Bring every shard up to `wanted`, or a plain database. Conflict while a shard moves or another one migrates;
    AppError names the shard that refused a file, and all others have that file and none behind it."""
    with targets(database, servers) as found:
        needed, problems = pending(wanted, _ledgers(found), found.name)
        if problems:
            raise AppError(f"{problems[0].path} {problems[0].message}", hint=problems[0].hint)
        applied: dict[str, int] = {}
        for migration in wanted:
            shards = [shard for shard, files in needed.items() if migration in files]
            if not shards:
                continue
            applied[migration.name] = len(shards)
            if dry_run:
                say(found.counted(migration.name, len(shards)))
                continue
            found = with_ledger(found)
            _apply_to_all(migration, found, shards, say)
        if applied and not dry_run:
            tell_clients(found)
        return Migrated(applied, len(wanted), 0 if found.is_plain else found.map.shards)


def _ledgers(found: Targets) -> dict[int, Mapping[str, str]]:
    """Every shard's ledger, by one query a server."""
    told = on_each(found.servers, lambda server, connection: ledgers(found, server, connection))
    return {shard: ledger for of_server in told.values() for shard, ledger in of_server.items()}


def _apply_to_all(migration: Migration, found: Targets, shards: Sequence[int], say: Say) -> None:
    """One file on all shards that lack it. All are tried; the first that refused it is the error."""
    failures: dict[int, HeadwayError] = {}
    done = 0
    lock = threading.Lock()

    def work(server: AdminServer, connection: Connection) -> None:
        nonlocal done
        for shard in [shard for shard in found.map.on(server.name) if shard in shards]:
            try:
                _apply(migration, found, shard, server, connection)
            except psycopg.Error as error:
                to = "" if found.is_plain else " to this shard"
                failures[shard] = refused(error, migration.sql, f"{found.where(shard)}: {migration.name}", to)
                if isinstance(error, psycopg.OperationalError):
                    return
                continue
            with lock:
                done += 1
                if done == len(shards) or not done % 16:
                    say(found.counted(migration.name, done, len(shards)))

    on_each(found.servers, work)
    if failures:
        first = failures[min(failures)]
        others = found.others(len(failures), done)
        raise type(first)(f"{first.message}{others}", hint=f"{first.hint} Then run the same command again.")


def _apply(migration: Migration, found: Targets, shard: int, server: AdminServer, connection: Connection) -> None:
    path = found.search_path(shard)
    ledger = f"{layout.identifier(found.ledger_schema(shard))}.{LEDGER_TABLE}"
    if migration.alone:
        if path:
            connection.execute(f"SET {path}")
        connection.execute(migration.sql)
        # What the file has set stays with this connection otherwise.
        connection.execute("RESET ALL")
    with connection.transaction():
        if not migration.alone:
            if path:
                connection.execute(f"SET LOCAL {path}")
            connection.execute(migration.sql)
        if not found.is_plain:
            schema = found.schema(shard)
            keys = _there(connection, schema, found.map)
            connection.execute(
                (layout.constrain(schema, shard, found.map.shards, keys) + server.rights(schema)).encode()
            )
        row = f"INSERT INTO {ledger} (name, checksum) VALUES (%s, %s)"
        connection.execute(row, (migration.name, migration.checksum))


def _there(connection: Connection, schema: str, map_: ShardMap) -> dict[str, Any]:
    """The keyed tables that exist: a migration may create some later, and drop others."""
    rows: list[Any] = connection.execute(layout.COLUMNS, (schema,)).fetchall()
    columns = {(row[0], row[1]) for row in rows}
    return {table: key for table, key in map_.keys.items() if (table, key.column) in columns}
