"""Carries a split from its recorded stage to its end, through restarts of everybody and of itself.

Servers work at the same time, the shards of one server one after the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace

import psycopg

from headway.errors import AppError, Conflict
from headway.model.sharding import SHARDS_MAX, ShardMap
from headway.sharding.admin import AdminServer
from headway.sharding.carrying import GivenUp, Stopped, become_carrier, carry, reached
from headway.sharding.catalog import read_map
from headway.sharding.move.objections import Objection
from headway.sharding.move.sessions import Connection, connect, end_sessions, scalar
from headway.sharding.programs import dump_programs
from headway.sharding.split import fill, finish
from headway.sharding.split.look import objections, rights_lacking, tables_of
from headway.sharding.split.nouns import (
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
from headway.sharding.split.work import ShardWork

__all__ = ["Splitter", "open_split"]

_NAME = "headway split"
_ABORTED_S = 60.0
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
        self.database = database
        self._servers = {server.name: server for server in servers}
        self._first = servers[0]
        self._progress = progress
        self._stop = stop
        self._bounds = bounds or SplitBounds()
        self._name = ""
        self._unwanted = ""
        self._waiting = ""
        self._told_s = 0.0
        self._seen: SplitProgress | None = None
        self._passed: Callable[[], None] = lambda: None

    def _reached(self, server: AdminServer) -> AbstractContextManager[Connection]:
        return reached(f"server {server.name}", server.admin, _NAME)

    def to_catalog(self) -> Connection:
        """A connection of the carrier. psycopg.OperationalError when nobody answers."""
        return connect(self._first.admin, _NAME)

    def begin(self) -> int:
        """Check everything that can be checked before, and record the split; `resume` carries it out.

        Conflict when something moves, migrates or is split; AppError with the reasons against it.
        """
        with self._reached(self._first) as catalog:
            map_ = read_map(catalog)
            if 2 * map_.shards > SHARDS_MAX:
                raise AppError(
                    f"database {self.database} has {map_.shards} shards, and {SHARDS_MAX} is the most there can be",
                    hint="Move shards to more servers instead: headway db rebalance",
                )
            if map_.at_source:
                raise Conflict(
                    f"the rows of database {self.database} are at the source of an import",
                    hint="Import them first, then split.",
                )
            if gone := sorted(set(map_.owners) - set(self._servers)):
                raise AppError(f"server {gone[0]}, which has shards, is not declared", hint="Declare it again.")
            if found := open_split(catalog):
                raise Conflict(
                    f"the {found.shards} shards of database {self.database} are being split already ({found.stage})",
                    hint=f"It goes on by itself: headway db status {self.database}",
                )
            dump_majors = max((engine.major for engine in dump_programs()), default=0)
            if reasons := [
                reason
                for name in sorted(set(map_.owners))
                for reason in self._objections(self._servers[name], map_, catalog, dump_majors)
            ]:
                raise _refused(self.database, reasons)
            return insert_split(catalog, map_)

    def _objections(self, server: AdminServer, map_: ShardMap, catalog: Connection, dump_major: int) -> list[Objection]:
        ours = f"headway: half of a shard ({scalar(catalog, 'SELECT id FROM headway.catalog')} "
        with self._reached(server) as connection:
            found = []
            if grant := rights_lacking(connection):
                told = f"the administrator of server {server.name} may not write rows past the app's triggers"
                found.append(Objection(told, f"As a superuser there: {grant}"))
            if dump_major < (major := connection.info.server_version // 10000):
                told = f"pg_dump {dump_major} cannot read server {server.name}, which runs PostgreSQL {major}"
                found.append(Objection(told, f"Install it: apt install postgresql-client-{major}"))
            for shard in map_.on(server.name):
                found += objections(connection, Halves(self.database, shard, map_.shards), map_.keys, ours)
                if len(found) >= _NAMED_MAX:
                    break
        return found

    def resume(self, split_id: int) -> SplitResult:
        """Carry the split to its end, or as far as it goes until `stop` is set (see `SplitResult.stage`).

        AppError when it was given up and everything is as before; EngineError when a server stays away: come again.
        """
        with self._reached(self._first) as catalog:
            split = read_split(catalog, split_id)
        carry(
            _Carried(self, split, self._stop),
            self._stop,
            away_max_s=self._bounds.away_max_s,
            stuck_max_s=None,
            again_hint="Split again when all servers answer.",
        )
        with self._reached(self._first) as catalog:
            split = read_split(catalog, split_id)
            if split.stage == "aborted":
                raise AppError(
                    f"the split of database {self.database} was given up, and all is as before: {split.abort_wanted}",
                    hint=str(split.facts.get("hint", "")) or f"headway db split {self.database}",
                )
            return SplitResult(
                split.id, 2 * split.shards, split.stage, rows_of(catalog, split.id), read_map(catalog).epoch
            )

    def abort(self, split_id: int) -> None:
        """Undo the split, whoever works on it now. Conflict past the commit point, or when nobody lets go in time."""
        deadline_s = time.monotonic() + _ABORTED_S
        while True:
            with self._reached(self._first) as catalog:
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

    def go_on(self, catalog: Connection, split: Split, passed: Callable[[], None]) -> Iterator[Split]:
        """From where it is to the end, one stage after the other; `passed` is called after each step of a shard."""
        self._passed = passed
        self._unwanted, self._waiting = "", ""
        catalog_id = str(scalar(catalog, "SELECT id FROM headway.catalog"))
        self._name = f"headway split {catalog_id[:8]} {split.id}"
        self._end_orphans()
        if split.stage == "filling":
            if not split.abort_wanted:
                self._on_shards(catalog, split, catalog_id, lambda work: self._steps(catalog, split, work, FILLING))
                self._on_shards(catalog, split, catalog_id, fill.set_sequences)
            yield (split := advance(catalog, split, "aborting" if split.abort_wanted else "switched"))
        if split.stage == "switched":
            self._wait_for_clients(catalog, split)
            self._on_shards(catalog, split, catalog_id, lambda work: self._steps(catalog, split, work, PARTING))
            yield (split := advance(catalog, split, "swept"))
        if split.stage == "swept":
            self._on_shards(catalog, split, catalog_id, finish.sweep)
            yield advance(catalog, split, "done")
        if split.stage == "aborting":
            self._on_shards(catalog, split, catalog_id, fill.clear)
            yield advance(catalog, split, "aborted")

    def _steps(self, catalog: Connection, split: Split, work: ShardWork, steps: Mapping[ShardStage, Step]) -> None:
        """One shard through its steps, from where it is."""
        while True:
            stage = stages(catalog, split.id)[work.halves.shard]
            if stage not in steps:
                return
            step, following = steps[stage]
            rows = step(work)
            set_shard(catalog, split.id, work.halves.shard, following, rows)
            self._passed()
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
                with contextlib.closing(connect(server.admin, self._name)) as connection:
                    connection.execute("SET standard_conforming_strings = on")
                    for shard in [shard for shard in map_.on(server.name) if shard < split.shards]:
                        halves = Halves(self.database, shard, split.shards)
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
            except psycopg.OperationalError as error:
                failed.set()
                raise type(error)(f"server {server.name}: {error}") from error
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

    def _end_orphans(self) -> None:
        """End what a killed splitter's connections still do."""
        for server in self._servers.values():
            with contextlib.closing(connect(server.admin, f"{_NAME} orphans")) as connection:
                end_sessions(connection, self._name)

    def _note(self, catalog: Connection, split: Split, waiting: str) -> None:
        self._waiting = waiting
        self._tell(catalog, split, seldom=True)

    def note(self, waiting: str) -> None:
        """Say what is waited for, when the catalog cannot be asked."""
        if self._seen is not None:
            self._progress(replace(self._seen, waiting=waiting))

    def _tell(self, catalog: Connection, split: Split, *, seldom: bool = False) -> None:
        now_s = time.monotonic()
        if seldom and now_s - self._told_s < _LOOKED_S:
            return
        self._told_s = now_s
        reached: ShardStage = "verified" if split.stage == "filling" else "done"
        passed = SHARD_STAGES[SHARD_STAGES.index(reached) :]
        done = sum(stage in passed for stage in stages(catalog, split.id).values())
        rows = rows_of(catalog, split.id)
        self._seen = SplitProgress(split.id, split.shards, split.stage, done, rows, self._waiting)
        self._progress(self._seen)


