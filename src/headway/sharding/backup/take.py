"""Takes a backup while the app works: the cut, then the dumps, a few at once on each server, then the manifest."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from headway import __version__
from headway.errors import Conflict, EngineError
from headway.model.sharding import schema_name
from headway.model.units import format_bytes
from headway.process.pour import PouringStopped
from headway.sharding import layout
from headway.sharding.admin import AdminServer
from headway.sharding.backup.cut import Cut, failed, kept_from_migrations, kept_still, reached, take_cut
from headway.sharding.backup.folder import PartialFolder, machine_errors
from headway.sharding.backup.manifest import PLAIN_FILE, REFERENCE_FILE, BackupFile, Manifest, shard_file
from headway.sharding.backup.programs import check_versions, dump
from headway.sharding.engine import Engine
from headway.sharding.move.sessions import Connection, connect, number, scalar
from headway.sharding.move.switch import files_of
from headway.sharding.programs import dump_programs

Say = Callable[[str], None]
# Of one server; and of all, for each is a process of ours and packs what it reads.
AT_ONCE_MAX = 2
ALL_AT_ONCE_MAX = 16
_SAY_EVERY_S = 1.0
_TABLES = f"""
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname = %s AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> ALL(%s)
   AND NOT {layout.IS_VERSION_TABLE}
 ORDER BY 1
"""
_SIZE = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname = %s AND relkind IN ('r', 'm')
"""


@dataclass(frozen=True, slots=True)
class _Job:
    """One dump."""

    server: AdminServer
    schema: str
    file: str
    shard: int | None


