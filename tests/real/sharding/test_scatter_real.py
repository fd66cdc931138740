"""Statements put together at random, and those known to be awkward, over shards and over one table with all rows."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest
from client_place import Sharded, sharded

from headway.errors import CannotScatter
from headway.model.sharding import TableKey
from headway.sharding.ids import EPOCH_MS, id_function_sql, id_trigger_sql, shard_of_id, time_of_id
from headway.sharding.keys import shard_of
from headway.sharding.layout import REFERENCE_SCHEMA
from headway.sharding.scatter import scatter

SHARDS = 8
SEEDS = range(6)
A_SEED = 60  # statements
TYPES = "CREATE TYPE public.mood AS ENUM ('zen', 'ok', 'bad')"
TABLES = """
CREATE TABLE {s}.t (k bigint, id int, note text, c int, b bigint, n numeric, f float8, r real, mood public.mood,
                    m money, j jsonb, ch char(4), at timestamptz, owner int);
CREATE TABLE {s}.u (owner bigint, id int, w int, k int);
CREATE TABLE {s}.v (k bigint, id int);
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {s} TO {role};
"""
REFERENCE = """
CREATE SCHEMA {s};
CREATE TABLE {s}.ref AS SELECT x AS k, x AS id, 'name' || x AS name FROM generate_series(1, 5) x;
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT ON {s}.ref TO {role};
"""
T = "INSERT INTO {s}.t VALUES (%s, %s, %s, %s, %s, %s::numeric, %s, %s, %s::public.mood, %s::money, %s, %s, %s, %s)"


@pytest.fixture(scope="module")
def orders() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        admins = {name: found.admin(name) for name in found.servers}
        role = found.servers["s1"].role
        for admin in admins.values():
            admin.execute(TYPES)
            _run(admin, REFERENCE.format(s=REFERENCE_SCHEMA, role=role))
        places = {shard: ("s1" if shard < SHARDS // 2 else "s2", f"orders_{shard:04d}") for shard in range(SHARDS)}
        _run(admins["s1"], "CREATE SCHEMA one")
        for server, schema in [*places.values(), ("s1", "one")]:
            _run(admins[server], TABLES.format(s=schema, role=role))
        for statement, row in _rows(random.Random(4)):
            server, schema = places[shard_of(row[0], SHARDS, "int")]
            for admin, where in ((admins[server], schema), (admins["s1"], "one")):
                admin.execute(statement.format(s=where), row)  # type: ignore[call-overload]
        for table, column in (("t", "k"), ("u", "owner"), ("v", "k")):
            found.tell(f"INSERT INTO headway.keys VALUES ('{table}', '{column}', 'int')")
        yield found
        for admin in admins.values():
            admin.close()


def _run(admin: psycopg.Connection[tuple[object, ...]], script: str) -> None:
    for statement in script.split(";\n"):
        if statement.strip():
            admin.execute(statement)  # type: ignore[call-overload]


def _rows(chance: random.Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Nulls, NaN, texts that sort oddly, numerics longer than Python's decimals are by default."""
    for _ in range(160):
        at = chance.randrange(5)
        yield (
            T,
            (
                chance.randrange(40),
                chance.randrange(6),
                chance.choice(["Ä", "a", "B", "", None, "10", "9"]),
                chance.choice([None, *range(-3, 4)]),
                chance.choice([None, 2**62, -(2**61), 7]),
                chance.choice(
                    [None, "1.50", "NaN", "12345678901234567890123456.789", "98765432109876543210.0001", "3"]
                ),
                chance.choice([None, 1.5, math.nan, -2.25]),
                chance.choice([0.1, 0.7, None]),
                chance.choice(["zen", "ok", "bad", None]),
                chance.choice(["$9.00", "$10.00", None]),
                chance.choice(["9", "10", '"a"', None, '{"a": 1}']),
                chance.choice(["a", "ab", "b\t", None]),
                f"2024-01-0{1 + at} 0{at}:30:00+00",
                at,
            ),
        )
    for key in range(0, 40, 2):
        for _ in range(2):
            row = (key, chance.randrange(6), chance.randrange(5), chance.randrange(4))
            yield "INSERT INTO {s}.u VALUES (%s, %s, %s, %s)", row
    for key in range(0, 40, 3):
        yield "INSERT INTO {s}.v VALUES (%s, %s)", (key, chance.randrange(6))


async def _both(orders: Sharded, asked: list[tuple[str, tuple[Any, ...], bool]]) -> list[str]:
    """What is answered otherwise than over one table. Refused is not answered otherwise."""
    path = {"search_path": f"one, {REFERENCE_SCHEMA}, public"}
    one = await asyncpg.connect(orders.servers["s1"].url, server_settings=path)
    database = orders.database(reference=["ref"])
    wrong = []
    refused = 0
    for sql, arguments, is_ordered in asked:
        expected = await one.fetch(sql, *arguments)
        try:
            found = await database.everywhere(sql, *arguments)
        except CannotScatter:
            refused += 1
            continue
        left, right = [[tuple(map(repr, row)) for row in rows] for rows in (expected, found)]
        if not is_ordered:
            left, right = sorted(left), sorted(right)
        if left != right or (expected and tuple(expected[0].keys()) != found[0].keys()):
            wrong.append(f"{sql} {arguments}: {right[:3]} instead of {left[:3]}")
    await database.close()
    await one.close()
    assert refused < len(asked) / 4
    return wrong


