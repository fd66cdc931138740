"""Carries one move from its recorded stage to its end, through restarts of everybody and of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import psycopg

from headway.errors import AppError, Conflict, HeadwayError
from headway.model.sharding import ShardMap, schema_name
from headway.sharding.carrying import CopyLost, GivenUp, become_carrier, carry, reached
from headway.sharding.catalog import read_map
from headway.sharding.engine import Engine
from headway.sharding.move.copy import wait_for_copy
from headway.sharding.move.finish import check, drop_moved, undo, unlink
from headway.sharding.move.link import drop_schema_of_ours, drop_subscription, make_link, make_schema
from headway.sharding.move.look import look_at_schema, look_at_server
from headway.sharding.move.nouns import ENDED, Bounds, Move, MoveProgress, MoveResult, MoveServer, Stage
from headway.sharding.move.objections import Objection, objections
from headway.sharding.move.record import (
    insert_move,
    open_moves,
    read_move,
    try_lock,
    under_way,
    want_abort,
)
from headway.sharding.move.sessions import Connection, Sessions, scalar
from headway.sharding.move.statements import link_name, ours_comment
from headway.sharding.move.switch import open_target, reopen, switch, verify
from headway.sharding.move.work import Work
from headway.sharding.programs import dump_programs

__all__ = ["Mover", "open_moves"]

_ABORTED_S = 60.0
_BEGUN_AGAIN_MAX = 3
_NAME = "headway move"
_NOWHERE = "host=/nonexistent port=1"


def _undo(work: Work) -> None:
    work.advance("aborted", note=undo(work))


def _copy(work: Work) -> None:
    try:
        wait_for_copy(work)
    except CopyLost as lost:
        again = int(work.move.number("begun_again")) + 1
        if again > _BEGUN_AGAIN_MAX:
            raise GivenUp(str(lost), "Move again when that server stays up.") from lost
        work.tell(f"beginning again: {lost}", force=True)
        if left := undo(work):
            raise psycopg.OperationalError(left) from lost
        work.advance("begun", begun_again=again, subid=0)


# Stage -> the step that follows it.
STEPS: Mapping[Stage, Callable[[Work], None]] = {
    "begun": make_schema,
    "schema": make_link,
    "replicating": _copy,
    "copied": verify,
    "verified": switch,
    "fencing": switch,
    "switched": open_target,
    "opened": unlink,
    "unlinked": check,
    "checked": drop_moved,
    "aborting": _undo,
}


class Mover:
    """Moves shards of one database, one move at a time; every method blocks its thread."""

    def __init__(
        self,
        database: str,
        catalog: str,
        servers: Mapping[str, MoveServer],
        *,
        progress: Callable[[MoveProgress], None],
        stop: threading.Event,
        bounds: Bounds | None = None,
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._servers = servers
        self._progress = progress
        self._stop = stop
        self._bounds = bounds or Bounds()
        self._programs: Sequence[Engine] | None = None

    def begin(self, shard: int, target: str) -> int:
        """Check everything that can be checked before, and record the move; `resume` carries it out.

        Conflict when somebody is at it already, or the shard is there; AppError with every reason against it.
        """
        with reached("the catalog", self._catalog, _NAME) as catalog:
            source = self._source(catalog, read_map(catalog), shard, target)
            catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
            schema = schema_name(self._database, shard)
            with (
                reached(f"server {source}", self._servers[source].admin, _NAME) as before,
                reached(f"server {target}", self._servers[target].admin, _NAME) as after,
            ):
                mark = f"headway: being moved here ({catalog_id} "
                of_source = look_at_server(before, self._servers[source], schema, mark)
                of_target = look_at_server(after, self._servers[target], schema, mark)
                majors = [engine.major for engine in self._dump_programs()]
                found = look_at_schema(before, schema)
                if reasons := objections(schema, of_source, of_target, found, max(majors, default=0)):
                    raise _refused(shard, target, reasons)
                if of_target.leftover:
                    self._clear(catalog, after, shard, target, schema, catalog_id)
            return insert_move(catalog, shard, source, target)

    def resume(self, move_id: int) -> MoveResult:
        """Carry the move to its end, or as far as it goes until `stop` is set (see `MoveResult.stage`).

        AppError when it was given up and everything is as before; EngineError when a server stays away: come again.
        """
        move = self._carry(move_id)
        if move.stage == "aborted":
            note = f" ({move.facts['note']})" if move.facts.get("note") else ""
            raise AppError(
                f"the move of shard {move.shard} to server {move.target} was given up: {move.abort_wanted}{note}",
                hint=str(move.facts.get("hint", "")),
            )
        return move.result()

    def abort(self, move_id: int) -> None:
        """Undo the move, whoever works on it now. Conflict past the commit point, or when nobody lets go in time."""
        deadline_s = time.monotonic() + _ABORTED_S
        while True:
            with reached("the catalog", self._catalog, _NAME) as catalog:
                move = want_abort(catalog, move_id, "it was aborted by hand")
            if move.stage in ENDED:
                return
            try:
                move = self._carry(move_id)
            except Conflict:  # another mover has it, and will see what is wanted
                if time.monotonic() > deadline_s:
                    raise
                continue
            if move.stage in ENDED or self._stop.is_set():
                return

    def _source(self, catalog: Connection, shard_map: ShardMap, shard: int, target: str) -> str:
        """The server that has the shard now."""
        if not 0 <= shard < shard_map.shards:
            raise AppError(
                f"database {self._database} has no shard {shard}", hint=f"Its shards are 0 to {shard_map.shards - 1}."
            )
        names = ", ".join(sorted(self._servers))
        if target not in self._servers or target not in shard_map.servers:
            raise AppError(f"database {self._database} has no server {target}", hint=f"Its servers are {names}.")
        source = shard_map.owners[shard]
        if source == target:
            raise Conflict(f"shard {shard} is on server {target} already", hint="headway db status shows the map.")
        if source not in self._servers:
            raise AppError(f"server {source}, which has shard {shard}, is not declared", hint=f"Declared: {names}.")
        if any(move.shard == shard for move in open_moves(catalog)):
            raise under_way(catalog, shard)
        return source

    def _clear(
        self, catalog: Connection, after: Connection, shard: int, target: str, schema: str, catalog_id: str
    ) -> None:
        """Remove what an aborted move had to leave behind on this target."""
        rows = catalog.execute(
            "SELECT id FROM headway.moves WHERE shard = %s AND target = %s AND stage = 'aborted'", (shard, target)
        ).fetchall()
        for (move_id,) in rows:
            number = int(str(move_id))
            drop_subscription(after, link_name(catalog_id, number))
            drop_schema_of_ours(after, schema, ours_comment(catalog_id, number))

    def _dump_programs(self) -> Sequence[Engine]:
        if self._programs is None:
            self._programs = dump_programs()
        return self._programs

    def _carry(self, move_id: int) -> Move:
        with reached("the catalog", self._catalog, _NAME) as catalog:
            move = read_move(catalog, move_id)
            catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
        if move.stage in ENDED:
            return move
        known = {name: self._servers.get(name) for name in (move.source, move.target)}
        for name, server in known.items():
            if server is None and (name == move.source or not move.abort_wanted):
                raise AppError(
                    f"server {name} of move {move_id} is not declared any more", hint="Declare it until the move ends."
                )
        schema = schema_name(self._database, move.shard)
        sessions = Sessions(
            self._catalog,
            {
                "source": known[move.source] or MoveServer(move.source, _NOWHERE, _NOWHERE, ""),
                "target": known[move.target] or MoveServer(move.target, _NOWHERE, _NOWHERE, ""),
            },
            f"headway move {catalog_id[:8]} {move_id}",
        )
        work = Work(sessions, schema, catalog_id, move, self._bounds, self._dump_programs, self._progress, self._stop)
        try:
            carry(
                _Carried(work),
                self._stop,
                away_max_s=self._bounds.away_max_s,
                stuck_max_s=self._bounds.stuck_max_s,
                again_hint="Move again when both servers answer.",
            )
        finally:
            sessions.close()
        return work.move


class _Carried:
    """A move, for the loop that carries it."""

    needed = "both servers and the catalog"

    def __init__(self, work: Work) -> None:
        self.work = work
        self._is_again = False  # a connection broke

    @property
    def what(self) -> str:
        return f"the move of shard {self.work.move.shard}"

    @property
    def record(self) -> Move:
        return self.work.move

    def attempt(self, given_up: GivenUp | None, passed: Callable[[], None]) -> None:
        work = self.work
        shard = work.move.shard
        become_carrier(lambda: try_lock(work.sessions.catalog, shard), f"shard {shard}", work.stop)
        if given_up:
            want_abort(work.sessions.catalog, work.move.id, given_up.message, given_up.hint)
        work.move = read_move(work.sessions.catalog, work.move.id)
        if work.move.has_ended:
            return
        if self._is_again:
            reopen(work)
            self._is_again = False
        if work.move.abort_wanted and work.move.can_be_undone:
            work.advance("aborting")
        work.sessions.end_orphans("source")
        if work.move.stage != "aborting":
            work.sessions.end_orphans("target")
        while not work.move.has_ended:
            STEPS[work.move.stage](work)
            passed()

    def broken(self, waiting: str) -> None:
        self._is_again = True
        self.work.held = None
        self.work.sessions.close()
        self.work.tell(waiting, "Both servers and the catalog have to answer.", force=True)


def _refused(shard: int, target: str, reasons: Sequence[Objection]) -> HeadwayError:
    told = "; ".join(reason.message for reason in reasons)
    kind = Conflict if all(reason.taken for reason in reasons) else AppError
    hints = list(dict.fromkeys(reason.hint for reason in reasons))
    return kind(f"shard {shard} cannot move to server {target}: {told}", hint=" ".join(hints))