@dataclass
class _Told:
    """How far it is, for a person: a line a second at most."""

    say: Say
    of: int
    done: int = 0
    bytes: int = 0
    _next_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def more(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            self._tell(False)

    def one_more(self) -> None:
        with self._lock:
            self.done += 1
            self._tell(self.done == self.of)

    def _tell(self, is_last: bool) -> None:
        if is_last or time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + _SAY_EVERY_S
            self.say(f"{self.done} of {self.of} dumps, {format_bytes(self.bytes)}")


def take(
    system: str, database: str, servers: Sequence[AdminServer], folder: Path, *, say: Say, stop: threading.Event
) -> Manifest:
    """Back up a sharded database into `folder`, which is there when this returns and not before.

    Conflict while shards move or the like, or when tables are emptied or rewritten meanwhile; EngineError for a server
    that is away or too new for our pg_dump; MachineError for a full disk.
    """
    programs = dump_programs()
    with kept_still(database, servers[0], "the backup") as catalog, contextlib.ExitStack() as stack:
        sessions = {server.name: stack.enter_context(reached(server)) for server in servers}
        majors = [(f"server {name}", one.info.server_version // 10000) for name, one in sessions.items()]
        check_versions(programs, majors)
        partial = stack.enter_context(PartialFolder(folder))
        cut = take_cut(database, catalog, servers, sessions, stop.is_set)
        files = _dump_all(database, servers, sessions, cut, partial, programs, say, stop)
        _has_lived(catalog)
        manifest = Manifest(
            id=str(uuid.uuid4()),
            headway=__version__,
            postgresql=str(scalar(catalog, "SHOW server_version")).partition(" ")[0],
            dumped_by=programs[0].major,
            kind="sharded",
            system=system,
            database=database,
            taken_at=_text(cut.taken_at),
            files=files,
            shards=cut.map.shards,
            key_type=cut.map.kind,
            keys={table: key.column for table, key in cut.map.keys.items()},
            epoch=cut.map.epoch,
            lock_held_ms=cut.lock_held_ms,
            apart_ms=cut.apart_ms,
        )
        partial.finish(manifest)
        return manifest


def take_plain(system: str, database: str, conninfo: str, folder: Path, *, say: Say, stop: threading.Event) -> Manifest:
    """Back up a plain database: one dump, of one moment."""
    programs = dump_programs()
    with (
        _reached(database, conninfo) as session,
        PartialFolder(folder) as partial,
        kept_from_migrations(session, database, "the backup"),
    ):
        check_versions(programs, [(f"database {database}", session.info.server_version // 10000)])
        version = str(scalar(session, "SHOW server_version")).partition(" ")[0]
        size = number(session, "SELECT pg_database_size(current_database())")
        told = _Told(say, 1)
        taken_at = datetime.now(UTC)
        with machine_errors(partial.partial):
            file = partial.file(PLAIN_FILE, told.more)
            try:
                dump(f"database {database}", conninfo, [], file.write, programs, stop.is_set)
                file.close()
            except PouringStopped:
                raise _stopped() from None
            finally:
                file.drop()
        told.one_more()
        manifest = Manifest(
            id=str(uuid.uuid4()),
            headway=__version__,
            postgresql=version,
            dumped_by=programs[0].major,
            kind="plain",
            system=system,
            database=database,
            taken_at=_text(taken_at),
            files=(BackupFile(PLAIN_FILE, file.bytes, file.sha256, size_bytes=size),),
        )
        partial.finish(manifest)
        return manifest


def _dump_all(
    database: str,
    servers: Sequence[AdminServer],
    sessions: dict[str, Connection],
    cut: Cut,
    partial: PartialFolder,
    programs: Sequence[Engine],
    say: Say,
    stop: threading.Event,
) -> tuple[BackupFile, ...]:
    jobs = [_Job(servers[0], layout.REFERENCE_SCHEMA, REFERENCE_FILE, None)]
    by_name = {server.name: server for server in servers}
    for shard, owner in enumerate(cut.map.owners):
        jobs.append(_Job(by_name[owner], schema_name(database, shard), shard_file(shard), shard))
    before = {name: _files_before(session) for name, session in sessions.items()}
    told = _Told(say, len(jobs))
    failed = threading.Event()
    most = threading.Semaphore(ALL_AT_ONCE_MAX)

    def is_over() -> bool:
        return stop.is_set() or failed.is_set()

    def work(job: _Job) -> BackupFile:
        with most:
            if is_over():
                raise PouringStopped
            try:
                done = _dump(job, cut.snapshots[job.server.name], partial, programs, told, is_over)
                _unchanged(job, before[job.server.name].get(job.schema, {}))
            except BaseException:
                failed.set()
                raise
            told.one_more()
            return done

    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(ThreadPoolExecutor(AT_ONCE_MAX, f"headway-dump-{name}")) for name in by_name}
        started: list[Future[BackupFile]] = [pools[job.server.name].submit(work, job) for job in jobs]
        ended = wait(started, return_when=FIRST_EXCEPTION).done
        errors = [error for one in ended if (error := one.exception()) is not None]
        if errors:
            for one in started:
                one.cancel()
            raise next((e for e in errors if not isinstance(e, PouringStopped)), _stopped()) from None
        return tuple(one.result() for one in started)


def _dump(
    job: _Job,
    snapshot: str,
    partial: PartialFolder,
    programs: Sequence[Engine],
    told: _Told,
    stop: Callable[[], bool],
) -> BackupFile:
    where = f"server {job.server.name}: shard {job.shard}" if job.shard is not None else f"server {job.server.name}"
    with reached(job.server) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        rows = count_rows(session, job.schema)
        size = number(session, _SIZE, (job.schema,))
        session.execute("COMMIT")
    with machine_errors(partial.partial):
        file = partial.file(job.file, told.more)
        try:
            what = [f"--schema={layout.identifier(job.schema)}", f"--snapshot={snapshot}"]
            dump(where, job.server.admin, what, file.write, programs, stop)
            file.close()
        finally:
            file.drop()
    return BackupFile(job.file, file.bytes, file.sha256, job.shard, rows, size)


def count_rows(session: Connection, schema: str) -> int:
    """The rows of a schema, without what is ours in it."""
    tables = [str(row[0]) for row in session.execute(_TABLES.encode(), (schema, list(layout.NOT_APPS)))]
    counts = [sql.SQL("(SELECT count(*) FROM {})").format(sql.Identifier(schema, table)) for table in tables]
    return number(session, sql.SQL("SELECT {}").format(sql.SQL(" + ").join(counts))) if counts else 0


def _files_before(session: Connection) -> dict[str, dict[str, int]]:
    """By schema, the files its tables lay in at the cut. An older snapshot finds a table empty that was given another
    one since, by TRUNCATE or a change of its columns."""
    found: dict[str, dict[str, int]] = {}
    rows: list[Any] = session.execute(
        "SELECT nspname::text, relname::text, relfilenode::bigint FROM pg_class c JOIN pg_namespace n "
        "ON n.oid = relnamespace WHERE relkind = 'r'"
    ).fetchall()
    for schema, table, file in rows:
        found.setdefault(schema, {})[table] = int(file)
    return found


def _unchanged(job: _Job, before: dict[str, int]) -> None:
    with reached(job.server) as session:
        after = files_of(session, job.schema)
    changed = sorted(table for table, file in before.items() if after.get(table) != file)
    if changed:
        where = f"shard {job.shard}" if job.shard is not None else "the reference tables"
        raise Conflict(
            f"table {changed[0]} of {where} was emptied or rewritten while the backup was being taken",
            hint="Take it again when no TRUNCATE and no migration runs.",
        )


def _has_lived(catalog: Connection) -> None:
    """That the session which kept everything in its place has lived until here."""
    try:
        scalar(catalog, "SELECT 1")
    except psycopg.OperationalError as error:
        raise EngineError(
            "the catalog's server went away while the backup was being taken", hint="Take it again: headway status"
        ) from error


def _stopped() -> Conflict:
    return Conflict("the backup was not taken: Headway stops", hint="Take it again: headway up, headway db backup")


@contextlib.contextmanager
def _reached(database: str, conninfo: str) -> Any:
    try:
        with connect(conninfo, "headway backup") as connection:
            yield connection
    except psycopg.Error as error:
        raise failed(f"database {database}", error) from error


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
