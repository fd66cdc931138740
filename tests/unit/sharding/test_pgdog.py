"""The map for PgDog: TOML that says of every schema on which server it lies."""

from __future__ import annotations

import tomllib

from headway.model.sharding import ShardMap, ShardServer
from headway.sharding.pgdog import pgdog

SERVERS = {
    "a": ShardServer("a", "postgresql://shop@db1.example:5433/orders"),
    "b": ShardServer("b", "postgresql://shop@127.0.0.1/ord%22ers"),
}


def test_every_shard_is_a_schema_on_a_server() -> None:
    found = tomllib.loads(pgdog(ShardMap("orders", 7, ("a", "b", "a", "b"), SERVERS)))
    assert found["databases"] == [
        {"name": "orders", "host": "db1.example", "port": 5433, "database_name": "orders", "shard": 0},
        {"name": "orders", "host": "127.0.0.1", "port": 5432, "database_name": 'ord"ers', "shard": 1},
    ]
    schemas = {each["name"]: each for each in found["sharded_schemas"] if "name" in each}
    assert {name: each.get("shard") for name, each in schemas.items()} == {
        "orders_0000": 0,
        "orders_0001": 1,
        "orders_0002": 0,
        "orders_0003": 1,
        "headway_reference": None,
    }
    assert schemas["headway_reference"]["all"] is True
    assert found["sharded_schemas"][-1] == {"database": "orders", "shard": 0}


def test_no_login_is_in_it() -> None:
    text = pgdog(ShardMap("orders", 7, ("a", "b"), SERVERS))
    assert "shop" not in text
    assert "password" not in text
