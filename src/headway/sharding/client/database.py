"""`database(name)`: what the app holds of a declared database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from headway.context.asked import tell_worker
from headway.errors import CannotScatter
from headway.model.sharding import ShardMap
from headway.sharding.client.place import MAP_WAIT_S, Places, RowId
from headway.sharding.client.told import told

if TYPE_CHECKING:
    from headway.sharding.client.checkout import CheckOut, Pool
    from headway.sharding.client.everywhere import Everywhere, Row
    from headway.sharding.client.sqlalchemy import Engines
    from headway.sharding.client.sync import SyncDatabase
    from headway.sharding.client.two_phase import Transaction

Result = TypeVar("Result")


class Database:
    """A database by its declared name. Made once a process by `database(name)`; nothing is opened before it is used.

    A plain database has the same interface; its one shard takes any key, also none.
    """

    def __init__(self, name: str, places: Places) -> None:
        self.name = name
        self._places = places
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}
        self._pool: Pool | None = None
        self._sync: SyncDatabase | None = None
        self._everywhere: Everywhere | None = None
        self._engines: Engines | None = None
        self._lock = threading.Lock()

    def at(self, key: object = None, *, wait_s: float | None = None) -> CheckOut:
        """`async with database.at(key) as connection`: a native asyncpg connection on that key's shard.

        Waits `wait_s` at most for a place among the transactions at work. Raises DatabaseBusy when there is none,
        ServerDown when the server does not answer, ShardMoved when the shard moved during the transaction (nothing was
        committed), WrongShard when a row of another shard's key was written, WrongKey (a TypeError) for a key of
        another type than the declared column's, and the driver's own errors.
        """
        from headway.sharding.client.checkout import CheckOut

        return CheckOut(self._loop_pool(), key, self._places.told.wait_s if wait_s is None else wait_s)

    def at_id(self, number: int, *, wait_s: float | None = None) -> CheckOut:
        """As `at`, on the shard that holds the row with this id, one of those that `ids` fills in.

        In the place of a key, `by_id(number)` says the same to `run`, `transaction`, `sync` and the others.
        """
        return self.at(RowId(number), wait_s=wait_s)

    async def run(
        self,
        key: object,
        function: Callable[..., Awaitable[Result]],
        *arguments: Any,
        wait_s: float | None = None,
    ) -> Result:
        """Run `function(connection, *arguments)` in a transaction on the key's shard, and give what it gives.

        It is run again as a whole while its shard moves, and when the database gave another transaction precedence
        (serialization failure, deadlock): it must do nothing outside the database that cannot be done twice.
        """
        from headway.sharding.client.checkout import run

        wait_s = self._places.told.wait_s if wait_s is None else wait_s
        return await run(self._loop_pool(), key, function, arguments, wait_s)

    async def everywhere(self, sql: str, *arguments: Any, wait_s: float | None = None) -> list[Row]:
        """Ask all shards by one SELECT, written as for one of them, and get the answer as over one table.

        Rows, groups, count, sum, min, max, avg, bool_and, bool_or, DISTINCT, ORDER BY and LIMIT are put together; what
        cannot be with certainty raises CannotScatter, which says why. Every server answers as of a moment of its own.
        """
        wait_s = self._places.told.wait_s if wait_s is None else wait_s
        return await self._all().fetch(self._loop_pool(), sql, arguments, wait_s)

    def stream(self, sql: str, *arguments: Any, ahead: int = 500, wait_s: float | None = None) -> AsyncIterator[Row]:
        """`async for row in database.stream(sql)`: rows of all shards as they come, `ahead` at a time in memory."""
        wait_s = self._places.told.wait_s if wait_s is None else wait_s
        return self._all().stream(self._loop_pool(), sql, arguments, wait_s, ahead)

    def _all(self) -> Everywhere:
        if self._places.watch is None:
            raise CannotScatter(f"database {self.name} has no shards", hint="Ask it by at().")
        if self._everywhere is None:
            from headway.sharding.client.everywhere import Everywhere

            self._everywhere = Everywhere(self._places.told.by_code_point)
        return self._everywhere

    def transaction(self, *keys: object, wait_s: float | None = None) -> Transaction:
        """`async with database.transaction(a, b) as (x, y)`: all is committed on every key's shard, or nothing is.

        Two-phase, recovered by the controller. Not isolated across shards: a reader may see one part committed a moment
        before the other. It costs two round trips more, and a row in the catalog.
        """
        from headway.sharding.client.two_phase import Transaction

        return Transaction(self._loop_pool(), keys, self._places.told.wait_s if wait_s is None else wait_s)

    async def write_reference(self, sql: str, *arguments: Any, wait_s: float | None = None) -> str:
        """Run one statement on the reference tables of all servers, on all or on none; gives its status.

        It must do the same on every server: no `now()`, no `random()`, no sequence. Reading needs nothing of the kind:
        reference tables are beside the tables of every shard.
        """
        from headway.sharding.client.two_phase import write_reference

        if self._places.watch is None:
            raise CannotScatter(f"database {self.name} has no shards", hint="Write by at().")
        wait_s = self._places.told.wait_s if wait_s is None else wait_s
        return await write_reference(self._loop_pool(), sql, arguments, wait_s)

    @property
    def sync(self) -> SyncDatabase:
        """The same for code that is not asynchronous, on psycopg."""
        if self._sync is None:
            from headway.sharding.client.sync import SyncDatabase

            with self._lock:
                self._sync = self._sync or SyncDatabase(self._places)
        return self._sync

    @property
    def sqlalchemy(self) -> Engines:
        """Engines and sessions of SQLAlchemy on the shard of a key."""
        if self._engines is None:
            from headway.sharding.client.sqlalchemy import Engines

            with self._lock:
                self._engines = self._engines or Engines(self, self._places)
        return self._engines

    def shard_of(self, key: object) -> int:
        """The number of the key's shard; blocks until the map is loaded the first time."""
        return self._places.find(self.map, key).shard

    @property
    def map(self) -> ShardMap:
        """The newest known map; blocks until it is loaded the first time. ServerDown when that fails."""
        watch = self._places.watch
        found = self._places.map
        if found is None:
            assert watch is not None
            found = watch.wait(lambda _: True, MAP_WAIT_S)
            if found is None:
                raise watch.missing()
        return found

    async def close(self) -> None:
        """Close the connections that this event loop holds; they open again when they are needed."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            self._pool = None
            await pool.close()

    def _loop_pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pool
        if pool is not None and pool.loop is loop:
            return pool
        pool = self._pools.get(loop)
        if pool is None:
            from headway.sharding.client.checkout import Pool

            for ended in [other for other in self._pools if other.is_closed()]:
                self._pools.pop(ended, None)
            pool = self._pools[loop] = Pool(self._places)
        self._pool = pool
        return pool


def by_id(number: int) -> RowId:
    """Stands where a key is asked for, and means the shard that holds the row with this id."""
    return RowId(number)


_databases: dict[str, Database] = {}
_lock = threading.Lock()


def database(name: str) -> Database:
    """The declared database `name`, the same object each time. NotRunning when this process was told of none."""
    found = _databases.get(name)
    if found is None:
        with _lock:
            found = _databases.get(name)
            if found is None:
                found = _databases[name] = Database(name, Places(told(name)))
                tell_worker()
    return found
