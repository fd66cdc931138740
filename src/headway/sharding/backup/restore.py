"""Brings a backup into the shards of a database: what they hold is put aside, new ones are filled, the app is let in.

Until the app is let in, what the shards held is still there, and everything can be undone. A shard is filled in one
transaction, so that one that is there is whole; a restore that was killed goes on with those that are not.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from headway.errors import AppError, Conflict, EngineError, HeadwayError, MachineError
from headway.model.sharding import ShardMap, schema_name
from headway.model.units import format_bytes
from headway.process.pour import PouringStopped
from headway.sharding import layout
from headway.sharding.admin import AdminServer
from headway.sharding.backup.cut import RESTORE, kept_still, reached
from headway.sharding.backup.folder import check_file, open_backup
from headway.sharding.backup.manifest import REFERENCE_FILE, BackupFile, Manifest, by_shard, lacking, misfit
from headway.sharding.backup.programs import Refill
from headway.sharding.backup.record import (
    COMMITTED,
    ENDED,
    Restore,
    advance,
    insert_restore,
    let_in,
    open_restore,
    read_restore,
    want_abort,
)
from headway.sharding.backup.take import AT_ONCE_MAX, count_rows
from headway.sharding.carrying import StageChanged
from headway.sharding.catalog import read_map
from headway.sharding.engine import Engine, find_engines
from headway.sharding.existing import are_empty
from headway.sharding.move.sessions import Connection, end_sessions, scalar
from headway.sharding.survey import pattern

Say = Callable[[str], None]
NAME = "headway restoring"
_PSQL_NAME = "headway restore"
_BEFORE = "headway_before_"
_BEFORE_REFERENCE = f"{_BEFORE}reference"
_DROP_S = 30.0
_DROP_LOCK_MS = 500
_SCHEMAS = "SELECT nspname::text FROM pg_namespace WHERE nspname ~ %s ORDER BY 1"


class RestoreStopped(Exception):
    """It was to stop where it is, and goes on later."""


@dataclass
class _Work:
    """What the steps share."""

    catalog: Connection
    restore: Restore
    manifest: Manifest | None


class Restorer:
    """Restores of one sharded database; every method blocks its thread."""

    def __init__(
        self,
        database: str,
        servers: Sequence[AdminServer],
        lay_out: Callable[[], object],
        *,
        say: Say,
        stop: threading.Event,
    ) -> None:
        self._database = database
        self._servers = servers
        self._lay_out = lay_out
        self._say = say
        self._stop = stop
        self.interrupted = threading.Event()

    # -- asked for ----------------------------------------------------------------------------------------------------

    def begin(self, folder: Path, *, replace: bool) -> int:
        """Check all that can be checked, and record the restore; from then on the app is kept out.

        AppError for a backup that is damaged or does not fit; Conflict for a database that holds rows.
        """
        manifest = checked(folder, self._say, self._stop.is_set)
        _restore_program(manifest)
        with kept_still(self._database, self._servers[0], RESTORE, NAME) as catalog:
            running = open_restore(catalog)
            if running is not None and running.stage not in COMMITTED:
                if running.backup == manifest.id and not running.abort_wanted:
                    return running.id
                raise Conflict(
                    f"{self._database} is being restored from {running.folder}",
                    hint=f"It goes on by itself: headway db status; or headway db restore {self._database} --abort",
                )
            if running is not None:
                self._carry_on(_Work(catalog, running, None))
                if open_restore(catalog) is not None:
                    raise Conflict(
                        "what the last restore has put aside is still being read", hint="Run the command again."
                    )
            map_ = read_map(catalog)
            if error := misfit(manifest, self._database, map_):
                raise error
            if not replace and not are_empty(self._database, self._servers, map_.owners, map_.keys):
                raise Conflict(
                    f"{self._database} holds rows", hint="--replace puts the backup in their place; they are lost then."
                )
            self._check_room(manifest, map_)
            return insert_restore(
                catalog, manifest.id, str(folder), rows=manifest.rows or 0, bytes=manifest.bytes, began_s=time.time()
            )

    def resume(self, restore_id: int) -> Restore:
        """Carry it to its end, or as far as it goes until `stop` is set. HeadwayError when it was given up: then all is
        as before, unless it says otherwise."""
        with kept_still(self._database, self._servers[0], RESTORE, NAME) as catalog:
            work = _Work(catalog, read_restore(catalog, restore_id), None)
            try:
                self._carry_on(work)
            except (RestoreStopped, PouringStopped):
                return work.restore
            if work.restore.stage == "undone":
                raise AppError(
                    f"the restore was given up, and {self._database} is as before: {work.restore.facts.get('abort')}",
                    hint=str(work.restore.facts.get("hint", "")),
                )
            return work.restore

    def abort(self, restore_id: int) -> None:
        """Mark it as unwanted; `resume` undoes it. Conflict past the commit point."""
        with reached(self._servers[0], NAME) as catalog:
            want_abort(catalog, read_restore(catalog, restore_id), "it was aborted by hand")

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _carry_on(self, work: _Work) -> None:
        while work.restore.stage not in ENDED:
            if self._stop.is_set():
                raise RestoreStopped
            before = work.restore
            try:
                if work.restore.abort_wanted and work.restore.stage not in (*COMMITTED, "undoing"):
                    work.restore = advance(work.catalog, work.restore, "undoing")
                self._step(work)
            except PouringStopped:
                if self._stop.is_set():
                    raise
                self.interrupted.clear()  # somebody wants it given up
                work.restore = read_restore(work.catalog, work.restore.id)
            except StageChanged:
                work.restore = read_restore(work.catalog, work.restore.id)
            except (HeadwayError, psycopg.Error) as error:
                if work.restore.stage in (*COMMITTED, "undoing"):
                    raise
                message = error.message if isinstance(error, HeadwayError) else str(error).strip()
                hint = error.hint if isinstance(error, HeadwayError) else ""
                if isinstance(error, EngineError):  # a server that is away comes back; it is not the backup's fault
                    raise
                work.restore = want_abort(work.catalog, work.restore, message, hint)
            if before == work.restore:
                return  # nothing more can be done now

    def _step(self, work: _Work) -> None:
        stage = work.restore.stage
        if stage == "begun":
            self._each(self._put_aside)
            work.restore = advance(work.catalog, work.restore, "aside")
        elif stage == "aside":
            manifest = open_backup(Path(work.restore.folder))
            if manifest.id != work.restore.backup:
                raise AppError(
                    f"{work.restore.folder} is another backup than when the restore began", hint="Bring it back."
                )
            self._fill(work, manifest)
            work.restore = advance(work.catalog, work.restore, "filled")
        elif stage == "filled":
            self._lay_out()
            closed_s = time.time() - work.restore.number("began_s")
            work.restore = let_in(work.catalog, work.restore, "opened", closed_s=round(closed_s, 3))
        elif stage == "opened":
            if all(self._each(self._drop_before)):
                work.restore = advance(work.catalog, work.restore, "done")
        elif stage == "undoing":
            self._each(self._bring_back)
            work.restore = let_in(work.catalog, work.restore, "undone")

    def _each(self, work: Callable[[Connection], Any]) -> list[Any]:
        """The same on all servers at once; the first error, when all have ended."""

        def one(server: AdminServer) -> Any:
            with reached(server, NAME) as connection:
                end_sessions(connection, _PSQL_NAME)  # what a killed one left at work
                return work(connection)

        with ThreadPoolExecutor(max(1, len(self._servers)), "headway-restore") as pool:
            return [future.result() for future in [pool.submit(one, server) for server in self._servers]]

    def _schemas(self, connection: Connection) -> list[str]:
        return [str(row[0]) for row in connection.execute(_SCHEMAS, (pattern(self._database),))]

    def _put_aside(self, connection: Connection) -> None:
        with connection.transaction():
            for schema in self._schemas(connection):
                _rename(connection, schema, f"{_BEFORE}{layout.shard_number(self._database, schema):04d}")
            if _is_there(connection, layout.REFERENCE_SCHEMA):
                _rename(connection, layout.REFERENCE_SCHEMA, _BEFORE_REFERENCE)

    def _bring_back(self, connection: Connection) -> None:
        aside = [str(row[0]) for row in connection.execute(_SCHEMAS, (f"^{_BEFORE}[0-9]{{4}}$",))]
        for name in aside:
            schema = schema_name(self._database, int(name.removeprefix(_BEFORE)))
            with connection.transaction():
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
                _rename(connection, name, schema)
        if _is_there(connection, _BEFORE_REFERENCE):
            with connection.transaction():
                place = sql.Identifier(layout.REFERENCE_SCHEMA)
                connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(place))
                _rename(connection, _BEFORE_REFERENCE, layout.REFERENCE_SCHEMA)

    def _drop_before(self, connection: Connection) -> bool:
        """Whether all of it is gone: a reader of old may hold it up for a while."""
        deadline_s = time.monotonic() + _DROP_S
        for pattern_ in (f"^{_BEFORE}[0-9]{{4}}$", f"^{_BEFORE_REFERENCE}$"):
            for (name,) in connection.execute(_SCHEMAS, (pattern_,)).fetchall():
                while True:
                    with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                        connection.execute(f"SET LOCAL lock_timeout = {_DROP_LOCK_MS}")
                        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(str(name))))
                        break
                    if time.monotonic() > deadline_s or self._stop.wait(0.1):
                        return False
        return True

    def _fill(self, work: _Work, manifest: Manifest) -> None:
        """Every shard on the server that the map has it on: not where it was when it was backed up."""
        map_ = read_map(work.catalog)
        program, folder = _restore_program(manifest), Path(work.restore.folder)
        files = by_shard(manifest.files)
        reference = next(file for file in manifest.files if file.name == REFERENCE_FILE)
        failing = threading.Event()
        told = _Told(self._say, len(self._servers) + map_.shards)

        def is_over() -> bool:
            return self._stop.is_set() or failing.is_set() or self.interrupted.is_set()

        def one(server: AdminServer, schema: str, file: BackupFile) -> None:
            if is_over():
                raise PouringStopped
            try:
                self._fill_one(server, schema, folder / file.name, file, program, is_over)
            except BaseException:
                failing.set()
                raise
            told.more(file.bytes)

        with contextlib.ExitStack() as stack:
            pools = {s.name: stack.enter_context(ThreadPoolExecutor(AT_ONCE_MAX)) for s in self._servers}
            # Shards refer to them, so they come first.
            jobs = [pools[s.name].submit(one, s, layout.REFERENCE_SCHEMA, reference) for s in self._servers]
            _all(jobs)
            by_name = {server.name: server for server in self._servers}
            jobs = [
                pools[owner].submit(one, by_name[owner], schema_name(self._database, shard), files[shard])
                for shard, owner in enumerate(map_.owners)
            ]
            _all(jobs)

    def _fill_one(
        self,
        server: AdminServer,
        schema: str,
        path: Path,
        file: BackupFile,
        program: Engine,
        stop: Callable[[], bool],
    ) -> None:
        where = f"server {server.name}: {schema}"
        with reached(server, NAME) as connection:
            if not _is_there(connection, schema):
                old = connection.info.server_version < 170000
                refill = Refill(where, server.admin, program, name=_PSQL_NAME, old_server=old, stop=stop)
                with refill:
                    refill.archive(str(path))
                    refill.done()
            if file.rows is not None and (found := count_rows(connection, schema)) != file.rows:
                raise AppError(
                    f"{where} has {found:,} rows, and {file.rows:,} were backed up", hint="Take another backup."
                )

    def _check_room(self, manifest: Manifest, map_: ShardMap) -> None:
        """On servers of ours that there is room for the backup beside what is there. MachineError when there is not."""
        sizes = {shard: file.size_bytes for shard, file in by_shard(manifest.files).items()}
        needed: dict[int, int] = {}
        free: dict[int, tuple[int, str]] = {}
        for server in self._servers:
            if not server.is_ours:
                continue
            with reached(server, NAME) as connection:
                folder = str(scalar(connection, "SHOW data_directory"))
            with contextlib.suppress(OSError):
                disk, room = os.stat(folder).st_dev, os.statvfs(folder)
                needed[disk] = needed.get(disk, 0) + sum(sizes.get(shard, 0) for shard in map_.on(server.name))
                free[disk] = (room.f_bavail * room.f_frsize, folder)
        for disk, (left, folder) in free.items():
            if needed[disk] > left:
                raise MachineError(
                    f"the disk of {folder} has {format_bytes(left)} left, and the backup takes about "
                    f"{format_bytes(needed[disk])}",
                    hint="Make room; what is there now stays until the backup is whole.",
                )


@dataclass
class _Told:
    """How far it is, for a person."""

    say: Say
    of: int
    done: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self._lock, self._next_s = threading.Lock(), 0.0

    def more(self, count: int) -> None:
        with self._lock:
            self.done += 1
            self.bytes += count
            if self.done == self.of or time.monotonic() > self._next_s:
                self._next_s = time.monotonic() + 1.0
                self.say(f"{self.done} of {self.of} dumps are back, {format_bytes(self.bytes)}")


def checked(folder: Path, say: Say, stop: Callable[[], bool]) -> Manifest:
    """The manifest of a backup whose files are all there and as they were written. AppError names the first one that
    is not."""
    manifest = open_backup(folder)
    if gone := lacking(manifest):
        raise AppError(f"{folder} does not name {gone[0]}", hint="Take another backup.")
    say(f"checking {len(manifest.files)} files, {format_bytes(manifest.bytes)}")
    for file in manifest.files:
        check_file(folder, file, stop)
        if stop():
            raise Conflict("the restore has not begun: Headway stops", hint="Run it again: headway up")
    return manifest


def _restore_program(manifest: Manifest) -> Engine:
    return restore_program(manifest.dumped_by)


def restore_program(dumped_by: int) -> Engine:
    """A PostgreSQL whose pg_restore reads what a pg_dump of that major version has written. EngineError: none here."""
    needed = ("pg_restore", "psql")
    found = [one for one in find_engines() if all(os.access(one.program(name), os.X_OK) for name in needed)]
    usable = sorted((one for one in found if one.major >= dumped_by), key=lambda one: one.major)
    if not usable:
        have = ", ".join(str(one.major) for one in found) or "none"
        raise EngineError(
            f"the backup needs the pg_restore of PostgreSQL {dumped_by} or newer (found: {have})",
            hint=f"Install it: apt install postgresql-client-{dumped_by}",
        )
    return usable[0]


def _all(jobs: Sequence[Any]) -> None:
    """Wait for all; the first error that says something, when one fails."""
    wait(jobs, return_when=FIRST_EXCEPTION)
    errors = [error for job in jobs if job.done() and not job.cancelled() and (error := job.exception()) is not None]
    if errors:
        for job in jobs:
            job.cancel()
        raise next((error for error in errors if not isinstance(error, PouringStopped)), errors[0])


def _is_there(connection: Connection, schema: str) -> bool:
    return bool(scalar(connection, "SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", (schema,)))


def _rename(connection: Connection, before: str, after: str) -> None:
    connection.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(sql.Identifier(before), sql.Identifier(after)))
