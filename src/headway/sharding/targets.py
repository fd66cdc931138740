"""What migrations are applied to: every shard of a database, or a plain database, which is whole.

A plain one is taken for the only shard of itself, so that files, revisions, locks and errors are the same for both.
Nothing is added to it but a ledger for SQL files, where tools that compare its tables with an app's models do not look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from headway.errors import AppError, Conflict
from headway.model.sharding import LEDGER_TABLE, ShardMap, ShardServer, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect, on_each
from headway.sharding.catalog import HELD_LOCK, held, is_held, raise_epoch, read_map

_LOCK = "SELECT pg_try_advisory_lock(hashtext('headway.migrate'))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtext('headway.migrate'))"
# Held by an open transaction and not by a session: so it also holds behind a pooler that lends sessions by transaction.
# It has no snapshot while it waits, so that nobody waits for it, neither VACUUM nor CREATE INDEX CONCURRENTLY.
_PLAIN_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('headway.migrate'))"
_NOT_HELD = f"SELECT pg_try_advisory_xact_lock({HELD_LOCK})"
_NO_TIMEOUTS = """
SELECT set_config(name, '0', true) FROM pg_settings
 WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""
_PLAIN = f"""
SELECT pg_backend_pid(), current_schema()::text,
       (SELECT nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relname = '{LEDGER_TABLE}' AND relkind = 'r' AND nspname IN ('headway', current_schema())
         ORDER BY nspname = 'headway' DESC LIMIT 1),
       CASE WHEN to_regnamespace('headway') IS NULL THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege(to_regnamespace('headway'), 'CREATE') END
"""
_ANY_TABLE = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('r', 'p') AND nspname NOT IN ('information_schema', 'headway') AND nspname !~ '^pg_'
   AND relname <> ALL (%s))
"""
_EMPTY = """
SELECT nspname::text FROM pg_namespace n WHERE nspname = ANY (%s) AND NOT EXISTS (
  SELECT FROM pg_class WHERE relnamespace = n.oid AND relkind IN ('r', 'p') AND relname <> ALL (%s))
