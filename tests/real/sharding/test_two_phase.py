"""A transaction over two shards is committed on both or on none, whoever dies in its middle."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from client_place import Sharded, sharded
from harness import wait_for

from headway.errors import DatabaseBusy, WrongShard
from headway.model.sharding import schema_name
from headway.sharding.client.two_phase import PARTS_MAX
from headway.sharding.doubt import end_doubts
from headway.sharding.keys import shard_of

SHARDS = 8


@pytest.fixture(scope="module")
def orders() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        yield found


def keys_on(server: str, count: int) -> list[int]:
    first = server == "s1"
    found = (key for key in range(1, 10_000) if (shard_of(key, SHARDS, "int") < SHARDS // 2) == first)
    return [next(found) for _ in range(count)]


def rows(orders: Sharded, server: str, key: int) -> list[int]:
    with orders.admin(server) as admin:
        schema = schema_name("orders", shard_of(key, SHARDS, "int"))
        found = admin.execute(f'SELECT id FROM "{schema}".orders WHERE customer_id = %s ORDER BY id', (key,)).fetchall()  # type: ignore[arg-type]
    return [int(str(row[0])) for row in found]


def prepared(orders: Sharded) -> int:
    count = 0
    for server in orders.servers:
        with orders.admin(server) as admin:
            row = admin.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone()
            assert row is not None
            count += int(str(row[0]))
    return count


def as_app(orders: Sharded, server: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(orders.servers[server].url, autocommit=True)


def end(orders: Sharded, patience_s: float = 0.0) -> list[str]:
    with as_app(orders, "s1") as catalog, as_app(orders, "s1") as first, as_app(orders, "s2") as second:
        return [part.decision for part in end_doubts("orders", catalog, [("s1", first), ("s2", second)], patience_s)]


def test_both_or_none(orders):
    (a,), (b,) = keys_on("s1", 1), keys_on("s2", 1)

    async def use() -> None:
        database = orders.database()
        async with database.transaction(a, b) as (x, y):
            await x.execute("INSERT INTO orders VALUES ($1, 1)", a)
            await y.execute("INSERT INTO orders VALUES ($1, 1)", b)
        assert (rows(orders, "s1", a), rows(orders, "s2", b)) == ([1], [1])

        async def fails(row: int, last: int, error: type[Exception] | None) -> None:
            async with database.transaction(a, b) as (x, y):
                await x.execute("INSERT INTO orders VALUES ($1, $2)", a, row)
                await y.execute("INSERT INTO orders VALUES ($1, $2)", last, row)
                if error is not None:
                    raise error

        for _ in range(6):  # more often than there are places: none is lost
            with pytest.raises(ZeroDivisionError):
                await fails(2, b, ZeroDivisionError)
            with pytest.raises(WrongShard):
                await fails(3, a, None)
        assert (rows(orders, "s1", a), rows(orders, "s2", b)) == ([1], [1])

    asyncio.run(use())
    assert prepared(orders) == 0
    assert end(orders) == []


def test_two_shards_of_one_server_need_one_place(orders):
    keys = keys_on("s1", 40)
    a, b = next((x, y) for x in keys for y in keys if shard_of(x, SHARDS, "int") != shard_of(y, SHARDS, "int"))

    async def use() -> None:
        database = orders.database(active_max=1)
        async with database.transaction(a, b, a) as (x, y, z):
            assert x is z
            await x.execute("INSERT INTO orders VALUES ($1, 10)", a)
            await y.execute("INSERT INTO orders VALUES ($1, 10)", b)
        async with database.at(a, wait_s=30) as connection:
            assert await connection.fetchval("SELECT 1") == 1

    asyncio.run(use())
    assert 10 in rows(orders, "s1", a)
    assert 10 in rows(orders, "s1", b)


def test_transactions_against_each_other_end(orders):
    """Taken in one order, whatever the order of the keys: no two wait for each other."""
    (a,), (b,) = keys_on("s1", 1), keys_on("s2", 1)

    async def use() -> None:
        database = orders.database(active_max=1)

        async def one(number: int) -> None:
            keys = (a, b) if number % 2 else (b, a)
            async with database.transaction(*keys, wait_s=100) as (x, y):
                for connection, key in ((x, keys[0]), (y, keys[1])):
                    await connection.execute("INSERT INTO orders VALUES ($1, $2)", key, 100 + number)

        await asyncio.gather(*(one(number) for number in range(30)))

    asyncio.run(use())
    assert [row for row in rows(orders, "s1", a) if row >= 100] == list(range(100, 130))
    assert [row for row in rows(orders, "s2", b) if row >= 100] == list(range(100, 130))


@pytest.mark.parametrize("count", [0, PARTS_MAX + 1])
def test_the_number_of_keys_is_bounded(orders, count):
    async def use() -> None:
        orders.database().transaction(*range(count))

    with pytest.raises(ValueError, match="takes 1 to"):
        asyncio.run(use())


# The process dies by its own hand, between two steps of the commit.
_DIES = """
import asyncio, os, signal, sys
from headway import database
from headway.sharding.client.two_phase import Transaction

