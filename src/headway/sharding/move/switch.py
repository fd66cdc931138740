"""The moment of the move: both sides compared at one moment, then the fence, the last writes, the commit point.

Writers are held off twice. The first time for as long as a marker needs to arrive, so that snapshots of both sides are
of one moment; they are compared with writes going on, and what differs undoes the move. The second time for good.
Before the target opens, its snapshot is taken again, and compared when the pause is over with what the source had
(`finish.check`): nothing is compared within the pause.

The first time all tables are locked together, which no client notices but by waiting. Where writers come to the tables
in another order, that ends in deadlocks again and again: then, and the second time, table after table is fenced, each
under its own lock alone. A transaction that wrote before its table was fenced has ended by then, and one that goes on
to a fenced table is refused as a whole: the fences together are as good as one lock, and never wait in a circle.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import psycopg
from psycopg import sql

from headway.model.sharding import FENCE
from headway.sharding.carrying import GivenUp, NotYet, StageChanged, Stopped
from headway.sharding.catalog import hand_over, set_fenced
from headway.sharding.ids import draws_have_ended_sql
from headway.sharding.move.compare import Reader, compare
from headway.sharding.move.copy import wait_for_calm
from headway.sharding.move.link import marker_arrived, write_marker
from headway.sharding.move.look import shape_of, tables_of
from headway.sharding.move.nouns import Table
from headway.sharding.move.record import advance
from headway.sharding.move.sessions import Connection, scalar
from headway.sharding.move.statements import close_fence, fenced, lock_table, open_fence, put_fence
from headway.sharding.move.work import Work

# Numbers drawn on the source by a client that has not heard of the switch must not be drawn again on the target.
SEQUENCE_GAP = 1000
_PAUSE_S, _PAUSE_MAX_S = 0.05, 2.0
_COMPARED_MAX = 3
_DRAWS_MAX_MS = 200
_LOCKED_MAX = 4  # attempts with a lock on all tables
_NOT_GIVEN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected)


@contextlib.contextmanager
def quiet(work: Work, order: list[Table]) -> Iterator[None]:
    """No writer on the source, within a transaction. NotYet when one in flight does not end in time.

    `order`: in which the tables are locked; the one that could not be had is the first of the next attempt.
    """
    source = work.sessions.source
    deadline_s = time.monotonic() + work.bounds.fence_max_ms / 1000
    with source.transaction():
        source.execute(_quickly(source))
        for table in order:
            left_ms = round((deadline_s - time.monotonic()) * 1000)
            try:
                source.execute(lock_table(work.schema, table, min(left_ms, work.bounds.lock_timeout_ms)))
            except _NOT_GIVEN as error:
                order.remove(table)
                order.insert(0, table)
                raise NotYet(f"a writer of table {table.name}") from error
        yield


def fence(work: Work, tables: Sequence[Table]) -> None:
    """No more writes on the source, table after table. NotYet, with some fenced, when a writer does not end in time."""
    source = work.sessions.source
    deadline_s = time.monotonic() + work.bounds.fence_max_ms / 1000
    source.execute(sql.SQL("; ").join([_quickly(source), close_fence(work.schema)]))
    for table in fenced(tables):
        left_ms = round((deadline_s - time.monotonic()) * 1000)
        lock = lock_table(work.schema, table, min(left_ms, work.bounds.lock_timeout_ms))
        try:
            # Several statements at once are one transaction, and one round trip.
            source.execute(sql.SQL("; ").join([_quickly(source), lock, put_fence(work.schema, table)]))
        except _NOT_GIVEN as error:
            raise NotYet(f"a writer of table {table.name}") from error


def _quickly(source: Connection) -> sql.SQL:
    """Not waiting for the disk: the marker that follows does, for all before it."""
    if source.info.parameter_status("is_superuser") == "on":
        # An autovacuum that holds the lock is cancelled by whoever waits this long for it.
        return sql.SQL("SET LOCAL synchronous_commit = off; SET LOCAL deadlock_timeout = '10ms'")
    return sql.SQL("SET LOCAL synchronous_commit = off")


def verify(work: Work) -> None:
    """Compare every row as of one moment, before anything is handed over. GivenUp names what differs."""
    reopen(work)  # a mover that was killed behind its fence: comparing takes longer than anybody should wait
    tables = tables_of(work.sessions.source, work.schema)
    total = work.move.number("rows_total")
    order = fenced(tables)
    for attempt in range(_COMPARED_MAX):
        try:
            _repeat(work, lambda: _snapshots_under_lock(work, order), _LOCKED_MAX)
        except NotYet:
            _repeat(work, lambda: _snapshots_behind_fence(work, order))
        source, target = work.sessions.second("source"), work.sessions.second("target")
        try:
            before = (files_of(source, work.schema), files_of(target, work.schema))
            found = compare(
                Reader(source, work.schema),
                Reader(target, work.schema),
                order,
                work.interrupted,
                lambda rows: work.tell("comparing row by row", rows=rows, rows_total=max(total, rows)),
            )
            after = (files_of(work.sessions.source, work.schema), files_of(work.sessions.target, work.schema))
        except Stopped:
            work.wait(0)
            raise
        finally:
            work.sessions.drop_second("source")
            work.sessions.drop_second("target")
        if not found.differences:
            work.advance("verified", verified=True, rows=found.rows, shape=shape_of(work.sessions.source, work.schema))
            return
        # A table that was truncated or rewritten meanwhile is empty for an older snapshot.
        if before == after or attempt == _COMPARED_MAX - 1:
            raise GivenUp(
                "the rows differ: " + "; ".join(difference.sentence for difference in found.differences),
                f"Nothing was handed over. Something else writes to schema {work.schema} on server {work.move.target}, "
                "or a trigger there does.",
            )


def _snapshots_under_lock(work: Work, order: list[Table]) -> None:
    wait_for_calm(work)
    work.sessions.second("source"), work.sessions.second("target")
    with quiet(work, order):
        _two_snapshots(work)


def _snapshots_behind_fence(work: Work, tables: Sequence[Table]) -> None:
    """As the switch does it, but the map stays as it is, and the fence opens again."""
    wait_for_calm(work)
    work.sessions.second("source"), work.sessions.second("target")
    set_fenced(work.sessions.catalog, work.move.shard, True)
    try:
        fence(work, tables)
        _two_snapshots(work)
    finally:
        work.sessions.source.execute(open_fence(work.schema))
        set_fenced(work.sessions.catalog, work.move.shard, False)


def _two_snapshots(work: Work) -> None:
    """Snapshots of one moment in the second connections: no writer is at work, and the last write has arrived."""
    source, target = work.sessions.second("source"), work.sessions.second("target")
    token = write_marker(source, work.schema)
    if not marker_arrived(target, work.schema, token, work.bounds.lag_max_ms / 1000):
        raise NotYet("the last write took too long to arrive")
    for connection in (source, target):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SELECT 1")


def switch(work: Work) -> None:
    """Hand the shard over: from `verified` (or `fencing`, after a kill) to `switched`, or back to `verified`."""
    tables = tables_of(work.sessions.source, work.schema)
    _repeat(work, lambda: _switch(work, tables))


def _repeat(work: Work, attempt: Callable[[], None], attempts_max: int = 0) -> None:
    """With growing pauses, so that an app whose writers never let the lock through is not slowed down by it."""
    pause_s = _PAUSE_S
    for number in itertools.count(1):
        try:
            attempt()
            return
        except NotYet as error:
            if number == attempts_max:
                raise
            work.tell(f"server {work.move.source}: trying again after {pause_s:.2g} s: {error}")
            work.wait(pause_s)
            pause_s = min(_PAUSE_MAX_S, pause_s * 1.6)


def _switch(work: Work, tables: Sequence[Table]) -> None:
    sessions = work.sessions
    closed = fence_closed(sessions.source, work.schema)  # by a mover that was killed here: be quick
    if not closed:
        wait_for_calm(work)
    source, target, held = sessions.source, sessions.target, sessions.second("target")
    files = files_of(target, work.schema)
    began_s = work.move.number("fencing_began") or time.time()
    with sessions.catalog.transaction():
        work.move = advance(sessions.catalog, work.move, "fencing", fencing_began=began_s if closed else time.time())
        set_fenced(sessions.catalog, work.move.shard, True)
    if not closed:
        began_s = time.time()
    committing = False
    try:
        fence(work, tables)
        if shape_of(source, work.schema) != work.move.facts.get("shape"):
            raise GivenUp(
                f"the tables of schema {work.schema} were changed during the move",
                "Move again when no migration runs.",
            )
        token = write_marker(source, work.schema)
        if not marker_arrived(target, work.schema, token, work.bounds.drain_max_ms / 1000):
            raise NotYet("the last writes took too long to arrive")
        set_sequences(source, target, work.schema)
        seen = hold_snapshot(held)
        work.held = held
        committing = True
        with sessions.catalog.transaction():
            epoch = hand_over(sessions.catalog, work.move.shard, work.move.source, work.move.target)
            facts = {"epoch": epoch, "pause_began": began_s, "target_snapshot": seen, "target_files": files}
            move = advance(sessions.catalog, work.move, "switched", **facts)
        work.move = move
    except BaseException as error:
        # While the commit was under way only the record knows whether it has happened: the caller reads it again.
        if not committing or isinstance(error, StageChanged):
            take_back(work)
        raise


def take_back(work: Work) -> None:
    """Let writes go on at the source after an attempt that did not come to the commit point.

    The record first: from then on no commit that may still be under way can succeed. StageChanged when it has.
    """
    work.held = None
    work.sessions.drop_second("target")
    with work.sessions.catalog.transaction():
        move = advance(work.sessions.catalog, work.move, "verified")
        set_fenced(work.sessions.catalog, move.shard, False)
    work.move = move
    if fence_closed(work.sessions.source, work.schema):
        work.sessions.source.execute(open_fence(work.schema))


def reopen(work: Work) -> None:
    """After a failure before the commit point: the app writes on at the source while the move waits for a server."""
    if work.move.stage == "fencing":
        take_back(work)
    elif work.move.stage in ("copied", "verified") and fence_closed(work.sessions.source, work.schema):
        set_fenced(work.sessions.catalog, work.move.shard, False)
        work.sessions.source.execute(open_fence(work.schema))


def fence_closed(connection: Connection, schema: str) -> bool:
    """Whether the fence is there and lets nothing through."""
    return bool(
        scalar(
            connection,
            "SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname = %s AND p.proname = %s AND p.prosrc LIKE '%%RAISE%%')",
            (schema, FENCE),
        )
    )


def hold_snapshot(held: Connection) -> str:
    """The target as it is before it opens; kept by the connection's transaction, and told as text for later."""
    if held.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        held.execute("ROLLBACK")
    held.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return str(scalar(held, "SELECT pg_current_snapshot()::text"))


