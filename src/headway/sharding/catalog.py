"""The catalog of a sharded database: who holds which shard, in a schema `headway` on its first server.

Plain tables that anybody can read in SQL. Every change of the map raises the epoch in the same transaction and tells
those who listen. One catalog is one database of one system: a second one that finds it is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import LiteralString, cast

import psycopg
from psycopg import sql

from headway.errors import Conflict, EngineError
from headway.model.sharding import ALGORITHM, MAP_CHANNEL, KeyKind, ShardMap, ShardServer, TableKey
from headway.sharding.keys import SQL_TYPE, shard_sql
from headway.sharding.map_row import MAP_SQL, map_of

Connection = psycopg.Connection[tuple[object, ...]]

# Held by who takes a backup or restores one, for as long as its session lives; shared by what begins to change the map.
HELD_LOCK: LiteralString = "hashtext('headway.backup')"
# A catalog of an earlier version has no such column.
_WHOLE: LiteralString = "coalesce(to_jsonb(c) ->> 'restoring', '') = '' FROM headway.catalog c"

_CREATE: LiteralString = """
CREATE SCHEMA IF NOT EXISTS headway;
CREATE TABLE IF NOT EXISTS headway.catalog (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    id         uuid NOT NULL,
    system     text NOT NULL,
    database   text NOT NULL,
    shards     integer NOT NULL,
    epoch      bigint NOT NULL DEFAULT 1,
    algorithm  text NOT NULL,
    split      text NOT NULL DEFAULT '',  -- filling, switched: the shards are being doubled
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE headway.catalog ADD COLUMN IF NOT EXISTS at_source boolean NOT NULL DEFAULT false;
DO $headway$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'headway.catalog'::regclass AND attname = 'split') THEN
    ALTER TABLE headway.catalog ADD COLUMN split text NOT NULL DEFAULT '';
  END IF;
