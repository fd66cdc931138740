"""Carries the split of one sharded database while the controller lives, and answers those who ask for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from headway.errors import Conflict, HeadwayError
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.admin import connect
from headway.sharding.split.nouns import ENDED, Split, SplitProgress, SplitResult
from headway.sharding.split.record import open_split, read_split
from headway.sharding.split.splitter import Splitter

_AGAIN_S = 5.0
_POLL_S = 0.05

Say = Callable[[str], None]
Tell = Callable[[str, str, str, str], None]


class Splits:
    """The splits of one database, one at a time."""

    def __init__(self, database: ShardedDatabase, tell: Tell, stop: threading.Event) -> None:
        self._database = database
        self._name = database.wanted.name
        self._tell = tell
        self._stop = stop
        self._progress: SplitProgress | None = None
        self._results: dict[int, SplitResult | HeadwayError] = {}
        self._carrier: threading.Thread | None = None
        self._not_before_s = 0.0
        self._lock = threading.Lock()

    def _splitter(self) -> Splitter:
        return Splitter(self._name, self._database.admin(), progress=self._note, stop=self._stop)

    def _note(self, progress: SplitProgress) -> None:
        self._progress = progress

    # -- by itself ----------------------------------------------------------------------------------------------------

    def now(self) -> Split | None:
        """The split that is under way."""
        with connect(self._database.first) as catalog:
            return open_split(catalog)

    def carry(self) -> None:
        """Have a thread work on what is under way, unless one does."""
        if (found := self.now()) is not None:
            self._carry(found.id)

    def _carry(self, split_id: int) -> None:
        with self._lock:
            if self._carrier is not None and self._carrier.is_alive():
                return
            if time.monotonic() < self._not_before_s:
                return
            self._carrier = threading.Thread(
                target=self._resume, args=(split_id,), name=f"headway-split-{self._name}", daemon=True
            )
            self._carrier.start()

    def _resume(self, split_id: int) -> None:
        about = self._database.process
        try:
            result = self._splitter().resume(split_id)
        except HeadwayError as error:
            ended = self._has_ended(split_id)
            self._not_before_s = time.monotonic() + _AGAIN_S
            if ended or not isinstance(error, Conflict):
                self._results[split_id] = error
                self._tell(about, "split failed" if ended else "split waits", error.message, "warning")
            return
        except psycopg.Error as error:  # the catalog went away in the middle
            self._not_before_s = time.monotonic() + _AGAIN_S
            self._tell(about, "split waits", str(error).strip(), "warning")
            return
        if result.stage == "done":
            if split_id not in self._results:
                self._tell(about, "split", f"{result.shards} shards, {result.rows:,} rows are on new ones", "note")
            self._results[split_id] = result

    def _has_ended(self, split_id: int) -> bool:
        with contextlib.suppress(HeadwayError, psycopg.Error), connect(self._database.first) as catalog:
            return read_split(catalog, split_id).stage in ENDED
        return False

    # -- asked for ----------------------------------------------------------------------------------------------------

    def split(self, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Double the shards and wait for the end."""
        split_id = self._splitter().begin()
        self._tell(self._database.process, "split", f"{self._database.map_now().shards} shards are doubled", "note")
        while not (stop.is_set() or self._stop.is_set()):
            self._carry(split_id)
            outcome = self._results.get(split_id)
            if isinstance(outcome, SplitResult):
                line = f"shards = {outcome.shards}"
                return {"shards": outcome.shards, "rows": outcome.rows, "epoch": outcome.epoch, "write": line}
            if outcome is not None and self._has_ended(split_id):
                raise outcome
            if (progress := self._progress) is not None and progress.split_id == split_id:
                say(progress.line)
            time.sleep(_POLL_S)
        raise Conflict("the split is not waited for any more", hint="It goes on: headway db status")

    def abort(self) -> dict[str, Any]:
        """Undo the split that is under way. Conflict past its commit point."""
        if (split := self.now()) is None:
            raise HeadwayError(f"database {self._name} is not being split", hint="headway db status")
        self._splitter().abort(split.id)
        self._tell(self._database.process, "split aborted", f"there are {split.shards} shards, as before", "note")
        return {"shards": split.shards}

    def status(self) -> dict[str, str] | None:
        """The split that is under way, for people and programs."""
        if (split := self.now()) is None:
            return None
        progress = self._progress
        is_known = progress is not None and progress.split_id == split.id
        return {"stage": split.stage, "told": progress.line if progress is not None and is_known else ""}
