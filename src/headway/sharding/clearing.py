"""Finds what splits and imports that have ended left on servers and at a source, and takes it away.

Everything of theirs hangs on functions in a schema of their own: the triggers are found by these, whatever their tables
are called by now, and go one table after the other, so that the app never waits for more than one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from headway.model.sharding import TableKey, schema_name
from headway.sharding import layout
from headway.sharding.admin import Connection
from headway.sharding.importing.nouns import Source, space_of
from headway.sharding.importing.record import read_import
from headway.sharding.keys import shard_sql
from headway.sharding.move.sessions import connect
from headway.sharding.remnants import HALF, IMPORTED, AtSource, Corner, Half, Operations

_NAME = "headway repair"
_BESIDE = "_half"
_SCHEMAS: LiteralString = """
SELECT nspname::text, coalesce(obj_description(oid, 'pg_namespace'), '') FROM pg_namespace
 WHERE nspname ~ %s AND starts_with(obj_description(oid, 'pg_namespace'), %s) ORDER BY 1
"""
# Tables with triggers that call functions of a schema.
_CALLING: LiteralString = """
SELECT n.nspname::text, c.relname::text, array_agg(t.tgname::text) FROM pg_trigger t
  JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.pronamespace = to_regnamespace(quote_ident(%s)) AND NOT t.tgisinternal AND t.tgparentid = 0
 GROUP BY 1, 2 ORDER BY 1, 2
"""
_CLOSED: LiteralString = """
SELECT EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident(%s))
                 AND proname IN ('closed', 'fence') AND prosrc LIKE '%%RAISE%%')
"""
_COPIES: LiteralString = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND (obj_description(c.oid, 'pg_class') = %(mark)s
    OR (n.nspname = %(space)s AND starts_with(c.relname, 'kept_'))) ORDER BY 1, 2
"""
# What bears an import's name, or is a slot of one of its copies.
_LINKS: LiteralString = """
SELECT 'slot ' || slot_name FROM pg_replication_slots
 WHERE database = current_database() AND (starts_with(slot_name, %(link)s) OR slot_name ~ ANY(%(copies)s))
UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE starts_with(pubname, %(link)s)
"""
_OPERATIONS: LiteralString = """
SELECT (SELECT id::text FROM headway.catalog),
       (SELECT coalesce(jsonb_object_agg(id, stage), '{}') FROM headway.splits),
       (SELECT coalesce(jsonb_object_agg(id, stage), '{}') FROM headway.imports)
"""

Keys = Mapping[str, TableKey]


def operations(catalog: Connection) -> Operations:
    """Splits and imports as the catalog has them."""
    row: Any = catalog.execute(_OPERATIONS).fetchone()
    splits, imports = ({int(number): str(stage) for number, stage in told.items()} for told in row[1:])
    return Operations(str(row[0]), splits, imports)


# -- looking ----------------------------------------------------------------------------------------------------------


def halves_on(connection: Connection, database: str, shards: int, keys: Keys) -> dict[int, Half]:
    """What splits have beside the shards of a server."""
    told = (f"^{re.escape(schema_name(database, 0)[:-4])}[0-9]{{4}}{_BESIDE}$", HALF)
    found = {}
    for schema, comment in connection.execute(_SCHEMAS, told).fetchall():
        shard = int(str(schema).removesuffix(_BESIDE)[-4:])
        place, calling = schema_name(database, shard), _calling(connection, str(schema))
        strays = [
            table
            for table, key in sorted(keys.items())
            if connection.execute("SELECT to_regclass(%s)", (_place(place, table),)).fetchone() != (None,)
            and _has(
                connection, place, table, f"{shard_sql(layout.identifier(key.column), shards, key.kind)} <> {shard}"
            )
        ]
        found[shard] = Half(str(comment), tuple(_place(*one[:2]) for one in calling), tuple(strays))
    return found


def corner_on(connection: Connection, database: str, keys: Keys) -> Corner | None:
    """What an import has on a server, or at its source."""
    space = space_of(database)
    row = connection.execute(_SCHEMAS, (f"^{re.escape(space)}$", IMPORTED)).fetchone()
    if row is None:
        return None
    is_closed = connection.execute(_CLOSED, (space,)).fetchone() == (True,)
    prefix = schema_name(database, 0)[:-4]
    filled = {
        int(schema.removeprefix(prefix))
        for schema, table, _ in _calling(connection, space)
        if is_closed and re.fullmatch(rf"{re.escape(prefix)}\d{{4}}", schema) and table in keys
        if _has(connection, schema, table, "true")
    }
    copies = connection.execute(_COPIES, {"mark": row[1], "space": space}).fetchall()
    return Corner(str(row[1]), is_closed, frozenset(filled), tuple(_place(str(one), str(two)) for one, two in copies))