END $headway$;
ALTER TABLE headway.catalog ADD COLUMN IF NOT EXISTS restoring text NOT NULL DEFAULT '';  -- from which backup
CREATE TABLE IF NOT EXISTS headway.servers (
    name       text PRIMARY KEY,
    url        text NOT NULL,  -- the app's way in, without a password
    added_at   timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS headway.shard_map (
    shard      integer PRIMARY KEY,
    server     text NOT NULL REFERENCES headway.servers,
    epoch      bigint NOT NULL DEFAULT 1,  -- of the change that brought it there
    fenced     boolean NOT NULL DEFAULT false  -- about to be handed over: new transactions wait
);
CREATE TABLE IF NOT EXISTS headway.keys (
    table_name  text PRIMARY KEY,
    column_name text NOT NULL,
    kind        text NOT NULL
);
CREATE TABLE IF NOT EXISTS headway.moves (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard      integer NOT NULL,
    source     text NOT NULL,
    target     text NOT NULL,
    stage      text NOT NULL,
    facts      jsonb NOT NULL DEFAULT '{}',  -- what the steps so far have found: rows, times, what went wrong
    began_at   timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS moves_one_a_shard ON headway.moves (shard) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS headway.imports (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source     text NOT NULL,  -- a declared name, or a URL without a password
    stage      text NOT NULL,
    facts      jsonb NOT NULL DEFAULT '{}',
    began_at   timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS imports_one_at_a_time ON headway.imports ((true)) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS headway.splits (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shards     integer NOT NULL,  -- before
    stage      text NOT NULL,
    facts      jsonb NOT NULL DEFAULT '{}',
    began_at   timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS splits_one ON headway.splits ((true)) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS headway.split_shards (
    split      bigint NOT NULL REFERENCES headway.splits,
    shard      integer NOT NULL,
    stage      text NOT NULL,
    rows       bigint NOT NULL DEFAULT 0,  -- of its second half
    PRIMARY KEY (split, shard)
);
CREATE TABLE IF NOT EXISTS headway.restores (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    backup     text NOT NULL,  -- by the id that it has given itself
    folder     text NOT NULL,
    stage      text NOT NULL,
    facts      jsonb NOT NULL DEFAULT '{}',
    began_at   timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS restores_one ON headway.restores ((true)) WHERE ended_at IS NULL;
CREATE TABLE IF NOT EXISTS headway.decisions (
    transaction text PRIMARY KEY,  -- of a two-phase commit
    decision    text NOT NULL CHECK (decision IN ('commit', 'abort')),
    decided_at  timestamptz NOT NULL DEFAULT now()
);
"""


def create_catalog(
    connection: Connection,
    *,
    system: str,
    database: str,
    servers: Sequence[ShardServer],
    owners: Sequence[str],
    keys: Mapping[str, TableKey],
) -> None:
    """Create the catalog, or bring addresses and keys up to date where there is one already.

    Conflict when it belongs to another system or database, or has another number of shards. The map of an existing
    catalog is never touched: it is the truth.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('headway.catalog'))")
        connection.execute(_CREATE)
        row = connection.execute("SELECT system, database, shards FROM headway.catalog").fetchone()
        if row is not None:
            _same(row, system, database, len(owners))
        _save_servers(connection, servers)
        if row is None:
            connection.execute(
                "INSERT INTO headway.catalog (id, system, database, shards, algorithm) VALUES (%s, %s, %s, %s, %s)",
                (uuid.uuid4(), system, database, len(owners), ALGORITHM),
            )
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO headway.shard_map (shard, server) VALUES (%s, %s)", list(enumerate(owners))
                )
        _save_keys(connection, keys)
        kind: KeyKind = next(iter(keys.values())).kind if keys else "int"
        create_shard_of(connection, len(owners), kind)


def create_shard_of(connection: Connection, shards: int, kind: KeyKind) -> None:
    """The function that finds the shard of a key in SQL."""
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION headway.shard_of({}) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS {}"
        ).format(sql.Identifier(SQL_TYPE[kind]), sql.Literal(f"SELECT {shard_sql('$1', shards, kind)}"))
    )


def _same(row: tuple[object, ...], system: str, database: str, shards: int) -> None:
    if row[0] != system or row[1] != database:
        raise Conflict(
            f"databases.{database}: its first server holds the catalog of database {row[1]} of system {row[0]}",
            hint="Give every sharded database a PostgreSQL database of its own: another name at the end of the URL.",
        )
    if row[2] != shards:
        raise Conflict(
            f"databases.{database}.shards: it was created with {row[2]} shards, and {shards} are declared",
            hint=f"Write shards = {row[2]}.",
        )


def add_servers(connection: Connection, servers: Sequence[ShardServer]) -> None:
    """Servers that hold no shard yet are known from here on; nothing else is changed."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('headway.catalog'))")
        if _put_servers(connection, servers):
            raise_epoch(connection)


def drop_server(connection: Connection, name: str) -> None:
    """A server that holds no shard is known no more."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('headway.catalog'))")
        gone = connection.execute(
            "DELETE FROM headway.servers s WHERE name = %s "
            "AND NOT EXISTS (SELECT FROM headway.shard_map WHERE server = s.name)",
            (name,),
        )
        if gone.rowcount:
            raise_epoch(connection)


def _put_servers(connection: Connection, servers: Sequence[ShardServer]) -> bool:
    """Whether any was new, or had another address."""
    known = {str(row[0]): row[1] for row in connection.execute("SELECT name, url FROM headway.servers")}
    changed = [server for server in servers if known.get(server.name) != server.url]
    for server in changed:
        connection.execute(
            "INSERT INTO headway.servers (name, url) VALUES (%s, %s) "
            "ON CONFLICT (name) DO UPDATE SET url = excluded.url",
            (server.name, server.url),
        )
    return bool(changed)