EXPRESSIONS = [
    "note",
    "c",
    "id",
    "c % 2",
    "n",
    "f",
    "ch",
    "at",
    "lower(note)",
    "date_trunc('day', at)",
    "mood",
    "j",
    "k",
]
AGGREGATES = [
    "count(*)", "count(c)", "sum(c)", "sum(b)", "sum(n)", "avg(c)", "avg(b)", "avg(n)", "avg(r)", "min(note)", "max(n)",
    "min(f)", "max(at)", "bool_and(c > 0)", "bool_or(c > 2)", "count(DISTINCT note)", "count(DISTINCT f)",
    "count(DISTINCT k)", "coalesce(sum(b), 0)", "coalesce(min(c), -1)", "avg(c) FILTER (WHERE id > 3)",
]  # fmt: skip
CONDITIONS = ["true", "c > 0", "note IS NOT NULL", "k < 0", "k IN (1, 2, 3)", "j @> '{\"a\": 1}'", "note > 'B'"]
FROM = ["t", "t JOIN v USING (k)", "t LEFT JOIN ref r ON r.id = t.owner"]


def _statement(chance: random.Random) -> tuple[str, tuple[Any, ...], bool]:
    condition = chance.choice(CONDITIONS)
    if chance.random() < 0.6:
        groups = chance.sample(EXPRESSIONS, chance.randrange(3))
        selected = [*groups, *chance.sample(AGGREGATES, chance.randrange(1, 4))]
        chance.shuffle(selected)
        by = [chance.choice([group, str(1 + selected.index(group))]) for group in groups]
        end = f" GROUP BY {', '.join(by)}" if groups else ""
        sql = f"SELECT {', '.join(selected)} FROM t WHERE {condition}{end}"
    else:
        selected = chance.sample(EXPRESSIONS, chance.randrange(1, 4))
        distinct = chance.choice(["", "DISTINCT "])
        sql = f"SELECT {distinct}{', '.join(selected)} FROM t WHERE {condition}"
    # By every column, so that no order is left to chance; a limit without an order would be.
    keys = [f"{number}{chance.choice(['', ' DESC'])}{chance.choice(['', ' NULLS FIRST', ' NULLS LAST'])}"
            for number in chance.sample(range(1, len(selected) + 1), len(selected))]  # fmt: skip
    if chance.random() < 0.5:
        return sql, (), False
    sql += f" ORDER BY {', '.join(keys)}"
    bound = chance.choice([(), (5,), (4, 2)])
    return sql + ["", " LIMIT $1", " LIMIT $1 OFFSET $2"][len(bound)], bound, True


@pytest.mark.parametrize("seed", SEEDS)
def test_statements_at_random(orders, seed):
    chance = random.Random(seed)
    assert asyncio.run(_both(orders, [_statement(chance) for _ in range(A_SEED)])) == []


AWKWARD: list[tuple[str, tuple[Any, ...], bool]] = [
    ("SELECT u.k, count(*) FROM t JOIN u ON t.k = u.owner GROUP BY u.k", (), False),
    ("SELECT count(DISTINCT u.k) FROM t JOIN u ON t.k = u.owner", (), False),
    ("SELECT u.owner, count(*) FROM t LEFT JOIN u ON t.k = u.owner GROUP BY u.owner", (), False),
    ("SELECT k, count(*) FROM t a FULL JOIN v b USING (k) GROUP BY k", (), False),
    ("SELECT r.k, count(*) FROM t JOIN ref r ON t.id = r.id GROUP BY r.k", (), False),
    ("SELECT count(*) FROM t a LEFT JOIN v b ON a.id = b.id WHERE a.k = b.k", (), False),
    ("SELECT note AS x, id AS note FROM t ORDER BY note, x", (), True),
    ("SELECT avg(at - '2024-01-01'), sum(at - '2024-01-01') FROM t", (), False),
    ("SELECT date_part('hour', at), extract(hour FROM at), now() > at FROM t", (), False),
    ("SELECT coalesce(sum(b), 0), coalesce(avg(c), 0), coalesce(sum(n), 0) FROM t WHERE k = 1000", (), False),
    ("SELECT note, count(*) FROM t GROUP BY note ORDER BY 1 LIMIT $1", (2,), True),
    ("SELECT mood::text AS x FROM t ORDER BY x", (), True),
    ("SELECT max(note), c, count(*) FROM t GROUP BY 2", (), False),
    ("SELECT count(*) FILTER (WHERE c > 0), sum(c) FILTER (WHERE c > 0), count(DISTINCT c) FROM t", (), False),
    ("SELECT id, coalesce(bool_or(c > 1), false), coalesce(sum(c), -1) FROM t GROUP BY id", (), False),
    ("SELECT c + 1 AS d, sum(c), count(*) AS d2 FROM t GROUP BY d ORDER BY d NULLS FIRST", (), True),
    ("SELECT COUNT(*) AS N, Max(C) FROM T", (), False),
]


