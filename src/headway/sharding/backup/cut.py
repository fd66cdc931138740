"""One moment over all servers: a snapshot on each, between which no transaction over several shards is torn.

Such a transaction is committed by its row in the catalog's `decisions`. While that table is locked none is decided; as
soon as no decided one is still prepared anywhere, each is wholly in all snapshots or in none. The lock is held for as
long as it takes to open a transaction on every server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from headway.errors import Conflict, EngineError
from headway.model.sharding import ShardMap
from headway.sharding.admin import AdminServer
from headway.sharding.catalog import HELD_LOCK, read_map
from headway.sharding.locks import comes_free, given_back
from headway.sharding.move.sessions import Connection, connect, scalar

NAME = "headway backup"
RESTORE = "the restore"
_LOCK_TIMEOUT_MS = 2000
_FREE_S = 3.0
# While the table is locked, whoever decides waits: give up soon, let the controller end what a dead client has left
# (which takes it half a minute), and come again.
_DECIDED_S = 0.5
_AGAIN_S = 1.0
_CUT_S = 90.0
_POLL_S = 0.002
_PREPARED = (
    "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %s) ORDER BY gid"
)
_DECIDED = "SELECT count(*) FROM headway.decisions WHERE decision = 'commit' AND transaction = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Cut:
    """The moment: the map as it was, and by server the name of its snapshot, which lives as long as its connection."""

    map: ShardMap
    taken_at: datetime
    lock_held_ms: float
    apart_ms: float
    snapshots: Mapping[str, str]


@contextlib.contextmanager
def kept_still(database: str, first: AdminServer, what: str, name: str = NAME) -> Iterator[Connection]:
    """Nothing moves, splits, is imported or migrated until the block ends; Conflict where something does now.

    What keeps it so is a lock of the catalog's session, which ends with it: nobody has to clean up after a kill.
    """
    with reached(first, name) as catalog, given_back(catalog):
        held = f"SELECT pg_try_advisory_lock({HELD_LOCK})"
        if not comes_free(lambda: scalar(catalog, held) is True, _FREE_S):
            raise Conflict(
                f"database {database} is being backed up or restored already", hint="Wait until that has ended."
            )
        if scalar(catalog, "SELECT pg_try_advisory_lock(hashtext('headway.migrate'))") is not True:
            raise Conflict(f"{what} has to wait: {database} is being migrated", hint="Run it again after that.")
        _nothing_under_way(catalog, database, what)
        yield catalog


@contextlib.contextmanager
def kept_from_migrations(session: Connection, database: str, what: str) -> Iterator[None]:
    """No migration of a plain database begins until the block ends; Conflict where one is at work. Several may hold
    this at once."""
    if scalar(session, f"SELECT pg_try_advisory_lock_shared({HELD_LOCK})") is not True:
        raise Conflict(f"{what} has to wait: {database} is being migrated", hint="Run it again after that.")
    with given_back(session):
        yield


def _nothing_under_way(catalog: Connection, database: str, what: str) -> None:
    hint = f"Wait until that has ended: headway db status {database}"
    if read_map(catalog).restoring and what != RESTORE:
        raise Conflict(f"{what} has to wait: {database} is being restored from a backup", hint=hint)
    row = catalog.execute("SELECT shard, target FROM headway.moves WHERE ended_at IS NULL LIMIT 1").fetchone()
    if row is not None:
        raise Conflict(f"{what} has to wait: shard {row[0]} moves to server {row[1]}", hint=hint)
    if scalar(catalog, "SELECT EXISTS (SELECT FROM headway.splits WHERE ended_at IS NULL)"):
        raise Conflict(f"{what} has to wait: the shards of {database} are being split", hint=hint)
    source = scalar(catalog, "SELECT source FROM headway.imports WHERE ended_at IS NULL LIMIT 1")
    if source is not None:
        raise Conflict(f"{what} has to wait: {database} is being imported from {source}", hint=hint)
    if read_map(catalog).at_source:
        raise Conflict(
            f"the rows of {database} are where they are to be imported from, and not in its shards",
            hint=f"headway db import {database}; or take import_from out of [databases.{database}].",
        )


def take_cut(
    database: str,
    catalog: Connection,
    servers: Sequence[AdminServer],
    sessions: Mapping[str, Connection],
    stop: Callable[[], bool],
) -> Cut:
    """Open a transaction on each session that sees the same moment as all others; the caller ends them.

    Conflict when a transaction stays decided and not committed for too long.
    """
    deadline_s = time.monotonic() + _CUT_S
    with ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="headway-cut") as pool:
        while True:
            try:
                found = _try(database, catalog, sessions, pool)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                found = None
            if found is not None:
                return found
            for session in sessions.values():
                if session.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    session.execute("ROLLBACK")
            if time.monotonic() > deadline_s or stop():
                raise Conflict(
                    f"a transaction over several shards of {database} stays decided and not committed everywhere",
                    hint="The controller ends it within half a minute when all servers answer: headway status",
                )
            time.sleep(_AGAIN_S)


def _try(
    database: str, catalog: Connection, sessions: Mapping[str, Connection], pool: ThreadPoolExecutor
) -> Cut | None:
    """None when this was not the moment."""
    with catalog.transaction():
        catalog.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
        catalog.execute("LOCK TABLE headway.decisions IN SHARE MODE")
        locked_s = time.perf_counter()
        before = read_map(catalog)
        while _undone(database, catalog, sessions):
            if time.perf_counter() - locked_s > _DECIDED_S:
                return None
            time.sleep(_POLL_S)
        began_s, taken_at = time.perf_counter(), datetime.now(UTC)
        started = {name: pool.submit(_snapshot, session) for name, session in sessions.items()}
        snapshots = {name: future.result() for name, future in started.items()}
        ended_s = time.perf_counter()
        if read_map(catalog).epoch != before.epoch:
            return None
    held_ms = (time.perf_counter() - locked_s) * 1000
    return Cut(before, taken_at, round(held_ms, 2), round((ended_s - began_s) * 1000, 2), snapshots)


def _undone(database: str, catalog: Connection, sessions: Mapping[str, Connection]) -> bool:
    """Whether a transaction that is decided has a part that is not committed yet."""
    prepared = {
        str(gid).split(":")[2]
        for session in sessions.values()
        for (gid,) in session.execute(_PREPARED, (f"headway:{database}:",))
    }
    return bool(prepared) and scalar(catalog, _DECIDED, (sorted(prepared),)) != 0


def _snapshot(session: Connection) -> str:
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    return str(scalar(session, "SELECT pg_export_snapshot()"))


@contextlib.contextmanager
def reached(server: AdminServer, name: str = NAME) -> Iterator[Connection]:
    """The administrator's connection, which no time limit of the server's ends. EngineError when it cannot be had, or
    breaks."""
    try:
        with connect(server.admin, name) as connection:
            yield connection
    except psycopg.Error as error:
        raise failed(f"server {server.name}", error) from error


def failed(where: str, error: psycopg.Error) -> EngineError:
    """The error for a server that is away, or refuses what was asked of it."""
    told = (str(error).strip().splitlines() or [type(error).__name__])[0]
    is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return EngineError(f"{where} {'does not answer' if is_away else 'refuses'}: {told}", hint="headway status")
