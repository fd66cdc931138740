"""The shop's own rules, without a server."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

pytestmark = pytest.mark.anyio
Browser = Callable[..., httpx.AsyncClient]


def body(product_id: int, quantity: int, email: str = "a@example.com") -> dict[str, Any]:
    return {"email": email, "lines": [{"product_id": product_id, "quantity": quantity}]}


def headers(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


async def test_addresses_follow_the_host_and_scheme_of_the_request(browser: Browser) -> None:
    for base_url in ("https://shop.example", "http://[::1]:8000"):
        async with browser(base_url) as client:
            listed = (await client.get("/api/products")).json()
            assert listed["products"][0]["url"] == f"{base_url}/api/products/1"
            assert listed["next"] == f"{base_url}/api/products?page=2"
            assert (await client.get("/orders")).headers["location"] == f"{base_url}/login"


async def test_a_refused_order_changes_nothing(browser: Browser) -> None:
    async with browser() as client:
        lines = [{"product_id": 1, "quantity": 3}, {"product_id": 40, "quantity": 6}]
        refused = await client.post(
            "/api/orders", json={"email": "a@b.example", "lines": lines}, headers=headers("k" * 8)
        )
        assert refused.status_code == 409
        assert "Only 5 of Numbered print left" in refused.text
        assert (await client.get("/api/products/1")).json()["stock"] == 40
        again = await client.post("/api/orders", json=body(1, 3, "a@b.example"), headers=headers("k" * 8))
        assert again.status_code == 201  # the refused one did not use the key up


async def test_lines_of_one_product_add_up(browser: Browser) -> None:
    async with browser() as client:
        lines = [{"product_id": 40, "quantity": 3}] * 2
        wanted = {"email": "a@b.example", "lines": lines}
        assert (await client.post("/api/orders", json=wanted, headers=headers("k" * 8))).status_code == 409


async def test_forty_buyers_at_once_get_five_pieces(browser: Browser) -> None:
    async with browser() as client:

        async def buy(number: int) -> int:
            wanted = body(40, 1, f"buyer{number}@example.com")
            return (await client.post("/api/orders", json=wanted, headers=headers("same-key"))).status_code

        statuses = await asyncio.gather(*map(buy, range(40)))
        assert sorted(statuses) == [201] * 5 + [409] * 35


async def test_the_same_order_twenty_times_at_once_is_one_order(browser: Browser) -> None:
    async with browser() as client:

        async def submit() -> httpx.Response:
            return await client.post("/api/orders", json=body(2, 1), headers=headers("the-key-1"))

        answers = await asyncio.gather(*(submit() for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.json()["reference"] for answer in answers}) == 1
        assert (await client.get("/api/products/2")).json()["stock"] == 24


async def test_a_cart_is_bounded(browser: Browser) -> None:
    async with browser() as client:
        for product_id in range(1, 26):
            await client.post("/cart", data={"product_id": product_id, "quantity": 99})
        await client.post("/cart", data={"product_id": 1, "quantity": 99, "add": "true"})
        quantities = re.findall(r'name="quantity" value="(\d+)"', (await client.get("/cart")).text)
        assert quantities == ["99"] * 20
        assert (await client.post("/cart", data={"product_id": 1, "quantity": 100})).status_code == 422
        assert (await client.post("/cart", data={"product_id": 4711, "quantity": 1})).status_code == 404


async def test_sold_out_at_checkout_says_so_and_keeps_the_cart(browser: Browser) -> None:
    async with browser(headers={"accept": "text/html"}) as client:
        await client.post("/cart", data={"product_id": 40, "quantity": 6})
        form = {"idempotency_key": "a-form-key", "email": "late@example.com"}
        refused = await client.post("/checkout", data=form)
        assert refused.status_code == 409
        assert "Only 5 of Numbered print left." in refused.text
        assert 'name="quantity" value="6"' in refused.text


async def test_text_from_people_is_escaped(browser: Browser) -> None:
    async with browser(headers={"accept": "text/html"}) as client:
        page = await client.get("/", params={"q": "<script>alert(1)</script>"})
        assert "<script>alert" not in page.text


async def test_health_follows_the_database(app: Any, browser: Browser, tmp_path: Path) -> None:
    from shop.database import Database

    async with browser() as client:
        assert (await client.get("/healthz")).status_code == 200
        shop = app.state.shop
        nowhere = Database(f"postgresql://nobody@/nothing?host={tmp_path}")
        app.state.shop = type(shop)(shop.settings, nowhere, shop.new_orders, shop.stock_changes)
        assert (await client.get("/healthz")).status_code == 503
        nowhere.close()


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    from shop import media

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"\x89PNG\r\n\x1a\n"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await media.store(tmp_path, 1, breaks_off())
    assert list(tmp_path.iterdir()) == []


async def test_a_picture_in_tiny_chunks_is_recognised(tmp_path: Path) -> None:
    from shop import media

    async def bytewise() -> AsyncIterator[bytes]:
        for byte in b"\x89PNG\r\n\x1a\nrest":
            yield bytes([byte])

    stored = await media.store(tmp_path, 1, bytewise())
    assert media.find(tmp_path, stored.name) == tmp_path / stored.name
    assert media.find(tmp_path, f"../{tmp_path.name}/{stored.name}") is None


async def test_a_listener_that_falls_behind_is_let_go_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from shop import live

    monkeypatch.setattr(live, "POLL_S", 0.001)
    monkeypatch.setattr(live, "BACKLOG_MAX", 3)
    feed = live.Feed(lambda: lambda: [{"id": 1}])
    async with feed.listen() as slow, feed.listen() as quick:
        for _ in range(10):
            assert await asyncio.wait_for(quick.get(), 5) == {"id": 1}
        assert await asyncio.wait_for(slow.get(), 5) is None
        assert await asyncio.wait_for(quick.get(), 5) == {"id": 1}


async def test_an_order_that_commits_late_is_still_told(app: Any) -> None:
    from shop import live
    from shop.models import Customer, Order

    database = app.state.shop.database
    with database.writing() as session:
        session.add(Customer(id=1, email="a@example.com"))
    poll = live.new_orders(database)
    for order_id, told in ((9, [9]), (8, [8]), (10, [10])):
        with database.writing() as session:
            key = f"key-{order_id}"
            session.add(Order(id=order_id, reference=key, customer_id=1, idempotency_key=key, total_cents=0))
        assert [news["id"] for news in poll()] == told
    assert poll() == []


async def test_the_event_stream_starts_after_the_last_seen_event(app: Any, browser: Browser) -> None:
    from shop.api import events

    async with browser() as client:
        for number in range(3):
            await client.post("/api/orders", json=body(6, 1), headers=headers(f"event-key-{number}"))
    stream = (await events(app.state.shop, last_event_id=1)).body_iterator
    async with aclosing(stream):
        said = [await asyncio.wait_for(anext(stream), 5) for _ in range(3)]
    assert [line.split("\n")[:2] for line in said[1:]] == [["event: order", "id: 2"], ["event: order", "id: 3"]]


async def test_two_processes_may_prepare_one_new_file(tmp_path: Path) -> None:
    from shop.database import Database

    databases = [Database(f"sqlite:///{tmp_path / 'new.sqlite3'}") for _ in range(4)]
    await asyncio.gather(*(asyncio.to_thread(database.prepare) for database in databases))
    with databases[0].engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from products").scalar() == 40
    for database in databases:
        database.close()


async def test_models_and_schema_name_the_same_columns() -> None:
    from shop.models import Table

    schema = (EXAMPLES / "shop" / "schema.sql").read_text()
    tables = dict(re.findall(r"create table (\w+) \((.*?)\n\);", schema, re.DOTALL))
    columns = {
        name: re.findall(r"^    ([a-z_]+) +(?:integer|bigint|varchar|text|timestamptz)", text, re.MULTILINE)
        for name, text in tables.items()
    }
    assert columns == {table.name: list(table.columns.keys()) for table in Table.metadata.sorted_tables}


async def test_a_missing_secret_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from shop.settings import DEVELOPMENT_KEY, Settings

    monkeypatch.delenv("SECRET_KEY")
    with pytest.warns(UserWarning, match="SECRET_KEY"):
        assert Settings.from_environment().secret_key == DEVELOPMENT_KEY
    monkeypatch.setenv("SECRET_KEY", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Settings.from_environment().secret_key == "x"
