"""Load as PostgreSQL counts it: shards that are read are seen, and a plan takes some of them elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from postgresql_place import in_memory, wait_for
from psycopg.conninfo import make_conninfo

from headway.control.weighing import told_plan, weigh
from headway.errors import HeadwayError
from headway.model.sharding import ShardMap, schema_name
from headway.sharding import settings
from headway.sharding.admin import AdminServer, connect
from headway.sharding.rebalance import plan_by
from headway.sharding.shards import lay_out
from headway.sharding.survey import rows_counted
from headway.sharding.wanted import Layout

SHARDS = 16
BUSY = (0, 1, 2, 3)  # all on s1
SCHEMA = "CREATE TABLE orders (customer bigint NOT NULL, id bigint NOT NULL, PRIMARY KEY (customer, id));"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ShardMap, tuple[AdminServer, ...]]]:
    with in_memory() as place:
        servers = []
        for name in ("s1", "s2"):
            engine = place.start(f"orders.{name}")[0]
            way = {"host": str(engine.socket_folder), "port": engine.port, "user": settings.SUPERUSER}
            conninfo = make_conninfo(**way, dbname=engine.database)  # type: ignore[arg-type]
            url = f"postgresql://{engine.role}@127.0.0.1:{engine.port}/{engine.database}"
            owner = settings.SUPERUSER
            servers.append(
                AdminServer(name, conninfo, conninfo, url, engine.role, owner, engine.database, is_ours=True)
            )
        file = tmp_path_factory.mktemp("load") / "schema.sql"
        file.write_text(SCHEMA)
        map_, _ = lay_out(Layout("shop", "orders", SHARDS, {"orders": "customer"}, (), file), servers)
        yield map_, tuple(servers)


@contextmanager
def reading(server: AdminServer) -> Iterator[None]:
    """Somebody reads the busy shards without a pause."""
    stopping = threading.Event()

    def read() -> None:
        with psycopg.connect(server.admin, autocommit=True) as connection:
            while not stopping.is_set():
                for shard in BUSY:
                    connection.execute(f"SELECT count(*) FROM {schema_name('orders', shard)}.orders".encode())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        stopping.set()
        reader.join(60)


def test_busy_shards_are_seen_and_half_of_them_go(database):
    map_, servers = database
    names = [server.name for server in servers]
    with connect(servers[0]) as connection:
        # Rows of these shards' keys, as far as the constraint is concerned, do not matter here.
        for shard in BUSY:
            schema = schema_name("orders", shard)
            connection.execute(f"ALTER TABLE {schema}.orders DROP CONSTRAINT headway_shard".encode())
            connection.execute(f"INSERT INTO {schema}.orders SELECT 1, generate_series(1, 100)".encode())
    with reading(servers[0]):
        wait_for(
            lambda: all(rows_counted("orders", map_, servers)[0].get(shard) for shard in BUSY), "reads are counted"
        )
        weighed = weigh("orders", map_, servers, threading.Event(), "both", 3.0)
        since_start = weigh("orders", map_, servers, threading.Event(), "load", 0.0)
    for found in (weighed, since_start):
        assert {shard for shard, rows in found.per_s.items() if rows > 0} >= set(BUSY)
        assert sum(found.per_s[shard] for shard in BUSY) > 0.9 * sum(found.per_s.values())
    assert plan_by("rows", map_.owners, dict.fromkeys(range(SHARDS), 1.0), weighed.per_s, names) == ()
    for by in ("load", "both"):
        moves = plan_by(by, map_.owners, weighed.bytes, weighed.per_s, names)
        assert moves
        assert any(move.shard in BUSY and (move.source, move.target) == ("s1", "s2") for move in moves)
        assert by == "both" or all(move.shard in BUSY for move in moves)
        told = {server["name"]: server for server in told_plan(moves, weighed)["servers"]}
        before, after = ([told[name]["rows_per_s"][when] for name in names] for when in (0, 1))
        assert max(after) < max(before)
        assert max(told[name]["bytes"][1] for name in names) <= 1.3 * sum(told[name]["bytes"][0] for name in names) / 2
        assert sum(told[name]["bytes"][0] for name in names) == sum(told[name]["bytes"][1] for name in names)


def test_a_look_is_not_longer_than_it_may_be(database):
    map_, servers = database
    with pytest.raises(HeadwayError, match="0 to 60 seconds"):
        weigh("orders", map_, servers, threading.Event(), "both", 61.0)