def _save_servers(connection: Connection, servers: Sequence[ShardServer]) -> None:
    changed = _put_servers(connection, servers)
    gone = connection.execute(
        "DELETE FROM headway.servers s WHERE NOT name = ANY(%s) "
        "AND NOT EXISTS (SELECT FROM headway.shard_map WHERE server = s.name)",
        ([server.name for server in servers],),
    )
    if changed or gone.rowcount:
        raise_epoch(connection)


def _save_keys(connection: Connection, keys: Mapping[str, TableKey]) -> None:
    wanted = sorted((table, key.column, key.kind) for table, key in keys.items())
    now = connection.execute("SELECT table_name, column_name, kind FROM headway.keys ORDER BY 1").fetchall()
    if wanted == now:
        return
    connection.execute("DELETE FROM headway.keys")
    for row in wanted:
        connection.execute("INSERT INTO headway.keys VALUES (%s, %s, %s)", row)
    raise_epoch(connection)


def settle_source(connection: Connection, wanted: bool, is_empty: Callable[[], bool]) -> None:
    """Have the app look for its rows at the source of a coming import, or in the shards. Shards that hold rows, and
    those that were imported, are the truth whatever is declared; an import under way decides for itself."""
    row = connection.execute(
        "SELECT at_source, EXISTS (SELECT FROM headway.imports WHERE ended_at IS NULL), "
        "EXISTS (SELECT FROM headway.imports WHERE stage = 'done') FROM headway.catalog"
    ).fetchone()
    assert row is not None
    at_source, under_way, imported = row
    if under_way or at_source == wanted or (wanted and (imported or not is_empty())):
        return
    with connection.transaction():
        connection.execute("UPDATE headway.catalog SET at_source = %s", (wanted,))
        raise_epoch(connection)


def raise_epoch(connection: Connection) -> int:
    """The next epoch, told to all who listen when the transaction commits. Zero while there is no catalog yet."""
    row = connection.execute("UPDATE headway.catalog SET epoch = epoch + 1 RETURNING epoch").fetchone()
    epoch = int(cast(int, row[0])) if row else 0
    connection.execute("SELECT pg_notify(%s, %s)", (MAP_CHANNEL, str(epoch)))
    return epoch


def is_held(connection: Connection) -> bool:
    """Whether a backup is being taken or restored, so that nothing may begin to move. Asked in the transaction that
    records what begins: a backup cannot begin before that has ended."""
    query: LiteralString = f"SELECT pg_try_advisory_xact_lock_shared({HELD_LOCK}) AND coalesce((SELECT {_WHOLE}), true)"
    return connection.execute(query).fetchone() != (True,)


def held(what: str) -> Conflict:
    """The error for what has to wait for a backup."""
    return Conflict(
        f"{what} has to wait: a backup of the database is being taken or restored",
        hint="Run the command again when that has ended.",
    )


def read_map(connection: Connection) -> ShardMap:
    """The map as it is now, of one moment. EngineError when there is no catalog or one that cannot be read."""
    try:
        row = connection.execute(MAP_SQL).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    if row is None:
        raise EngineError("the database holds no shard map", hint="headway up creates it; headway db status shows it.")
    return map_of(row)


def set_fenced(connection: Connection, shard: int, fenced: bool) -> None:
    """Let new transactions on a shard wait, or let them go on. In a transaction of the caller's or its own."""
    with connection.transaction():
        connection.execute("UPDATE headway.shard_map SET fenced = %s WHERE shard = %s", (fenced, shard))
        raise_epoch(connection)


def hand_over(connection: Connection, shard: int, source: str, target: str) -> int:
    """The commit point of a move: the shard is the target's from here on. The new epoch.

    In the caller's transaction, so that the move's stage changes with it. Conflict when the shard is not the source's.
    """
    epoch = raise_epoch(connection)
    changed = connection.execute(
        "UPDATE headway.shard_map SET server = %s, epoch = %s, fenced = false WHERE shard = %s AND server = %s",
        (target, epoch, shard, source),
    )
    if changed.rowcount != 1:
        raise Conflict(f"shard {shard} is not on server {source} any more", hint="headway db status shows the map.")
    return epoch
