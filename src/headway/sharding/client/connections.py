"""asyncpg connections of one event loop to one server: kept on the shard they last served, within a budget.

A connection is opened for a shard (its search_path is a start-up setting) and kept for it. Only when there are as many
as may be kept, one is turned to another shard: a second one of its shard first, else the one whose shard was needed
least lately. Each shard has its own cache of prepared statements then, so that none is planned anew at every turn, and
none meets another shard's types.

Where as many may be kept as the server has shards, each shard keeps its own: two transactions on one shard at once need
a second connection, and must not take another shard's for it. So there may be as many more as work at once; and when
these are in use too, the second waits a moment for the first to be done, for a turn costs more than most transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import deque
from typing import Any

import asyncpg
from asyncpg import connection as asyncpg_connection

from headway.errors import ServerDown
from headway.sharding.client.place import Places

_CONNECT_S = 2.0
_CLEAN_S = 1.0
_IDLE_S = 300.0
_BUSY_S = 0.002
# At the beginning of a statement: what outlives the transaction. asyncpg's own `BEGIN;` and `COMMIT;` are none.
_CHANGES_SESSION = re.compile(
    r"(?:^|;)\s*(?:SET\s+(?!LOCAL|TRANSACTION|CONSTRAINTS)|RESET|LISTEN|UNLISTEN|PREPARE\s+(?!TRANSACTION)|DECLARE|DISCARD"
    r"|LOAD|DEALLOCATE|DO|CREATE\s+(?:GLOBAL\s+|LOCAL\s+)?TEMP)",
    re.IGNORECASE,
)


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """asyncpg's own, with what is remembered of it."""

    shard = 0
    epoch = 0
    left_at_s = 0.0
    is_changed = False  # its session's settings may have been changed by a statement of the app
    turned = False  # it serves another shard than the one it was opened for
    caches: dict[int, Any] | None = None

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """As asyncpg's."""
        if not args and _CHANGES_SESSION.search(query):
            self.is_changed = True
        status: str = await super().execute(query, *args, timeout=timeout)
        return status

    def has_open_work(self) -> bool:
        """Whether a transaction is open, or a statement was cut off and is still being cancelled."""
        protocol = self._protocol
        return bool(protocol.is_in_transaction() or protocol._is_cancelling())


def _give(waits: asyncio.Future[Connection | None], connection: Connection | None) -> bool:
    """False where nobody waits any more."""
    if waits.done():
        return False
    waits.set_result(connection)
    return True


