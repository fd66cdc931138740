"""The shop in four services does what the plain shop does, also on a day when parts of it fail."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import test_shop as plain
from harness import wait_for
from test_shop import customer, order_json, place, stock  # noqa: F401

AUDIT = """
import json, os
import psycopg
connection = psycopg.connect(json.loads(os.environ["HEADWAY_DATABASES"])["main"]["url"])
print(json.dumps({
    "stock": dict(connection.execute("SELECT id, stock FROM products").fetchall()),
    "sold": dict(connection.execute("SELECT product_id, sum(quantity)::int FROM order_lines GROUP BY 1").fetchall()),
    "orders": connection.execute("SELECT count(*) FROM orders").fetchone()[0],
    "open": connection.execute("SELECT count(*) FROM reservations r WHERE NOT EXISTS (SELECT FROM orders o "
        "JOIN customers c ON c.id = o.customer_id WHERE c.email || ' ' || o.idempotency_key = r.name)").fetchone()[0],
}))
"""


@pytest.fixture(scope="module")
def shop(serve: Callable[..., Any], example: Callable[..., Path]) -> Any:
    folder = example("shop-services", "shop")
    return serve(folder, (folder / "headway.toml").read_text())


test_browse_search_and_page_through = plain.test_browse_search_and_page_through
test_api_pages_are_linked_by_absolute_addresses = plain.test_api_pages_are_linked_by_absolute_addresses
test_search_takes_wildcards_and_umlauts_as_they_are = plain.test_search_takes_wildcards_and_umlauts_as_they_are
test_cart_survives_requests_and_belongs_to_one_customer = plain.test_cart_survives_requests_and_belongs_to_one_customer
test_a_forged_session_is_worth_nothing = plain.test_a_forged_session_is_worth_nothing
test_checkout_takes_stock_and_leads_to_the_order = plain.test_checkout_takes_stock_and_leads_to_the_order
test_submitting_twice_at_once_makes_one_order = plain.test_submitting_twice_at_once_makes_one_order
test_api_order_is_created_once_per_key = plain.test_api_order_is_created_once_per_key
test_concurrent_checkouts_never_oversell = plain.test_concurrent_checkouts_never_oversell
test_orders_in_opposite_order = plain.test_orders_over_the_same_products_in_opposite_order_all_succeed
test_static_files_have_their_types = plain.test_static_files_have_their_types


def test_the_others_are_reached_by_nobody_from_outside(shop: Any) -> None:
    with shop.client() as client:
        for path in ("/stock?ids=1", "/reservations", "/unsettled", "/some?ids=1"):
            assert client.get(path).status_code == 404
        status = shop.system.status()
        assert {name for name, told in status["services"].items() if not told["routes"]} == {
            "catalogue", "inventory", "checkout",
        }  # fmt: skip


def test_without_the_inventory_pages_are_pages_and_without_the_checkout_nothing_is_sold(shop: Any) -> None:
    with shop.client(headers={"accept": "text/html"}) as client:
        before = stock(client, 21)
        shop.system.ok("scale", "inventory", "0")
        try:

            def unknown() -> bool:
                page = client.get("/products/21")
                assert page.status_code == 200
                return '<span id="stock" data-product="21">some</span>' in page.text

            wait_for(unknown, 60, "the page is one without the inventory")
            refused = place(client, order_json(21))
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
        finally:
            shop.system.ok("scale", "inventory", "2")
        shop.system.wait_ready()
        assert stock(client, 21) == before
        assert place(client, order_json(21)).status_code == 201
        assert stock(client, 21) == before - 1


HOURS = (2, 1, 1, 1, 2, 4, 8, 12, 14, 16, 18, 22, 26, 22, 18, 16, 18, 24, 30, 34, 30, 20, 10, 5)  # visits in each
HOUR_S = 0.6
PATIENCE_S = 60.0


@dataclass
class Day:
    """What the customers of a day met."""

    statuses: Counter[str] = field(default_factory=Counter)
    placed: dict[str, str] = field(default_factory=dict)  # reference by key
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, answer: httpx.Response) -> None:
        with self.lock:
            self.statuses[f"{what} {answer.status_code}"] += 1
            self.slowest_s = max(self.slowest_s, answer.elapsed.total_seconds())

    def visit(self, shop: Any, seed: int) -> None:
        """Look around, and one in three buys; who is told to come again comes again, with the same key."""
        chance = random.Random(seed)
        with shop.client() as client:
            self.note("home", client.get(f"/?page={chance.randint(1, 4)}"))
            for _ in range(chance.randint(1, 3)):
                self.note("product", client.get(f"/products/{chance.randint(1, 39)}"))
            if chance.random() < 0.35:
                body = {
                    "email": f"day{seed}@example.com",
                    "lines": [
                        {"product_id": number, "quantity": 1}
                        for number in chance.sample((6, 15, 17, 19, 20, 26, 31), chance.randint(1, 3))
                    ],
                }
                self.buy(client, body, uuid.UUID(int=chance.getrandbits(128)).hex)

    def buy(self, client: httpx.Client, body: dict[str, Any], key: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            answer = place(client, body, key)
            if answer.status_code in (200, 201) or time.monotonic() > until_s:
                break
            time.sleep(0.2)
        self.note("order", answer)
        if answer.status_code in (200, 201):
            with self.lock:
                self.placed[key] = answer.json()["reference"]


@pytest.mark.timeout(400)
def test_a_day_of_shopping(shop: Any) -> None:
    """A day of twenty-four short hours. At eleven a replica of the inventory is killed, at two one of the checkout, at
    five one of the catalogue hangs, at seven in the evening the cache is killed."""
    system, day = shop.system, Day()

    def hit(name: str, number: int) -> None:
        os.kill(system.pid(name), number)

    faults = {
        11: lambda: hit("inventory.1", signal.SIGKILL),
        14: lambda: hit("checkout.2", signal.SIGKILL),
        17: lambda: hit("catalogue.1", signal.SIGSTOP),
        19: lambda: hit("cache.hot", signal.SIGKILL),
    }
    before = audit(shop)
    visits = []
    for hour, count in enumerate(HOURS):
        faults.get(hour, lambda: None)()
        chance = random.Random(hour)
        for number in range(count):
            thread = threading.Thread(target=day.visit, args=(shop, hour * 1000 + number))
            visits.append(thread)
            thread.start()
            time.sleep(min(chance.expovariate(count / HOUR_S), HOUR_S))
    for thread in visits:
        thread.join(150)
    assert not any(thread.is_alive() for thread in visits)
    system.wait_ready()
    after = audit(shop)
    told = dict(day.statuses)
    # Pages are asked for by GET: no visitor sees that anything was killed.
    assert {what for what in told if not what.startswith("order")} == {"home 200", "product 200"}, told
    assert {what.split()[1] for what in told if what.startswith("order")} <= {"200", "201"}, told
    assert after["orders"] - before["orders"] == len(day.placed) >= 80
    for number, left in before["stock"].items():
        sold = after["sold"].get(number, 0) - before["sold"].get(number, 0)
        assert after["stock"][number] == left - sold, f"product {number}"
    assert after["open"] == before["open"]
    assert len(set(day.placed.values())) == len(day.placed)


def audit(shop: Any) -> dict[str, Any]:
    """What is left, what was sold, and reservations without an order."""
    found: dict[str, Any] = json.loads(shop.system.ok("run", "checkout", "--", "python", "-c", AUDIT))
    return found
