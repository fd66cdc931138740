"""`database(name).sqlalchemy`: engines and sessions of SQLAlchemy, each on the shard of a key.

The app's models and queries stay as they are; a session knows one shard and nothing of the others. Errors mean what
they mean in the other clients: ShardMoved, WrongShard, ServerDown and DatabaseBusy are raised in place of what the
driver says, everything else is SQLAlchemy's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine, ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from headway.errors import ShardMoved
from headway.model.sharding import ShardMap
from headway.sharding.client.place import AGAIN, AGAIN_MAX, FENCE_WAIT_S, NEWER_WAIT_S, Place, Places, pause_s
from headway.sharding.client.sqlalchemy_pool import PLACE, LoopPool, ServerPool, ShardPool, ThreadsPool

if TYPE_CHECKING:
    from headway.sharding.client.database import Database

Result = TypeVar("Result")
# How the drivers call a statement that was prepared for a table that is another one now.
_STALE = ("cached plan must not change", "cached statement plan is invalid")


class _Engines:
    """An engine a shard, with one dialect and one cache of compiled statements among them."""

    def __init__(self, places: Places, pool: ServerPool, first: Engine) -> None:
        self.pool = pool
        self._places, self._first = places, first
        self._by_shard: dict[int, Engine] = {}
        event.listen(first.dialect, "handle_error", self._explain)

    def of(self, shard: int) -> Engine:
        """The engine of a shard."""
        found = self._by_shard.get(shard)
        if found is None:
            first = self._first
            url = first.url if self._places.watch is None else first.url.set(query={"shard": str(shard)})
            found = Engine(ShardPool(self.pool, shard, first.dialect), first.dialect, url)
            found._compiled_cache = first._compiled_cache
            found = self._by_shard.setdefault(shard, found)
        return found

    def _explain(self, context: ExceptionContext) -> BaseException | None:
        """What an error means, where it means more than it says."""
        error, connection = context.original_exception, context.connection
        if connection is None or connection.closed or connection.invalidated:
            return None
        place = connection.info.get(PLACE)
        if place is None or not isinstance(error, context.dialect.loaded_dbapi.Error):
            return None
        if context.is_disconnect:
            return self._places.broke(place.server, error)
        if _is_stale(error):
            context.is_disconnect = True  # the shard's connections are opened anew
            return None
        if not self._places.may_have_moved(error):
            return self._places.wrong_shard(place, _of_driver(error))
        assert self._places.watch is not None
        self._places.watch.ask()
        found = self._places.read(place, error, self._places.map)
        return None if found is error else found


class Engines:
    """`database(name).sqlalchemy`. Synchronous on psycopg, asynchronous on asyncpg, whichever the caller is.

    Every transaction counts among those at work on its server, from the first statement to commit, rollback or close.
    """

    def __init__(self, database: Database, places: Places) -> None:
        self._database, self._places = database, places
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._threads: _Engines | None = None
        self._loops: dict[asyncio.AbstractEventLoop, _Engines] = {}

    # -- for threads --------------------------------------------------------------------------------------------------

    def engine(self, key: object = None) -> Engine:
        """The engine of the key's shard; it finds the shard's server anew for every transaction."""
        return self._for_threads().of(self._database.shard_of(key))

    @contextlib.contextmanager
    def session(self, key: object = None, **options: Any) -> Iterator[Session]:
        """`with database.sqlalchemy.session(key) as session`: SQLAlchemy's Session on that key's shard.

        `options` are Session's. As any Session it commits when it is told to; what is open at the end is rolled back.
        """
        place = self._places.find(self._database.map, key)
        try:
            with Session(self._for_threads().of(place.shard), **options) as session:
                yield session
        except (ShardMoved, DBAPIError) as error:
            if not self._is_of_a_move(error):
                raise
            newest = self._database.sync.newer(self._places.is_elsewhere(place), NEWER_WAIT_S)
            found = self._meaning(place, error, newest)
            if found is error:
                raise
            raise found from error

    def run(self, key: object, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run `function(session, *arguments)` in a transaction on the key's shard, and give what it gives.

        It is run again as a whole, with a new session, while its shard moves, and when the database gave another
        transaction precedence: it must do nothing outside the database that cannot be done twice.
        """
        until_s = time.monotonic() + max(self._places.told.wait_s, FENCE_WAIT_S)
        for attempt in range(AGAIN_MAX):
            try:
                with self.session(key, expire_on_commit=False) as session, session.begin():
                    return function(session, *arguments)
            except (ShardMoved, DBAPIError) as error:
                again = _again(error)
            if time.monotonic() >= until_s:
                raise again
            time.sleep(pause_s(attempt))
        raise again

    def _for_threads(self) -> _Engines:
        if self._threads is None:
            with self._lock:
                if self._threads is None:
                    pool = ThreadsPool(self._places, self._database.sync)
                    self._threads = _Engines(self._places, pool, create_engine(self._url("psycopg"), pool=pool))
        return self._threads

    # -- for event loops ----------------------------------------------------------------------------------------------

    def async_engine(self, key: object = None) -> AsyncEngine:
        """The engine of the key's shard for the event loop that runs; the first call waits for the map in place."""
        return AsyncEngine(self._for_loop().of(self._database.shard_of(key)))

    @contextlib.asynccontextmanager
    async def async_session(self, key: object = None, **options: Any) -> AsyncIterator[AsyncSession]:
        """`async with database.sqlalchemy.async_session(key) as session`: as `session`, with an AsyncSession."""
        engines = self._for_loop()
        loop = self._database._loop_pool()
        place = self._places.find(await loop.map(), key)
        try:
            async with AsyncSession(AsyncEngine(engines.of(place.shard)), **options) as session:
                yield session
        except (ShardMoved, DBAPIError) as error:
            if not self._is_of_a_move(error):
                raise
            newest = await loop.newer(self._places.is_elsewhere(place), NEWER_WAIT_S)
            found = self._meaning(place, error, newest)
            if found is error:
                raise
            raise found from error

    async def run_async(self, key: object, function: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """As `run`, with `await function(session, *arguments)` on an AsyncSession."""
        until_s = time.monotonic() + max(self._places.told.wait_s, FENCE_WAIT_S)
        for attempt in range(AGAIN_MAX):
            try:
                async with self.async_session(key, expire_on_commit=False) as session, session.begin():
                    return await function(session, *arguments)
            except (ShardMoved, DBAPIError) as error:
                again = _again(error)
            if time.monotonic() >= until_s:
                raise again
            await asyncio.sleep(pause_s(attempt))
        raise again

    def _for_loop(self) -> _Engines:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            for ended in [other for other in self._loops if other.is_closed()]:
                self._loops.pop(ended, None)
            pool = LoopPool(self._places, self._database._loop_pool())
            first = create_async_engine(self._url("asyncpg"), pool=pool).sync_engine
            found = self._loops[loop] = _Engines(self._places, pool, first)
        return found

    # -- for both -----------------------------------------------------------------------------------------------------

    def _is_of_a_move(self, error: ShardMoved | DBAPIError) -> bool:
        """Whether it is worth to wait for a newer map, now that the transaction is over."""
        return isinstance(error, ShardMoved) or self._places.may_have_moved(error.orig)

    def _meaning(self, place: Place, error: ShardMoved | DBAPIError, newest: ShardMap) -> BaseException:
        if isinstance(error, ShardMoved) or error.orig is None:
            return error
        found = self._places.read(place, error.orig, newest)
        return error if found is error.orig else found

    def close(self) -> None:
        """Close what threads have left idle; it opens again when it is needed."""
        if self._threads is not None:
            self._threads.pool.dispose()

    async def aclose(self) -> None:
        """Close what the event loop that runs has left idle."""
        found = self._loops.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await AsyncEngine(found.of(0)).dispose()

    def _url(self, driver: str) -> URL:
        """What an engine calls itself: of a sharded database no server, for that may change."""
        told = self._places.told
        if told.is_sharded:
            return URL.create(f"postgresql+{driver}", database=told.name)
        return make_url(told.url).set(drivername=f"postgresql+{driver}")


def _again(error: ShardMoved | DBAPIError) -> ShardMoved | DBAPIError:
    """The error itself, where its transaction is worth another try; else it is raised."""
    if isinstance(error, ShardMoved) or getattr(error.orig, "sqlstate", None) in AGAIN or _is_stale(error.orig):
        return error
    raise error


def _is_stale(error: BaseException | None) -> bool:
    return any(words in str(error) for words in _STALE)


def _of_driver(error: BaseException) -> BaseException:
    """The driver's error with its details; around asyncpg's SQLAlchemy puts one of its own."""
    cause = error.__cause__
    return cause if cause is not None and hasattr(cause, "constraint_name") else error
