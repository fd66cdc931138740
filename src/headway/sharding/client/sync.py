"""The plain client, for threads: the same check-out on psycopg."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from headway.context.asked import patience_s
from headway.context.trace import Span, span
from headway.errors import ShardMoved
from headway.model.sharding import ShardMap
from headway.sharding.client.permits import Permits
from headway.sharding.client.place import (
    AGAIN,
    AGAIN_MAX,
    FENCE_WAIT_S,
    LOOKED_WAIT_S,
    MAP_WAIT_S,
    NEWER_WAIT_S,
    Place,
    Places,
    RowId,
    pause_s,
)
from headway.sharding.client.prepared import forget_prepared

_CONNECT_S = 2
Result = TypeVar("Result")
Connection = psycopg.Connection[Any]


class _Kept:
    """A connection with the shard that it serves, and the epoch of the map it was last used by."""

    __slots__ = ("connection", "epoch", "shard")

    def __init__(self, connection: Connection, shard: int, epoch: int) -> None:
        self.connection, self.shard, self.epoch = connection, shard, epoch


class _Server:
    """The connections of this process to one server, for all of its threads."""

    def __init__(self, places: Places, name: str, url: str) -> None:
        self._places, self.name, self.url = places, name, url
        self._idle: OrderedDict[int, list[_Kept]] = OrderedDict()  # by shard; needed last at the end
        self._count = 0
        self._lock = threading.Lock()

    def take(self, shard: int, epoch: int) -> _Kept:
        """One that serves the shard: kept, turned to it, or opened."""
        turned = None
        while (kept := self._pop(shard)) is not None:
            if not is_alive(kept.connection):  # the server was restarted since, say
                kept.connection.close()
                continue
            if kept.epoch == epoch:
                return kept
            kept.epoch, turned = epoch, kept  # the tables may have changed since
            break
        else:
            turned = self._oldest()
        if turned is not None and self._turn(turned, shard):
            return turned
        return _Kept(self._connect(shard), shard, epoch)

    def _pop(self, shard: int) -> _Kept | None:
        """An idle one that serves the shard."""
        with self._lock:
            return self._out(shard, -1) if shard in self._idle else None

    def _oldest(self) -> _Kept | None:
        """One of the shard that was needed longest ago, when there are as many as may be kept."""
        with self._lock:
            if self._count < self._places.told.idle_max or not self._idle:
                return None
            return self._out(next(iter(self._idle)), 0)

    def _out(self, shard: int, position: int) -> _Kept:
        idle = self._idle[shard]
        kept = idle.pop(position)
        self._count -= 1
        if not idle:
            del self._idle[shard]
        return kept

    def _turn(self, kept: _Kept, shard: int) -> bool:
        connection = kept.connection
        try:
            if kept.shard != shard:
                text = self._places.schemas(shard, self.name) or "DEFAULT"
                connection.execute(sql.SQL("SET search_path = ") + sql.SQL(text))
            connection.execute(forget_prepared())
            connection.commit()
        except psycopg.Error:
            connection.close()
            return False
        kept.shard = shard
        return True

    def _connect(self, shard: int) -> Connection:
        self._places.check_up(self.name)
        options: dict[str, Any] = {}
        if schemas := self._places.schemas(shard, self.name):
            options["options"] = f"-c search_path={schemas.replace(' ', '')}"
        try:
            connection = psycopg.connect(
                self.url, connect_timeout=_CONNECT_S, application_name="headway", tcp_user_timeout=30_000, **options
            )
        except (psycopg.OperationalError, OSError) as error:
            failed = self._places.failed(self.name, error)
            raise failed from (error if failed is not error else None)
        self._places.answered(self.name)
        return connection

    def give_back(self, kept: _Kept) -> None:
        """Keep a clean one."""
        with self._lock:
            if not kept.connection.closed and self._count < self._places.told.idle_max:
                self._idle.setdefault(kept.shard, []).append(kept)
                self._idle.move_to_end(kept.shard)
                self._count += 1
                return
        kept.connection.close()

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle, self._count = self._idle, OrderedDict(), 0
        for kept in [kept for several in idle.values() for kept in several]:
            kept.connection.close()


class SyncDatabase:
    """`database(name).sync`: for code in threads. What it raises is what the asynchronous one raises."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._servers: dict[str, _Server] = {}
        self._lock = threading.Lock()

    def at(self, key: object = None, *, wait_s: float | None = None) -> SyncCheckOut:
        """`with database.sync.at(key) as connection`: a psycopg connection on that key's shard.

        As psycopg's own pools do, it commits at the end, and rolls back when an error leaves the block.
        """
        return SyncCheckOut(self, key, self._places.told.wait_s if wait_s is None else wait_s)

    def at_id(self, number: int, *, wait_s: float | None = None) -> SyncCheckOut:
        """As `at`, on the shard that holds the row with this id."""
        return self.at(RowId(number), wait_s=wait_s)

    def run(self, key: object, function: Callable[..., Result], *arguments: Any, wait_s: float | None = None) -> Result:
        """Run `function(connection, *arguments)` in a transaction, again as a whole while its shard moves."""
        wait_s = self._places.told.wait_s if wait_s is None else wait_s
        until_s = time.monotonic() + max(wait_s, FENCE_WAIT_S)
        for attempt in range(AGAIN_MAX):
            try:
                with self.at(key, wait_s=wait_s) as connection:
                    return function(connection, *arguments)
            except ShardMoved as error:
                again: BaseException = error
            except psycopg.Error as error:
                if error.sqlstate not in AGAIN:
                    raise
                again = error
            if time.monotonic() >= until_s:
                raise again
            time.sleep(pause_s(attempt))
        raise again

    def map(self) -> ShardMap:
        """The map, once there is one."""
        found = self._places.map
        return found if found is not None else self.until(lambda _: True, MAP_WAIT_S)

    def until(self, is_enough: Callable[[ShardMap], bool], timeout_s: float) -> ShardMap:
        """The map, as soon as it is so; after the time as it is then. ServerDown when none was ever loaded."""
        watch = self._places.watch
        found = self._places.map if watch is None else watch.wait(is_enough, timeout_s)
        if found is None:
            assert watch is not None
            raise watch.missing()
        return found

    def newer(self, is_enough: Callable[[ShardMap], bool], timeout_s: float) -> ShardMap:
        """As `until`, where an error says that there is a newer map: the time counts from a look at the catalog."""
        watch = self._places.watch
        assert watch is not None
        asked = watch.ask()
        self.until(lambda map_: is_enough(map_) or watch.has_looked(asked), LOOKED_WAIT_S)
        return self.until(is_enough, timeout_s)

    def server(self, map_: ShardMap, name: str) -> tuple[_Server, Permits]:
        """The connections and permits of a server."""
        url = self._places.url(map_, name)
        found = self._servers.get(name)
        if found is None or found.url != url:
            former = None
            with self._lock:
                found = self._servers.get(name)
                if found is None or found.url != url:  # no other thread was first
                    former, found = found, _Server(self._places, name, url)
                    self._servers[name] = found
            if former is not None:
                former.close()
        return found, self._places.permits(name)

    def close(self) -> None:
        """Close what is idle; it opens again when it is needed."""
        for server in list(self._servers.values()):
            server.close()