def set_sequences(source: Connection, target: Connection, schema: str) -> None:
    """Bring the target's sequences past the source's, in a commit that waits for the disk.

    What was applied so far did not wait for it; this does for all that came before, so that after the commit point
    a crash of the target loses nothing. The commit has a transaction number, and so is written, also without sequences.
    """
    try:
        source.execute(f"SET LOCAL lock_timeout = {_DRAWS_MAX_MS}; {draws_have_ended_sql(schema)}".encode())
    except _NOT_GIVEN as error:
        raise NotYet("somebody who draws an id") from error
    rows = source.execute(
        "SELECT sequencename::text, GREATEST(min_value, LEAST(max_value, COALESCE(last_value, start_value)::numeric "
        "+ %s::numeric * increment_by))::bigint FROM pg_sequences WHERE schemaname = %s",
        (SEQUENCE_GAP, schema),
    ).fetchall()
    target.execute(
        "SELECT pg_current_xact_id(), (SELECT count(setval(format('%%I.%%I', %s::text, name)::regclass, value, true)) "
        "FROM unnest(%s::text[], %s::bigint[]) given (name, value))",
        (schema, [row[0] for row in rows], [row[1] for row in rows]),
    )


def open_target(work: Work) -> None:
    """Nobody reads the source any more, then the target takes writes: the end of the pause."""
    sessions = work.sessions
    if work.held is None or work.held.closed:
        work.held = sessions.second("target")
        hold_snapshot(work.held)
        if not fence_closed(sessions.target, work.schema):
            # Opened already by a mover that was killed before it could say so: this snapshot is too late.
            work.held = None
            sessions.drop_second("target")
    before = sessions.servers["source"]
    names = {"schema": sql.Identifier(work.schema), "role": sql.Identifier(before.app_role)}
    sessions.source.execute(
        sql.SQL(
            "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM PUBLIC, {role}; "
            "REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM PUBLIC, {role}; "
            "REVOKE ALL ON SCHEMA {schema} FROM PUBLIC, {role}"
        ).format(**names)
    )
    sessions.target.execute(open_fence(work.schema))
    pause_ms = (time.time() - work.move.number("pause_began")) * 1000
    work.advance("opened", write_pause_ms=round(pause_ms, 2))


def files_of(connection: Connection, schema: str) -> dict[str, int]:
    """Table -> number of the file its rows lie in, which TRUNCATE and a rewrite change."""
    rows = connection.execute(
        "SELECT c.relname::text, c.relfilenode::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r'",
        (schema,),
    ).fetchall()
    return {str(name): int(file) for name, file in rows}  # type: ignore[call-overload]
