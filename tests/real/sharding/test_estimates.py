"""How many rows shards hold, told before somebody decides: right where they are few, and nobody is waited for."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from headway.model.sharding import ShardMap
from headway.sharding.admin import AdminServer, connect
from headway.sharding.estimates import SMALL_BYTES
from headway.sharding.move.look import estimated_rows
from headway.sharding.shards import lay_out
from headway.sharding.survey import sizes
from headway.sharding.wanted import Layout

SHARDS = 4


@pytest.fixture
def map_(servers: tuple[AdminServer, ...], tmp_path) -> ShardMap:
    schema = tmp_path / "schema.sql"
    schema.write_text("CREATE TABLE orders (customer bigint, id bigint, note text, PRIMARY KEY (customer, id));")
    return lay_out(Layout("shop", "orders", SHARDS, {"orders": "customer"}, (), schema), servers)[0]


@pytest.fixture
def fill(servers: tuple[AdminServer, ...], map_: ShardMap) -> Callable[[int, int, str], None]:
    """Give a shard rows: how many, with which note. Of keys that are its own only by number: nobody looks for them."""

    def put(shard: int, rows: int, note: str) -> None:
        holder = next(server for server in servers if server.name == map_.owners[shard])
        with connect(holder) as connection:
            table = f"orders_{shard:04d}.orders"
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS headway_shard".encode())
            insert = f"INSERT INTO {table} SELECT 1, n, %s FROM generate_series(1, %s) n"
            connection.execute(insert.encode(), (note, rows))

    return put


def rows(servers: tuple[AdminServer, ...], map_: ShardMap) -> dict[int, int]:
    return {shard: count for shard, (count, _) in sizes("orders", map_, servers).items()}


def test_few_rows_are_counted_whatever_was_analyzed_and_when(servers, map_, fill):
    fill(0, 4, "x")
    fill(1, 3, "x")
    holder = next(server for server in servers if server.name == map_.owners[1])
    with connect(holder) as connection:
        connection.execute("ANALYZE orders_0001.orders")
        connection.execute("DELETE FROM orders_0001.orders WHERE id > 1")
    assert rows(servers, map_) == {0: 4, 1: 1, 2: 0, 3: 0}
    with connect(holder) as connection:
        assert estimated_rows(connection, "orders_0001") == 1  # a move tells the same


def test_many_rows_are_estimated_for_the_pages_that_there_are_now(servers, map_, fill):
    fill(0, 1000, "x" * 400)
    holder = next(server for server in servers if server.name == map_.owners[0])
    with connect(holder) as connection:
        connection.execute("ANALYZE orders_0000.orders")
        connection.execute(
            "INSERT INTO orders_0000.orders SELECT 2, n, repeat('x', 400) FROM generate_series(1, 9000) n"
        )
        size = connection.execute("SELECT pg_relation_size('orders_0000.orders')").fetchone()
        assert int(str(size[0])) > SMALL_BYTES
    assert rows(servers, map_)[0] == pytest.approx(10_000, rel=0.05)


def test_a_table_that_is_locked_is_estimated_and_nobody_waits_for_it(servers, map_, fill):
    fill(0, 4, "x")
    holder = next(server for server in servers if server.name == map_.owners[0])
    with psycopg.connect(holder.admin) as other:
        other.execute("LOCK TABLE orders_0000.orders")
        assert rows(servers, map_)[0] == 0  # nothing was ever analyzed
    assert rows(servers, map_)[0] == 4
