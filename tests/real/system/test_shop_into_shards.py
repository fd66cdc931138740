"""The shop goes into shards while people shop in it, and goes on there: they notice nothing, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from harness import Running, wait_for
from psycopg.conninfo import make_conninfo

from headway.control.client import ControlClient

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LEFTOVERS = shutil.ignore_patterns("__pycache__", ".headway", "*.sqlite3*", "media")
PRODUCTS = (20, 17, 26, 19)  # there are some hundred of each
PATIENCE_S = 60.0


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Running]:
    for name in ("shop", "shop-sharded"):
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=LEFTOVERS)
    folder = tmp_path / "shop-sharded"
    declaration = (folder / "headway.toml").read_text().replace("127.0.0.1:8000", "127.0.0.1:$PORT")
    declaration = declaration.replace("[services.web]", '[services.web]\nreplicas = 2\ndrain_timeout = "2s"')
    with Running(folder, declaration, detached=True) as running:
        wait_for(lambda: running.run("db", "status", "orders").returncode == 0, 60, "the shards are laid out")
        yield running


class Shoppers:
    """People who browse and order, what was acknowledged to them, and what they had to complain about."""

    def __init__(self, url: str, *, persistent: bool = False, count: int = 3) -> None:
        self.placed: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self._url = url
        self._persistent = persistent  # submits the same form again where there was no answer
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._shop, args=(number,)) for number in range(count)]

    def __enter__(self) -> Shoppers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(90)

    def more(self, wanted: int, what: str) -> None:
        """Wait until so many orders more have been placed."""
        count = len(self.placed)
        wait_for(lambda: self.faults or len(self.placed) >= count + wanted, 60, what)
        assert self.faults == []

    def _shop(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            turn = 0
            while not self._stopping.wait(0.03):
                turn += 1
                email, product = f"c{number}-{turn % 20}@example.com", PRODUCTS[turn % 4]
                order = {"email": email, "lines": [{"product_id": product, "quantity": 1 + turn % 2}]}
                try:
                    self._see(client, "/", f"/products/{product}")
                    placed = self._order(client, order, uuid.uuid4().hex, again=turn % 3 == 0)
                    if placed is not None:
                        self.placed.append(placed)
                        self._see(client, f"/api/orders/{placed['reference']}")
                except httpx.HTTPError as error:
                    if not self._persistent:
                        self.faults.append(repr(error))

    def _see(self, client: httpx.Client, *paths: str) -> None:
        for path in paths:
            answer = client.get(path)
            if answer.status_code != 200 and not self._persistent:
                self.faults.append(f"GET {path}: {answer.status_code} {answer.text[:200]}")

    def _order(self, client: httpx.Client, order: dict[str, Any], key: str, *, again: bool) -> dict[str, Any] | None:
        answer = self._submit(client, order, key)
        if answer is None or answer.status_code not in (200, 201):
            self.faults.append(
                "an order found no end" if answer is None else f"{answer.status_code} {answer.text[:200]}"
            )
            return None
        placed: dict[str, Any] = answer.json()
        if again:
            second = self._submit(client, order, key)
            if second is None or second.status_code != 200 or second.json() != placed:
                self.faults.append(f"the same form gave {placed} and then {second and second.text}")
        return placed

    def _submit(self, client: httpx.Client, order: dict[str, Any], key: str) -> httpx.Response | None:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            try:
                answer = client.post("/api/orders", json=order, headers={"idempotency-key": key})
                if answer.status_code < 500 or not self._persistent:
                    return answer
            except httpx.HTTPError:
                if not self._persistent:
                    raise
            time.sleep(0.05)
        return None


class Books:
    """What the databases say."""

    def __init__(self, system: Running) -> None:
        self._system = system
        self.main = ControlClient(system.folders).ask("GET", "/databases")["access"]["main"]["url"]

    def in_main(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in `main`."""
        with psycopg.connect(self.main) as connection:
            done = connection.execute(statement.encode(), values)
            return done.fetchall() if done.description else []

    def stock(self) -> Counter[int]:
        """Pieces of each product."""
        return Counter(dict(self.in_main("SELECT id, stock FROM products")))

    def reservations(self) -> int:
        """How many orders are neither placed nor given up."""
        return int(self.in_main("SELECT count(*) FROM reservations")[0][0])

    def in_shards(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of all shards."""
        found: list[tuple[Any, ...]] = []
        status = json.loads(self._system.ok("db", "status", "orders", "--json").splitlines()[-1])
        logins = ControlClient(self._system.folders).ask("GET", "/databases")["access"]["orders"]["logins"]
        for server in status["databases"]["orders"]["servers"]:
            way = make_conninfo(server["url"], **logins[server["name"]])
            for shard in server["shards"]:
                with psycopg.connect(way, options=f"-c search_path=orders_{shard:04d}") as connection:
                    found += connection.execute(statement.encode()).fetchall()
        return found

    def balance(self, shoppers: Shoppers, before: Counter[int]) -> None:
        """Every acknowledged order is in the shards, once and as it was acknowledged, no other is, and stock agrees."""
        rows = self.in_shards("SELECT reference, product_id, quantity FROM orders JOIN order_lines ON order_id = id")
        acknowledged = [
            (placed["reference"], line["product_id"], line["quantity"])
            for placed in shoppers.placed
            for line in placed["lines"]
        ]
        assert sorted(rows) == sorted(acknowledged)
        assert len(self.in_shards("SELECT FROM orders")) == len(shoppers.placed)
        sold: Counter[int] = Counter()
        for _reference, product, quantity in rows:
            sold[product] += quantity
        assert before - self.stock() == sold
        assert self.reservations() == 0


def listen(url: str, heard: list[int], opened: threading.Event) -> None:
    """Follow the event stream until it ends."""
    timeout = httpx.Timeout(10, read=60)
    with (
        contextlib.suppress(httpx.RemoteProtocolError),
        httpx.stream("GET", f"{url}/events", timeout=timeout) as stream,
    ):
        opened.set()
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                heard.append(json.loads(line.removeprefix("data: "))["items"])


def test_nobody_who_shops_notices_that_the_orders_go_into_shards(system):
    books = Books(system)
    before = books.stock()
    heard: list[int] = []
    opened = threading.Event()
    threading.Thread(target=listen, args=(system.url, heard, opened), daemon=True).start()
    assert opened.wait(30)
    with Shoppers(system.url) as shoppers:
        shoppers.more(30, "people order before the import")
        system.ok("db", "import", "orders", "--from", "main", timeout_s=120)
        shoppers.more(30, "people order while it follows")
        system.ok("db", "import", "orders", "--switch", timeout_s=120)
        shoppers.more(60, "people order from the shards")
    assert shoppers.faults == []
    assert json.loads(system.ok("db", "verify", "orders", "--json"))["complete"]
    books.balance(shoppers, before)
    # Whoever has watched the news has heard of every order, and of none twice.
    items = [sum(line["quantity"] for line in placed["lines"]) for placed in shoppers.placed]
    wait_for(lambda: len(heard) >= len(items), 30, "the last news")
    assert Counter(heard) == Counter(items)


def test_what_is_left_of_an_order_by_those_who_die_is_settled(system):
    books = Books(system)
    before = books.stock()
    with Shoppers(system.url, persistent=True) as shoppers:
        shoppers.more(10, "people order before the import")
        system.ok("db", "import", "orders", "--from", "main", timeout_s=120)
        system.ok("db", "import", "orders", "--switch", timeout_s=120)
        for _ in range(3):
            shoppers.more(10, "people order from the shards")
            killed = next(one for one in system.replicas() if one["state"] == "ready")
            os.kill(killed["pid"], signal.SIGKILL)
            wait_for(lambda killed=killed: _stands_in(system, killed), 60, "another one in its place")
        os.kill(system.pid("database.orders.s2"), signal.SIGKILL)
        shoppers.more(30, "people order again when the server is back")
    assert shoppers.faults == []
    wait_for(lambda: books.reservations() == 0, 60, "all is settled")
    books.balance(shoppers, before)

    # The same by hand: one died before its order was written, one after it.
    (customer, placed), (other, written) = (
        (int(one["reference"].partition("-")[0]), one) for one in (shoppers.placed[-1], shoppers.placed[-2])
    )
    with psycopg.connect(books.main) as connection:
        insert = b"INSERT INTO reservations VALUES (%s, %s, %s, %s)"
        connection.execute(insert, (customer, "left alone by the dead", f"{customer}-0123", "[[20, 7, 1100]]"))
        connection.execute("UPDATE products SET stock = stock - 7 WHERE id = 20")
        key = next(
            key
            for reference, key in books.in_shards("SELECT reference, idempotency_key FROM orders")
            if reference == written["reference"]
        )
        connection.execute(insert, (other, key, written["reference"], json.dumps([[1, 5, 1]])))
    # Submitting the form again places the order, with the stock taken once.
    order = {"email": placed["email"], "lines": [{"product_id": 20, "quantity": 7}]}
    again = httpx.post(f"{system.url}/api/orders", json=order, headers={"idempotency-key": "left alone by the dead"})
    assert again.status_code == 201
    shoppers.placed.append(again.json())
    wait_for(lambda: books.reservations() == 0, 60, "a replica has looked")
    books.balance(shoppers, before)


def _stands_in(system: Running, killed: dict[str, Any]) -> bool:
    replicas = system.replicas()
    return all(one["state"] == "ready" and one["pid"] != killed["pid"] for one in replicas) and len(replicas) > 1
