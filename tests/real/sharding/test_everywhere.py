"""A statement over all shards answers as over one table, or is refused by name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from client_place import Sharded, sharded

from headway.errors import CannotScatter
from headway.sharding.keys import shard_of
from headway.sharding.merge import divide

SHARDS = 8
ONE_TABLE = """
CREATE SCHEMA one;
CREATE TABLE one.orders (customer_id bigint, id bigint, note text, count int);
GRANT USAGE ON SCHEMA one TO {role};
GRANT ALL ON one.orders TO {role};
"""


@pytest.fixture(scope="module")
def orders() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        with found.admin("s1") as admin:
            admin.execute(ONE_TABLE.format(role=found.servers["s1"].role))  # type: ignore[arg-type]
        for server in found.servers:
            with found.admin(server) as admin:
                for (schema,) in admin.execute(
                    "SELECT nspname FROM pg_namespace WHERE nspname ~ '^orders_'"
                ).fetchall():
                    admin.execute(f'ALTER TABLE "{schema}".orders ALTER note DROP NOT NULL, ALTER count DROP NOT NULL')  # type: ignore[arg-type]
        asyncio.run(_fill(found))
        yield found


async def _fill(orders: Sharded) -> None:
    """The same rows in the shards and in one table: texts that sort oddly, nulls, and customers with many rows."""
    chance = random.Random(7)
    words = ["Ä", "a", "B", "b", "", "ä", "Z", "z", None, "10", "9"]
    database = orders.database()
    rows = [
        (customer, number, chance.choice(words), chance.choice([None, *range(-5, 6)]))
        for customer in chance.sample(range(-500, 500), 120)
        for number in range(chance.randrange(1, 5))
    ]
    one = await asyncpg.connect(orders.servers["s1"].url)
    await one.executemany("INSERT INTO one.orders VALUES ($1, $2, $3, $4)", rows)
    await one.close()
    for row in rows:
        async with database.at(row[0]) as connection:
            await connection.execute("INSERT INTO orders VALUES ($1, $2, $3, $4)", *row)
    await database.close()


# What has an order is compared in it; everything else as sets.
STATEMENTS: list[tuple[str, tuple[Any, ...], bool]] = [
    ("SELECT count(*) FROM orders", (), True),
    ("SELECT count(*) AS n, count(note), sum(count), min(count), max(count), avg(count) FROM orders", (), True),
    ("SELECT sum(customer_id), avg(customer_id), min(note), max(note) FROM orders", (), True),
    ("SELECT sum(count), avg(count), count(*), max(note) FROM orders WHERE customer_id > 10000", (), True),
    ("SELECT coalesce(sum(count), 0) AS s FROM orders WHERE id = $1", (99,), True),
    ("SELECT note, count(*), avg(count) FROM orders GROUP BY note", (), False),
    ("SELECT note, count(*) AS n FROM orders GROUP BY 1 ORDER BY n DESC, note", (), True),
    ("SELECT note, sum(count) FROM orders GROUP BY note ORDER BY note DESC LIMIT 3", (), True),
    ("SELECT id % 2 AS odd, lower(note) AS l, count(*) FROM orders GROUP BY id % 2, lower(note)", (), False),
    ("SELECT count(*) FROM orders GROUP BY note", (), False),
    ("SELECT count(DISTINCT note), count(DISTINCT customer_id) FROM orders", (), True),
    ("SELECT note, count(DISTINCT count) FROM orders GROUP BY note", (), False),
    ("SELECT count(*) FILTER (WHERE count > 0), bool_and(count < 9), bool_or(count > 4) FROM orders", (), True),
    ("SELECT customer_id, count(*) FROM orders GROUP BY customer_id HAVING count(*) > 2", (), False),
    ("SELECT customer_id, avg(count) FROM orders GROUP BY customer_id ORDER BY customer_id LIMIT 7", (), True),
    ("SELECT customer_id, id FROM orders WHERE count > $1 ORDER BY customer_id, id DESC", (2,), True),
    ("SELECT customer_id FROM orders ORDER BY count DESC, note NULLS FIRST, customer_id, id", (), True),
    ("SELECT * FROM orders ORDER BY note, customer_id, id LIMIT 9 OFFSET 4", (), True),
    ("SELECT *, note || 'x' AS longer FROM orders ORDER BY 1 + id, customer_id LIMIT $1 OFFSET $2", (5, 3), True),
    ("SELECT DISTINCT note FROM orders", (), False),
    ("SELECT DISTINCT note, id FROM orders ORDER BY id DESC, note NULLS FIRST", (), True),
    ("SELECT o.id, p.note FROM orders o JOIN orders p ON p.customer_id = o.customer_id AND p.id = o.id", (), False),
    ("SELECT o.id FROM orders o JOIN orders p USING (customer_id) WHERE p.id = 1", (), False),
    ("SELECT customer_id FROM orders WHERE customer_id IN ($1, $2, 3)", (1, 2), False),
    ("SELECT customer_id FROM orders WHERE note = 'it''s $1; DROP TABLE orders -- '", (), False),
]


@pytest.mark.parametrize(("sql", "arguments", "is_ordered"), STATEMENTS, ids=[one[0][:60] for one in STATEMENTS])
def test_the_answer_is_that_of_one_table(orders, sql, arguments, is_ordered):
    async def ask() -> None:
        one = await asyncpg.connect(orders.servers["s1"].url, server_settings={"search_path": "one"})
        expected = await one.fetch(sql, *arguments)
        await one.close()
        database = orders.database()
        found = await database.everywhere(sql, *arguments)
        await database.close()
        left, right = [tuple(row) for row in expected], [tuple(row) for row in found]
        if not is_ordered:
            left, right = sorted(left, key=repr), sorted(right, key=repr)
        assert right == left
        # As exact as PostgreSQL, to the last digit.
        assert [[str(value) for value in row] for row in right] == [[str(value) for value in row] for row in left]
        if expected:
            assert found[0].keys() == tuple(expected[0].keys())

    asyncio.run(ask())


def test_rows_are_reached_by_name(orders):
    async def ask() -> None:
        database = orders.database()
        (row,) = await database.everywhere("SELECT count(*) AS n, max(id) FROM orders")
        assert row["n"] == row[0]
        assert dict(row.items()) == {"n": row[0], "max": row[1]}
        with pytest.raises(KeyError):
            row["nix"]

    asyncio.run(ask())


def test_a_stream_gives_every_row_once(orders):
    async def ask() -> None:
        database = orders.database()
        seen = [
            (row["customer_id"], row["id"])
            async for row in database.stream("SELECT customer_id, id FROM orders WHERE id >= $1", 0, ahead=7)
        ]
        (expected,) = await database.everywhere("SELECT count(*) FROM orders")
        assert len(seen) == len(set(seen)) == expected["count"]
        with pytest.raises(CannotScatter, match="a stream cannot be grouped"):
            async for _ in database.stream("SELECT id FROM orders ORDER BY id"):
                pass

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE orders SET note = ''", "everywhere takes a SELECT, not UPDATE"),
        ("DELETE FROM orders", "not DELETE"),
        ("INSERT INTO orders VALUES (1, 1)", "not INSERT"),
        ("TRUNCATE orders", "everywhere takes a SELECT"),
        ("SELECT 1; SELECT 2", "takes one statement"),
        ("SELECT FROM WHERE", "cannot be read"),
        ("SELECT 1", "reads no table"),
        ("SELECT * FROM nix", "there is no table nix"),
        ("SELECT * FROM public.orders", "names a schema"),
        ("SELECT rank() OVER (ORDER BY id) FROM orders", "a window function"),
        ("SELECT * FROM orders FOR UPDATE", "locks are taken on one shard"),
        ("SELECT id FROM orders UNION SELECT id FROM orders", "everywhere takes a SELECT"),
        ("SELECT DISTINCT ON (note) * FROM orders", "DISTINCT ON"),
        ("SELECT * FROM orders WHERE id IN (SELECT id FROM orders)", "a sub-query"),
        ("SELECT (SELECT max(id) FROM orders)", "a sub-query"),
        ("WITH x AS (SELECT * FROM orders) SELECT * FROM x", "a sub-query"),
        ("SELECT * FROM orders o JOIN orders p ON o.id = p.id", "another column than its key"),
        ("SELECT count(*) / 2 FROM orders", "computes with aggregates"),
        ("SELECT stddev(count) FROM orders", "is not put together"),
        ("SELECT string_agg(note, ',') FROM orders", "is not put together"),
        ("SELECT sum(DISTINCT count) FROM orders", "a value may be on several shards"),
        ("SELECT note, count(*) FROM orders GROUP BY note HAVING count(*) > 1", "HAVING"),
        ("SELECT note, id, count(*) FROM orders GROUP BY note", "neither an aggregate nor in GROUP BY"),
        ("SELECT note, count(*) FROM orders GROUP BY ROLLUP (note)", "ROLLUP"),
        ("SELECT note, count(*) FROM orders GROUP BY note ORDER BY max(id)", "is not in the answer"),
        ("SELECT id FROM orders LIMIT 1 + 1", "are numbers or parameters"),
        ("SELECT id FROM orders WHERE id = $1", "arguments are given"),
    ],
)
def test_what_cannot_be_put_together_is_refused(orders, sql, told):
    async def ask() -> None:
        await orders.database().everywhere(sql)

    with pytest.raises(CannotScatter, match=told.replace("(", "\\(")):
        asyncio.run(ask())


def test_texts_are_only_compared_where_that_is_certain(orders):
    async def ask(sql: str) -> None:
        await orders.database(by_code_point=False).everywhere(sql)

    for sql in ("SELECT note FROM orders ORDER BY note", "SELECT max(note) FROM orders"):
        with pytest.raises(CannotScatter, match="collation of the database"):
            asyncio.run(ask(sql))


def test_a_shard_that_moves_is_neither_missed_nor_seen_twice(orders):
    """Before, while and after the map changes, the answer is the same."""
    shard = shard_of(next(key for key in range(500) if shard_of(key, SHARDS, "int") < SHARDS // 2), SHARDS, "int")
    schema = f"orders_{shard:04d}"

    async def ask() -> None:
        database = orders.database()
        (before,) = await database.everywhere("SELECT count(*) FROM orders")
        with orders.admin("s1") as source, orders.admin("s2") as target:
            orders.make_shard(target, shard, orders.servers["s2"].role)
            with source.cursor() as reading, reading.copy(f'COPY "{schema}".orders TO STDOUT') as out:
                data = b"".join(bytes(block) for block in out)
            target.execute(f'ALTER TABLE "{schema}".orders ALTER note DROP NOT NULL, ALTER count DROP NOT NULL')
            with target.cursor() as writing, writing.copy(f'COPY "{schema}".orders FROM STDIN') as into:
                into.write(data)
            orders.tell(f"UPDATE headway.shard_map SET server = 's2' WHERE shard = {shard}")
            source.execute(f'ALTER SCHEMA "{schema}" RENAME TO moved_away')
        (after,) = await database.everywhere("SELECT count(*) FROM orders")
        assert after == before

    asyncio.run(ask())


def test_quotients_have_the_digits_of_postgresql(orders):
    chance = random.Random(3)
    pairs = [
        (chance.randrange(-(10 ** chance.randrange(1, 18)), 10 ** chance.randrange(1, 18)), chance.randrange(1, 10**6))
        for _ in range(400)
    ]
    with orders.admin("s1") as admin:
        for total, count in pairs:
            row = admin.execute("SELECT (%s::numeric / %s::numeric)::text", (total, count)).fetchone()
            assert row is not None
            assert str(divide(Decimal(total), Decimal(count))) == row[0] or Decimal(str(row[0])) == 0, (total, count)