class Connections:
    """Those to one server, of one event loop."""

    def __init__(self, places: Places, server: str, url: str, idle_max: int) -> None:
        self.places = places
        self.server = server
        self.url = url
        self._idle_max = idle_max
        self._most = idle_max
        self._idle: dict[int, list[Connection]] = {}  # by shard; the shard that was needed last is at the end
        self._doubled: dict[int, None] = {}  # shards with more than one idle
        self._waiting: dict[int, deque[asyncio.Future[Connection | None]]] = {}  # for a shard's that is in use
        self.open = 0
        self._swept_at_s = time.monotonic()

    def serve(self, shards: int) -> None:
        """How many shards the server has, by the newest map."""
        self._most = self._idle_max + (self.places.told.active_max if shards <= self._idle_max else 0)

    def take(self, shard: int) -> Connection | None:
        """An idle one that serves the shard."""
        idle = self._idle.get(shard)
        while idle:
            connection = idle.pop()
            if not idle:
                del self._idle[shard]
            elif len(idle) == 1:
                del self._doubled[shard]
            if not connection.is_closed():
                return connection
            self.open -= 1
        return None

    async def get(self, shard: int) -> Connection:
        """One that serves the shard: turned to it when enough are kept, else opened. Raises as `Places.failed` says."""
        if self._most > self._idle_max and self.open >= self._most and (found := await self._when_done(shard)):
            return found
        is_full = False
        while True:
            if (self.open >= self._most or is_full) and (turned := await self._turned(shard)):
                return turned
            try:
                return await self._connect(shard)
            except ServerDown as down:
                # The server takes no more sessions: those that it has can still be turned.
                if not self._idle or not isinstance(down.__cause__, asyncpg.TooManyConnectionsError):
                    raise
                is_full = True

    async def _turned(self, shard: int) -> Connection | None:
        """An idle one of another shard's, turned to this one; None when there is none."""
        while self._idle:
            connection = self._oldest()
            if connection.is_closed():
                self.open -= 1
                continue
            try:
                await self._turn(connection, shard)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self.drop(connection)
                continue
            except BaseException:
                self.drop(connection)
                raise
            return connection
        return None

    async def _when_done(self, shard: int) -> Connection | None:
        """One of the shard's that is given back soon; None when none is."""
        loop = asyncio.get_running_loop()
        waits: asyncio.Future[Connection | None] = loop.create_future()
        queue = self._waiting.setdefault(shard, deque())
        queue.append(waits)
        timer = loop.call_later(_BUSY_S, _give, waits, None)
        try:
            connection = await waits
        except BaseException:
            if waits.done() and not waits.cancelled() and (given := waits.result()) is not None:
                self.give_back(given)
            raise
        finally:
            timer.cancel()
            with contextlib.suppress(ValueError):
                queue.remove(waits)
            if not queue and self._waiting.get(shard) is queue:
                del self._waiting[shard]
        if connection is not None and connection.is_closed():
            self.open -= 1
            return None
        return connection

    def _oldest(self) -> Connection:
        shard = next(iter(self._doubled or self._idle))
        idle = self._idle[shard]
        connection = idle.pop(0)
        if not idle:
            del self._idle[shard]
        elif len(idle) == 1:
            del self._doubled[shard]
        return connection

    async def _turn(self, connection: Connection, shard: int) -> None:
        caches = connection.caches
        if caches is None:
            caches = connection.caches = {}
        caches[connection.shard] = connection._stmt_cache
        await asyncpg.Connection.execute(
            connection, f"SET search_path = {self.places.schemas(shard, self.server) or 'DEFAULT'}"
        )
        connection._stmt_cache = caches.get(shard) or asyncpg_connection._StatementCache(
            loop=connection._loop,
            max_size=connection._config.statement_cache_size,
            on_remove=connection._maybe_gc_stmt,
            max_lifetime=connection._config.max_cached_statement_lifetime,
        )
        connection.shard, connection.turned = shard, True

    async def _connect(self, shard: int) -> Connection:
        self.places.check_up(self.server)
        settings = {"application_name": "headway"}
        if schemas := self.places.schemas(shard, self.server):
            settings["search_path"] = schemas
        self.open += 1
        try:
            connection: Connection = await asyncpg.connect(
                self.url, connection_class=Connection, timeout=_CONNECT_S, server_settings=settings
            )
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self.open -= 1
            failed = self.places.failed(self.server, error)
            raise failed from (error if failed is not error else None)
        except BaseException:
            self.open -= 1
            raise
        self.places.answered(self.server)
        connection.shard = shard
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a clean one for its shard; a closed one is forgotten."""
        if connection.is_closed():
            self.open -= 1
            return
        if self._waiting and (queue := self._waiting.get(connection.shard)):
            while queue:
                if _give(queue.popleft(), connection):
                    return
        if self.open > self._most and sum(map(len, self._idle.values())) >= self._most:
            self.drop(connection)
            return
        now_s = connection.left_at_s = time.monotonic()
        shard = connection.shard
        idle = self._idle.pop(shard, None)
        if idle is None:
            idle = []
        idle.append(connection)
        self._idle[shard] = idle
        if len(idle) == 2:
            self._doubled[shard] = None
        if now_s - self._swept_at_s > _IDLE_S / 4:
            self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        """Close what nobody has needed for long; a burst leaves more than the day needs."""
        self._swept_at_s = now_s
        for shard, idle in list(self._idle.items()):
            for connection in [c for c in idle if now_s - c.left_at_s > _IDLE_S]:
                idle.remove(connection)
                self.drop(connection)
            if not idle:
                del self._idle[shard]
            if len(idle) < 2:
                self._doubled.pop(shard, None)

    def drop(self, connection: Connection) -> None:
        """Close it without a word to wait for."""
        self.open -= 1
        with contextlib.suppress(Exception):
            connection.terminate()

    async def clean(self, connection: Connection) -> bool:
        """Bring one that was left in the middle of something back to its beginning; False when it cannot be."""
        try:
            async with asyncio.timeout(_CLEAN_S):
                if connection._protocol._is_cancelling():
                    await connection._protocol._wait_for_cancellation()
                if connection._protocol.is_in_transaction():
                    await asyncpg.Connection.execute(connection, "ROLLBACK")
                if connection.is_changed:
                    if connection.turned:
                        return False  # what RESET ALL restores is the first shard's
                    await connection.reset()
                    connection.is_changed = False
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return not connection.is_closed()

    def renew_statements(self) -> None:
        """The tables may have changed: nothing prepared so far is to be used again."""
        for idle in self._idle.values():
            for connection in idle:
                connection.caches = None
                connection._drop_local_type_cache()
                connection._drop_local_statement_cache()

    async def close(self) -> None:
        """Close those that are idle."""
        idle, self._idle = self._idle, {}
        self._doubled.clear()
        for connection in [connection for kept in idle.values() for connection in kept]:
            self.open -= 1
            with contextlib.suppress(Exception):
                await connection.close(timeout=_CLEAN_S)
