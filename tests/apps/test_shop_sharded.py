"""The shop with its orders in shards does what the plain shop does, before its orders are there and after it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_shop as plain
from harness import wait_for
from test_shop import customer  # noqa: F401

PLAIN_ORDER = """
import os
from shop.database import Database
from shop.orders import place_order
place_order(Database(os.environ["DATABASE_URL"]), "first@example.com", {26: 2}, "of the plain shop")
"""
ASK_MAIN = """
import os, sys
import psycopg
print(psycopg.connect(os.environ["DATABASE_URL"]).execute(sys.argv[1]).fetchall())
"""


@pytest.fixture(scope="module", params=["main", "shards"])
def shop(request: pytest.FixtureRequest, serve: Callable[..., Any], example: Callable[..., Path]) -> Any:
    folder = example("shop-sharded", "shop")
    served = serve(folder, (folder / "headway.toml").read_text())
    wait_for(lambda: served.system.run("db", "status", "orders").returncode == 0, 120, "the shards are laid out")
    served.run("python", "-c", PLAIN_ORDER)
    if request.param == "shards":
        served.system.ok("db", "import", "orders", "--from", "main", timeout_s=120)
        served.system.ok("db", "import", "orders", "--switch", timeout_s=120)
    return served


def test_new_orders_arrive_as_events_and_none_is_missed(shop: Any) -> None:
    with shop.client() as client:
        with client.stream("GET", "/events") as stream:
            events = plain.server_sent_events(stream)
            assert next(events)["event"] == "clock"
            plain.place(shop.client(), plain.order_json(26, 4))
            news = next(event for event in events if event["event"] == "order")
            assert json.loads(news["data"])["items"] == 4
            assert "email" not in news["data"]
        plain.place(client, plain.order_json(26, 3))
        with client.stream("GET", "/events", headers={"last-event-id": news["id"]}) as stream:
            missed = next(event for event in plain.server_sent_events(stream) if event["event"] == "order")
            assert json.loads(missed["data"])["items"] == 3


test_checkout_takes_stock_and_leads_to_the_order = plain.test_checkout_takes_stock_and_leads_to_the_order
test_submitting_twice_at_once_makes_one_order = plain.test_submitting_twice_at_once_makes_one_order
test_api_order_is_created_once_per_key = plain.test_api_order_is_created_once_per_key
test_concurrent_checkouts_never_oversell = plain.test_concurrent_checkouts_never_oversell
test_orders_in_opposite_order_succeed = plain.test_orders_over_the_same_products_in_opposite_order_all_succeed


def test_an_order_of_the_plain_shop_is_found_by_its_old_address(shop: Any) -> None:
    asked = "SELECT reference FROM orders WHERE idempotency_key = 'of the plain shop'"
    reference = re.search(r"[0-9a-f]{24}", shop.run("python", "-c", ASK_MAIN, asked))[0]
    with shop.client() as client:
        found = client.get(f"/api/orders/{reference}").json()
        assert (found["email"], found["lines"][0]["quantity"]) == ("first@example.com", 2)
        for unknown in ("0123456789abcdef01234567", "7-0123", "99999999999-0123", "nobody"):
            assert client.get(f"/api/orders/{unknown}").status_code == 404
        client.post("/login", data={"email": "first@example.com"})
        assert f"/orders/{reference}" in client.get("/orders").text


def test_no_reservation_is_left(shop: Any) -> None:
    wait_for(lambda: shop.run("python", "-c", ASK_MAIN, "TABLE reservations").strip() == "[]", 60, "all are settled")
