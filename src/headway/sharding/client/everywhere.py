"""A statement over all shards: one for each server at once, and the answers put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg

from headway.errors import CannotScatter, ShardMoved
from headway.model.sharding import SOURCE_SERVER, ShardMap, read_schema
from headway.sharding.client.checkout import CheckOut, Pool
from headway.sharding.client.place import AGAIN_MAX, FENCE_WAIT_S, ShardNumber, pause_s
from headway.sharding.merge import Column, Order, distinct_rows, merge_groups, sorter
from headway.sharding.scatter import Scatter, scatter

ROWS_MAX = 1_000_000  # of an answer that is held in memory; more than that is to be streamed
_PLANS_MAX = 500


class Row(tuple[Any, ...]):
    """A row: by position, and by the name of a column."""

    __slots__ = ()
    _names: tuple[str, ...] = ()

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, str):
            try:
                return tuple.__getitem__(self, self._names.index(place))
            except ValueError:
                raise KeyError(place) from None
        return tuple.__getitem__(self, place)

    def keys(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self._names

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values."""
        return zip(self._names, self, strict=True)


class Everywhere:
    """Plans and carries out statements over all shards of one database."""

    def __init__(self, by_code_point: bool) -> None:
        self._by_code_point = by_code_point
        self._plans: dict[tuple[str, int], Scatter] = {}

    def plan(self, map_: ShardMap, sql: str, reference: Sequence[str]) -> Scatter:
        """The plan of a statement; kept, for reading SQL takes a millisecond."""
        known = self._plans.get((sql, map_.epoch))
        if known is None:
            if len(self._plans) >= _PLANS_MAX:
                self._plans.clear()
            known = self._plans[sql, map_.epoch] = scatter(sql, map_.keys, reference)
        return known

    async def fetch(self, pool: Pool, sql: str, arguments: tuple[Any, ...], wait_s: float) -> list[Row]:
        """All rows. Asked again as a whole when a shard moved meanwhile: none is missed or seen twice."""
        until_s = time.monotonic() + max(wait_s, FENCE_WAIT_S)
        for attempt in range(AGAIN_MAX):
            map_ = await pool.map()
            if SOURCE_SERVER in map_.owners:
                try:
                    return await _ask_source(pool, sql, arguments, wait_s)
                except ShardMoved:
                    if time.monotonic() >= until_s:
                        raise
                    continue
            plan = self.plan(map_, sql, pool.places.told.reference)
            if len(arguments) < plan.needs:
                raise CannotScatter(f"the statement has ${plan.needs}, and {len(arguments)} arguments are given")
            try:
                answers = await _ask_all(pool, map_, plan, arguments, wait_s)
                if pool.places.map is not None and _is_same(pool.places.map, map_):
                    return self._merge(plan, answers, arguments)
            except ShardMoved:
                if time.monotonic() >= until_s:
                    raise
            await asyncio.sleep(pause_s(attempt))
        raise ShardMoved(f"database {map_.database}: shards move too quickly to see all of them at once")

    def _merge(self, plan: Scatter, answers: list[list[asyncpg.Record]], arguments: tuple[Any, ...]) -> list[Row]:
        given = next((rows[0] for rows in answers if rows), None)
        # What a star stands for only the server knows; hidden columns are behind it.
        starred = len(given) - len(plan.columns) if plan.star and given is not None else 0
        columns = [Column(name) for name in list(given.keys())[:starred]] if given is not None else []
        columns = [*columns, *plan.columns]
        rows: list[tuple[Any, ...]] = [tuple(record) for records in answers for record in records]
        if plan.groups is not None:
            rows = merge_groups(rows, plan.columns, plan.groups, self._by_code_point)
        if plan.distinct:
            rows = distinct_rows(rows)
        order = [Order(key.column + starred, key.is_desc, key.nulls_first) for key in plan.order]
        rows = sorter(order, self._by_code_point)(rows)
        first = plan.offset.value(arguments) if plan.offset else 0
        last = first + plan.limit.value(arguments) if plan.limit else None
        shown = [index for index, column in enumerate(columns) if not column.hidden]
        names = tuple(columns[index].name for index in shown)
        kind = type("Row", (Row,), {"__slots__": (), "_names": names})
        if len(shown) == len(columns):
            return [kind(row) for row in rows[first:last]]
        return [kind(row[index] for index in shown) for row in rows[first:last]]

    async def stream(
        self, pool: Pool, sql: str, arguments: tuple[Any, ...], wait_s: float, ahead: int
    ) -> AsyncIterator[Row]:
        """Rows as they come, server after server, without holding them. Of a plain SELECT alone."""
        map_ = await pool.map()
        if SOURCE_SERVER in map_.owners:
            for row in await _ask_source(pool, sql, arguments, wait_s):
                yield row
            return
        plan = self.plan(map_, sql, pool.places.told.reference)
        if plan.groups is not None or plan.order or plan.distinct or plan.limit or plan.offset:
            raise CannotScatter(
                "a stream cannot be grouped, ordered or limited: all rows would have to be there first",
                hint="Use everywhere(sql), or do it while the rows come.",
            )
        for server in sorted({*map_.owners}):
            shards = map_.on(server)
            statement = plan.server_sql([read_schema(map_, shard) for shard in shards])
            async with (
                CheckOut(pool, ShardNumber(shards[0]), wait_s) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                kind: type[Row] | None = None
                async for record in connection.cursor(statement, *arguments, prefetch=ahead):
                    if kind is None:
                        kind = type("Row", (Row,), {"__slots__": (), "_names": tuple(record.keys())})
                    yield kind(record)


async def _ask_source(pool: Pool, sql: str, arguments: tuple[Any, ...], wait_s: float) -> list[Row]:
    """All rows are still in one database: the statement is asked there as it is."""
    async with CheckOut(pool, ShardNumber(0), wait_s) as connection:
        records = await connection.fetch(sql, *arguments)
    if not records:
        return []
    kind: type[Row] = type("Row", (Row,), {"__slots__": (), "_names": tuple(records[0].keys())})
    return [kind(record) for record in records]


def _is_same(one: ShardMap, other: ShardMap) -> bool:
    """Whether rows are to be looked for in the same places."""
    return one.owners == other.owners and one.is_parting == other.is_parting


async def _ask_all(
    pool: Pool, map_: ShardMap, plan: Scatter, arguments: tuple[Any, ...], wait_s: float
) -> list[list[asyncpg.Record]]:
    """Every server at once, each in a transaction of its own."""

    async def ask(server: str) -> list[asyncpg.Record]:
        shards = map_.on(server)
        statement = plan.server_sql([read_schema(map_, shard) for shard in shards])
        async with CheckOut(pool, ShardNumber(shards[0]), wait_s) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
        if len(rows) > ROWS_MAX:
            raise CannotScatter(
                f"server {server} answers with {len(rows):,} rows", hint="Use stream(sql) for large results."
            )
        return rows

    done = await asyncio.gather(*(ask(server) for server in sorted({*map_.owners})), return_exceptions=True)
    failures = [one for one in done if isinstance(one, BaseException)]
    moved = next((one for one in failures if isinstance(one, ShardMoved)), None)
    if moved is not None:
        raise moved
    for failure in failures:
        if pool.places.may_have_moved(failure):
            newest = await pool.newer(lambda newer: not _is_same(newer, map_), 0.3)
            if not _is_same(newest, map_):
                raise ShardMoved(f"a shard of database {map_.database} moved") from failure
        raise failure
    return [one for one in done if not isinstance(one, BaseException)]