"""


@dataclass(frozen=True, slots=True)
class Targets:
    """Where migrations go. Shards are named by their numbers; a plain database is shard 0 of a map of one."""

    database: str
    servers: tuple[AdminServer, ...]
    map: ShardMap
    is_plain: bool = False
    schema_of_plain: str = ""
    ledger_of_plain: str = ""  # the schema that the ledger is in, or is to be made in
    has_ledger: bool = True
    holder: int = 0  # of a plain one: the server's process that holds the lock, by which the database is known

    def schema(self, shard: int) -> str:
        """The schema that its tables are in."""
        return self.schema_of_plain if self.is_plain else schema_name(self.database, shard)

    def ledger_schema(self, shard: int) -> str:
        """The schema that its ledger is in."""
        return self.ledger_of_plain if self.is_plain else self.schema(shard)

    def schemas_on(self, server: AdminServer) -> dict[str, int]:
        """The schemas of a server with the numbers of their shards."""
        return {self.schema(shard): shard for shard in self.map.on(server.name)}

    def search_path(self, shard: int) -> str:
        """Where the names of its statements are looked for, as SQL after `SET`; empty for what the login has anyway."""
        if self.is_plain:
            return ""
        return f"search_path = {layout.identifier(self.schema(shard))}, {layout.REFERENCE_SCHEMA}"

    def name(self, shard: int) -> str:
        """What it is called."""
        return f"database {self.database}" if self.is_plain else f"shard {shard}"

    def where(self, shard: int) -> str:
        """What it is called, and where it is."""
        return self.name(shard) if self.is_plain else f"shard {shard} on server {self.map.owners[shard]}"

    def counted(self, name: str, count: int, of: int | None = None) -> str:
        """A line that says how many have it, or lack it."""
        return name if self.is_plain else f"{name}: {count} of {of or self.map.shards} shards"

    def others(self, refused: int, done: int) -> str:
        """What is said of the others behind an error."""
        if self.is_plain:
            return ""
        return f" ({refused} shards refused it, {done} have it)" if refused > 1 else f" ({done} have it)"


@contextlib.contextmanager
def targets(database: str, servers: Sequence[AdminServer]) -> Iterator[Targets]:
    """What is to be migrated, while nobody else migrates this database. Conflict while somebody does, or a shard
    moves."""
    if servers[0].is_plain:
        with _plain(database, servers[0]) as found:
            yield found
        return
    with connect(servers[0]) as catalog:
        if is_held(catalog):
            raise held("the migration")
        if catalog.execute(_LOCK).fetchone() != (True,):
            raise _migrated_already(database)
        try:
            _nothing_moves(catalog, database)
            yield Targets(database, tuple(servers), read_map(catalog))
        finally:
            # By itself it goes a moment after the connection, and whoever comes right then would be refused.
            with contextlib.suppress(psycopg.Error):
                catalog.execute(_UNLOCK)


@contextlib.contextmanager
def _plain(database: str, server: AdminServer) -> Iterator[Targets]:
    with connect(server) as guard, guard.transaction():
        guard.execute(_NO_TIMEOUTS)
        if guard.execute(_PLAIN_LOCK).fetchone() != (True,):
            raise _migrated_already(database)
        # A dump holds its tables until its end: who waits for one of them would keep the app waiting behind him.
        if guard.execute(_NOT_HELD).fetchone() != (True,):
            raise held("the migration")
        row: Any = guard.execute(_PLAIN).fetchone()
        holder, schema, ledger, may_create = row
        if schema is None:
            raise AppError(
                f"database {database}: the search_path of its login names no schema that is there",
                hint="CREATE SCHEMA, or ALTER ROLE … SET search_path = public",
            )
        map_ = ShardMap(database, 0, (server.name,), {server.name: ShardServer(server.name, server.url)})
        place = ledger or ("headway" if may_create else schema)
        yield Targets(database, (server,), map_, True, schema, place, ledger is not None, holder)


def with_ledger(found: Targets) -> Targets:
    """The same with a ledger in it: of shards it was made with them."""
    if found.has_ledger:
        return found
    place = layout.identifier(found.ledger_of_plain)
    with connect(found.servers[0]) as connection, connection.transaction():
        if found.ledger_of_plain == "headway":
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {place}")
        connection.execute(layout.create_ledger(place))
    return replace(found, has_ledger=True)


def ledgers(found: Targets, server: AdminServer, connection: Connection) -> Mapping[int, Mapping[str, str]]:
    """The ledgers on a server, by one query: of each shard the files with their checksums."""
    by_schema = {found.ledger_schema(shard): shard for shard in found.map.on(server.name)}
    told: dict[int, dict[str, str]] = {shard: {} for shard in by_schema.values()}
    if not by_schema or not found.has_ledger:
        return told
    rows: list[Any] = connection.execute(layout.ledgers(list(by_schema))).fetchall()
    for schema, name, checksum in rows:
        if not name.startswith((layout.SCHEMA_ENTRY, layout.BEGUN_ENTRY)):
            told[by_schema[schema]][name] = checksum
    return told


def refuse_empty(found: Targets, *beside: str) -> None:
    """AppError where a shard holds no table: nothing that could be recorded as applied has been applied there.

    `beside`: tables of a tool's own, which do not count.
    """
    not_apps = [*layout.NOT_APPS, *beside]

    def look(server: AdminServer, connection: Connection) -> list[int]:
        schemas = found.schemas_on(server)
        if found.is_plain:
            row = connection.execute(_ANY_TABLE, (not_apps,)).fetchone()
            return [] if row == (True,) else [0]
        rows = connection.execute(_EMPTY, (list(schemas), not_apps)).fetchall()
        return [schemas[str(row[0])] for row in rows]

    if empty := sorted(shard for shards in on_each(found.servers, look).values() for shard in shards):
        raise AppError(
            f"{found.where(empty[0])} holds no table: no migration was applied to it",
            hint=f"headway db migrate {found.database} applies them.",
        )


def tell_clients(found: Targets) -> None:
    """What clients have prepared is of tables as they were. Those of a plain database hear it from the server."""
    if not found.is_plain:
        with connect(found.servers[0]) as catalog, catalog.transaction():
            raise_epoch(catalog)


def _migrated_already(database: str) -> Conflict:
    return Conflict(f"database {database} is being migrated already", hint="Wait until that has ended.")


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
