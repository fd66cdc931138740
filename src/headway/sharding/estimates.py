"""How many rows tables hold, told before somebody decides: counted where that is quick.

PostgreSQL's own estimate is of the last ANALYZE, and there is none of a new table: of four rows it says "about 162".
Nobody waits for an exact number, though: only small tables are counted, only so many, and none that is locked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from headway.sharding.layout import identifier

SMALL_BYTES = 1024 * 1024  # some ten thousand rows, a millisecond or two
_COUNTED_MAX = 500  # tables
_AT_ONCE = 50  # in one statement, which holds a lock on each
_LOCK_MS, _STATEMENT_MS = 100, 1000

Connection = psycopg.Connection[tuple[object, ...]]

# Before the first ANALYZE a hundred bytes a row. How large a table is cannot be asked while somebody has locked it.
_LOOK = """
SELECT n.nspname::text, c.relname::text,
       (CASE WHEN c.reltuples >= 0 AND c.relpages > 0
             THEN c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::int)
             ELSE pg_relation_size(c.oid) / 100 END)::bigint,
       pg_total_relation_size(c.oid),
       pg_relation_size(c.oid) BETWEEN 1 AND %s
         AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname = ANY(%s) ORDER BY 1, 2
"""
_AS_KNOWN = """
SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::bigint,
       (c.relpages + coalesce((SELECT sum(x.relpages) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                                WHERE i.indrelid = c.oid), 0)) * current_setting('block_size')::int
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname = ANY(%s)
"""


@dataclass(frozen=True, slots=True)
class Weight:
    """What a table holds; `bytes` with its indexes."""

    rows: int
    bytes: int


def weights(connection: Connection, schemas: Collection[str], *, counts: bool = True) -> dict[tuple[str, str], Weight]:
    """Of every table in these schemas, by schema and name. `counts`: whether somebody is told the rows."""
    places = list(schemas)
    try:
        with _patiently(connection):
            looked: list[Any] = connection.execute(_LOOK, (SMALL_BYTES, places)).fetchall()
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        known: list[Any] = connection.execute(_AS_KNOWN, (places,)).fetchall()
        return {(schema, name): Weight(int(rows), int(size)) for schema, name, rows, size in known}
    found = {(schema, name): Weight(int(rows), int(size)) for schema, name, rows, size, _ in looked}
    small = [(schema, name) for schema, name, _, _, is_small in looked if is_small and counts][:_COUNTED_MAX]
    for first in range(0, len(small), _AT_ONCE):
        some = small[first : first + _AT_ONCE]
        for table, rows in zip(some, _counted(connection, some), strict=False):
            found[table] = Weight(rows, found[table].bytes)
    return found


def _counted(connection: Connection, tables: list[tuple[str, str]]) -> tuple[int, ...]:
    """The rows of these tables; nothing where one is locked, dropped, or hides its rows from this login."""
    counts = ", ".join(f"(SELECT count(*) FROM {identifier(schema)}.{identifier(name)})" for schema, name in tables)
    with (
        contextlib.suppress(
            psycopg.errors.LockNotAvailable,
            psycopg.errors.QueryCanceled,
            psycopg.errors.UndefinedTable,
            psycopg.errors.InsufficientPrivilege,
        ),
        _patiently(connection),
    ):
        row: Any = connection.execute(f"SELECT {counts}".encode()).fetchone()
        return tuple(map(int, row))
    return ()


@contextlib.contextmanager
def _patiently(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}".encode())
        connection.execute(f"SET LOCAL statement_timeout = {_STATEMENT_MS}".encode())
        yield
