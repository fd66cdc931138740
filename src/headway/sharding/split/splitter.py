"""Carries a split from its recorded stage to its end, through restarts of everybody and of itself.

Servers work at the same time, the shards of one server one after the other. A connection that breaks is made anew and
the step done again; what cannot be cured undoes the split while that is possible.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from headway.errors import AppError, Conflict, EngineError, HeadwayError
from headway.model.sharding import SHARDS_MAX, ShardMap
from headway.sharding.catalog import read_map
from headway.sharding.move.dump import dump_programs
from headway.sharding.move.objections import Objection
from headway.sharding.move.sessions import Connection, connect, end_sessions, scalar
from headway.sharding.shards import AdminServer
from headway.sharding.split import fill, finish
from headway.sharding.split.look import objections, rights_lacking, tables_of
from headway.sharding.split.nouns import (
    COMMITTED,
    ENDED,
    SHARD_STAGES,
    Halves,
    ShardStage,
    Split,
    SplitBounds,
    SplitProgress,
    SplitResult,
)
from headway.sharding.split.record import (
    SplitChanged,
    advance,
    insert_split,
    open_split,
    read_split,
    rows_of,
    set_shard,
    stages,
    try_lock,
    want_abort,
)
from headway.sharding.split.work import GivenUp, ShardWork, Stopped

__all__ = ["Splitter", "open_split"]

_LOCKED_S, _ABORTED_S = 5.0, 60.0
_AGAIN_S, _AGAIN_MAX_S = 0.05, 2.0
_LOOKED_S = 0.5
_NAMED_MAX = 5

# Stage of a shard -> the step that follows it and the stage it leads to.
Step = tuple[Callable[[ShardWork], int | None], ShardStage]
FILLING: Mapping[ShardStage, Step] = {
    "begun": (fill.make, "made"),
    "made": (fill.fill, "filled"),
    "filled": (fill.verify, "verified"),
}
PARTING: Mapping[ShardStage, Step] = {
    "verified": (finish.close, "closed"),
    "closed": (finish.purge, "purged"),
    "purged": (finish.tidy, "done"),
}


class Splitter:
    """Doubles the shards of one database; every method blocks its thread."""

    def __init__(
        self,
        database: str,
        servers: Sequence[AdminServer],
        *,
        progress: Callable[[SplitProgress], None],
        stop: threading.Event,
        bounds: SplitBounds | None = None,
    ) -> None:
        self._database = database
        self._servers = {server.name: server for server in servers}
        self._first = servers[0]
        self._progress = progress
        self._stop = stop
        self._bounds = bounds or SplitBounds()
        self._name = ""
        self._unwanted = ""
        self._waiting = ""

    def begin(self) -> int:
        """Check everything that can be checked before, and record the split; `resume` carries it out.

        Conflict when something moves, migrates or is split; AppError with the reasons against it.
        """
        with _reached(self._first.name, self._first.admin, "headway split") as catalog:
            map_ = read_map(catalog)
            if 2 * map_.shards > SHARDS_MAX:
                raise AppError(
                    f"database {self._database} has {map_.shards} shards, and {SHARDS_MAX} is the most there can be",
                    hint="Move shards to more servers instead: headway db rebalance",
                )
            if map_.at_source:
                raise Conflict(
                    f"the rows of database {self._database} are at the source of an import",
                    hint="Import them first, then split.",
                )
            if gone := sorted(set(map_.owners) - set(self._servers)):
                raise AppError(f"server {gone[0]}, which has shards, is not declared", hint="Declare it again.")
            if found := open_split(catalog):
                raise Conflict(
                    f"the {found.shards} shards of database {self._database} are being split already ({found.stage})",
                    hint=f"It goes on by itself: headway db status {self._database}",
                )
            dump_majors = max((engine.major for engine in dump_programs()), default=0)
            if reasons := [
                reason
                for name in sorted(set(map_.owners))
                for reason in self._objections(self._servers[name], map_, catalog, dump_majors)
            ]:
                raise _refused(self._database, reasons)
            return insert_split(catalog, map_)

    def _objections(self, server: AdminServer, map_: ShardMap, catalog: Connection, dump_major: int) -> list[Objection]:
        ours = f"headway: half of a shard ({scalar(catalog, 'SELECT id FROM headway.catalog')} "
        with _reached(server.name, server.admin, "headway split") as connection:
            found = []
            if grant := rights_lacking(connection):
                told = f"the administrator of server {server.name} may not write rows past the app's triggers"
                found.append(Objection(told, f"As a superuser there: {grant}"))
            if dump_major < (major := connection.info.server_version // 10000):
                told = f"pg_dump {dump_major} cannot read server {server.name}, which runs PostgreSQL {major}"
                found.append(Objection(told, f"Install it: apt install postgresql-client-{major}"))
            for shard in map_.on(server.name):
                found += objections(connection, Halves(self._database, shard, map_.shards), map_.keys, ours)
                if len(found) >= _NAMED_MAX:
                    break
        return found

    def resume(self, split_id: int) -> SplitResult:
        """Carry the split to its end, or as far as it goes until `stop` is set (see `SplitResult.stage`).

        AppError when it was given up and everything is as before; EngineError when a server stays away: come again.
        """
        failing_s, pause_s = 0.0, _AGAIN_S
        given_up: GivenUp | None = None
        stage = "filling"
        while True:
            try:
                with _reached(self._first.name, self._first.admin, "headway split") as catalog:
                    stage = read_split(catalog, split_id).stage
                    if given_up is not None:
                        want_abort(catalog, split_id, str(given_up), given_up.hint)
                        given_up = None
                    self._become(catalog)
                    return self._carry(catalog, split_id)
            except Stopped:
                with _reached(self._first.name, self._first.admin, "headway split") as catalog:
                    split = read_split(catalog, split_id)
                    return _result(catalog, split)
            except SplitChanged:
                pass
            except GivenUp as error:
                if stage in COMMITTED:
                    raise EngineError(
                        f"the split of database {self._database} cannot go on: {error.message}",
                        hint=error.hint or "Correct that, and it goes on from there.",
                    ) from error
                given_up = error
            except (psycopg.OperationalError, psycopg.InternalError, EngineError) as error:
                failing_s = failing_s or time.monotonic()
                said = error.message if isinstance(error, HeadwayError) else _said(error)
                if time.monotonic() - failing_s > self._bounds.away_max_s:
                    raise EngineError(
                        f"the split of database {self._database} waits at stage {stage}: {said}",
                        hint="It goes on by itself when all servers answer again.",
                    ) from error
                self._waiting = f"trying again: {said}"
                if self._stop.wait(pause_s):
                    raise
                pause_s = min(_AGAIN_MAX_S, pause_s * 1.6)
            except (psycopg.Error, AppError) as error:
                message, hint = (error.message, error.hint) if isinstance(error, HeadwayError) else (_said(error), "")
                if stage in COMMITTED:
                    raise EngineError(
                        f"the split of database {self._database} cannot go on: {message}",
                        hint=hint or "Correct that, and it goes on from there.",
                    ) from error
                if stage in ENDED or given_up is not None:
                    raise
                given_up = GivenUp(message, hint or "")

    def abort(self, split_id: int) -> None:
        """Undo the split, whoever works on it now. Conflict past the commit point, or when nobody lets go in time."""
        deadline_s = time.monotonic() + _ABORTED_S
        while True:
            with _reached(self._first.name, self._first.admin, "headway split") as catalog:
                split = want_abort(catalog, split_id, "it was aborted by hand")
            if split.stage in ENDED:
                return
            try:
                self.resume(split_id)
            except Conflict:  # another one has it, and will see what is wanted
                if time.monotonic() > deadline_s:
                    raise
            except AppError:
                return
            if self._stop.is_set():
                return

    def _carry(self, catalog: Connection, split_id: int) -> SplitResult:
        split = read_split(catalog, split_id)
        self._unwanted, self._waiting = "", ""
        catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
        self._name = f"headway split {catalog_id[:8]} {split_id}"
        if split.stage not in ENDED:
            self._end_orphans()
        if split.stage == "filling":
            if not split.abort_wanted:
                self._on_shards(catalog, split, catalog_id, lambda work: self._steps(catalog, split, work, FILLING))
                self._on_shards(catalog, split, catalog_id, fill.set_sequences)
                split = advance(catalog, split, "switched")
            else:
                split = advance(catalog, split, "aborting")
        if split.stage == "switched":
            self._wait_for_clients(catalog, split)
            self._on_shards(catalog, split, catalog_id, lambda work: self._steps(catalog, split, work, PARTING))
            split = advance(catalog, split, "swept")
        if split.stage == "swept":
            self._on_shards(catalog, split, catalog_id, finish.sweep)
            split = advance(catalog, split, "done")
        if split.stage == "aborting":
            self._on_shards(catalog, split, catalog_id, fill.clear)
            split = advance(catalog, split, "aborted")
        if split.stage == "aborted":
            raise AppError(
                f"the split of database {self._database} was given up, and all is as before: {split.abort_wanted}",
                hint=str(split.facts.get("hint", "")) or f"headway db split {self._database}",
            )
        return _result(catalog, split)

    def _steps(self, catalog: Connection, split: Split, work: ShardWork, steps: Mapping[ShardStage, Step]) -> None:
        """One shard through its steps, from where it is."""
        while True:
            stage = stages(catalog, split.id)[work.halves.shard]
            if stage not in steps:
                return
            step, following = steps[stage]
            rows = step(work)
            set_shard(catalog, split.id, work.halves.shard, following, rows)
            self._tell(catalog, split)

    def _on_shards(self, catalog: Connection, split: Split, catalog_id: str, step: Callable[[ShardWork], None]) -> None:
        """Servers at the same time, the shards of each in turn. The first error, when all have ended."""
        map_ = read_map(catalog)
        failed = threading.Event()
        looked_s = 0.0

        def unwanted() -> str:
            nonlocal looked_s
            if failed.is_set():
                raise Stopped
            if split.stage == "filling" and time.monotonic() - looked_s > _LOOKED_S:
                looked_s = time.monotonic()
                self._unwanted = read_split(catalog, split.id).abort_wanted
            return self._unwanted if split.stage == "filling" else ""

        def one_server(server: AdminServer) -> None:
            try:
                with _reached(server.name, server.admin, self._name) as connection:
                    connection.execute("SET standard_conforming_strings = on")
                    for shard in [shard for shard in map_.on(server.name) if shard < split.shards]:
                        halves = Halves(self._database, shard, split.shards)
                        work = ShardWork(
                            halves,
                            server,
                            connection,
                            map_.keys,
                            catalog_id,
                            split.id,
                            self._bounds,
                            dump_programs(),
                            self._stop,
                            unwanted,
                            lambda waiting: self._note(catalog, split, waiting),
                            tables_of(connection, halves.old, map_.keys),
                        )
                        work.wait(0)
                        step(work)
            except BaseException:
                failed.set()
                raise

        servers = [self._servers[name] for name in dict.fromkeys(map_.owners)]
        with ThreadPoolExecutor(len(servers), "headway-split") as pool:
            futures = [pool.submit(one_server, server) for server in servers]
        errors = [error for future in futures if (error := future.exception()) is not None]
        # One that was only told to stop says less than the one that failed.
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error

    def _wait_for_clients(self, catalog: Connection, split: Split) -> None:
        """Until whoever can hear of the new map has done so."""
        while True:
            since = scalar(
                catalog,
                "SELECT extract(epoch FROM clock_timestamp() - changed_at)::float8 FROM headway.splits WHERE id = %s",
                (split.id,),
            )
            left_s = self._bounds.grace_s - float(str(since))
            if left_s <= 0:
                return
            self._waiting = "waiting until every process has the new map"
            self._tell(catalog, split)
            if self._stop.wait(min(0.5, left_s)):
                raise Stopped

    def _become(self, catalog: Connection) -> None:
        """Conflict when another one does not let go; a killed one's connection takes a moment to end."""
        deadline_s = time.monotonic() + _LOCKED_S
        while not try_lock(catalog):
            if time.monotonic() > deadline_s:
                raise Conflict("another controller is at work on this split", hint="headway db status shows it.")
            if self._stop.wait(0.05):
                raise Stopped

    def _end_orphans(self) -> None:
        """End what a killed splitter's connections still do."""
        for server in self._servers.values():
            with _reached(server.name, server.admin, "headway split orphans") as connection:
                end_sessions(connection, self._name)

    def _note(self, catalog: Connection, split: Split, waiting: str) -> None:
        self._waiting = waiting
        self._tell(catalog, split, seldom=True)

    _told_s = 0.0

    def _tell(self, catalog: Connection, split: Split, *, seldom: bool = False) -> None:
        now_s = time.monotonic()
        if seldom and now_s - self._told_s < _LOOKED_S:
            return
        self._told_s = now_s
        reached: ShardStage = "verified" if split.stage == "filling" else "done"
        passed = SHARD_STAGES[SHARD_STAGES.index(reached) :]
        done = sum(stage in passed for stage in stages(catalog, split.id).values())
        self._progress(
            SplitProgress(split.id, split.shards, split.stage, done, rows_of(catalog, split.id), self._waiting)
        )


def _result(catalog: Connection, split: Split) -> SplitResult:
    return SplitResult(split.id, 2 * split.shards, split.stage, rows_of(catalog, split.id), read_map(catalog).epoch)


def _said(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _reached(name: str, conninfo: str, application: str) -> Iterator[Connection]:
    """A connection. EngineError when nobody answers; what happens later goes on as it is."""
    try:
        connection = connect(conninfo, application)
    except psycopg.OperationalError as error:
        raise EngineError(f"server {name} does not answer: {_said(error)}", hint="headway status") from error
    with contextlib.closing(connection):
        yield connection


def _refused(database: str, reasons: Sequence[Objection]) -> AppError:
    named = list(dict.fromkeys(reason.message for reason in reasons))
    more = f" (and {len(named) - _NAMED_MAX} more)" if len(named) > _NAMED_MAX else ""
    hints = list(dict.fromkeys(reason.hint for reason in reasons))
    return AppError(
        f"database {database} cannot be split: {'; '.join(named[:_NAMED_MAX])}{more}", hint=" ".join(hints[:_NAMED_MAX])
    )
