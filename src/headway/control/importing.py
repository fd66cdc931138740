"""Carries the import of one sharded database while the controller lives, and answers those who ask for it.

The record is in the catalog; what it must not hold, a URL with its password, is in a file of the state folder that
nobody else can read, until the import ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from headway.errors import Conflict, EngineError, HeadwayError
from headway.model.sharding import parse_join
from headway.model.units import format_bytes
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.admin import connect
from headway.sharding.catalog import held
from headway.sharding.importing.importer import Checked, Importer
from headway.sharding.importing.nouns import ENDED, Import, ImportProgress, ImportServer, Source
from headway.sharding.importing.record import open_import
from headway.sharding.url import parse_url, without_password

_AGAIN_S = 5.0
_POLL_S = 0.05

Say = Callable[[str], None]
Tell = Callable[[str, str, str, str], None]
# A declared plain database that is up, by its name: how Headway gets to it. HeadwayError says why not.
Declared = Callable[[str], Source]


class Imports:
    """The imports of one database, one at a time."""

    def __init__(self, database: ShardedDatabase, tell: Tell, declared: Declared, stop: threading.Event) -> None:
        self._database = database
        self._name = database.wanted.name
        self._tell = tell
        self._declared = declared
        self._stop = stop
        self._progress: ImportProgress | None = None
        self._error: tuple[int, HeadwayError] | None = None
        self._carrier: threading.Thread | None = None
        self._not_before_s = 0.0
        self._lock = threading.Lock()

    @property
    def _file(self) -> Path:
        return self._database.folders.state / f"import-{self._name}.url"

    def _importer(self) -> Importer:
        wanted = self._database.wanted
        joins = {table: join for table, text in wanted.joins if (join := parse_join(text)) is not None}
        return Importer(
            self._name,
            self._database.first.admin,
            [ImportServer(server.name, server.admin) for server in self._database.admin()],
            reference=wanted.reference,
            joins=joins,
            progress=self._note,
            stop=self._stop,
        )

    def _note(self, progress: ImportProgress) -> None:
        self._progress = progress

    # -- by itself ----------------------------------------------------------------------------------------------------

    def now(self) -> Import | None:
        """The import that is under way."""
        with connect(self._database.first) as catalog:
            return open_import(catalog)

    def carry(self) -> None:
        """Have a thread work on what is under way, unless one does."""
        found = self.now()
        with self._lock:
            if found is None or time.monotonic() < self._not_before_s:
                return
            if self._carrier is not None and self._carrier.is_alive():
                return
            self._carrier = threading.Thread(
                target=self._resume, args=(found,), name=f"headway-import-{self._name}", daemon=True
            )
            self._carrier.start()  # here: one that is not alive yet would be taken for one that has ended

    def _resume(self, found: Import) -> None:
        about = self._database.process
        try:
            ended = self._importer().resume(found.id, self._source_of(found))
        except (HeadwayError, psycopg.Error) as problem:
            error = problem if isinstance(problem, HeadwayError) else EngineError(str(problem).strip())
            self._not_before_s = time.monotonic() + _AGAIN_S
            if isinstance(error, Conflict):
                return
            if self._error is None or self._error[1].message != error.message:
                self._tell(about, "import failed", error.message, "warning")
            self._error = (found.id, error)
            if self._has_ended(found.id):
                self._file.unlink(missing_ok=True)
            return
        if ended.stage in ENDED:
            self._file.unlink(missing_ok=True)
            pause_ms = ended.number("write_pause_ms")
            told = f"from {ended.source}, {int(ended.number('rows')):,} rows, writes stood still for {pause_ms:.0f} ms"
            if self._database.wanted.import_from is not None:
                told += f"; import_from can be taken out of [databases.{self._name}]"
            self._tell(about, "imported", told, "note")

    def _has_ended(self, import_id: int) -> bool:
        with contextlib.suppress(HeadwayError, psycopg.Error):
            return self._importer().read(import_id).stage in ENDED
        return False

    def last_source(self) -> Source | None:
        """Where the last import came from, as far as that is a declared database that is up. Of a source by URL nothing
        is kept after the end."""
        with connect(self._database.first) as catalog:
            row = catalog.execute("SELECT source FROM headway.imports ORDER BY id DESC LIMIT 1").fetchone()
        name = str(row[0]) if row is not None else (self._database.wanted.import_from or "")
        if not name or "://" in name:
            return None
        with contextlib.suppress(HeadwayError):
            return self._declared(name)
        return None

    def _source_of(self, found: Import) -> Source | None:
        """The source of a recorded import; None when its URL is not known any more."""
        if "://" not in found.source:
            return self._declared(found.source)
        try:
            url = self._file.read_text()
        except OSError:
            return None
        return Source(found.source, url, url)

    # -- asked for ----------------------------------------------------------------------------------------------------

    def begin(self, given: str, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Import from a declared database or a URL, and wait until the shards follow it."""
        if "://" in given:
            parse_url(given, path="--from", source="the command")
            source = Source(without_password(given), given, given)
        else:
            source = self._declared(given)
        declared = self._database.wanted.import_from
        if declared is not None and source.shown != declared and self._database.map_now().at_source:
            raise Conflict(
                f"{self._name} has its rows in {declared}, by import_from",
                hint=f"headway db import {self._name} --from {declared}, or take import_from out.",
            )
        alone: list[str] = []
        running = self.now()
        if running is not None and running.source == source.shown:
            import_id = running.id  # the same command again waits for it; a URL may have been lost
            self._keep(given)
        else:
            import_id, checked = self._importer().begin(source)
            self._keep(given)
            alone = _told(checked, say)
            self._tell(self._database.process, "import", f"from {source.shown}", "note")
        found = self._wait(import_id, say, stop, lambda one: one.stage in ("verified", *ENDED))
        return {**_document(found), "left_alone": alone}

    def _keep(self, given: str) -> None:
        if "://" not in given:
            return
        fresh = self._file.with_suffix(".new")
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(given)
        fresh.replace(self._file)

    def switch(self, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Let the shards take over, and wait for it. Conflict when this is not the moment: nothing has changed then."""
        asked = self._importer().switch()
        number = int(asked.number("switch"))
        found = self._wait(
            asked.id, say, stop, lambda one: one.stage in ENDED or one.number("switch_answered") >= number
        )
        if found.stage not in ENDED:
            raise Conflict(
                f"the switch was given up, and the app writes on at the source: {found.facts.get('refused', '')}",
                hint="The import goes on; switch again when less is written: "
                f"headway db import {self._database.wanted.name} --switch",
            )
        return {**_document(found), "epoch": self._database.map_now().epoch}

    def abort(self, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Undo the import. Conflict past the commit point."""
        asked = self._importer().abort()
        self._not_before_s = 0.0
        found = self._wait(asked.id, say, stop, lambda one: one.stage in ENDED, failing=False)
        self._file.unlink(missing_ok=True)
        return _document(found)

    def _wait(
        self, import_id: int, say: Say, stop: threading.Event, enough: Callable[[Import], bool], failing: bool = True
    ) -> Import:
        """Until the record is so; the import's own error when it was given up."""
        while not (stop.is_set() or self._stop.is_set()):
            self.carry()
            found = self._importer().read(import_id)
            if found.stage == "aborted" and failing:
                error = self._error
                if error is not None and error[0] == import_id:
                    raise error[1]
                raise HeadwayError(
                    f"the import was given up: {found.abort_wanted}", hint=str(found.facts.get("hint", ""))
                )
            if enough(found):
                return found
            if (progress := self._progress) is not None and progress.import_id == import_id:
                say(progress_line(progress))
            time.sleep(_POLL_S)
        raise Conflict("the import is not waited for any more", hint="It goes on by itself: headway db status")

    def status(self) -> dict[str, Any] | None:
        """What is under way, for `db status`."""
        found = self.now()
        if found is None:
            return None
        progress = self._progress
        is_told = progress is not None and progress.import_id == found.id  # not yet by a controller that has just come
        line = progress_line(progress) if progress and is_told else f"from {found.source}: {found.stage}"
        return {**_document(found), "told": line}

    def refuse_others(self, what: str) -> None:
        """Conflict while an import or a restore is under way, which rely on shards that stay as they are."""
        if self._database.map_now().restoring:
            raise held(what)
        if (found := self.now()) is not None:
            raise Conflict(
                f"{what} has to wait: {self._name} is being imported from {found.source}",
                hint=f"headway db import {self._name} --switch ends it, --abort undoes it.",
            )


def _told(checked: Checked, say: Say) -> list[str]:
    names = ", ".join(table.name for table in checked.plan.tables)
    say(f"importing {names}: about {checked.rows:,} rows")
    if checked.left_alone:
        say(f"left alone, for they are not declared: {', '.join(checked.left_alone)}")
    for note in checked.notes:
        say(note)
    return list(checked.left_alone)


def _document(found: Import) -> dict[str, Any]:
    """An import for programs."""
    return {
        "source": found.source,
        "stage": found.stage,
        "rows": int(found.number("rows")),
        "copy_s": found.number("copy_s"),
        "fill_s": found.number("fill_s"),
        "write_pause_ms": round(found.number("write_pause_ms"), 1),
        "verified": found.stage in ("verified", "switching", "switched", "opened", "done"),
    }


def progress_line(progress: ImportProgress) -> str:
    """Where an import is, in a line."""
    line = f"from {progress.source}: {progress.stage}"
    if progress.stage in ("replicating", "copied", "filled") and progress.rows_total:
        line += f", {progress.rows:,} of about {progress.rows_total:,} rows"
        if progress.rows_per_s:
            line += f", {progress.rows_per_s:,.0f} rows/s"
        if progress.left_s is not None:
            line += f", {progress.left_s:.0f} s left"
    if progress.kept_bytes > 2**20:
        line += f", the source keeps {format_bytes(progress.kept_bytes)} of log"
    if progress.waiting:
        line += f"; {progress.waiting}"
        line += f" ({progress.hint})" if progress.hint else ""
    return line
