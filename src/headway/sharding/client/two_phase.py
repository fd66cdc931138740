"""A transaction over two or more shards: prepared on each, decided by one row in the catalog, committed on each.

All of it is committed or none, also when any process or server dies at any moment: the row is the decision. A part that
is left prepared is ended by the controller, who writes `abort` unless `commit` stands there already; a late `commit`
then fails on the row's key, and the client rolls back. What this does not give is isolation across shards: a reader may
see one part committed a moment before the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from types import TracebackType
from typing import Any

import asyncpg

from headway.errors import DatabaseBusy, ShardMoved
from headway.model.sharding import SOURCE_SERVER
from headway.sharding.client.checkout import CheckOut, Pool
from headway.sharding.client.connections import Connection
from headway.sharding.client.place import NEWER_WAIT_S, OnServer, ShardNumber

GID_PREFIX = "headway"  # of a prepared transaction: headway:<database>:<id>:<server>:<shard>
PARTS_MAX = 64
_SERVERS_TRIES = 5
_END_S = 10.0


class Transaction:
    """`async with database.transaction(a, b) as (x, y)`: a connection a key, in the order of the keys."""

    def __init__(self, pool: Pool, keys: tuple[object, ...], wait_s: float) -> None:
        if not 1 <= len(keys) <= PARTS_MAX:
            raise ValueError(f"a transaction over shards takes 1 to {PARTS_MAX} keys, not {len(keys)}")
        self._pool, self._keys, self._wait_s = pool, keys, wait_s
        # By server and shard, in the order in which they were taken.
        self._parts: dict[tuple[str, int], tuple[CheckOut, Connection]] = {}
        self._id = uuid.uuid4().hex

    async def __aenter__(self) -> tuple[Connection, ...]:
        map_ = await self._pool.map()
        places = [self._pool.places.find(map_, key) for key in self._keys]
        # Everybody takes them in the same order, so that no two wait for each other.
        at = [(place.server, 0 if place.server == SOURCE_SERVER else place.shard) for place in places]
        key_of = dict(zip(at, self._keys, strict=True))
        try:
            held: set[str] = set()
            for place in sorted(key_of):
                # Two parts on one server are one transaction's: a second permit could wait for the first for ever.
                part = CheckOut(self._pool, key_of[place], self._wait_s, has_permit=place[0] in held)
                connection = await part.__aenter__()
                self._parts[place] = (part, connection)
                held.add(place[0])
                await asyncpg.Connection.execute(connection, "BEGIN")
        except BaseException as error:
            await self._leave(error)
            raise
        return tuple(self._parts[place][1] for place in at)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
        except BaseException as failure:
            await self._leave(failure)
            raise
        await self._leave(error)

    async def _commit(self) -> None:
        connections = [connection for _, connection in self._parts.values()]
        if len(connections) == 1:
            await asyncpg.Connection.execute(connections[0], "COMMIT")
            return
        # To the end, whatever happens to the caller: a cancelled commit would be nobody's decision, and what it has
        # prepared would keep its locks until the controller comes.
        committing = asyncio.ensure_future(self._commit_all())
        try:
            await asyncio.shield(committing)
        except asyncio.CancelledError:
            await asyncio.wait([committing])
            if not committing.cancelled():
                committing.exception()  # whoever is cancelled is told that, and not this
            raise

    async def _commit_all(self) -> None:
        async with asyncio.timeout(_END_S):
            try:
                await _all(self._say(place, "PREPARE TRANSACTION") for place in self._parts)
                await self._decide()
            except BaseException:
                # Nothing says `commit`, and from here on nothing will: what was prepared can go.
                await self._roll_back()
                raise
            # Decided: what fails from here on is ended by the controller, as committed.
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await _all(self._say(place, "COMMIT PREPARED") for place in self._parts)

    async def _decide(self) -> None:
        async with self._pool.catalog() as catalog:
            try:
                await catalog.fetchval(
                    "INSERT INTO headway.decisions (transaction, decision) VALUES ($1, 'commit')", self._id
                )
            except asyncpg.UniqueViolationError:
                raise DatabaseBusy(
                    "the transaction over shards took too long to decide and was rolled back",
                    hint="Nothing was committed: do it again.",
                ) from None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if not await self._is_decided():
                    raise

    async def _is_decided(self) -> bool:
        """After an answer that got lost: the row says it. `abort` is written where there is none, so it stays so."""
        async with self._pool.catalog() as catalog:
            await catalog.execute(
                "INSERT INTO headway.decisions (transaction, decision) VALUES ($1, 'abort') ON CONFLICT DO NOTHING",
                self._id,
            )
            return bool(
                await catalog.fetchval(
                    "SELECT decision = 'commit' FROM headway.decisions WHERE transaction = $1", self._id
                )
            )

    async def _roll_back(self) -> None:
        for place, (_, connection) in self._parts.items():
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if connection.is_in_transaction():
                    await asyncpg.Connection.execute(connection, "ROLLBACK")
                else:
                    await self._say(place, "ROLLBACK PREPARED")

    async def _say(self, place: tuple[str, int], words: str) -> None:
        gid = f"{GID_PREFIX}:{self._pool.places.told.name}:{self._id}:{place[0]}:{place[1]}"
        await asyncpg.Connection.execute(self._parts[place][1], f"{words} '{gid}'")

    async def _leave(self, error: BaseException | None) -> None:
        """Give all connections back, the last one first; what an error means is told by its own part."""
        parts, self._parts = list(self._parts.values()), {}
        told: BaseException | None = None
        for part, _ in reversed(parts):
            try:
                await part.__aexit__(type(error) if error is not None else None, error, None)
            except BaseException as found:  # the others are given back all the same
                told = told or found
        if told is not None and told is not error:
            raise told


async def write_reference(pool: Pool, sql: str, arguments: tuple[Any, ...], wait_s: float) -> str:
    """One statement on the reference tables of every server, in one transaction over all of them; its status.

    One writer at a time, so that all servers see the writes in one order. DatabaseBusy when one is away for too long,
    ServerDown when a server does not answer: then nothing was written on any.
    """
    if SOURCE_SERVER in (await pool.map()).owners:
        async with CheckOut(pool, ShardNumber(0), wait_s) as connection:
            return str(await connection.execute(sql, *arguments))
    for _ in range(_SERVERS_TRIES):
        servers = sorted((await pool.map()).servers)
        async with Transaction(pool, tuple(OnServer(name) for name in servers), wait_s) as connections:
            # Everybody asks the same server first, and so comes after everybody before.
            await connections[0].execute("SELECT pg_advisory_xact_lock(hashtext('headway.reference'))")
            if await _servers_now(pool) == servers:
                told = [await connection.execute(sql, *arguments) for connection in connections]
                return str(told[0])
        # A server has come or gone, and the map that is known here is older: nothing was written yet.
        await pool.newer(lambda newer, before=servers: sorted(newer.servers) != before, NEWER_WAIT_S)  # type: ignore[misc]
    raise ShardMoved("servers come and go too quickly to write a reference table on all of them")


async def _servers_now(pool: Pool) -> list[str]:
    async with pool.catalog() as catalog:
        return [str(row["name"]) for row in await catalog.fetch("SELECT name FROM headway.servers ORDER BY name")]


async def _all(steps: Any) -> None:
    """Run all to their ends at once; then raise the first failure."""
    done = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
