"""Carries one move from its recorded stage to its end, through restarts of everybody and of itself.

Every failure is answered in one place: a connection that breaks is made anew and the step done again; what cannot be
cured undoes the move while that is possible. Whoever calls `resume` again after a kill gets the same outcome.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import psycopg

from headway.errors import AppError, Conflict, EngineError, HeadwayError
from headway.model.sharding import ShardMap, schema_name
from headway.sharding.catalog import read_map
from headway.sharding.engine import Engine
from headway.sharding.move.compare import Stopped
from headway.sharding.move.copy import wait_for_copy
from headway.sharding.move.dump import dump_programs
from headway.sharding.move.finish import check, drop_moved, undo, unlink
from headway.sharding.move.link import drop_schema_of_ours, drop_subscription, make_link, make_schema
from headway.sharding.move.look import look_at_schema, look_at_server
from headway.sharding.move.nouns import COMMITTED, ENDED, Bounds, Move, MoveProgress, MoveResult, MoveServer, Stage
from headway.sharding.move.objections import Objection, objections
from headway.sharding.move.record import (
    StageChanged,
    insert_move,
    open_moves,
    read_move,
    try_lock,
    under_way,
    want_abort,
)
from headway.sharding.move.sessions import Connection, Sessions, connect, scalar
from headway.sharding.move.statements import link_name, ours_comment
from headway.sharding.move.switch import open_target, reopen, switch, verify
from headway.sharding.move.work import GivenUp, Work

__all__ = ["Mover", "open_moves"]

_LOCKED_S = 5.0
_ABORTED_S = 60.0
_AGAIN_S, _AGAIN_MAX_S = 0.05, 2.0
_NOWHERE = "host=/nonexistent port=1"


def _undo(work: Work) -> None:
    work.advance("aborted", note=undo(work))


# Stage -> the step that follows it.
STEPS: Mapping[Stage, Callable[[Work], None]] = {
    "begun": make_schema,
    "schema": make_link,
    "replicating": wait_for_copy,
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
        with _reached("the catalog", self._catalog) as catalog:
            source = self._source(catalog, read_map(catalog), shard, target)
            catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
            schema = schema_name(self._database, shard)
            with (
                _reached(f"server {source}", self._servers[source].admin) as before,
                _reached(f"server {target}", self._servers[target].admin) as after,
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
            with _reached("the catalog", self._catalog) as catalog:
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
        with _reached("the catalog", self._catalog) as catalog:
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
            _carry_on(work)
        finally:
            sessions.close()
        return work.move


def _carry_on(work: Work) -> None:
    """The loop around the steps: what to do when one fails."""
    failing_s = 0.0  # since when
    pause_s = _AGAIN_S
    given_up: GivenUp | None = None
    while True:
        try:
            _become_mover(work)
            if given_up:
                want_abort(work.sessions.catalog, work.move.id, given_up.message, given_up.hint)
                given_up = None
            work.move = read_move(work.sessions.catalog, work.move.id)
            if work.move.stage in ENDED:
                return
            if failing_s:
                reopen(work)
            if work.move.abort_wanted and work.move.stage not in COMMITTED and work.move.stage != "aborting":
                work.advance("aborting")
            work.sessions.end_orphans("source")
            if work.move.stage != "aborting":
                work.sessions.end_orphans("target")
            while work.move.stage not in ENDED:
                STEPS[work.move.stage](work)
                failing_s, pause_s = 0.0, _AGAIN_S
            return
        except Stopped:
            return
        except StageChanged:
            if work.stop.wait(_AGAIN_S):
                return
        except GivenUp as error:
            given_up = error
        except (psycopg.OperationalError, psycopg.InternalError) as error:
            work.held = None
            work.sessions.close()
            failing_s = failing_s or time.monotonic()
            away_s = time.monotonic() - failing_s
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if isinstance(error, psycopg.errors.DiskFull):
                said = f"a disk is full: {said}"
            if work.move.stage not in COMMITTED and work.move.stage != "aborting":
                if away_s > work.bounds.stuck_max_s:
                    given_up = GivenUp(f"a server does not answer: {said}", "Move again when both servers answer.")
            elif away_s > work.bounds.away_max_s:
                raise EngineError(
                    f"the move of shard {work.move.shard} waits at stage {work.move.stage}: {said}",
                    hint="It goes on by itself when the server answers again.",
                ) from error
            work.tell(f"trying again: {said}", "Both servers and the catalog have to answer.", force=True)
            if work.stop.wait(pause_s):
                return
            pause_s = min(_AGAIN_MAX_S, pause_s * 1.6)
        except (psycopg.Error, HeadwayError) as error:
            if isinstance(error, Conflict):
                raise
            message, hint = (error.message, error.hint) if isinstance(error, HeadwayError) else (str(error), "")
            if work.move.stage in COMMITTED or work.move.stage == "aborting":
                raise EngineError(
                    f"the move of shard {work.move.shard} cannot go on at stage {work.move.stage}: {message}",
                    hint=hint or "Correct that, and it goes on from there.",
                ) from error
            given_up = GivenUp(message, hint)


@contextlib.contextmanager
def _reached(what: str, conninfo: str) -> Iterator[Connection]:
    """A connection for a few questions. EngineError when nobody answers, or does so no more."""
    try:
        with connect(conninfo, "headway move") as connection:
            yield connection
    except psycopg.OperationalError as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(f"{what} does not answer: {said}", hint="headway status shows what runs.") from error


def _become_mover(work: Work) -> None:
    """Conflict when another one does not let go; a killed one's connection takes a moment to end."""
    deadline_s = time.monotonic() + _LOCKED_S
    while not try_lock(work.sessions.catalog, work.move.shard):
        if time.monotonic() > deadline_s:
            raise Conflict(f"another mover is at work on shard {work.move.shard}", hint="headway db status shows it.")
        work.rest(0.05)


def _refused(shard: int, target: str, reasons: Sequence[Objection]) -> HeadwayError:
    told = "; ".join(reason.message for reason in reasons)
    kind = Conflict if all(reason.taken for reason in reasons) else AppError
    hints = list(dict.fromkeys(reason.hint for reason in reasons))
    return kind(f"shard {shard} cannot move to server {target}: {told}", hint=" ".join(hints))
