"""Waits for the rows to arrive, and for a good moment; gives up when the move costs too much or goes nowhere."""

from __future__ import annotations

import time

from psycopg import sql

from headway.sharding.carrying import CopyLost, GivenUp
from headway.sharding.move.link import marker_arrived, write_marker
from headway.sharding.move.look import (
    copying,
    estimated_rows,
    lost_copies,
    oldest_writer,
    retained_bytes,
    shape_of,
    tables_of,
    writer_in_the_way,
)
from headway.sharding.move.work import Work

_POLL_S, _POLL_MAX_S = 0.02, 0.5
_MARKED_S = 0.1
_LOST_S = 5.0
# A transaction that writes for less than this is waited for by the lock itself.
_LONG_S = 0.5


def wait_for_copy(work: Work) -> None:
    """Until every table follows the source, and what is written there arrives at once. CopyLost: that cannot be."""
    source, target = work.sessions.source, work.sessions.target
    total = estimated_rows(source, work.schema)
    began_s = work.move.number("copy_began") or time.time()
    stuck = Stuck(work)
    poll_s, marked_s = _POLL_S, 0.0
    while True:
        state = copying(target, work.link)
        if state is None:
            raise GivenUp(f"the subscription {work.link} on server {work.move.target} is gone")
        if not state.waiting:
            break
        check_log(work)
        now_s = time.monotonic()
        if now_s - marked_s > _MARKED_S:
            # The apply worker looks after its copies whenever something arrives: without this it does so every second.
            marked_s = now_s
            write_marker(source, work.schema)
        waiting, hint = "", ""
        if stuck.since_s(state.rows, len(state.waiting)) > 2 and (blocker := oldest_writer(source, 2.0)):
            waiting, hint = f"server {work.move.source}: waiting for {blocker.sentence}", blocker.hint
            stuck.excused()
        elif stuck.since_s(state.rows, len(state.waiting)) > _LOST_S and (
            lost := lost_copies(source, target, work.link)
        ):
            raise CopyLost(f"server {work.move.target} died at the end of the copy of {', '.join(lost)}")
        elif state.errors > stuck.errors:
            waiting = f"server {work.move.target}: {state.errors} attempts to copy have failed"
            hint = "Its log says why: a full disk, a right that lacks, a row that is there already."
        stuck.judge(waiting, hint)
        rate = state.rows / max(0.001, time.time() - began_s)
        work.tell(waiting, hint, rows=state.rows, rows_total=max(total, state.rows), rows_per_s=rate)
        work.wait(poll_s)
        poll_s = min(_POLL_MAX_S, poll_s * 1.1)
    copy_s = time.time() - began_s
    ours = {table.name for table in tables_of(source, work.schema) if table.holds_rows}
    if shape_of(source, work.schema) != shape_of(target, work.schema) or state.tables != len(ours):
        raise GivenUp(
            f"the tables of schema {work.schema} were changed during the move", "Move again when no migration runs."
        )
    # From here on a crash of the target costs nothing: what it has lost is sent again.
    target.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (synchronous_commit = 'off')").format(sql.Identifier(work.link)))
    work.advance("copied", copy_s=round(copy_s, 3), rows_total=total)


def wait_for_calm(work: Work) -> None:
    """Until no transaction that has written is open for long, and a marker arrives within the bound."""
    stuck = Stuck(work)
    pause_s = 0.02
    while True:
        check_log(work)
        if blocker := writer_in_the_way(work.sessions.source, work.schema, _LONG_S):
            work.tell(f"server {work.move.source}: waiting for {blocker.sentence}", blocker.hint)
        else:
            began_s = time.monotonic()
            token = write_marker(work.sessions.source, work.schema)
            if marker_arrived(work.sessions.target, work.schema, token, work.bounds.lag_max_ms / 1000):
                return
            behind = f"server {work.move.target} is behind server {work.move.source}"
            for _ in range(20):  # it may be far behind: no new marker before this one has arrived
                work.wait(0)
                if marker_arrived(work.sessions.target, work.schema, token, 0.5):
                    stuck = Stuck(work)
                    break
                work.tell(f"{behind} by more than {time.monotonic() - began_s:.1f} s")
            else:
                stuck.judge(behind, "The log of that server says why; it may be too slow for this load.")
        work.wait(pause_s)
        pause_s = min(0.5, pause_s * 1.5)


def check_log(work: Work) -> None:
    """Give up before the log that is kept for the target fills the source's disk."""
    kept = retained_bytes(work.sessions.source, work.link, work.copy_slots)
    if kept < 0:
        raise GivenUp(
            f"server {work.move.source} has thrown away log that the move still needs",
            "Raise max_slot_wal_keep_size on that server, then move again when less is written.",
        )
    if kept > work.bounds.wal_max_bytes:
        raise GivenUp(
            f"server {work.move.source} keeps {kept / 2**20:.0f} MiB of log for the move, more than "
            f"{work.bounds.wal_max_bytes / 2**20:.0f} MiB",
            f"Server {work.move.target} is too slow for what is written: move again when less is.",
        )


class Stuck:
    """Since when nothing has moved on."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._since_s = time.monotonic()
        self._state: tuple[int, ...] = ()
        self.errors = 0

    def since_s(self, *state: int) -> float:
        """How long the state has been this one."""
        if state != self._state:
            self._state = state
            self.excused()
        return time.monotonic() - self._since_s

    def excused(self) -> None:
        """It is known why, and that it ends: count anew."""
        self._since_s = time.monotonic()

    def judge(self, why: str, hint: str) -> None:
        """GivenUp when it has been too long."""
        if time.monotonic() - self._since_s > self._work.bounds.stuck_max_s:
            raise GivenUp(
                f"nothing has moved on for {self._work.bounds.stuck_max_s:.0f} s" + (f": {why}" if why else ""), hint
            )
