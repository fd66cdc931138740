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
from headway.sharding.admin import AdminServer, Connection, on_each, watched
from headway.sharding.alone import THERE_ALREADY, forget_begun, run_alone
from headway.sharding.migrations import FILE_MAX_BYTES, HEAD, Migration, migrations, pending, up_to
from headway.sharding.schema_file import refused
from headway.sharding.targets import Targets, ledgers, refuse_empty, targets, tell_clients, with_ledger

Say = Callable[[str], None]
_NAMED_MAX = 5


def or_stamp(hint: str, database: str, name: str) -> str:
    """The hint for a migration that makes what is there already."""
    command = f"headway db migrate {database} --stamp {name}"
    return f"{hint} Or was it applied by other means? {command} records that."


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
    database: str,
    wanted: Sequence[Migration],
    servers: Sequence[AdminServer],
    *,
    stamp: str | None = None,
    dry_run: bool = False,
    say: Say,
) -> Migrated:
    """Bring every shard up to `wanted`, or a plain database. Conflict while a shard moves or another one migrates;
    AppError names the shard that refused a file, and all others have that file and none behind it.

    `stamp`: only record the migrations up to this one as applied; AppError when there is none of that name.
    """
    if stamp is not None and not (stamped := up_to(wanted, stamp)):
        names = ", ".join(migration.name for migration in wanted[-_NAMED_MAX:])
        hint = f"There is {names}, and {HEAD} for all." if names else "The folder holds no migrations."
        raise AppError(f"there is no migration {stamp}", hint=hint)
    with targets(database, servers) as found:
        needed, problems = pending(wanted, _ledgers(found), found.name)
        if problems:
            raise AppError(f"{problems[0].path} {problems[0].message}", hint=problems[0].hint)
        if stamp is not None:
            counts = _stamp(found, stamped, needed, dry_run=dry_run, say=say)
            return Migrated(counts, len(wanted), 0 if found.is_plain else found.map.shards)
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


def _stamp(
    found: Targets,
    stamped: Sequence[Migration],
    needed: Mapping[int, Sequence[Migration]],
    *,
    dry_run: bool,
    say: Say,
) -> dict[str, int]:
    """Record these where they are lacking, a transaction a shard; how often each."""
    refuse_empty(found)
    lacking = {shard: [one for one in stamped if one in files] for shard, files in needed.items()}
    counts = counted([one.name for one in stamped], {shard: [one.name for one in of] for shard, of in lacking.items()})
    for name, count in counts.items():
        say(found.counted(name, count))
    if counts and not dry_run:
        found = with_ledger(found)

        def work(server: AdminServer, connection: Connection) -> None:
            for shard in found.map.on(server.name):
                with connection.transaction():
                    if lacking[shard]:
                        _record(found, shard, server, connection, lacking[shard])

        on_each(found.servers, work)
    return counts


def counted(migrations: Sequence[str], lacking: Mapping[int, Sequence[str]]) -> dict[str, int]:
    """In how many shards each is lacking, for those that are."""
    counts = {name: sum(name in names for names in lacking.values()) for name in migrations}
    return {name: count for name, count in counts.items() if count}


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
                failure = refused(error, migration.sql, f"{found.where(shard)}: {migration.name}", to)
                if error.sqlstate in THERE_ALREADY:
                    failure.hint = or_stamp(failure.hint, found.database, migration.name)
                failures[shard] = failure
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
    if migration.alone:
        if path:
            connection.execute(f"SET {path}")
        connection.execute(watched("session"))
        run_alone(migration, connection, _ledger(found, shard))
        # What the file has set stays with this connection otherwise.
        connection.execute("RESET ALL")
    with connection.transaction():
        connection.execute(watched("transaction"))
        if not migration.alone:
            if path:
                connection.execute(f"SET LOCAL {path}")
            connection.execute(migration.sql)
        _record(found, shard, server, connection, [migration])


def _record(
    found: Targets, shard: int, server: AdminServer, connection: Connection, migrations: Sequence[Migration]
) -> None:
    """Hold new tables to their keys, give them to the app, and write migrations into the ledger."""
    if not found.is_plain:
        schema = found.schema(shard)
        keys = _there(connection, schema, found.map)
        connection.execute(layout.constrain(schema, shard, found.map.shards, keys) + server.rights(schema))
    row = f"INSERT INTO {_ledger(found, shard)} (name, checksum) VALUES (%s, %s)"
    for migration in migrations:
        connection.execute(row, (migration.name, migration.checksum))
        if migration.alone:
            forget_begun(migration, connection, _ledger(found, shard))


def _ledger(found: Targets, shard: int) -> str:
    return f"{layout.identifier(found.ledger_schema(shard))}.{LEDGER_TABLE}"


def _there(connection: Connection, schema: str, map_: ShardMap) -> dict[str, Any]:
    """The keyed tables that exist: a migration may create some later, and drop others."""
    rows: list[Any] = connection.execute(layout.COLUMNS, (schema,)).fetchall()
    columns = {(row[0], row[1]) for row in rows}
    return {table: key for table, key in map_.keys.items() if (table, key.column) in columns}