def at_source(catalog: Connection, database: str, known: Operations, source: Source) -> AtSource | None:
    """What imports have at their source. None when it does not answer: then nothing is said of it."""
    links: list[tuple[str, int]] = []
    try:
        with connect(source.admin, _NAME) as connection:
            for number in sorted(known.imports):
                subids = read_import(catalog, number).facts.get("subids")
                told: Mapping[str, Any] = subids if isinstance(subids, dict) else {}
                copies = [rf"^pg_{subid}_sync_\d+_{system}$" for subid, system in told.values() if subid]
                asked = {"link": f"headway_import_{known.catalog_id[:8]}_{number}_", "copies": copies}
                links += [(str(row[0]), number) for row in connection.execute(_LINKS, asked)]
            corner = corner_on(connection, database, {})
    except psycopg.OperationalError:
        return None
    return AtSource(source.shown, tuple(links), corner)


def _calling(connection: Connection, schema: str) -> list[tuple[str, str, list[str]]]:
    rows: list[Any] = connection.execute(_CALLING, (schema,)).fetchall()
    return [(str(where), str(table), list(names)) for where, table, names in rows]


def _has(connection: Connection, schema: str, table: str, condition: str) -> bool:
    query = f"SELECT EXISTS (SELECT FROM {_place(schema, table)} WHERE {condition})"
    return connection.execute(query.encode()).fetchone() == (True,)


def _place(schema: str, table: str) -> str:
    return f"{layout.identifier(schema)}.{layout.identifier(table)}"


# -- taking away ------------------------------------------------------------------------------------------------------


def clear_half(connection: Connection, database: str, shard: int, shards: int, lock_ms: int) -> None:
    """What a split has beside a shard, and the comment on its second half where that is a shard by now."""
    beside = f"{schema_name(database, shard)[:58]}{_BESIDE}"
    row = connection.execute(_SCHEMAS, (f"^{re.escape(beside)}$", HALF)).fetchone()
    if row is None:
        return
    _drop_triggers(connection, beside, lock_ms)
    if (other := shard + shards // 2) < shards:
        half = schema_name(database, other)
        if connection.execute(_SCHEMAS, (f"^{re.escape(half)}$", HALF)).fetchone() == (half, row[1]):
            connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS NULL").format(sql.Identifier(half)))
    _drop(connection, beside, lock_ms)


def clear_corner(connection: Connection, database: str, kept: str, lock_ms: int) -> None:
    """What an import has on a server or at its source. Copies with rows go to the schema `kept`."""
    space = space_of(database)
    row = connection.execute(_SCHEMAS, (f"^{re.escape(space)}$", IMPORTED)).fetchone()
    if row is None:
        return
    for name in ("closed", "fence"):  # at once, before any lock is waited for
        if connection.execute("SELECT to_regproc(%s)", (_place(space, name),)).fetchone() != (None,):
            passing = "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
            connection.execute(sql.SQL(passing).format(sql.Identifier(space, name)))
    _drop_triggers(connection, space, lock_ms)
    copies = connection.execute(_COPIES, {"mark": row[1], "space": space}).fetchall()
    for schema, table in copies:
        _keep(connection, str(schema), str(table), kept, lock_ms)
    _drop(connection, space, lock_ms)
    for schema in {str(schema) for schema, _ in copies} - {space, "public"}:
        with contextlib.suppress(psycopg.errors.DependentObjectsStillExist, psycopg.errors.InvalidSchemaName):
            connection.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(schema)))


def _keep(connection: Connection, schema: str, table: str, kept: str, lock_ms: int) -> None:
    place = sql.Identifier(schema, table)
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {lock_ms}")
        if not _has(connection, schema, table, "true"):
            connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(place))
            return
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(kept)))
        connection.execute(sql.SQL("COMMENT ON TABLE {} IS NULL").format(place))  # the next import drops what bears it
        connection.execute(sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(place, sql.Identifier(kept)))


def _drop_triggers(connection: Connection, schema: str, lock_ms: int) -> None:
    for where, table, names in _calling(connection, schema):
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {lock_ms}")
            for name in names:
                dropping = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}")
                connection.execute(dropping.format(sql.Identifier(name), sql.Identifier(where, table)))


def _drop(connection: Connection, schema: str, lock_ms: int) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {lock_ms}")
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
