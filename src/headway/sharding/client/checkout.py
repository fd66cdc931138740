"""The asynchronous client: a check-out of the connection of a key's shard, on asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

import asyncpg

from headway.context.asked import patience_s
from headway.context.trace import Span, span
from headway.errors import ShardMoved
from headway.model.sharding import ShardMap
from headway.sharding.client.connections import Connection, Connections
from headway.sharding.client.permits import Permits
from headway.sharding.client.place import (
    AGAIN,
    AGAIN_MAX,
    FENCE_WAIT_S,
    LOOKED_WAIT_S,
    MAP_WAIT_S,
    NEWER_WAIT_S,
    Places,
    pause_s,
)

Result = TypeVar("Result")


NONE_LEFT, NONE_NEEDED = -1, -2  # instead of a permit's number
# The server ended, or the way to it.
_BROKEN = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError)


class Pool:
    """The connections of one event loop to all servers of one database."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._servers: dict[str, tuple[Connections, Permits]] = {}
        self._epoch = 0
        self._catalog: Connections | None = None

    def server(self, map_: ShardMap, name: str) -> tuple[Connections, Permits]:
        """The connections and permits of a server."""
        if map_.epoch != self._epoch:
            self._follow(map_)
        found = self._servers.get(name)
        if found is None:
            connections = Connections(self.places, name, self.places.url(map_, name), self.places.told.idle_max)
            connections.serve(len(map_.on(name)))
            found = self._servers[name] = (connections, self.places.permits(name))
        return found

    def _follow(self, map_: ShardMap) -> None:
        """A newer map: servers may be elsewhere or gone, tables may have other columns."""
        self._epoch = map_.epoch
        for name, (connections, _) in list(self._servers.items()):
            if name not in map_.servers or connections.url != self.places.url(map_, name):
                del self._servers[name]
                self.loop.create_task(connections.close())
            else:
                connections.renew_statements()
                connections.serve(len(map_.on(name)))

    @contextlib.asynccontextmanager
    async def catalog(self) -> AsyncIterator[Connection]:
        """A connection to the catalog; for what decides a transaction, so it needs no permit."""
        if self._catalog is None:
            self._catalog = Connections(self.places, "catalog", self.places.told.url, 1)
        connection = self._catalog.take(0) or await self._catalog.get(0)
        try:
            yield connection
        except BaseException:
            self._catalog.drop(connection)
            raise
        self._catalog.give_back(connection)

    async def close(self) -> None:
        """Close all that is idle."""
        if self._catalog is not None:
            await self._catalog.close()
        for connections, _ in self._servers.values():
            await connections.close()

    async def map(self) -> ShardMap:
        """The map, once there is one."""
        found = self.places.map
        return found if found is not None else await self.until(lambda _: True, MAP_WAIT_S)

    async def until(self, is_enough: Callable[[ShardMap], bool], timeout_s: float) -> ShardMap:
        """The map, as soon as it is so; after the time as it is then. ServerDown when none was ever loaded."""
        watch = self.places.watch
        if watch is None:
            map_ = self.places.map
            assert map_ is not None
            return map_
        until_s = time.monotonic() + timeout_s
        while True:
            changed = self.loop.create_future()
            watch.on_change(lambda changed=changed: self.loop.call_soon_threadsafe(_wake, changed))  # type: ignore[misc]
            map_ = watch.map
            if map_ is not None and is_enough(map_):
                return map_
            if map_ is None and watch.error:
                raise watch.missing()
            try:
                async with asyncio.timeout(until_s - time.monotonic()):
                    await changed
            except TimeoutError:
                if watch.map is None:
                    raise watch.missing() from None
                return watch.map

    async def newer(self, is_enough: Callable[[ShardMap], bool], timeout_s: float) -> ShardMap:
        """As `until`, where an error says that there is a newer map: the time counts from a look at the catalog."""
        watch = self.places.watch
        assert watch is not None
        asked = watch.ask()
        await self.until(lambda map_: is_enough(map_) or watch.has_looked(asked), LOOKED_WAIT_S)
        return await self.until(is_enough, timeout_s)

    async def permit(self, permits: Permits, server: str, wait_s: float) -> int:
        """A permit within the time; DatabaseBusy otherwise."""
        wait_s = patience_s(wait_s)
        woken = self.loop.create_future()

        def wake() -> None:
            if threading.get_ident() == self._thread:
                _wake(woken)
            else:
                self.loop.call_soon_threadsafe(_wake, woken)

        waiter = permits.wait(wake)
        timer = self.loop.call_later(wait_s, _wake, woken)
        try:
            await woken
        except BaseException:
            permit = permits.leave(waiter)
            if permit >= 0:
                permits.give_back(permit)
            raise
        finally:
            timer.cancel()
        permit = permits.leave(waiter)
        if permit < 0:
            raise self.places.busy(server, wait_s)
        return permit


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class CheckOut:
    """`async with database.at(key) as connection`: a native asyncpg connection on the key's shard."""

    __slots__ = ("_connection", "_has_permit", "_key", "_permit", "_place", "_pool", "_server", "_span", "_wait_s")

    def __init__(self, pool: Pool, key: object, wait_s: float, *, has_permit: bool = False) -> None:
        self._pool = pool
        self._key = key
        self._wait_s = wait_s
        self._has_permit = has_permit  # the caller has one of this server already, for all of its transaction

    async def __aenter__(self) -> Connection:
        self._span: Span = span(f"database {self._pool.places.told.name}", "database")
        try:
            connection = await self._take()
        except BaseException as error:
            self._span.fail(error)
            self._span.end()
            raise
        self._span.waited()
        if self._pool.places.watch is not None:
            self._span.set(server=self._place.server, shard=self._place.shard)
        self._span.__enter__()
        return connection

    async def _take(self) -> Connection:
        pool = self._pool
        places = pool.places
        map_ = places.map
        if map_ is None:
            map_ = await pool.map()
        place = places.find(map_, self._key)
        if place.shard in map_.fenced:
            map_ = await pool.until(lambda newer: place.shard not in newer.fenced, FENCE_WAIT_S)
            place = places.find(map_, self._key)
        self._place = place
        self._server = connections, permits = pool.server(map_, place.server)
        self._permit = NONE_NEEDED if self._has_permit else permits.take()
        if self._permit == NONE_LEFT:
            places.check_up(place.server)
            self._permit = await pool.permit(permits, place.server, self._wait_s)
            if (newest := places.map) is not map_ and newest is not None and newest.owners != map_.owners:
                permits.give_back(self._permit)  # it may have been the wait for another server
                return await self._take()
        try:
            connection = connections.take(place.shard)
            if connection is None:
                connection = await connections.get(place.shard)
        except BaseException:
            if self._permit != NONE_NEEDED:
                permits.give_back(self._permit)
            raise
        self._connection = connection
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._leave(error)
        except BaseException as meaning:
            self._span.__exit__(type(meaning), meaning, None)
            raise
        self._span.__exit__(kind, error, trace)

    async def _leave(self, error: BaseException | None) -> None:
        connection = self._connection
        connections, permits = self._server
        try:
            if connection.is_changed or connection.has_open_work():
                if connection.is_closed() or await connections.clean(connection):
                    connections.give_back(connection)
                else:
                    connections.drop(connection)
            else:
                connections.give_back(connection)
        except BaseException:
            connections.drop(connection)
            raise
        finally:
            if self._permit != NONE_NEEDED:
                permits.give_back(self._permit)
        if error is not None and isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            if connection.is_closed() and isinstance(error, _BROKEN):
                raise self._pool.places.broke(self._place.server, error) from error
            await self._explain(error)

    async def _explain(self, error: BaseException) -> None:
        """Raise what the error means, where it means more than it says; else the driver's own goes on."""
        places = self._pool.places
        if places.may_have_moved(error):
            newest = await self._pool.newer(places.is_elsewhere(self._place), NEWER_WAIT_S)
            found = places.read(self._place, error, newest)
            if found is not error:
                raise found from error
        elif wrong := places.wrong_shard(self._place, error):
            raise wrong from error


async def run(
    pool: Pool, key: object, function: Callable[..., Awaitable[Result]], arguments: tuple[Any, ...], wait_s: float
) -> Result:
    """Run a transaction function to its end, again as a whole when the shard moved or another transaction was first.

    Bounded by `AGAIN_MAX` and by `wait_s` for the waiting; what it raises itself goes on at once.
    """
    until_s = time.monotonic() + max(wait_s, FENCE_WAIT_S)
    for attempt in range(AGAIN_MAX):
        try:
            async with CheckOut(pool, key, wait_s) as connection, connection.transaction():
                return await function(connection, *arguments)
        except (ShardMoved, asyncpg.InvalidCachedStatementError) as error:
            again: BaseException = error
        except asyncpg.PostgresError as error:
            if error.sqlstate not in AGAIN:
                raise
            again = error
        if time.monotonic() >= until_s:
            raise again
        await asyncio.sleep(pause_s(attempt))
    raise again