step, a, b, row = sys.argv[1], *map(int, sys.argv[2:5])

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    if step == "before the decision":
        Transaction._decide = die
    elif step == "after the decision":
        decide = Transaction._decide
        async def after(self):
            await decide(self)
            die()
        Transaction._decide = after
    elif step == "half prepared" or step == "half committed":
        say, count = Transaction._say, 0
        words_of = "PREPARE" if step == "half prepared" else "COMMIT"
        one_has_it = asyncio.Event()
        async def some(self, shard, words):
            nonlocal count
            if words.startswith(words_of):
                count += 1
                if count == 2:
                    await one_has_it.wait()
                    die()
            await say(self, shard, words)
            if words.startswith(words_of):
                one_has_it.set()
        Transaction._say = some
    async with database("orders").transaction(a, b) as (x, y):
        await x.execute("INSERT INTO orders VALUES ($1, $2)", a, row)
        await y.execute("INSERT INTO orders VALUES ($1, $2)", b, row)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "row", "is_there"),
    [
        ("half prepared", 1001, False),
        ("before the decision", 1002, False),
        ("after the decision", 1003, True),
        ("half committed", 1004, True),
    ],
)
def test_a_client_that_dies_leaves_nothing_in_doubt(orders, step, row, is_there):
    (a,), (b,) = keys_on("s1", 1), keys_on("s2", 1)
    environ = {**os.environ, **orders.environ()}
    done = subprocess.run([sys.executable, "-c", _DIES, step, str(a), str(b), str(row)], env=environ, timeout=200)
    assert done.returncode == -9
    assert prepared(orders) >= 1
    assert end(orders, patience_s=600.0) == []  # its client may still decide
    wait_for(lambda: prepared(orders) == 0 or (end(orders), False)[1], 60, "all parts are ended")
    assert [row in rows(orders, "s1", a), row in rows(orders, "s2", b)] == [is_there, is_there]


def test_a_commit_comes_to_its_end_though_its_caller_is_cancelled(orders):
    """A client that has gone, say: nothing waits for the controller, and no row stays locked until that comes."""
    (a,), (b,) = keys_on("s1", 1), keys_on("s2", 1)

    async def use() -> None:
        database = orders.database()
        transaction = database.transaction(a, b)
        decide, deciding = transaction._decide, asyncio.Event()

        async def slow() -> None:
            deciding.set()
            await asyncio.sleep(0.2)
            await decide()

        transaction._decide = slow  # type: ignore[method-assign]

        async def commit() -> None:
            async with transaction as (x, y):
                await x.execute("INSERT INTO orders VALUES ($1, 1500)", a)
                await y.execute("INSERT INTO orders VALUES ($1, 1500)", b)

        task = asyncio.create_task(commit())
        await deciding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert prepared(orders) == 0
        assert 1500 in rows(orders, "s1", a)
        assert 1500 in rows(orders, "s2", b)
        await database.close()

    asyncio.run(use())


def test_a_decision_that_comes_too_late_rolls_back(orders):
    (a,), (b,) = keys_on("s1", 1), keys_on("s2", 1)

    async def use() -> None:
        database = orders.database()
        transaction = database.transaction(a, b)
        decide = transaction._decide

        async def late() -> None:
            assert await asyncio.to_thread(end, orders) == ["abort", "abort"]
            await decide()

        transaction._decide = late  # type: ignore[method-assign]

        async def commit() -> None:
            async with transaction as (x, y):
                await x.execute("INSERT INTO orders VALUES ($1, 2000)", a)
                await y.execute("INSERT INTO orders VALUES ($1, 2000)", b)

        with pytest.raises(DatabaseBusy, match="took too long to decide"):
            await commit()

    asyncio.run(use())
    assert prepared(orders) == 0
    assert 2000 not in rows(orders, "s1", a) + rows(orders, "s2", b)


def test_reference_tables_are_written_on_all_servers_or_on_none(orders):
    for server, found in orders.servers.items():
        with orders.admin(server) as admin:
            admin.execute("CREATE SCHEMA IF NOT EXISTS headway_reference")
            admin.execute("CREATE TABLE headway_reference.countries (code text PRIMARY KEY, name text)")
            admin.execute(f"GRANT USAGE ON SCHEMA headway_reference TO {found.role}")
            admin.execute(f"GRANT ALL ON headway_reference.countries TO {found.role}")

    def there(server: str) -> list[object]:
        with orders.admin(server) as admin:
            return [row[0] for row in admin.execute("SELECT code FROM headway_reference.countries ORDER BY 1")]

    async def use() -> None:
        database = orders.database(active_max=2)
        insert = "INSERT INTO countries VALUES ($1, $2)"
        assert await database.write_reference(insert, "ch", "Schweiz") == "INSERT 0 1"
        await asyncio.gather(*(database.write_reference(insert, f"x{n}", "", wait_s=100) for n in range(20)))
        with orders.admin("s2") as admin:
            admin.execute("INSERT INTO headway_reference.countries VALUES ('li')")
        with pytest.raises(asyncpg.UniqueViolationError):
            await database.write_reference(insert, "li", "Liechtenstein")
        for key in (keys_on("s1", 1)[0], keys_on("s2", 1)[0]):
            async with database.at(key) as connection:
                assert await connection.fetchval("SELECT name FROM countries WHERE code = 'ch'") == "Schweiz"

    asyncio.run(use())
    assert len(there("s1")) == 21
    assert there("s2") == sorted([*map(str, there("s1")), "li"])
    assert prepared(orders) == 0
