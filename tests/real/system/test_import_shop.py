"""The example shop goes into shards by its customers' e-mail addresses while people shop in it."""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from harness import Running, wait_for
from psycopg.conninfo import make_conninfo

from headway.control.client import ControlClient
from headway.sharding.keys import shard_of

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"
SHARDS = """
[databases.orders]
shards = 8
servers = 2
keys = { customers = "email", orders = "customer_email", order_lines = "customer_email" }
joins = { orders = "customer_id = customers.id", order_lines = "order_id = orders.id" }
reference = ["products"]
schema = "shards.sql"
"""
TABLES = {
    "customers": "id, email, created_at",
    "orders": "id, reference, customer_id, idempotency_key, total_cents, created_at",
    "order_lines": "order_id, product_id, quantity, price_cents",
    "products": "id, sku, name, stock",
}


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("__pycache__", ".headway", "*.sqlite3*", "media"))
    schema = (SHOP / "schema.sql").read_text()
    # A row of the shards says whose it is.
    for table in ("orders", "order_lines"):
        schema = re.sub(rf"create table {table} \(", r"\g<0>\n    customer_email varchar(254) not null,", schema)
    (folder / "shards.sql").write_text(schema)
    declaration = (SHOP / "headway.toml").read_text().replace("127.0.0.1:8000", "127.0.0.1:$PORT") + SHARDS
    # Its service knows nothing of shards: the declared database comes up beside it.
    with Running(folder, declaration, detached=True) as running:
        wait_for(lambda: running.run("db", "status", "orders").returncode == 0, 60, "the shards are laid out")
        yield running


def shopping(url: str, stopping: threading.Event, number: int, placed: list[str], faults: list[str]) -> None:
    """Somebody who orders until the fence is met."""
    product = 20
    with httpx.Client(base_url=url, timeout=30) as client:
        while not stopping.wait(0.02):
            order = {
                "email": f"c{number}-{len(placed) % 20}@example.com",
                "lines": [{"product_id": product, "quantity": 1}],
            }
            answer = client.post("/api/orders", json=order, headers={"idempotency-key": uuid.uuid4().hex})
            if answer.status_code == 201:
                placed.append(answer.json()["reference"])
            elif answer.status_code == 409:
                product -= 1  # it is sold out
            elif not stopping.is_set():
                faults.append(f"{answer.status_code} {answer.text[:100]}")
                stopping.wait(0.05)


def rows(way: str, table: str, schema: str = "public") -> list[tuple[object, ...]]:
    with psycopg.connect(way, options=f"-c search_path={schema}") as connection:
        return connection.execute(f"SELECT {TABLES[table]} FROM {table}".encode()).fetchall()


def test_the_shop_goes_into_shards_while_people_shop(system):
    placed: list[list[str]] = [[], [], []]
    faults: list[str] = []
    stopping = threading.Event()
    threads = [
        threading.Thread(target=shopping, args=(system.url, stopping, number, mine, faults))
        for number, mine in enumerate(placed)
    ]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: sum(map(len, placed)) > 50, 60, "people order")
        system.ok("db", "import", "orders", "--from", "main", timeout_s=120)
        count = sum(map(len, placed))
        wait_for(lambda: sum(map(len, placed)) > count + 30, 60, "people go on ordering")
        assert faults == []
        done = json.loads(system.ok("db", "import", "orders", "--switch", "--json", timeout_s=120).splitlines()[-1])
        assert done["stage"] == "done"
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    access = ControlClient(system.folders).ask("GET", "/databases")["access"]
    source, logins = access["main"]["url"], access["orders"]["logins"]
    found: dict[str, list[tuple[object, ...]]] = {table: [] for table in TABLES}
    status = json.loads(system.ok("db", "status", "orders", "--json").splitlines()[-1])
    for server in status["databases"]["orders"]["servers"]:
        way = make_conninfo(server["url"], **logins[server["name"]])
        for shard in server["shards"]:
            schema = f"orders_{shard:04d}"
            for table in ("customers", "orders", "order_lines"):
                found[table] += rows(way, table, schema)
            with psycopg.connect(way, options=f"-c search_path={schema}") as connection:
                emails = connection.execute("SELECT customer_email FROM orders UNION SELECT email FROM customers")
                assert {shard_of(email, 8, "text") for (email,) in emails} <= {shard}
        assert sorted(rows(way, "products", "headway_reference")) == sorted(rows(source, "products"))
    for table in ("customers", "orders", "order_lines"):
        assert sorted(found[table]) == sorted(rows(source, table)), table
    references = {reference for mine in placed for reference in mine}
    assert references <= {row[1] for row in found["orders"]}
    # The shop reads on at the source, which takes no writes any more.
    assert httpx.get(f"{system.url}/api/orders/{placed[0][0]}", timeout=30).status_code == 200
