"""Until its rows are imported, the app's client works on the source; from the switch on it works on the shards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from client_place import Sharded, sharded
from postgresql_place import wait_for
from sqlalchemy import text

from headway.errors import ShardMoved
from headway.model.sharding import FENCED
from headway.sharding import settings
from headway.sharding.client.database import Database
from headway.sharding.keys import shard_of
from headway.sharding.postgresql import Server

FENCE = (
    "CREATE OR REPLACE FUNCTION fence() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$BEGIN RAISE EXCEPTION USING ERRCODE = '{FENCED}', MESSAGE = 'gone'; END$$; "
    "CREATE OR REPLACE TRIGGER fence BEFORE INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION fence()"
)
INSERT = "INSERT INTO orders (customer_id, id, note) VALUES "


@pytest.fixture(scope="module")
def place() -> Iterator[Sharded]:
    with sharded(shards=8) as found:
        found.main, _ = found.place.start("main")  # type: ignore[attr-defined]
        with admin(found) as connection:
            connection.execute("CREATE TABLE orders (customer_id bigint, id bigint, note text, PRIMARY KEY (id))")
            connection.execute(f'GRANT ALL ON orders TO "{main(found).role}"'.encode())
        yield found


def main(place: Sharded) -> Server:
    server: Server = place.main  # type: ignore[attr-defined]
    return server


def admin(place: Sharded) -> psycopg.Connection[tuple[object, ...]]:
    server = main(place)
    way = {"host": str(server.socket_folder), "port": server.port, "user": settings.SUPERUSER}
    return psycopg.connect(**way, dbname=server.database, autocommit=True)  # type: ignore[arg-type]


@pytest.fixture
def orders(place: Sharded) -> Database:
    """The rows are at the source, and there is none."""
    with admin(place) as connection:
        connection.execute(b"DROP TRIGGER IF EXISTS fence ON orders; TRUNCATE orders")
    place.tell("UPDATE headway.catalog SET at_source = true")
    return place.database(source={"name": "main", "url": main(place).url, "active_max": 2})


def at_source(place: Sharded) -> list[tuple[object, ...]]:
    with admin(place) as connection:
        return connection.execute("SELECT customer_id, id, note FROM orders ORDER BY id").fetchall()


def in_shards(place: Sharded, number: int) -> int:
    count = 0
    for name in place.servers:
        with place.admin(name) as connection:
            for (schema,) in connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname ~ '^orders_'"
            ).fetchall():
                row = connection.execute(
                    f'SELECT count(*) FROM "{schema}".orders WHERE id = {number}'.encode()
                ).fetchone()
                count += int(row[0])  # type: ignore[index, call-overload]
    return count


def fence(place: Sharded) -> None:
    with admin(place) as connection:
        connection.execute(FENCE.encode())


def switch(place: Sharded) -> None:
    fence(place)
    place.tell("UPDATE headway.catalog SET at_source = false")


def test_everything_works_at_the_source(place, orders):
    async def use() -> None:
        for key in range(1, 9):
            async with orders.at(key) as connection:
                await connection.execute(INSERT + "($1, $1, 'at')", key)
        async with orders.transaction(1, 2) as (one, two):
            await one.execute(INSERT + "(1, 11, 'both')")
            await two.execute(INSERT + "(2, 12, 'both')")
        rows = await orders.everywhere(
            "SELECT note, count(*) FROM orders WHERE id < $1 GROUP BY note ORDER BY note", 100
        )
        assert [tuple(row) for row in rows] == [("at", 8), ("both", 2)]
        assert rows[0]["note"] == "at"
        assert await orders.everywhere("SELECT 1 FROM orders WHERE id = -1") == []
        assert [row["id"] async for row in orders.stream("SELECT id FROM orders ORDER BY id LIMIT 2")] == [1, 2]
        assert await orders.write_reference("UPDATE orders SET note = 'all'") == "UPDATE 10"
        await orders.close()

    asyncio.run(use())
    with orders.sync.at(3) as connection:
        connection.execute(INSERT + "(3, 13, 'sync')")
    orders.sqlalchemy.run(4, lambda session: session.execute(text(INSERT + "(4, 14, 'session')")))
    assert len(at_source(place)) == 12
    assert orders.shard_of(4) == shard_of(4, 8, "int")


def test_at_the_switch_run_goes_on_in_the_shard(place, orders):
    async def use() -> None:
        begun, fenced = asyncio.Event(), asyncio.Event()

        async def insert(connection: object) -> None:
            begun.set()
            await fenced.wait()
            await connection.execute(INSERT + "(5, 500, 'run')")  # type: ignore[attr-defined]

        running = asyncio.create_task(orders.run(5, insert))
        await begun.wait()
        await asyncio.to_thread(fence, place)
        fenced.set()
        await asyncio.sleep(0.05)
        await asyncio.to_thread(place.tell, "UPDATE headway.catalog SET at_source = false")
        await running
        async with orders.at(5) as connection:
            assert await connection.fetchval("SELECT note FROM orders WHERE id = 500") == "run"
        await orders.close()

    asyncio.run(use())
    assert (at_source(place), in_shards(place, 500)) == ([], 1)


def test_at_the_switch_threads_and_sessions_go_on_in_the_shard(place, orders):
    first = True

    def insert(connection: psycopg.Connection[object]) -> None:
        nonlocal first
        if first:
            first = False
            switch(place)
        connection.execute(INSERT + "(6, 600, 'sync')")

    orders.sync.run(6, insert)
    orders.sqlalchemy.run(7, lambda session: session.execute(text(INSERT + "(7, 700, 'session')")))
    assert at_source(place) == []
    assert (in_shards(place, 600), in_shards(place, 700)) == (1, 1)


def test_a_session_that_is_caught_in_the_open_says_so(place, orders):
    orders.sqlalchemy.run(1, lambda session: session.execute(text("SELECT 1")))
    fence(place)
    with pytest.raises(ShardMoved, match="goes from its source into shards"), orders.sync.at(1) as caught:
        caught.execute(INSERT + "(1, 1, 'caught')")
    place.tell("UPDATE headway.catalog SET at_source = false")
    wait_for(lambda: not orders.map.at_source, "the newer map")


def test_a_process_that_knows_no_source_works_on_the_shards(place, orders):
    alone = place.database()
    with alone.sync.at(8) as connection:
        connection.execute(INSERT + "(8, 800, 'here')")
    assert in_shards(place, 800) == 1
