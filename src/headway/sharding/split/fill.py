"""Makes the second half of a shard, keeps it in step, fills it, compares it: all before the map changes.

Order is what makes it right. First the triggers, which wait for the writers in flight: from then on every change of a
row is made in both places by the same transaction. Then the rows that were there, each locked while it is copied: a
change of it comes before, and is copied; or after, and finds the copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import psycopg

from headway.model.sharding import LEDGER_TABLE
from headway.sharding.carrying import GivenUp
from headway.sharding.ids import FUNCTION, SEQUENCE, id_function_sql
from headway.sharding.layout import SHARDS_ENTRY, identifier
from headway.sharding.move.dump import dump_schema, refused_ddl
from headway.sharding.move.statements import ddl_for_target
from headway.sharding.split import statements as sql
from headway.sharding.split.look import version_tables
from headway.sharding.split.nouns import SplitTable
from headway.sharding.split.work import ShardWork

# By how much the second half's sequences are ahead: what clients with the old map still draw must not be drawn again.
SEQUENCE_GAP = 1_000_000
_COMMENT = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s"
_TRIGGERS = """
SELECT t.tgname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgname LIKE 'headway\\_%%'
   AND split_part(t.tgname, '_', 2) = ANY(%s)
"""
_OURS = [name.removeprefix("headway_") for name in sql.TRIGGERS]
_AGAIN_MAX = 20
_DISTURBED = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.QueryCanceled,
    psycopg.errors.UniqueViolation,
)


def make(work: ShardWork) -> None:
    """The second half, empty, and the triggers that keep it in step."""
    halves, connection = work.halves, work.connection
    clear(work)
    dump = ddl_for_target(dump_schema(work.server.admin, work.server.name, halves.old, work.programs), {})
    new, beside = identifier(halves.new), identifier(halves.beside)
    constraints = "\n".join(
        sql.constrain_to(halves.new, t.name, t.key.column, t.key.kind, halves.other, 2 * halves.shards)
        + f"ALTER TABLE {sql.place(halves.new, t.name)} VALIDATE CONSTRAINT headway_shard;"
        for t in work.tables
    )
    ledger = (
        f"INSERT INTO {new}.{LEDGER_TABLE} SELECT name, CASE WHEN name = {sql.literal(SHARDS_ENTRY)} "
        f"THEN '{2 * halves.shards}' ELSE checksum END, applied_at FROM {identifier(halves.old)}.{LEDGER_TABLE};"
    )
    for name in version_tables(connection, halves.old):
        ledger += (
            f"\nINSERT INTO {sql.place(halves.new, name)} OVERRIDING SYSTEM VALUE "
            f"SELECT * FROM {sql.place(halves.old, name)};"
        )
    said = sql.literal(work.comment)
    role = work.server.role if work.server.is_apart else ""
    try:
        with connection.transaction():
            connection.execute(
                f"SET LOCAL lock_timeout = '5s';\n{sql.move_names(halves, dump)}\n"
                f"COMMENT ON SCHEMA {new} IS {said};\n{constraints}\n{ledger}\n"
                f"CREATE SCHEMA {beside};\nCOMMENT ON SCHEMA {beside} IS {said};\n"
                + sql.views(halves, work.tables, role)
                + "\n".join(_functions(work, table) for table in work.tables)
            )
    except (psycopg.errors.LockNotAvailable, psycopg.OperationalError):
        raise
    except psycopg.Error as error:
        raise refused_ddl(error, halves.new, work.server.name) from error
    for table in work.tables:
        # The new place first: nobody knows it yet.
        for schema, direction in ((halves.new, sql.BACKWARD), (halves.old, sql.FORWARD)):
            statements = sql.triggers(halves, table, direction) + sql.keep_trigger(halves, table, schema)
            lock = f"LOCK TABLE {sql.place(schema, table.name)} IN SHARE ROW EXCLUSIVE MODE;\n"
            work.locked(f"table {table.name}", lock + statements)


def _functions(work: ShardWork, table: SplitTable) -> str:
    return "\n".join(
        (
            sql.mirror(work.halves, table, sql.FORWARD),
            sql.mirror(work.halves, table, sql.BACKWARD),
            sql.refuse(work.halves, table),
            sql.keep(work.halves, table),
        )
    )


def runs(
    work: ShardWork, schema: str, table: SplitTable
) -> Iterator[tuple[Sequence[str] | None, Sequence[str] | None]]:
    """A table in runs of its primary key: (after, to); the last one is open, and holds what has come behind it."""
    after: Sequence[str] | None = None
    while True:
        row = work.one_row(sql.run_end(schema, table, after, work.bounds.chunk_rows))
        if row is None:
            yield after, None
            return
        to = [str(value) for value in row]
        yield after, to
        after = to


def fill(work: ShardWork) -> int:
    """Copy the rows that were there before the triggers; how many."""
    rows = 0
    for table in work.tables:
        for after, to in runs(work, work.halves.old, table):
            began_s = time.monotonic()
            rows += _copied(work, sql.copy(work.halves, table, sql.in_run(table, after, to)), table)
            work.tell("")
            work.rest(time.monotonic() - began_s)
    return rows


def _copied(work: ShardWork, statement: str, table: SplitTable) -> int:
    """Again when the app is in the way: it is never the app that has to yield."""
    for attempt in range(_AGAIN_MAX):
        try:
            with work.connection.transaction():
                work.connection.execute("SET LOCAL lock_timeout = 200; SET LOCAL session_replication_role = replica")
                return work.connection.execute(statement).rowcount
        except _DISTURBED as error:
            if attempt == _AGAIN_MAX - 1:
                said = error.diag.message_primary
                raise GivenUp(
                    f"shard {work.halves.shard}: rows of table {table.name} cannot be copied: {said}",
                    "A transaction that stays open keeps them locked: pg_stat_activity shows it.",
                ) from error
            work.wait(min(2.0, 0.05 * 1.5**attempt))
    raise AssertionError


def verify(work: ShardWork) -> int:
    """Compare both places run by run, each as of one moment; the number of rows. GivenUp where they differ."""
    total = 0
    for table in work.tables:
        for after, to in runs(work, work.halves.old, table):
            began_s = time.monotonic()
            row = work.one_row(sql.compare(work.halves, table, sql.in_run(table, after, to)))
            assert row is not None
            if row[:3] != row[3:]:
                raise GivenUp(
                    f"shard {work.halves.shard}: table {table.name} has {row[0]} rows of the second half, and "
                    f"{row[3]} copies that are not all the same",
                    f"Something else writes to schema {work.halves.new} on server {work.server.name}.",
                )
            total += int(str(row[0]))
            work.rest(time.monotonic() - began_s)
    return total


def set_sequences(work: ShardWork) -> None:
    """Bring the second half's sequences well past the first's. Ours for ids stays shared until the halves part."""
    work.connection.execute(
        "SELECT count(setval(format('%%I.%%I', n.schemaname, n.sequencename)::regclass, greatest(n.min_value, "
        "least(n.max_value, coalesce(o.last_value, o.start_value) + sign(o.increment_by)::int8 "
        "* least(%s * abs(o.increment_by), abs(CASE WHEN o.increment_by > 0 THEN o.max_value ELSE o.min_value END "
        "- coalesce(o.last_value, o.start_value)) / 4))), true)) "
        "FROM pg_sequences o JOIN pg_sequences n ON n.schemaname = %s AND n.sequencename = o.sequencename "
        "WHERE o.schemaname = %s AND o.sequencename <> %s AND o.data_type = n.data_type "
        "AND coalesce(n.last_value, n.start_value) <= coalesce(o.last_value, o.start_value)",
        (SEQUENCE_GAP, work.halves.new, work.halves.old, SEQUENCE),
    )


def own_ids(work: ShardWork) -> None:
    """Let each half draw ids by its own counter, the second from where the first has come."""
    halves, connection = work.halves, work.connection
    where = f"{sql.place(halves.old, FUNCTION)}"
    if not work.tables or connection.execute("SELECT to_regproc(%s)", (where,)).fetchone() == (None,):
        return
    kind, both = work.tables[0].key.kind, 2 * halves.shards
    old, new = sql.place(halves.old, SEQUENCE), sql.place(halves.new, SEQUENCE)
    with connection.transaction():
        connection.execute(id_function_sql(halves.old, halves.shard, both, kind))
        connection.execute(f"SELECT setval('{new}', (SELECT last_value + 1 FROM {old}))")
        connection.execute(id_function_sql(halves.new, halves.other, both, kind))
        bodies = connection.execute(
            "SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = %s AND p.proname LIKE 'headway\\_id\\_%%'",
            (halves.new,),
        ).fetchall()
        for (body,) in bodies:
            connection.execute(
                str(body).replace(f"{identifier(halves.old)}.{FUNCTION}", sql.place(halves.new, FUNCTION))
            )


def drop_ours(work: ShardWork, schema: str, *, ours: Sequence[str] = ()) -> None:
    """Take our triggers off the tables of one place."""
    for table in work.tables:
        found = work.connection.execute(_TRIGGERS, (schema, table.name, list(ours) or _OURS)).fetchall()
        if found:
            statements = sql.drop_triggers(schema, table.name, [str(row[0]) for row in found])
            work.locked(f"table {table.name}", statements)


def clear(work: ShardWork) -> None:
    """Take away what this split has made of a shard, and nothing else. Done again where nothing is left."""
    halves, connection = work.halves, work.connection
    drop_ours(work, halves.old)
    for schema in (halves.new, halves.beside):
        row = connection.execute(_COMMENT, (schema,)).fetchone()
        if row is None:
            continue
        if row[0] != work.comment:
            raise GivenUp(f"there is a schema {schema} that is not ours", f"Rename it: {schema} is to be made.")
        work.locked(f"schema {schema}", f"DROP SCHEMA {identifier(schema)} CASCADE")