def test_a_server_gives_one_row_for_each_group(orders):
    plan = scatter("SELECT id, count(*), sum(b), max(note), avg(c) FROM t GROUP BY id", {"t": TableKey("k", "int")})
    with orders.admin("s1") as admin:
        rows = admin.execute(plan.server_sql([f"orders_{shard:04d}" for shard in range(SHARDS // 2)])).fetchall()  # type: ignore[call-overload]
    assert len({row[0] for row in rows}) == len(rows) == 6


def test_awkward_statements(orders):
    assert asyncio.run(_both(orders, AWKWARD)) == []


@pytest.mark.parametrize("sql", ["SELECT mood FROM t ORDER BY mood", "SELECT max(mood) FROM t", "SELECT sum(m) FROM t",
                                 "SELECT m FROM t ORDER BY m", "SELECT j FROM t ORDER BY j LIMIT 3"])  # fmt: skip
def test_what_python_orders_otherwise_is_refused(orders, sql):
    async def ask() -> None:
        await orders.database(reference=["ref"]).everywhere(sql)

    with pytest.raises(CannotScatter):
        asyncio.run(ask())


def test_ids_are_unique_when_many_are_drawn_and_the_clock_is_behind(orders):
    """Four sessions at once, more than 1,024 a millisecond apart from the counter, which is ahead of the clock."""
    keys = [key for key in range(200) if shard_of(key, SHARDS, "int") == 3]
    with orders.admin("s1") as admin:
        _create_ids(admin)
        first = _draw(admin, keys[0], 1)[0]
        assert shard_of_id(first, SHARDS) == 3
        assert shard_of_id(first, 2 * SHARDS) == shard_of(keys[0], 2 * SHARDS, "int")
        ahead = (time_of_id(first) - EPOCH_MS + 60_000) << 10
        admin.execute("SELECT setval('ids.headway_ids', %s)", (ahead,))
        later = _draw(admin, keys[0], 3000)
    assert [one - other for one, other in zip(later[1:3], later, strict=False)] == [1, 1]
    assert len(set(later)) == 3000

    async def draw() -> list[int]:
        server = orders.servers["s1"]
        sessions = [await asyncpg.connect(server.url) for _ in range(4)]
        sql = "SELECT ids.headway_next_id($1) FROM generate_series(1, 2000)"
        drawn = await asyncio.gather(*(one.fetch(sql, key) for one, key in zip(sessions, keys, strict=False)))
        await asyncio.gather(*(one.close() for one in sessions))
        return [row[0] for rows in drawn for row in rows]

    assert len({*asyncio.run(draw()), *later}) == 11_000


def test_an_id_is_filled_in_and_a_key_of_another_shard_refused(orders):
    with orders.admin("s1") as admin:
        _create_ids(admin)
        admin.execute("CREATE TABLE ids.notes (customer bigint NOT NULL, id bigint PRIMARY KEY)")
        admin.execute(id_trigger_sql("ids", "notes", "id", "customer"))  # type: ignore[call-overload]
        mine, other = (next(key for key in range(99) if shard_of(key, SHARDS, "int") == shard) for shard in (3, 4))
        row = admin.execute("INSERT INTO ids.notes (customer) VALUES (%s) RETURNING id", (mine,)).fetchone()
        assert row is not None
        assert shard_of_id(int(str(row[0])), SHARDS) == 3
        for key in (other, None):
            with pytest.raises(psycopg.errors.CheckViolation):
                admin.execute("INSERT INTO ids.notes (customer) VALUES (%s)", (key,))
        assert admin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


def _create_ids(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    role = "PUBLIC"
    admin.execute("CREATE SCHEMA IF NOT EXISTS ids")
    admin.execute(id_function_sql("ids", 3, SHARDS, "int"))  # type: ignore[call-overload]
    admin.execute(f"GRANT USAGE ON SCHEMA ids TO {role}")  # type: ignore[call-overload]
    admin.execute(f"GRANT USAGE, UPDATE ON SEQUENCE ids.headway_ids TO {role}")  # type: ignore[call-overload]


def _draw(admin: psycopg.Connection[tuple[object, ...]], key: int, count: int) -> list[int]:
    sql = "SELECT ids.headway_next_id(%s) FROM generate_series(1, %s)"
    return [int(str(row[0])) for row in admin.execute(sql, (key, count))]
