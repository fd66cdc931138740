"""Parts the two places of a shard's rows, when every client has had the time to learn of the new map.

Table by table: the old place refuses the rows that left; only then does the new place stop telling the old one; only
when no writer is left who still does, the constraint of the old place becomes that of the first half.
"""

from __future__ import annotations

import time

from headway.model.sharding import LEDGER_TABLE
from headway.sharding.carrying import GivenUp
from headway.sharding.layout import CONSTRAINT, SHARDS_ENTRY, identifier
from headway.sharding.split import statements as sql
from headway.sharding.split.fill import drop_ours, own_ids, runs, verify
from headway.sharding.split.look import parted
from headway.sharding.split.work import ShardWork

_OLDER = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND xact_start < %s AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def close(work: ShardWork) -> None:
    """From here on each half is alone. Both are compared once more before that."""
    if not _begun(work):
        verify(work)
        if loose := parted(work.connection, work.halves.old, work.keys):
            raise GivenUp(
                f"shard {work.halves.shard} has rows with another sharding key than the row that their foreign key "
                f"names: {', '.join(loose)}",
                hint="Give both rows the same key.",
            )
    halves = work.halves
    own_ids(work)
    for table in work.tables:
        old, new = sql.place(halves.old, table.name), sql.place(halves.new, table.name)
        work.locked(
            f"table {table.name}",
            f"LOCK TABLE {old} IN SHARE ROW EXCLUSIVE MODE;\n"
            f"{sql.triggers(halves, table, sql.REFUSE)}\n{sql.silent(halves, table)}",
        )
        # Whoever was writing here may still be telling the old place.
        work.locked(f"table {table.name}", f"LOCK TABLE {new} IN SHARE ROW EXCLUSIVE MODE")
        work.locked(
            f"table {table.name}",
            sql.constrain_to(halves.old, table.name, table.key.column, table.key.kind, halves.shard, 2 * halves.shards),
        )


def _begun(work: ShardWork) -> bool:
    """Whether a splitter that was killed has begun to part the places: they differ then by right."""
    row = work.connection.execute(
        "SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n "
        "ON n.oid = c.relnamespace WHERE n.nspname = %s AND t.tgname LIKE %s)",
        (work.halves.old, f"{sql.REFUSE}%"),
    ).fetchone()
    return row == (True,)


def purge(work: ShardWork) -> None:
    """Delete what has left, when whoever may still read it by the old map has ended, or has had long enough."""
    row = work.one_row("SELECT clock_timestamp()")
    since_s = time.monotonic()
    while time.monotonic() - since_s < work.bounds.readers_max_s:
        if work.connection.execute(_OLDER, row).fetchone() == (0,):
            break
        work.tell(f"waiting for transactions that may read shard {work.halves.shard} by the old map")
        work.wait(0.1)
    for table in work.tables:
        for after, to in runs(work, work.halves.old, table):
            began_s = time.monotonic()
            with work.connection.transaction():
                work.connection.execute("SET LOCAL session_replication_role = replica")
                work.connection.execute(sql.purge(work.halves, table, sql.in_run(table, after, to)))
            work.rest(time.monotonic() - began_s)
        place = sql.place(work.halves.old, table.name)
        work.locked(f"table {table.name}", f"ALTER TABLE {place} VALIDATE CONSTRAINT {CONSTRAINT}")


def tidy(work: ShardWork) -> None:
    """Both halves are shards like any other."""
    halves = work.halves
    for schema in (halves.old, halves.new):
        drop_ours(work, schema)
    work.connection.execute(
        f"UPDATE {identifier(halves.old)}.{LEDGER_TABLE} SET checksum = %s WHERE name = %s",
        (str(2 * halves.shards), SHARDS_ENTRY),
    )
    work.connection.execute(f"COMMENT ON SCHEMA {identifier(halves.new)} IS NULL")


def sweep(work: ShardWork) -> None:
    """Drop what nobody reads any more: the functions, and the views of the first half."""
    work.locked(f"schema {work.halves.beside}", f"DROP SCHEMA IF EXISTS {identifier(work.halves.beside)} CASCADE")
