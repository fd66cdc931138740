"""Carries the restore of one sharded database while the controller lives, and answers those who ask for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from headway.control.tasks import Say
from headway.errors import Conflict, HeadwayError
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.admin import connect
from headway.sharding.backup.record import ENDED, Restore, open_restore, read_restore
from headway.sharding.backup.restore import Restorer

_AGAIN_S = 3.0
_POLL_S = 0.05

Tell = Callable[[str, str, str, str], None]


class Restores:
    """The restores of one database, one at a time."""

    def __init__(self, database: ShardedDatabase, tell: Tell, stop: threading.Event) -> None:
        self._database = database
        self._name = database.wanted.name
        self._tell = tell
        self._stop = stop
        self._line = ""
        self._error: tuple[int, HeadwayError] | None = None
        self._carrier: threading.Thread | None = None
        self._restorer: Restorer | None = None
        self._not_before_s = 0.0
        self._lock = threading.Lock()

    def _new(self, say: Say) -> Restorer:
        database = self._database
        return Restorer(self._name, database.admin(), database.lay_out_restored, say=say, stop=self._stop)

    def _note(self, line: str) -> None:
        self._line = line

    # -- by itself ----------------------------------------------------------------------------------------------------

    def now(self) -> Restore | None:
        """The restore that is under way."""
        with connect(self._database.first) as catalog:
            return open_restore(catalog)

    def carry(self) -> None:
        """Have a thread work on what is under way, unless one does."""
        if (found := self.now()) is None:
            return
        with self._lock:
            if self._carrier is not None and self._carrier.is_alive():
                return
            if time.monotonic() < self._not_before_s:
                return
            self._restorer = self._new(self._note)
            self._carrier = threading.Thread(
                target=self._resume,
                args=(self._restorer, found),
                name=f"headway-restore-{self._name}",
                daemon=True,
            )
            self._carrier.start()

    def _resume(self, restorer: Restorer, found: Restore) -> None:
        about = self._database.process
        try:
            ended = restorer.resume(found.id)
        except (HeadwayError, psycopg.Error) as problem:
            error = problem if isinstance(problem, HeadwayError) else HeadwayError(str(problem).strip())
            self._not_before_s = time.monotonic() + _AGAIN_S
            if self._error is None or self._error[1].message != error.message:
                what = "restore failed" if self._has_ended(found.id) else "restore waits"
                self._tell(about, what, error.message, "warning")
            self._error, self._line = (found.id, error), f"trying again: {error.message}"
            return
        if ended.stage != "done":
            self._not_before_s = time.monotonic() + _AGAIN_S
            return
        told = f"from {ended.folder}, {int(ended.number('rows')):,} rows, closed for {ended.number('closed_s'):.1f} s"
        self._tell(about, "restored", told, "note")

    def _has_ended(self, restore_id: int) -> bool:
        with contextlib.suppress(HeadwayError, psycopg.Error):
            return self._read(restore_id).stage in ENDED
        return False

    def _read(self, restore_id: int) -> Restore:
        with connect(self._database.first) as catalog:
            return read_restore(catalog, restore_id)

    # -- asked for ----------------------------------------------------------------------------------------------------

    def begin(self, folder: Path, replace: bool, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Restore a backup, and wait until the app is let in."""
        restore_id = self._new(say).begin(folder, replace=replace)
        self._error, self._line, self._not_before_s = None, "", 0.0
        self._tell(self._database.process, "restore", f"from {folder}", "note")
        found = self._wait(restore_id, say, stop)
        if found.stage == "undone":
            if self._carrier is not None:
                self._carrier.join(_AGAIN_S)  # who undid it says why a moment later
            if self._error is not None and self._error[0] == restore_id:
                raise self._error[1]
            hint = str(found.facts.get("hint", ""))
            raise HeadwayError(f"the restore was given up: {found.facts.get('abort')}", hint=hint)
        return {
            "database": self._name,
            "folder": found.folder,
            "shards": self._database.map_now().shards,
            "rows": int(found.number("rows")),
            "bytes": int(found.number("bytes")),
            "closed_s": found.number("closed_s"),
            "epoch": self._database.map_now().epoch,
        }

    def abort(self, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Undo the restore that is under way, and wait for it. Conflict past its commit point."""
        if (found := self.now()) is None:
            raise HeadwayError(f"database {self._name} is not being restored", hint="headway db status")
        self._new(say).abort(found.id)
        if self._restorer is not None:
            self._restorer.interrupted.set()
        self._not_before_s = 0.0
        self._wait(found.id, say, stop)
        return {"database": self._name, "folder": found.folder}

    def _wait(self, restore_id: int, say: Say, stop: threading.Event) -> Restore:
        while not (stop.is_set() or self._stop.is_set()):
            self.carry()
            found = self._read(restore_id)
            if found.stage in ("opened", *ENDED):
                return found
            if self._line:
                say(self._line)
            time.sleep(_POLL_S)
        raise Conflict("the restore is not waited for any more", hint="It goes on by itself: headway db status")

    def status(self) -> dict[str, str] | None:
        """The restore that is under way, for people and programs."""
        if (found := self.now()) is None:
            return None
        return {"folder": found.folder, "stage": found.stage, "told": self._line}
