"""Looks at a shard before it is split: its tables, and what a split could not do with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headway.model.sharding import VERSION_TABLES, TableKey
from headway.sharding.layout import IS_VERSION_TABLE, NOT_APPS, identifier
from headway.sharding.move.look import look_at_schema
from headway.sharding.move.objections import Objection
from headway.sharding.move.sessions import Connection, scalar
from headway.sharding.split.nouns import Halves, SplitTable
from headway.sharding.split.statements import place

_TABLES = f"""
SELECT c.relname::text,
       (SELECT coalesce(
                 array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod)] ORDER BY k.place), '{{}}')
          FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place), pg_attribute a
         WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
           AND a.attrelid = c.oid AND a.attnum = k.number),
       (SELECT coalesce(array_agg(attname::text ORDER BY attnum), '{{}}') FROM pg_attribute
         WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''),
       (SELECT coalesce(array_agg(attname::text), '{{}}') FROM pg_attribute
         WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attidentity = 'a')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND NOT c.relname = ANY(%s)
   AND NOT {IS_VERSION_TABLE}
 ORDER BY 1
"""
_DEFERRED = """
SELECT DISTINCT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND NOT i.indimmediate
"""
# Foreign keys within the shard.
_LOOSE = """
SELECT c.relname::text, o.conname::text,
       ARRAY(SELECT a.attname::text FROM unnest(o.conkey) WITH ORDINALITY k (number, place)
               JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = k.number ORDER BY k.place),
       f.relname::text,
       ARRAY(SELECT a.attname::text FROM unnest(o.confkey) WITH ORDINALITY k (number, place)
               JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.number ORDER BY k.place)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_class f ON f.oid = o.confrelid
 WHERE n.nspname = %s AND f.relnamespace = n.oid AND o.contype = 'f' AND o.conparentid = 0
"""
_NAMING = """
SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = %s AND NOT p.proname LIKE 'headway%%'
   AND (position(n.nspname::text IN p.prosrc) > 0 OR p.proconfig::text LIKE '%%' || n.nspname || '%%')
"""
_NO_APPS = list(NOT_APPS)
_SCHEMA = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"


def tables_of(connection: Connection, schema: str, keys: Mapping[str, TableKey]) -> tuple[SplitTable, ...]:
    """The app's tables that have a key."""
    rows: list[Any] = connection.execute(_TABLES.encode(), (schema, _NO_APPS)).fetchall()
    return tuple(
        SplitTable(name, keys[name], tuple((one, kind) for one, kind in primary), tuple(columns), frozenset(fixed))
        for name, primary, columns, fixed in rows
        if name in keys
    )


def parted(connection: Connection, schema: str, keys: Mapping[str, TableKey]) -> list[str]:
    """Tables, with the foreign key, that have rows with another sharding key than the row that these refer to.

    Of a foreign key that holds the sharding key no row can; of another one that is for the app to see to.
    """
    joined: list[Any] = connection.execute(_LOOSE, (schema,)).fetchall()
    found = []
    for table, name, columns, target, targets in joined:
        if table not in keys or target not in keys:
            continue
        key, target_key = keys[table].column, keys[target].column
        if (key, target_key) in zip(columns, targets, strict=True):
            continue
        pairs = " AND ".join(
            f"child.{identifier(own)} = parent.{identifier(other)}" for own, other in zip(columns, targets, strict=True)
        )
        differs = (
            f"SELECT EXISTS (SELECT FROM {place(schema, table)} child JOIN {place(schema, target)} parent ON {pairs} "
            f"WHERE child.{identifier(key)} <> parent.{identifier(target_key)})"
        )
        if scalar(connection, differs):
            found.append(f"{table} ({name})")
    return found


def objections(connection: Connection, halves: Halves, keys: Mapping[str, TableKey], ours: str) -> list[Objection]:
    """Everything against splitting this shard. `ours`: the beginning of the comment of what a split has made."""
    schema = halves.old
    found = look_at_schema(connection, schema)
    rows: list[Any] = connection.execute(_TABLES.encode(), (schema, _NO_APPS)).fetchall()
    deferred = [str(row[0]) for row in connection.execute(_DEFERRED, (schema,))]
    loose = parted(connection, schema, keys)
    naming = [str(row[0]) for row in connection.execute(_NAMING, (schema,))]
    listed = (
        ([row[0] for row in rows if row[0] not in keys], "tables without a sharding key", "Declare it in keys."),
        ([row[0] for row in rows if not row[1]], "tables without a primary key", "ALTER TABLE … ADD PRIMARY KEY (…)"),
        (found.foreign, "foreign tables", "Drop them for the time of the split."),
        (found.materialized, "materialized views", "Drop them, and create them again afterwards."),
        (found.always_triggers, "triggers that fire always", "ALTER TABLE … ENABLE TRIGGER … (without ALWAYS)"),
        (
            found.inherited,
            "tables with a parent or child in another schema",
            "Keep partitions in their table's schema.",
        ),
        (deferred, "tables with a deferrable unique constraint", "Create the constraint without DEFERRABLE."),
        (
            loose,
            "rows with another sharding key than the row that their foreign key names, from which they would part",
            "Give both rows the same key, or drop the foreign key.",
        ),
        (naming, f"functions that name the schema {schema}", "Leave the schema out: the search_path finds it."),
        (found.prepared, "locks of prepared transactions", "Wait until they are decided: headway db status"),
    )
    reasons = [
        Objection(f"shard {halves.shard} has {what}: {', '.join(map(str, names[:5]))}", hint)
        for names, what, hint in listed
        if names
    ]
    for taken in (halves.new, halves.beside):
        row = connection.execute(_SCHEMA, (taken,)).fetchone()
        if row is not None and not str(row[0] or "").startswith(ours):
            reasons.append(Objection(f"there is a schema {taken} already", f"Rename it: {taken} is to be made."))
    return reasons


def version_tables(connection: Connection, schema: str) -> list[str]:
    """The tables of other tools that say what was migrated, of those that there are."""
    found = connection.execute(
        "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        f"WHERE nspname = %s AND relkind = 'r' AND (relname = ANY(%s) OR {IS_VERSION_TABLE})".encode(),
        (schema, list(VERSION_TABLES)),
    )
    return [str(row[0]) for row in found]


def rights_lacking(connection: Connection) -> str:
    """The statement that gives the administrator the right he lacks for a split; empty: he has it."""
    may = scalar(connection, "SELECT has_parameter_privilege('session_replication_role', 'SET')")
    if may:
        return ""
    return (
        f"GRANT SET ON PARAMETER session_replication_role TO {scalar(connection, 'SELECT quote_ident(current_user)')}"
    )
