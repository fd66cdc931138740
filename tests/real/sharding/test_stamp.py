"""SQL files that shards have already, from a time before there were migrations: recorded as applied."""

from __future__ import annotations

import psycopg
import pytest
from empty_servers import schemas

from headway.errors import AppError
from headway.sharding.admin import connect
from headway.sharding.migrating import migrate, read_folder
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout

SHARDS = 4
ORDERS = "CREATE TABLE orders (customer bigint, id bigint, PRIMARY KEY (customer, id));"


def test_files_are_recorded_in_all_shards_and_those_behind_them_are_applied(servers, tmp_path):
    (tmp_path / "schema.sql").write_text(ORDERS)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "0001_orders.sql").write_text(ORDERS)
    (tmp_path / "m" / "0002_note.sql").write_text("ALTER TABLE orders ADD COLUMN note text;")
    lay_out(Layout("shop", "orders", SHARDS, {"orders": "customer"}, (), tmp_path / "schema.sql"), servers)
    files, lines = read_folder(tmp_path / "m", "m"), []

    def run(stamp: str | None = None, *, dry_run: bool = False) -> dict[str, int]:
        lines.clear()
        return dict(migrate("orders", files, servers, stamp=stamp, dry_run=dry_run, say=lines.append).applied)

    with pytest.raises(AppError, match='relation "orders" already exists') as caught:
        run()
    assert "? headway db migrate orders --stamp 0001_orders.sql records that." in caught.value.hint
    assert run("1", dry_run=True) == {"0001_orders.sql": SHARDS}
    assert lines == ["0001_orders.sql: 4 of 4 shards"]
    with connect(servers[0]) as connection:
        connection.execute("DROP TABLE orders_0001.orders")
    with pytest.raises(AppError, match="shard 1 on server s1 holds no table: no migration was applied to it"):
        run("1")
    with connect(servers[0]) as connection:
        connection.execute("SET search_path = orders_0001")
        connection.execute(ORDERS)
    assert run("1") == {"0001_orders.sql": SHARDS}
    assert run("0001_orders.sql") == {}
    assert run() == {"0002_note.sql": SHARDS}
    # What somebody has made again by hand is as good as before: held to its key, and the app's.
    with psycopg.connect(servers[0].admin, options="-c search_path=orders_0001") as connection:
        connection.execute(f"SET ROLE {servers[0].role}")  # type: ignore[call-overload]
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO orders SELECT n, 1 FROM generate_series(1, 50) n")
    assert len(schemas(servers[0])) == SHARDS // 2
