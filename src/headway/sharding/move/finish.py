"""After the switch: takes the link down, compares once more, drops what the source had. Before it: undoes the move."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import psycopg
from psycopg import sql

from headway.model.sharding import FENCE
from headway.sharding.catalog import set_fenced
from headway.sharding.move.compare import Reader, compare
from headway.sharding.move.link import (
    drop_schema_of_ours,
    drop_slots,
    drop_subscription,
)
from headway.sharding.move.look import tables_of
from headway.sharding.move.nouns import Table
from headway.sharding.move.sessions import Connection, Side, scalar
from headway.sharding.move.statements import fenced, open_fence
from headway.sharding.move.switch import fence_closed, files_of
from headway.sharding.move.work import Work
from headway.sharding.publication import drop_publication

_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0
_DROP_LOCK_MS = 500


def unlink(work: Work) -> None:
    """The source's schema out of the way of stale clients; then subscription, slots, publication, fence."""
    source, target = work.sessions.source, work.sessions.target
    if _has_schema(source, work.schema) and not _has_schema(source, work.moved_schema):
        source.execute(
            sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(
                sql.Identifier(work.schema), sql.Identifier(work.moved_schema)
            )
        )
    drop_subscription(target, work.link)
    drop_slots(work, source)
    drop_publication(source, work.link)
    remove_fence(work, "target")
    target.execute(sql.SQL("COMMENT ON SCHEMA {} IS NULL").format(sql.Identifier(work.schema)))
    work.advance("unlinked")


def check(work: Work) -> None:
    """What the source had at the switch against what the target had before it opened.

    A mover that was killed since has lost that snapshot. The next one leaves out rows that are newer, and takes rows
    that the target has not for deleted; that they had arrived is known from the comparison before the switch.
    """
    source = work.sessions.second("source")
    source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    held = work.held if work.held is not None and not work.held.closed else None
    since = "" if held is not None else str(work.move.facts.get("target_snapshot", ""))
    target = held or work.sessions.second("target")
    if held is None:
        target.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    tables = _unchanged(work, fenced(tables_of(source, work.moved_schema)))
    try:
        found = compare(
            Reader(source, work.moved_schema),
            Reader(target, work.schema),
            tables,
            work.stop.is_set,
            lambda rows: work.tell("comparing once more, as of the switch", rows=rows),
            since=since,
        )
    finally:
        work.held = None
        work.sessions.drop_second("source")
        work.sessions.drop_second("target")
    # One that the app has truncated or rewritten while it was compared was read by one side before, and was not by the
    # other.
    still = {table.name for table in _unchanged(work, tables)} if found.differences else set()
    differences = [difference for difference in found.differences if difference.table in still]
    if not differences:
        work.advance("checked", rows=found.rows)
        return
    told = "; ".join(difference.sentence for difference in differences)
    note = (
        f"after the switch the rows differ: {told}. What server {work.move.source} had is kept there in schema "
        f"{work.moved_schema}"
    )
    work.advance("checked", verified=False, note=note, rows=found.rows)


def _unchanged(work: Work, tables: Sequence[Table]) -> list[Table]:
    """Without those that the app truncated or rewrote since the switch: to an older snapshot they are empty."""
    before = work.move.facts.get("target_files")
    now = files_of(work.sessions.target, work.schema)
    if not isinstance(before, dict):
        return list(tables)
    return [table for table in tables if before.get(table.name) == now.get(table.name)]


def drop_moved(work: Work) -> None:
    """What the source had, unless somebody has to look at it. A reader of old holds it up, and nobody else."""
    if work.move.facts.get("verified"):
        statement = sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(work.moved_schema))
        _when_free(work, work.sessions.source, statement, _DROP_LOCK_MS, "a reader of the moved tables")
    work.advance("done")


def undo(work: Work) -> str:
    """Everything as before the move, on the source for certain. What was left on a target that does not answer."""
    source = work.sessions.source
    if fence_closed(source, work.schema):
        source.execute(open_fence(work.schema))
    set_fenced(work.sessions.catalog, work.move.shard, False)
    left = ""
    try:
        work.sessions.end_orphans("target")
        drop_subscription(work.sessions.target, work.link)
        drop_schema_of_ours(work.sessions.target, work.schema, work.comment)
    except psycopg.OperationalError as error:
        left = (
            f"server {work.move.target} did not answer ({str(error).splitlines()[0]}): a subscription {work.link} "
            f"and a schema {work.schema} may be left there; the next move to it removes them"
        )
    drop_slots(work, source)
    drop_publication(source, work.link)
    remove_fence(work, "source")
    return left


def remove_fence(work: Work, side: Side) -> None:
    """Drop triggers that let everything through already: one table at a time, giving way to the app."""
    connection = work.sessions.at(side)
    rows = connection.execute(
        "SELECT c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND t.tgname = %s AND t.tgparentid = 0",
        (work.schema, FENCE),
    ).fetchall()
    for (table,) in rows:
        statement = sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
            sql.Identifier(FENCE), sql.Identifier(work.schema, str(table))
        )
        _when_free(work, connection, statement, work.bounds.lock_timeout_ms, f"whoever uses table {table}")
    connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(sql.Identifier(work.schema, FENCE)))


def _when_free(work: Work, connection: Connection, statement: sql.Composed, timeout_ms: int, whom: str) -> None:
    pause_s = _PAUSE_S
    while True:
        with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {timeout_ms}")
            connection.execute(statement)
            return
        work.tell(f"waiting for {whom}")
        work.rest(pause_s)
        pause_s = min(_PAUSE_MAX_S, pause_s * 1.5)


def _has_schema(connection: Connection, schema: str) -> bool:
    return bool(scalar(connection, "SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", (schema,)))