class SyncCheckOut:
    """A context manager: see `SyncDatabase.at`."""

    def __init__(self, database: SyncDatabase, key: object, wait_s: float) -> None:
        self._database, self._key, self._wait_s = database, key, wait_s

    def __enter__(self) -> Connection:
        self._span: Span = span(f"database {self._database._places.told.name}", "database")
        try:
            connection = self._take()
        except BaseException as error:
            self._span.fail(error)
            self._span.end()
            raise
        self._span.waited()
        if self._database._places.watch is not None:
            self._span.set(server=self._place.server, shard=self._place.shard)
        self._span.__enter__()
        return connection

    def _take(self) -> Connection:
        database, places = self._database, self._database._places
        map_ = database.map()
        place = places.find(map_, self._key)
        if place.shard in map_.fenced:
            map_ = database.until(lambda newer: place.shard not in newer.fenced, FENCE_WAIT_S)
            place = places.find(map_, self._key)
        self._place: Place = place
        self._server, self._permits = database.server(map_, place.server)
        self._permit = self._permits.take()
        if self._permit < 0:
            places.check_up(place.server)
            self._wait()
            if (newest := places.map) is not map_ and newest is not None and newest.owners != map_.owners:
                self._permits.give_back(self._permit)
                return self._take()
        try:
            self._kept = self._server.take(place.shard, map_.epoch)
        except BaseException:
            self._permits.give_back(self._permit)
            raise
        return self._kept.connection

    def _wait(self) -> None:
        woken = threading.Event()
        wait_s = patience_s(self._wait_s)
        waiter = self._permits.wait(woken.set)
        try:
            woken.wait(wait_s)
        except BaseException:
            permit = self._permits.leave(waiter)
            if permit >= 0:
                self._permits.give_back(permit)
            raise
        self._permit = self._permits.leave(waiter)
        if self._permit < 0:
            raise self._database._places.busy(self._place.server, wait_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave(error)
        except BaseException as meaning:
            self._span.__exit__(type(meaning), meaning, None)
            raise
        self._span.__exit__(kind, error, trace)

    def _leave(self, error: BaseException | None) -> None:
        failure = error
        connection = self._kept.connection
        try:
            try:
                if error is None:
                    connection.commit()
            except psycopg.Error as refused:
                failure = refused
                raise
            finally:
                self._clean(connection)
        except psycopg.Error as refused:
            self._explain(refused)
            raise
        finally:
            self._server.give_back(self._kept)
            self._permits.give_back(self._permit)
        if isinstance(failure, psycopg.Error):
            self._explain(failure)

    def _clean(self, connection: Connection) -> None:
        if connection.closed or _is_idle(connection):
            return
        with contextlib.suppress(psycopg.Error):
            connection.rollback()
        if not connection.closed and not _is_idle(connection):
            connection.close()

    def _explain(self, error: psycopg.Error) -> None:
        """Raise what the error means, where it means more than it says."""
        places = self._database._places
        if self._kept.connection.closed and isinstance(error, psycopg.OperationalError):
            raise places.broke(self._place.server, error) from error
        if places.may_have_moved(error):
            newest = self._database.newer(places.is_elsewhere(self._place), NEWER_WAIT_S)
            found = places.read(self._place, error, newest)
            if found is not error:
                raise found from error
        elif wrong := places.wrong_shard(self._place, error):
            raise wrong from error


def is_alive(connection: Connection) -> bool:
    """Whether the server has not closed one that is idle meanwhile, as far as one knows without asking it."""
    if connection.closed:
        return False
    # An idle server says nothing, unless it says goodbye.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _is_idle(connection: Connection) -> bool:
    return connection.info.transaction_status == TransactionStatus.IDLE
