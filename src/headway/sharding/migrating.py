"""Applies migrations to all shards: server by server at once, file by file, each file and its ledger row as one.

A file is finished on all shards before the next one begins. So when a shard refuses it, all others are alike: they have
this file and none of the following ones, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from headway.errors import AppError, Conflict, HeadwayError
from headway.model.sharding import LEDGER_TABLE, ShardMap, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect, on_each
from headway.sharding.catalog import held, is_held, raise_epoch, read_map
from headway.sharding.migrations import FILE_MAX_BYTES, Migration, migrations, pending
from headway.sharding.schema_file import refused

Say = Callable[[str], None]
_LOCK = "SELECT pg_try_advisory_lock(hashtext('headway.migrate'))"


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done: shards by file that were given it, and how many files there are."""

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
    """Bring every shard up to `wanted`. Conflict while a shard moves or another one migrates; AppError names the shard
    that refused a file, and all others have that file and none behind it."""
    with still(database, servers[0]) as catalog:
        map_ = read_map(catalog)
        ledgers = _ledgers(map_, servers)
        needed, problems = pending(wanted, ledgers)
        if problems:
            raise AppError(f"{problems[0].path} {problems[0].message}", hint=problems[0].hint)
        applied: dict[str, int] = {}
        for migration in wanted:
            shards = [shard for shard, files in needed.items() if migration in files]
            if not shards:
                continue
            applied[migration.name] = len(shards)
            if dry_run:
                say(f"{migration.name}: {len(shards)} of {map_.shards} shards")
                continue
            _apply_to_all(migration, map_, shards, servers, say)
        if applied and not dry_run:
            tell_clients(catalog)
        return Migrated(applied, len(wanted), map_.shards)


@contextlib.contextmanager
def still(database: str, first: AdminServer) -> Iterator[Connection]:
    """The catalog, while nobody else migrates this database. Conflict while somebody does, or a shard moves."""
    with connect(first) as catalog:
        if is_held(catalog):
            raise held("the migration")
        if catalog.execute(_LOCK).fetchone() != (True,):
            raise Conflict(f"database {database} is being migrated already", hint="Wait until that has ended.")
        _nothing_moves(catalog, database)
        yield catalog


def _nothing_moves(catalog: Connection, database: str) -> None:
    row = catalog.execute("SELECT shard FROM headway.moves WHERE ended_at IS NULL LIMIT 1").fetchone()
    if row is not None:
        raise Conflict(
            f"database {database} cannot be migrated while shard {row[0]} moves: its copy would miss the change",
            hint=f"Wait until it has ended: headway db status {database}",
        )
    if catalog.execute("SELECT FROM headway.splits WHERE ended_at IS NULL").fetchone() is not None:
        raise Conflict(
            f"database {database} cannot be migrated while its shards are split: the new halves would miss the change",
            hint=f"Wait until that has ended: headway db status {database}",
        )


def _ledgers(map_: ShardMap, servers: Sequence[AdminServer]) -> dict[int, dict[str, str]]:
    """Every shard's ledger, by one query a server."""

    def read(server: AdminServer, connection: Connection) -> list[Any]:
        schemas = [schema_name(map_.database, shard) for shard in map_.on(server.name)]
        return connection.execute(layout.ledgers(schemas)).fetchall() if schemas else []

    found: dict[int, dict[str, str]] = {shard: {} for shard in range(map_.shards)}
    for rows in on_each(servers, read).values():
        for schema, name, checksum in rows:
            if not name.startswith(layout.SCHEMA_ENTRY):
                found[layout.shard_number(map_.database, schema)][name] = checksum
    return found


def _apply_to_all(
    migration: Migration, map_: ShardMap, shards: Sequence[int], servers: Sequence[AdminServer], say: Say
) -> None:
    """One file on all shards that lack it. All are tried; the first that refused it is the error."""
    failures: dict[int, HeadwayError] = {}
    done = 0
    lock = threading.Lock()

    def work(server: AdminServer, connection: Connection) -> None:
        nonlocal done
        for shard in [shard for shard in map_.on(server.name) if shard in shards]:
            try:
                _apply(migration, map_, shard, server, connection)
            except psycopg.Error as error:
                where = f"shard {shard} on server {server.name}: {migration.name}"
                failures[shard] = refused(error, migration.sql, where)
                if isinstance(error, psycopg.OperationalError):
                    return
                continue
            with lock:
                done += 1
                if done == len(shards) or not done % 16:
                    say(f"{migration.name}: {done} of {len(shards)} shards")

    on_each(servers, work)
    if failures:
        first = failures[min(failures)]
        others = f" ({len(failures)} shards refused it, {done} have it)" if len(failures) > 1 else f" ({done} have it)"
        raise type(first)(f"{first.message}{others}", hint=f"{first.hint} Then run the same command again.")


def _apply(migration: Migration, map_: ShardMap, shard: int, server: AdminServer, connection: Connection) -> None:
    schema = schema_name(map_.database, shard)
    row = f"INSERT INTO {layout.identifier(schema)}.{LEDGER_TABLE} (name, checksum) VALUES (%s, %s)"
    if migration.alone:
        connection.execute(f"SET search_path = {layout.identifier(schema)}, {layout.REFERENCE_SCHEMA}")
        connection.execute(migration.sql)
        connection.execute("RESET search_path")
    with connection.transaction():
        if not migration.alone:
            connection.execute(layout.search_path(schema))
            connection.execute(migration.sql)
        keys = _there(connection, schema, map_)
        connection.execute(layout.constrain(schema, shard, map_.shards, keys) + server.rights(schema))
        connection.execute(row, (migration.name, migration.checksum))


def _there(connection: Connection, schema: str, map_: ShardMap) -> dict[str, Any]:
    """The keyed tables that exist: a migration may create some later, and drop others."""
    rows: list[Any] = connection.execute(layout.COLUMNS, (schema,)).fetchall()
    columns = {(row[0], row[1]) for row in rows}
    return {table: key for table, key in map_.keys.items() if (table, key.column) in columns}


def tell_clients(catalog: Connection) -> None:
    """What clients have prepared is of tables as they were."""
    with catalog.transaction():
        raise_epoch(catalog)
