"""SQLAlchemy's pools over the shards of a database: each shard has its own, and all of them share one underneath.

SQLAlchemy binds an engine to one pool, and a key's engine must lead to its shard. But connections of 64 pools would be
64 times too many, and a bound of each is none of the server. So a shard's pool only asks the one underneath, which
finds the shard's server by the newest map, waits for a permit of that server, and keeps connections within the budget
of the process, as the other clients do. A permit is held for as long as SQLAlchemy holds the connection: for a
transaction.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util import await_only

from headway.context.asked import patience_s
from headway.context.trace import Span, span
from headway.model.sharding import ShardMap
from headway.sharding.client.permits import Permits
from headway.sharding.client.place import FENCE_WAIT_S, Place, Places
from headway.sharding.client.prepared import forget_prepared
from headway.sharding.client.sync import is_alive

if TYPE_CHECKING:
    from headway.sharding.client.checkout import Pool as Loop
    from headway.sharding.client.sync import SyncDatabase

PLACE = "headway.place"  # in a connection's `info`: the Place that it serves
_CONNECT_S = 2
_NOWHERE = make_url("postgresql://")  # the drivers read Headway's URLs themselves


class Record(_ConnectionRecord):
    """A connection, the place that it serves, and the permit by which it is out."""

    permits: Permits | None = None
    permit = -1
    span: Span | None = None

    def __init__(self, pool: Pool, place: Place, url: str) -> None:
        super().__init__(pool, connect=False)
        self.place, self.url = place, url

    def serves(self, place: Place) -> None:
        """From now on it serves another shard of the same server, or is of another map."""
        self.place = self.info[PLACE] = place

    def give_permit_back(self) -> None:
        """What it was checked out by; once."""
        permits, self.permits = self.permits, None
        if permits is not None:
            permits.give_back(self.permit)
        if self.span is not None:
            self.span.end()
            self.span = None


class Idle:
    """The connections to one server that nobody uses, by shard; the shard needed longest ago is the first."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._records: OrderedDict[int, list[Record]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def take(self, shard: int) -> Record | None:
        """One that serves the shard."""
        with self._lock:
            return self._pop(shard, -1) if shard in self._records else None

    def oldest(self, most: int) -> Record | None:
        """One of the shard that was needed longest ago, when there are `most`."""
        with self._lock:
            return self._pop(next(iter(self._records)), 0) if self._count >= most and self._records else None

    def _pop(self, shard: int, position: int) -> Record:
        records = self._records[shard]
        record = records.pop(position)
        self._count -= 1
        if not records:
            del self._records[shard]
        return record

    def add(self, record: Record, most: int) -> bool:
        """Keep it; False: there are enough."""
        with self._lock:
            if self._count >= most:
                return False
            self._records.setdefault(record.place.shard, []).append(record)
            self._records.move_to_end(record.place.shard)
            self._count += 1
            return True

    def all(self, shard: int | None = None) -> list[Record]:
        """Take all, or all of a shard."""
        with self._lock:
            shards = list(self._records) if shard is None else [shard]
            found = [record for number in shards for record in self._records.pop(number, ())]
            self._count -= len(found)
            return found


