"""Ends a publication without an error for those who write to its tables meanwhile.

PostgreSQL looks up a table's publications, and then each of them, where somebody first writes to the table after a
change; one that is dropped in between ends that statement by "cache lookup failed for publication" (15 to 18). So it
loses its tables first, and goes when nobody is left who may have read that they are in it.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from psycopg import sql

from headway.sharding.admin import Connection

_LOCK_MS = 2000  # for a table that a VACUUM or a new index has
_WRITERS_S = 2.0  # who writes for longer has long read what there was
_PAUSE_S = 0.002
_TABLES = """
SELECT n.nspname, c.relname, array_agg(t.relid::oid)
  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid) t
 WHERE p.pubname = %s GROUP BY 1, 2
"""
_WRITERS = """
SELECT DISTINCT virtualtransaction FROM pg_locks
 WHERE locktype = 'relation' AND relation = ANY(%s::oid[]) AND mode = 'RowExclusiveLock'
   AND pid <> pg_backend_pid()
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def drop_publication(connection: Connection, name: str) -> None:
    """Drop it, if there is one. The connection is in autocommit; psycopg.Error where the server refuses."""
    tables: list[Any] = connection.execute(_TABLES, (name,)).fetchall()
    if tables:
        _empty(connection, name, [(str(schema), str(table)) for schema, table, _ in tables])
        _await_writers(connection, [oid for _, _, oids in tables for oid in oids])
    connection.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


def _empty(connection: Connection, name: str, tables: list[tuple[str, str]]) -> None:
    every = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(*table)) for table in tables)
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(_LOCK_MS))
            connection.execute(sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(sql.Identifier(name), every))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedObject, psycopg.errors.UndefinedTable):
        return  # a table is kept by others, or has gone in between; the publication goes all the same


def _await_writers(connection: Connection, tables: list[object]) -> None:
    """Until those who wrote to the tables when these left the publication have ended."""
    until_s = time.monotonic() + _WRITERS_S
    before = {row[0] for row in connection.execute(_WRITERS, (tables,))}
    while before and time.monotonic() < until_s:
        time.sleep(_PAUSE_S)
        before &= {row[0] for row in connection.execute(_WRITERS, (tables,))}