class _Carried:
    """A split, for the loop that carries it."""

    needed = "all servers"

    def __init__(self, splitter: Splitter, split: Split, stop: threading.Event) -> None:
        self._splitter = splitter
        self._split = split
        self._stop = stop

    @property
    def what(self) -> str:
        return f"the split of database {self._splitter.database}"

    @property
    def record(self) -> Split:
        return self._split

    def attempt(self, given_up: GivenUp | None, passed: Callable[[], None]) -> None:
        with contextlib.closing(self._splitter.to_catalog()) as catalog:
            if given_up:
                want_abort(catalog, self._split.id, given_up.message, given_up.hint)
            become_carrier(lambda: try_lock(catalog), "this split", self._stop)
            self._split = read_split(catalog, self._split.id)
            if self._split.has_ended:
                return
            for split in self._splitter.go_on(catalog, self._split, passed):
                self._split = split
                passed()

    def broken(self, waiting: str) -> None:
        self._splitter.note(waiting)


def _refused(database: str, reasons: Sequence[Objection]) -> AppError:
    named = list(dict.fromkeys(reason.message for reason in reasons))
    more = f" (and {len(named) - _NAMED_MAX} more)" if len(named) > _NAMED_MAX else ""
    hints = list(dict.fromkeys(reason.hint for reason in reasons))
    return AppError(
        f"database {database} cannot be split: {'; '.join(named[:_NAMED_MAX])}{more}", hint=" ".join(hints[:_NAMED_MAX])
    )