class ServerPool(Pool):
    """The connections to all servers of a database, of one event loop or of all threads."""

    def __init__(self, places: Places) -> None:
        super().__init__(self._open)
        self.places = places
        self._idle: dict[str, Idle] = {}
        self._epoch = 0

    def get(self, shard: int) -> Record:
        """A connection that serves the shard, or a place for one; with a permit of its server."""
        out = span(f"database {self.places.told.name}", "database")
        try:
            record = self._get(shard)
        except BaseException as error:
            out.fail(error)
            out.end()
            raise
        out.waited()
        if self.places.watch is not None:
            out.set(server=record.place.server, shard=record.place.shard)
        record.span = out
        return record

    def _get(self, shard: int) -> Record:
        places = self.places
        map_ = places.map
        permit = -1
        if map_ is not None and shard not in map_.fenced:
            permits = places.permits(map_.owners[shard])
            permit = permits.take()
        if map_ is None or permit < 0:
            map_, permits, permit = self._wait(shard)
        try:
            record = self._find(Place(map_, shard, map_.owners[shard]))
        except BaseException:
            permits.give_back(permit)
            raise
        record.permits, record.permit = permits, permit
        return record

    def _find(self, place: Place) -> Record:
        if place.map.epoch != self._epoch:
            self._follow(place.map)
        idle = self._idle.get(place.server)
        if idle is None:
            idle = self._idle.setdefault(place.server, Idle(self.places.url(place.map, place.server)))
        most = self.places.told.idle_max
        while (record := idle.take(place.shard) or idle.oldest(most)) is not None:
            if self._is_alive(record):
                former = record.place
                if former.shard == place.shard and former.map.epoch == place.map.epoch:
                    return record
                try:
                    self._turn(record, place)
                except (psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    record.invalidate()
                    continue
                except BaseException:
                    record.invalidate()
                    raise
                record.serves(place)
                return record
            record.invalidate()
        return Record(self, place, idle.url)

    def _follow(self, map_: ShardMap) -> None:
        """A newer map: servers may be elsewhere or gone."""
        self._epoch = map_.epoch
        for name, idle in list(self._idle.items()):
            if name not in map_.servers or idle.url != self.places.url(map_, name):
                self._idle.pop(name, None)
                for record in idle.all():
                    record.invalidate()

    def give_back(self, record: Record) -> None:
        """Keep it within the budget; the next one may come."""
        try:
            if record.dbapi_connection is not None:
                idle = self._idle.get(record.place.server)
                if idle is None or idle.url != record.url or not idle.add(record, self.places.told.idle_max):
                    record.invalidate()
        finally:
            record.give_permit_back()

    def _do_return_conn(self, record: Any) -> None:
        self.give_back(record)

    def renew(self, place: Place) -> None:
        """One of a shard's connections broke, or its tables are others now: have none of those that are kept."""
        idle = self._idle.get(place.server)
        for record in idle.all(place.shard) if idle is not None else ():
            record.invalidate()

    def dispose(self) -> None:
        """Close what is idle."""
        for idle in list(self._idle.values()):
            for record in idle.all():
                record.invalidate()

    def recreate(self) -> ServerPool:
        """As SQLAlchemy asks for it after `dispose`; what is used again is opened again."""
        return self

    def _open(self, rec: Any) -> Any:
        """Called by SQLAlchemy for a record without a connection."""
        record: Record = rec
        place = record.place
        self.places.check_up(place.server)
        connection = self._connect(record, self.places.schemas(place.shard, place.server))
        self.places.answered(place.server)
        record.serves(place)
        return connection

    def _failed(self, record: Record, error: BaseException) -> BaseException:
        return self.places.failed(record.place.server, error)

    # -- how it waits, and for which driver ---------------------------------------------------------------------------

    def _wait(self, shard: int) -> tuple[ShardMap, Permits, int]:
        """The map and a permit of the shard's server, where they are not at hand."""
        raise NotImplementedError

    def _connect(self, record: Record, schemas: str) -> Any:
        raise NotImplementedError

    def _is_alive(self, record: Record) -> bool:
        """Whether the server has not closed it meanwhile, as far as one knows without asking it."""
        raise NotImplementedError

    def _turn(self, record: Record, place: Place) -> None:
        """Have it serve another shard, and forget what it has prepared for the tables of before."""
        raise NotImplementedError


class ThreadsPool(ServerPool):
    """On psycopg, for threads."""

    _is_asyncio = False

    def __init__(self, places: Places, sync: SyncDatabase) -> None:
        super().__init__(places)
        self._sync = sync

    def _wait(self, shard: int) -> tuple[ShardMap, Permits, int]:
        map_ = self._sync.map()
        while True:
            if shard in map_.fenced:
                map_ = self._sync.until(lambda newer: shard not in newer.fenced, FENCE_WAIT_S)
                self.places.check_whole(map_)
            server = map_.owners[shard]
            permits = self.places.permits(server)
            permit = permits.take()
            if permit >= 0:
                return map_, permits, permit
            self.places.check_up(server)
            permit = self._permit(permits, server)
            newest = self._sync.map()
            if newest.owners[shard] == server:
                return newest, permits, permit
            permits.give_back(permit)  # it was the wait for another server
            map_ = newest

    def _permit(self, permits: Permits, server: str) -> int:
        woken = threading.Event()
        wait_s = patience_s(self.places.told.wait_s)
        waiter = permits.wait(woken.set)
        try:
            woken.wait(wait_s)
        except BaseException:
            permit = permits.leave(waiter)
            if permit >= 0:
                permits.give_back(permit)
            raise
        permit = permits.leave(waiter)
        if permit < 0:
            raise self.places.busy(server, wait_s)
        return permit

    def _connect(self, record: Record, schemas: str) -> Any:
        options: dict[str, Any] = dict(self._dialect.create_connect_args(_NOWHERE)[1])  # type: ignore[union-attr]
        if schemas:
            options["options"] = f"-c search_path={schemas.replace(' ', '')}"
        try:
            return psycopg.connect(
                record.url,
                connect_timeout=_CONNECT_S,
                application_name="headway",
                tcp_user_timeout=30_000,
                **options,
            )
        except (psycopg.OperationalError, OSError) as error:
            failed = self._failed(record, error)
            raise failed from (error if failed is not error else None)

    def _is_alive(self, record: Record) -> bool:
        connection: Any = record.dbapi_connection
        return connection is not None and is_alive(connection)

    def _turn(self, record: Record, place: Place) -> None:
        connection: Any = record.dbapi_connection
        statement = forget_prepared()
        if record.place.shard != place.shard:
            path = self.places.schemas(place.shard, place.server) or "DEFAULT"
            statement = f"SET search_path = {path}; {statement}"
        connection.autocommit = True
        connection.execute(statement)
        connection.autocommit = False


class LoopPool(ServerPool):
    """On asyncpg, for one event loop; called in the greenlets in which SQLAlchemy runs there."""

    _is_asyncio = True

    def __init__(self, places: Places, loop: Loop) -> None:
        super().__init__(places)
        self._loop = loop

    def _wait(self, shard: int) -> tuple[ShardMap, Permits, int]:
        return await_only(self._wait_for(shard))

    async def _wait_for(self, shard: int) -> tuple[ShardMap, Permits, int]:
        map_ = await self._loop.map()
        while True:
            if shard in map_.fenced:
                map_ = await self._loop.until(lambda newer: shard not in newer.fenced, FENCE_WAIT_S)
                self.places.check_whole(map_)
            server = map_.owners[shard]
            permits = self.places.permits(server)
            permit = permits.take()
            if permit >= 0:
                return map_, permits, permit
            self.places.check_up(server)
            permit = await self._loop.permit(permits, server, self.places.told.wait_s)
            newest = self.places.map or map_
            if newest.owners[shard] == server:
                return newest, permits, permit
            permits.give_back(permit)
            map_ = newest

    def _connect(self, record: Record, schemas: str) -> Any:
        settings = {"application_name": "headway"}
        if schemas:
            settings["search_path"] = schemas

        async def connect() -> Any:
            try:
                return await asyncpg.connect(record.url, timeout=_CONNECT_S, server_settings=settings)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                failed = self._failed(record, error)
                raise failed from (error if failed is not error else None)

        return self._dialect.connect(async_creator_fn=connect)  # type: ignore[union-attr]

    def _follow(self, map_: ShardMap) -> None:
        # Has every connection prepare its statements anew, and look up its types, before it is used next.
        self._dialect._invalidate_schema_cache()  # type: ignore[union-attr]
        super()._follow(map_)

    def _is_alive(self, record: Record) -> bool:
        connection = record.driver_connection
        return connection is not None and not connection.is_closed()

    def _turn(self, record: Record, place: Place) -> None:
        if record.place.shard == place.shard:
            return
        connection: Any = record.dbapi_connection
        path = self.places.schemas(place.shard, place.server) or "DEFAULT"
        await_only(connection.driver_connection.execute(f"SET search_path = {path}"))
        # Each shard has statements of its own: they hold the types of its tables.
        statements = record.info.setdefault("headway.statements", {})
        prepared = statements[record.place.shard] = connection._prepared_statement_cache
        connection._prepared_statement_cache = statements.pop(place.shard, None) or type(prepared)(prepared.capacity)


class ShardPool(Pool):
    """The pool of a shard's engine: asks the one underneath, whose records it hands out."""

    def __init__(self, servers: ServerPool, shard: int, dialect: Any) -> None:
        super().__init__(servers._open, dialect=dialect)
        self._servers, self._shard = servers, shard

    def _do_get(self) -> Record:
        return self._servers.get(self._shard)

    def _do_return_conn(self, record: Any) -> None:
        self._servers.give_back(record)

    def _invalidate(self, connection: Any, exception: BaseException | None = None, _checkin: bool = True) -> None:
        place = connection.info.get(PLACE) if connection.is_valid else None
        if place is not None:
            self._servers.renew(place)
        if _checkin and connection.is_valid:
            connection.invalidate(exception)

    def status(self) -> str:
        """For SQLAlchemy's log."""
        return f"shard {self._shard} of {self._servers.places.told.name}"

    def dispose(self) -> None:
        """Close what is idle; of all shards, for they share it."""
        self._servers.dispose()

    def recreate(self) -> ShardPool:
        """As SQLAlchemy asks for it after `dispose`."""
        return self
