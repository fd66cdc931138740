"""Shards are doubled while the app writes: nothing lost, nothing twice, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from split_place import GRACE_S, Splitting, carry_on, settle, splitting, writing

from headway.errors import AppError, Conflict
from headway.sharding.catalog import read_map
from headway.sharding.ids import shard_of_id
from headway.sharding.keys import shard_of
from headway.sharding.migrating import migrate
from headway.sharding.migrations import migrations
from headway.sharding.move.record import insert_move
from headway.sharding.shards import lay_out
from headway.sharding.split.record import open_split
from headway.sharding.survey import look_at_all
from headway.sharding.verify import compare


@pytest.fixture
def place() -> Iterator[Splitting]:
    with splitting() as found:
        yield found


@pytest.mark.timeout(600)
def test_four_become_eight_under_writes(place):
    asked: list[int] = []
    stop = threading.Event()

    async def ask() -> None:
        """Rows that nobody touches are counted again and again over all shards, and are never more or fewer."""
        database = place.database()
        while not stop.is_set():
            rows = await database.everywhere("SELECT count(*) AS n FROM orders WHERE note = 'kept'")
            asked.append(rows[0]["n"])
            await asyncio.sleep(0.005)
        await database.close()

    async def keep() -> None:
        database = place.database()
        for number in range(300):
            await database.run(number, lambda c, n=number: c.execute("INSERT INTO orders VALUES ($1, -1, 'kept')", n))
        await database.close()

    asyncio.run(keep())
    reader = threading.Thread(target=lambda: asyncio.run(ask()))
    reader.start()
    try:
        with writing(place, 4, seed=1, base=0) as account:
            result = place.split(grace_s=GRACE_S)
            assert (result.stage, result.shards) == ("done", 8)
            # And once more: 8 become 16.
            assert place.split(grace_s=GRACE_S).shards == 16
    finally:
        stop.set()
        reader.join(100)
    assert account.acknowledged > 100
    assert account.refused == []
    settle(place, account)
    assert set(asked) == {300}
    assert place.leftovers() == []
    with place.admin("s1") as catalog:
        map_ = read_map(catalog)
        assert (map_.shards, map_.split) == (16, "")
        assert catalog.execute("SELECT headway.shard_of(4)").fetchone() is not None
    assert compare(map_.owners, look_at_all("orders", place.admins())).complete
    for shards in (4, 8, 16):  # what was declared before is not refused, and changes nothing
        again, made = lay_out(place.layout(shards), place.admins())
        assert (again.shards, made) == (16, False)
    with pytest.raises(Conflict, match="16, and 32 are declared") as refused:
        lay_out(place.layout(32), place.admins())
    assert "headway db split orders" in refused.value.hint


def test_constraints_and_sequences_are_those_of_twice_the_shards(place):
    async def fill() -> None:
        database = place.database()
        for number in range(50):
            await database.run(number, lambda c, n=number: c.execute("INSERT INTO orders VALUES ($1, 1)", n))
            await database.run(
                number, lambda c, n=number: c.execute("INSERT INTO lines (customer_id, order_id) VALUES ($1, 1)", n)
            )
        await database.close()

    asyncio.run(fill())
    place.split()
    asyncio.run(_more(place))
    customer = next(number for number in range(1000) if shard_of(number, 8, "int") == 4)
    with place.admin("s1") as admin:
        assert admin.execute("SELECT headway.shard_of(%s)", (customer,)).fetchone() == (4,)
        with pytest.raises(psycopg.errors.CheckViolation):
            admin.execute("INSERT INTO orders_0000.orders VALUES (%s, 9)", (customer,))
    for shard, owner in enumerate(("s1", "s1", "s2", "s2") * 2):
        with place.admin(owner) as admin:
            entry = f"SELECT checksum FROM orders_{shard:04d}.headway_ledger WHERE name = 'schema:shards'"
            assert admin.execute(entry).fetchone() == ("8",)  # type: ignore[arg-type]


async def _more(place: Splitting) -> None:
    database = place.database()
    for number in range(50):
        await database.run(
            number, lambda c, n=number: c.execute("INSERT INTO lines (customer_id, order_id) VALUES ($1, 1)", n)
        )
    rows = await database.everywhere("SELECT count(*) AS n FROM lines")
    assert rows[0]["n"] == 100
    await database.close()


def test_ids_are_given_once_and_tell_their_shard_through_a_split(place):
    lay_out(replace(place.layout(), ids={"orders": "id"}), place.admins())
    stop = threading.Event()
    given: list[tuple[int, int]] = []

    async def order() -> None:
        database = place.database()
        draw = "INSERT INTO orders (customer_id, note) VALUES ($1, 'with an id') RETURNING id"
        rest = iter(range(60))  # after the split, so that every shard gives some more
        while not stop.is_set() or next(rest, None) is not None:
            for key in range(20):
                given.append((key, await database.run(key, lambda connection, k=key: connection.fetchval(draw, k))))
            await asyncio.sleep(0.01)
        await database.close()

    shopper = threading.Thread(target=lambda: asyncio.run(order()))
    shopper.start()
    try:
        assert place.split(grace_s=GRACE_S).stage == "done"
    finally:
        stop.set()
        shopper.join(100)
    assert len(given) > 1200
    assert len({number for _, number in given}) == len(given)
    assert all(shard_of_id(number, 8) == shard_of(key, 8, "int") for key, number in given)


def test_one_with_the_old_map_is_refused_and_not_misled(place):
    """A transaction that began before the split writes to the old place: refused when the places have parted."""
    splitter = place.splitter()
    split_id = splitter.begin()
    other = next(number for number in range(1000) if shard_of(number, 8, "int") == 4)
    with psycopg.connect(place.servers["s1"].url, options="-c search_path=orders_0000") as stale:
        stale.execute("INSERT INTO orders VALUES (%s, 1)", (other,))
        stale.commit()
        assert splitter.resume(split_id).stage == "done"
        with pytest.raises(psycopg.errors.CheckViolation):
            stale.execute("INSERT INTO orders VALUES (%s, 2)", (other,))
        stale.rollback()
        assert stale.execute("SELECT count(*) FROM orders").fetchone() == (0,)
    assert place.rows("orders", "customer_id, id") == [(4, (other, 1))]


def test_abort_leaves_all_as_it_was(place):
    with writing(place, 2, seed=2, base=0) as account:
        splitter = place.splitter()
        split_id = splitter.begin()
        child = place.child(split_id, 60)
        child.communicate(timeout=150)
        assert child.returncode == -9
        place.splitter().abort(split_id)
    settle(place, account)
    assert place.leftovers() == []
    with place.admin("s1") as catalog:
        assert read_map(catalog).shards == 4
        assert catalog.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'orders_0004'").fetchone() == (0,)
    with writing(place, 2, seed=3, base=1_000_000) as account:
        result = place.split(grace_s=GRACE_S)
    with pytest.raises(Conflict, match="8 shards already"):
        place.splitter().abort(result.split_id)
    settle(place, account)


def test_nothing_else_begins_meanwhile(place):
    splitter = place.splitter()
    split_id = splitter.begin()
    with pytest.raises(Conflict, match="being split already"):
        splitter.begin()
    with place.admin("s1") as catalog, pytest.raises(Conflict, match="cannot move while"):
        insert_move(catalog, 0, "s1", "s2")
    found, _ = migrations({"0001_note.sql": "ALTER TABLE orders ADD COLUMN more text;"})
    with pytest.raises(Conflict, match="cannot be migrated while"):
        migrate("orders", found, place.admins(), say=lambda _: None)
    assert splitter.resume(split_id).stage == "done"
    migrate("orders", found, place.admins(), say=lambda _: None)
    with place.admin("s1") as catalog:
        insert_move(catalog, 0, "s1", "s2")
    with pytest.raises(Conflict, match="cannot be split while shard 0 moves"):
        splitter.begin()


# Two keys of shard 1 that a split into eight parts.
ONE = next(key for key in range(1000) if shard_of(key, 8, "int") == 1)
OTHER = next(key for key in range(1000) if shard_of(key, 8, "int") == 5)
BY_ID = (
    "ALTER TABLE lines DROP CONSTRAINT lines_customer_id_order_id_fkey; ALTER TABLE orders ADD UNIQUE (id); "
    "ALTER TABLE lines ADD CONSTRAINT by_id FOREIGN KEY (order_id) REFERENCES orders (id)"
)


def test_a_foreign_key_without_the_sharding_key_is_split_where_its_rows_stay_together(place):
    for server, shards in (("s1", (0, 1)), ("s2", (2, 3))):
        with place.admin(server) as admin:
            for shard in shards:
                admin.execute(f"SET search_path = orders_000{shard}; {BY_ID}")  # type: ignore[arg-type]

    async def shop() -> None:
        database = place.database()
        for key in range(200):
            async with database.at(key) as connection, connection.transaction():
                await connection.execute("INSERT INTO orders (customer_id, id) VALUES ($1, $1)", key)
                await connection.execute("INSERT INTO lines (customer_id, order_id) VALUES ($1, $1)", key)
        await database.close()

    asyncio.run(shop())
    assert place.split().stage == "done"
    found = 0
    for server in ("s1", "s2"):
        with place.admin(server) as admin:
            schemas = admin.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^orders_[0-9]+$'").fetchall()
            for (schema,) in schemas:
                pairs = f'SELECT count(*) FROM "{schema}".orders JOIN "{schema}".lines ON order_id = id'
                found += admin.execute(pairs).fetchone()[0]  # type: ignore[arg-type]
                by_id = "SELECT FROM pg_constraint WHERE conname = 'by_id' AND conrelid = %s::regclass AND convalidated"
                assert admin.execute(by_id, (f"{schema}.lines",)).fetchone() is not None
    assert found == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("CREATE TABLE loose (customer_id bigint)", "tables without a sharding key: loose"),
        ("ALTER TABLE lines DROP CONSTRAINT lines_pkey", "tables without a primary key: lines"),
        ("CREATE MATERIALIZED VIEW seen AS SELECT 1 AS one", "materialized views: seen"),
        ("ALTER TABLE lines ADD UNIQUE (number) DEFERRABLE", "deferrable unique constraint: lines"),
        (
            f"{BY_ID}; INSERT INTO orders (customer_id, id) VALUES ({ONE}, 7); "
            f"INSERT INTO lines (customer_id, order_id) VALUES ({OTHER}, 7)",
            r"from which they would part: lines \(by_id\)",
        ),
        ("CREATE SCHEMA orders_0005", "there is a schema orders_0005 already"),
    ],
)
def test_what_cannot_be_split_is_named(place, change, message):
    with place.admin("s1") as admin:
        admin.execute(f"SET search_path = orders_0001; {change}")  # type: ignore[arg-type]
    with pytest.raises(AppError, match=message) as refused:
        place.splitter().begin()
    assert refused.value.hint
    with place.admin("s1") as catalog:
        assert open_split(catalog) is None
        assert read_map(catalog).split == ""


def die_in_a_split(place: Splitting, chance: random.Random, servers_die: bool) -> str:
    """One split: its carrier dies again and again, and with it perhaps a server."""
    split_id = place.splitter().begin()
    story = f"split {split_id}:"
    for _ in range(chance.choice((1, 2, 3))):
        nth = chance.randint(5, 400) * chance.choice((1, -1))
        child = place.child(split_id, nth)
        if servers_die and chance.random() < 0.5:
            name = chance.choice(("s1", "s2"))
            story += f" {name} dies;"
            place.kill(name)
        try:
            said, _ = child.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            child.kill()
            pytest.fail(f"{story} {nth}, and then nothing more happens")
        assert child.returncode in (0, -9) or "EngineError" in said or "Conflict" in said, f"{story} {nth}\n{said}"
        story += f" {nth} ({child.returncode});"
    assert carry_on(place, split_id).stage == "done", story
    assert place.leftovers() == [], story
    return story


@pytest.mark.parametrize("seed", range(2))
def test_a_carrier_that_dies_anywhere_is_gone_on_with(place, seed):
    with writing(place, 3, seed, base=0) as account:
        die_in_a_split(place, random.Random(seed), servers_die=False)
    assert account.refused == []
    settle(place, account)


def test_servers_that_die_lose_nothing(place):
    with writing(place, 3, seed=7, base=0) as account:
        die_in_a_split(place, random.Random(7), servers_die=True)
    settle(place, account)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_splits_with_deaths(place, seed):
    with writing(place, 3, seed, base=0) as account:
        print(die_in_a_split(place, random.Random(seed), servers_die=seed % 2 == 1), flush=True)
    settle(place, account)
