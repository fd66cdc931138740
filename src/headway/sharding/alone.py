"""Applies a migration that runs in no transaction, and so cannot be one with its row in the ledger.

That it has begun is in the ledger before. Whoever finds that and not the end takes away what a build that was cut off
has left (an index that is not valid), and runs the statement again; one that was done says so by being refused.
"""

from __future__ import annotations

import contextlib

import psycopg

from headway.sharding.admin import Connection
from headway.sharding.layout import BEGUN_ENTRY
from headway.sharding.migrations import Migration

# What a statement fails with that was done before: schema, table, column, type and other are there already …
THERE_ALREADY = frozenset(("42P06", "42P07", "42701", "42710"))
_GONE = frozenset(("42704", "42P01"))  # … or are gone
_INVALID = """
SELECT format('%%I.%%I', nspname, relname) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
  JOIN pg_namespace n ON n.oid = relnamespace WHERE indexrelid = to_regclass(%s) AND NOT indisvalid
"""


def run_alone(migration: Migration, connection: Connection, ledger: str) -> None:
    """Run it where the search path leads, or find that a run that was cut off had done it. psycopg.Error where it is
    refused: nothing of it is there then. `ledger`: the table, as SQL takes it."""
    begun = (BEGUN_ENTRY + migration.name,)
    was_cut_off = connection.execute(f"SELECT FROM {ledger} WHERE name = %s".encode(), begun).fetchone() is not None
    if was_cut_off:
        _drop_invalid(migration, connection)
    else:
        row = f"INSERT INTO {ledger} (name, checksum) VALUES (%s, %s)"
        connection.execute(row.encode(), (*begun, migration.checksum))
    try:
        connection.execute(migration.sql.encode())
    except psycopg.Error as error:
        if was_cut_off and error.sqlstate in (_GONE if migration.drops else THERE_ALREADY):
            return
        if not connection.closed:
            with contextlib.suppress(psycopg.Error):  # what cannot be taken away now is by the next run
                if error.sqlstate not in THERE_ALREADY:
                    _drop_invalid(migration, connection)
                forget_begun(migration, connection, ledger)
        raise


def forget_begun(migration: Migration, connection: Connection, ledger: str) -> None:
    """Its end is known, one way or the other."""
    connection.execute(f"DELETE FROM {ledger} WHERE name = %s".encode(), (BEGUN_ENTRY + migration.name,))


def _drop_invalid(migration: Migration, connection: Connection) -> None:
    """What a build leaves that did not come to its end. One that is still at work for a run that died is waited for."""
    if not migration.index:
        return
    row = connection.execute(_INVALID, (migration.index,)).fetchone()
    if row is not None:
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {row[0]}".encode())
