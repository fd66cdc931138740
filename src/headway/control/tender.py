"""Looks after one sharded database while the controller lives: carries moves to their ends, ends transactions in doubt.

What a controller that died has begun is in the catalog; the next one finds it there and goes on. Everything runs in
threads of its own: no move, however long, is waited for by the loop.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import psycopg

from headway.control.backing_up import Backups
from headway.control.importing import Declared, Imports
from headway.control.migrating import Asked, bring_up, document, refuse_none
from headway.control.migrating import Declared as DeclaredMigrations
from headway.control.repairs import Repairs
from headway.control.restoring import Restores
from headway.control.splitting import Splits
from headway.control.weighing import Weighed, weigh
from headway.errors import AppError, Conflict, EngineError, HeadwayError
from headway.model.sharding import ShardMap
from headway.runtimes.local.engine_process import as_told
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.admin import AdminServer, connect
from headway.sharding.carrying import reached
from headway.sharding.catalog import read_map
from headway.sharding.django_migrations import lost
from headway.sharding.doubt import end_doubts
from headway.sharding.move.mover import Mover, open_moves
from headway.sharding.move.nouns import ENDED, MoveProgress, MoveResult, MoveServer
from headway.sharding.move.record import read_move
from headway.sharding.rebalance import By, PlannedMove, plan_by
from headway.sharding.survey import look_at_all, sizes
from headway.sharding.verify import compare

_LOOK_S = 1.0
_DOUBTS_S = 5.0
_AGAIN_S = 5.0
_AT_ONCE_MAX = 2  # moves of one database: each copies, and two already fill most disks and networks
_POLL_S = 0.05
_OF_IMPORTS, _OF_SPLITS = "headway_import", "_half"  # in the names of what they make

Say = Callable[[str], None]
Tell = Callable[[str, str, str, str], None]


class Tender:
    """The moves and doubts of one database."""

    def __init__(self, database: ShardedDatabase, tell: Tell, declared: Declared) -> None:
        self.database = database
        self.name = database.wanted.name
        self._tell = tell
        self._stop = threading.Event()
        self.splits = Splits(database, tell, self._stop)
        self.imports = Imports(database, tell, declared, self._stop)
        self.repairs = Repairs(database, tell, self.splits, self.imports)
        self.backups = Backups(database, tell)
        self.restores = Restores(database, tell, self._stop)
        self._progress: dict[int, MoveProgress] = {}
        self._results: dict[int, MoveResult | HeadwayError] = {}
        self._carriers: dict[int, threading.Thread] = {}
        self._not_before_s: dict[int, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, name=f"headway-tender-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let go: moves stay where they are, and are gone on with by the next one."""
        self._stop.set()

    # -- by itself --------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        doubts_s = 0.0
        failed = ""
        while not self._stop.wait(_LOOK_S):
            try:
                self.database.map_now()  # for `status`
                self._carry_open()
                self.imports.carry()
                self.splits.carry()
                self.restores.carry()
                if time.monotonic() >= doubts_s:
                    doubts_s = time.monotonic() + _DOUBTS_S
                    self._end_doubts()
                failed = ""
            except Exception as error:  # a thread that died of it would leave moves and doubts to nobody
                told = str(error).strip() if isinstance(error, psycopg.Error) else as_told(error).message
                if self.database.state == "ready" and told != failed:
                    self._tell(self.database.process, "tending failed", told, "warning")
                failed = told

    def _carry_open(self) -> None:
        with connect(self._first) as catalog:
            found = open_moves(catalog)
        for move in found:
            self._carry(move.id)

    def _carry(self, move_id: int) -> None:
        """Have a thread work on a move, unless one does."""
        with self._lock:
            self._carriers = {number: carrier for number, carrier in self._carriers.items() if carrier.is_alive()}
            if move_id in self._carriers or len(self._carriers) >= _AT_ONCE_MAX:
                return
            if time.monotonic() < self._not_before_s.get(move_id, 0.0):
                return
            carrier = threading.Thread(
                target=self._resume, args=(move_id,), name=f"headway-move-{move_id}", daemon=True
            )
            self._carriers[move_id] = carrier
            carrier.start()  # here: one that is not alive yet would be taken for one that has ended

    def _resume(self, move_id: int) -> None:
        about = self.database.process
        try:
            with reached("the catalog", self._first.admin, "headway") as catalog:
                move = read_move(catalog, move_id)
            result = self._mover(move.source, move.target).resume(move_id)
        except (HeadwayError, psycopg.Error) as problem:
            error = problem if isinstance(problem, HeadwayError) else EngineError(str(problem).strip())
            ended = self._has_ended(move_id)
            self._not_before_s[move_id] = time.monotonic() + _AGAIN_S
            if ended or not isinstance(error, Conflict):
                self._results[move_id] = error
                self._tell(about, "move failed" if ended else "move waits", error.message, "warning")
            return
        if result.stage in ENDED and not isinstance(self._results.get(move_id), MoveResult):
            self._results[move_id] = result
            told = (
                f"shard {result.shard}: {result.source} → {result.target}, {result.rows:,} rows, "
                f"writes stood still for {result.write_pause_ms:.0f} ms"
            )
            self._tell(about, "moved", told, "note")

    def _has_ended(self, move_id: int) -> bool:
        with contextlib.suppress(HeadwayError, psycopg.Error), connect(self._first) as catalog:
            return read_move(catalog, move_id).stage in ENDED
        return False

    def _end_doubts(self) -> None:
        """As the app's role, which is the one that prepared them. On a server that is away they wait for it."""
        away = self.database.away_now()
        if (first := next(iter(self.database.servers))) in away:
            return
        with contextlib.ExitStack() as stack:
            opened = {
                name: stack.enter_context(psycopg.connect(server.fields["url"], autocommit=True, connect_timeout=2))
                for name, server in self.database.servers.items()
                if name not in away
            }
            for ended in end_doubts(self.name, opened[first], opened.items(), forget=not away):
                told = f"a transaction over several shards was left prepared on {ended.server}: {ended.decision}"
                self._tell(self.database.process, "ended a doubt", told, "warning")

    # -- asked for ----------------------------------------------------------------------------------------------------

    def move(self, shard: int, target: str, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Move a shard and wait for its end."""
        self.check_source(shard)
        self.imports.refuse_others(f"the move of shard {shard}")
        move_id = self._mover(target).begin(shard, target)
        self._tell(self.database.process, "move", f"shard {shard} to {target}", "note")
        while not (stop.is_set() or self._stop.is_set()):
            self._carry(move_id)
            outcome = self._results.get(move_id)
            if isinstance(outcome, MoveResult):
                return told_move(outcome)
            if outcome is not None and self._has_ended(move_id):
                raise outcome
            if (progress := self._progress.get(move_id)) is not None:
                say(progress_line(progress))
            time.sleep(_POLL_S)
        raise Conflict(f"the move of shard {shard} is not waited for any more", hint="It goes on: headway db status")

    def check_source(self, shard: int) -> None:
        """Conflict where the app cannot be kept from what a move leaves behind: it would read old rows there."""
        owners = self.database.map_now().owners
        if not 0 <= shard < len(owners):
            return
        source = self.database.admin_of(owners[shard])
        if not source.is_apart:
            raise Conflict(
                f"shard {shard} cannot leave server {source.name}: the app logs in there as {source.role}, who "
                "owns the tables and whose rights nobody can take",
                hint=f"ALTER ROLE {source.role} CREATEROLE, then headway down and headway up: "
                "the app gets a role of its own.",
            )

    def abort(self, shard: int) -> dict[str, Any]:
        """Undo the move of a shard. Conflict past its commit point."""
        with connect(self._first) as catalog:
            found = [move for move in open_moves(catalog) if move.shard == shard]
        if not found:
            raise HeadwayError(f"shard {shard} of database {self.name} is not moving", hint="headway db status")
        self._mover(found[0].source, found[0].target).abort(found[0].id)
        self._tell(self.database.process, "move aborted", f"shard {shard} stays on {found[0].source}", "note")
        return {"shard": shard, "on": found[0].source}

    def status(self) -> dict[str, Any]:
        """The map, and what is under way."""
        with connect(self._first) as catalog:
            map_ = read_map(catalog)
            moves = open_moves(catalog)
        up = {name for name, state, _ in self.database.served if state == "ready"}
        counted = self._sizes(map_, up)
        return {
            "shards": map_.shards,
            "epoch": map_.epoch,
            "declared": self.database.wanted.shards,
            "keys": {table: {"column": key.column, "type": key.kind} for table, key in map_.keys.items()},
            "servers": [
                {
                    "name": name,
                    "state": state,
                    "url": url or (map_.servers[name].url if name in map_.servers else ""),
                    "shards": list(map_.on(name)),
                    "rows": counted[name][0] if name in counted else None,
                    "bytes": counted[name][1] if name in counted else None,
                }
                for name, state, url in self.database.served
            ],
            "moves": [
                {
                    "shard": move.shard,
                    "from": move.source,
                    "to": move.target,
                    "stage": move.stage,
                    "told": progress_line(progress) if (progress := self._progress.get(move.id)) else "",
                }
                for move in moves
            ],
            "import": self.imports.status(),
            "split": self.splits.status(),
            "restore": self.restores.status(),
        }

    def _sizes(self, map_: ShardMap, up: set[str]) -> dict[str, tuple[int, int]]:
        """Rows and bytes of the servers that answer: one that is away must not hide the others."""
        found = {}
        for name in up:
            with contextlib.suppress(HeadwayError, psycopg.Error):
                by_shard = sizes(self.name, map_, (self.database.admin_of(name),))
                found[name] = (sum(rows for rows, _ in by_shard.values()), sum(size for _, size in by_shard.values()))
        return found

    def verify(self) -> dict[str, Any]:
        """Hold the servers against the map."""
        with connect(self._first) as catalog:
            map_ = read_map(catalog)
            moving = frozenset(move.shard for move in open_moves(catalog))
        if (split := self.splits.now()) is not None:
            moving |= frozenset(range(2 * split.shards))
        held = look_at_all(self.name, self.database.reached())
        # What is at work has left nothing over.
        ours = [word for word, now in ((_OF_IMPORTS, self.imports.now()), (_OF_SPLITS, split)) if now is not None]
        held = {name: replace(one, leftovers=_of_others(one.leftovers, ours)) for name, one in held.items()}
        found = compare(map_.owners, held, moving)
        if map_.restoring:
            told = f"the shards are being filled from the backup in {map_.restoring}"
            found = replace(found, complete=False, missing=(told, *found.missing))
        return asdict(found)

    def plan(
        self, empty: tuple[str, ...] = (), by: By = "rows", over_s: float = 0.0
    ) -> tuple[tuple[PlannedMove, ...], Weighed]:
        """Moves that would spread what shards hold, what is read and written in them, or both; and what was weighed.

        Of a server that is away shards stay where they are, and none goes there.
        """
        with connect(self._first) as catalog:
            map_ = read_map(catalog)
        names, away = list(self.database.servers), self.database.away_now()
        if unknown := sorted(set(empty) - set(names)):
            raise HeadwayError(
                f"database {self.name} has no server {unknown[0]}", hint=f"Its servers are {', '.join(names)}."
            )
        if stuck := sorted(away.keys() & set(empty)):
            raise EngineError(
                f"server {stuck[0]} is {away[stuck[0]]}: its shards cannot be moved while it does not answer",
                hint="headway status; headway logs",
            )
        servers = [self.database.admin_of(name) for name in names if name not in away]
        if set(empty) >= {server.name for server in servers}:
            others = ", ".join(f"{name} is {state}" for name, state in away.items())
            raise HeadwayError(
                f"every server that answers would be emptied: {others}" if away else "every server would be emptied",
                hint="Wait until that server answers again." if away else "Add another one first.",
            )
        weighed = weigh(self.name, map_, servers, self._stop, by, over_s, away)
        planned = plan_by(by, map_.owners, weighed.bytes, weighed.per_s, [server.name for server in servers], empty)
        return planned, weighed

    def rebalance(self, steps: Sequence[tuple[int, str, str]], say: Say, stop: threading.Event) -> dict[str, Any]:
        """Carry out what was planned, move after move; a shard that has moved elsewhere meanwhile is left there."""
        moves = []
        for number, (shard, source, target) in enumerate(steps, 1):
            owners = self.database.map_now().owners
            if not 0 <= shard < len(owners) or owners[shard] != source:
                say(f"{number} of {len(steps)}: shard {shard} is not on {source} any more")
                continue
            say(f"{number} of {len(steps)}: shard {shard}, {source} → {target}")
            moves.append(self.move(shard, target, say, stop))
        return {"moves": moves}

    def migrate(self, asked: Asked, say: Say) -> dict[str, Any]:
        """Bring all shards up to the migrations of a folder; by default to those that are declared."""
        wanted, tool = self.database.wanted, self.database.tool()
        declared = DeclaredMigrations(self.name, wanted.migrations, tool, dict(wanted.keys), wanted.reference)
        refuse_none(declared, asked)
        if not asked.dry_run:
            self.imports.refuse_others("the migration")
        done = bring_up(declared, self.database.admin(), asked, say)
        if tool is not None and asked.folder is None and not asked.dry_run and asked.stamp is None:
            self._take_up(declared.keys)
        if done.applied and not asked.dry_run:
            self._tell(self.database.process, asked.done, ", ".join(done.applied), "note")
        return document(done, asked)

    def _take_up(self, keys: Mapping[str, str]) -> None:
        """Tables that were declared before a migration has made them are tables of this database from now on."""
        if self.database.map_now().keys.keys() == keys.keys():
            return
        map_ = self.database.take_up()
        if (problem := lost(keys, frozenset(map_.keys))) is not None:
            raise AppError(f"databases.{self.name}.{problem.path}: {problem.message}", hint=problem.hint)

    @property
    def _first(self) -> AdminServer:
        return self.database.first

    def _mover(self, *needed: str) -> Mover:
        """Who moves shards. EngineError while one of the servers that are needed for it has never been reached."""
        for name in needed:
            if name in self.database.servers:
                self.database.admin_of(name)
        servers = self.database.reached()
        return Mover(
            self.name,
            self._first.admin,
            {s.name: MoveServer(s.name, s.admin, s.replication, s.role) for s in servers},
            progress=self._note,
            stop=self._stop,
        )

    def _note(self, progress: MoveProgress) -> None:
        self._progress[progress.move_id] = progress


def _of_others(leftovers: tuple[str, ...], ours: Sequence[str]) -> tuple[str, ...]:
    return tuple(one for one in leftovers if not any(word in one for word in ours))


def told_move(result: MoveResult) -> dict[str, Any]:
    """A move for programs."""
    return {
        "shard": result.shard,
        "from": result.source,
        "to": result.target,
        "rows": result.rows,
        "copy_s": round(result.copy_s, 3),
        "write_pause_ms": round(result.write_pause_ms, 1),
        "verified": result.verified,
        "epoch": result.epoch,
    }


def progress_line(progress: MoveProgress) -> str:
    """Where a move is, in a line."""
    line = f"shard {progress.shard}: {progress.stage}"
    if progress.stage == "replicating" and progress.rows_total:
        line += f", {progress.rows:,} of about {progress.rows_total:,} rows"
        if progress.rows_per_s:
            line += f", {progress.rows_per_s:,.0f} rows/s"
        if progress.left_s is not None:
            line += f", {progress.left_s:.0f} s left"
    if progress.waiting:
        line += f"; {progress.waiting}"
        line += f" ({progress.hint})" if progress.hint else ""
    return line
