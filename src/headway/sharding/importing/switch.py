"""Follows the source until it is told to switch; then the fence, the last changes, the commit point, the opening."""

from __future__ import annotations

import itertools
import time

import psycopg

from headway.sharding.carrying import GivenUp, NotYet, StageChanged
from headway.sharding.catalog import raise_epoch
from headway.sharding.importing import statements
from headway.sharding.importing.compare import check_partitions, compare_changed, compare_last, noted
from headway.sharding.importing.fill import outrun, set_sequences
from headway.sharding.importing.link import caught_up, check_log
from headway.sharding.importing.look import shape_of
from headway.sharding.importing.record import advance
from headway.sharding.importing.work import Work, ask, run

_FOLLOW_S = 0.2
_PAUSE_S, _PAUSE_MAX_S = 0.05, 2.0
_CALM_S = 0.25
_LATE_S = 2.0
_NOT_GIVEN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected)


def follow(work: Work) -> None:
    """Compare what changes, watch the log, and switch when somebody wants it: from `verified` to `switched`."""
    late_since_s = 0.0
    while True:
        check_log(work)
        asked = work.record.switch_wanted
        if asked:
            try:
                _try_to_switch(work)
                return
            except NotYet as error:
                if work.record.stage != "verified":
                    return  # all rows are to be compared again first
                work.note(switch_answered=asked, refused=str(error))
                work.tell(f"the switch was given up: {error}", force=True)
        try:
            waiting = ""
            if late := caught_up(work, _LATE_S):
                late_since_s = late_since_s or time.monotonic()
                waiting = f"server {late[0]} is behind the source by {time.monotonic() - late_since_s + _LATE_S:.0f} s"
            else:
                late_since_s = 0.0
                check_partitions(work)
                compare_changed(work)
            hint = "Its log says why: a row that a shard refuses, or too slow a disk." if waiting else ""
            work.tell(
                waiting or f"following; headway db import {work.plan.database} --switch lets the shards take over", hint
            )
        except NotYet as error:
            work.tell(str(error), force=True)
            if work.record.stage != "verified":
                return
        work.wait(_FOLLOW_S)


def _try_to_switch(work: Work) -> None:
    """With growing pauses, so that an app whose writers never let the lock through is not slowed down by it."""
    deadline_s = time.monotonic() + work.bounds.switch_max_s
    pause_s = _PAUSE_S
    patience_ms = float(work.bounds.lock_timeout_ms)
    for _ in itertools.count():
        try:
            _prepare_switch(work)
            _switch(work, round(patience_ms))
            return
        except NotYet as error:
            if work.record.stage != "verified" or time.monotonic() > deadline_s:
                raise
            work.tell(f"trying again after {pause_s:.2g} s: {error}")
            work.wait(pause_s)
            pause_s = min(_PAUSE_MAX_S, pause_s * 1.6)
            patience_ms = min(work.bounds.lock_timeout_max_ms, patience_ms * 1.6)


def _prepare_switch(work: Work) -> None:
    """All that can be done before the pause: few changes left to compare, numbers far enough, a short way to go."""
    check_partitions(work)
    while noted(work) > work.bounds.compared_max // 4:
        if compare_changed(work):
            break
        work.wait(0)
    if outrun(work, look=True):
        set_sequences(work)
    if late := caught_up(work, _CALM_S):
        raise NotYet(f"server {late[0]} is behind the source by more than {_CALM_S * 1000:.0f} ms")


def _switch(work: Work, patience_ms: int) -> None:
    began_s = time.time()
    with work.catalog.transaction():
        work.record = advance(work.catalog, work.record, "switching", pause_began=began_s)
        _set_fenced(work, True)
    committing = False
    try:
        _fence(work, patience_ms)
        if shape_of(work.at_source, work.plan.schema, [t.name for t in work.plan.tables]) != work.record.facts["shape"]:
            raise GivenUp("tables of the source were changed during the import", "Import again when no migration runs.")
        if late := caught_up(work, work.bounds.drain_max_ms / 1000):
            raise NotYet(f"the last writes took too long to arrive on server {late[0]}")
        if outrun(work, look=False):
            raise NotYet("the source has given away many numbers in the last moment")
        compared = compare_last(work)
        # What was applied so far did not wait for the disk; this does, for all that came before.
        work.each(lambda server: run(work.on(server), "SET synchronous_commit = on; SELECT pg_current_xact_id()"))
        committing = True
        with work.catalog.transaction():
            record = advance(work.catalog, work.record, "switched", compared=compared)
            # New transactions wait on until the shards are open.
            work.catalog.execute("UPDATE headway.catalog SET at_source = false")
            raise_epoch(work.catalog)
        work.record = record
    except BaseException as error:
        # While the commit was under way only the record knows whether it has happened: the caller reads it again.
        if not committing or isinstance(error, StageChanged):
            take_back(work)
        raise


def _fence(work: Work, patience_ms: int) -> None:
    """No more writes at the source, table after table. NotYet, with some fenced, when a writer does not end in time."""
    source = work.at_source
    deadline_s = time.monotonic() + 2 * patience_ms / 1000
    run(source, statements.close_source(work.plan))
    for table in work.plan.tables:
        left_ms = round((deadline_s - time.monotonic()) * 1000)
        try:
            run(source, statements.fence_source(work.plan, table, min(left_ms, patience_ms)))
        except _NOT_GIVEN as error:
            raise NotYet(f"a writer of table {table.name} did not end in time") from error


def _set_fenced(work: Work, fenced: bool) -> None:
    """Let new transactions on the shards wait, or let them go on: a new epoch."""
    work.catalog.execute("UPDATE headway.shard_map SET fenced = %s", (fenced,))
    raise_epoch(work.catalog)


def take_back(work: Work) -> None:
    """Let writes go on at the source after an attempt that did not come to the commit point.

    The record first: from then on no commit that may still be under way can succeed. StageChanged when it has.
    """
    with work.catalog.transaction():
        record = advance(work.catalog, work.record, "verified")
        _set_fenced(work, False)
    work.record = record
    open_source(work)


def open_source(work: Work) -> None:
    """The fence at the source lets everything through, if there is one."""
    fence = statements.literal(statements.place(work.plan.space, "fence") + "()")
    if ask(work.at_source, f"SELECT to_regprocedure({fence}) IS NOT NULL"):
        run(work.at_source, statements.open_source(work.plan))


def resume_switching(work: Work) -> None:
    """A carrier was killed behind its fence: writes go on at the source, and the switch is tried again."""
    take_back(work)


def open_shards(work: Work) -> None:
    """The shards take writes: the end of the pause."""
    work.each(lambda server: run(work.on(server), statements.open_shards(work.plan)))
    with work.catalog.transaction():
        pause_ms = (time.time() - work.record.number("pause_began")) * 1000
        work.record = advance(work.catalog, work.record, "opened", write_pause_ms=round(pause_ms, 2))
        _set_fenced(work, False)
    work.tell(force=True)
