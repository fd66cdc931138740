"""The shop, as its customers use it."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

LIMITED = 40  # the product with five pieces
PNG = b"\x89PNG\r\n\x1a\n"
UPLOAD_BYTES = 50 * 2**20
UPLOAD_CHUNK_BYTES = 2**20


@pytest.fixture(scope="module")
def shop(serve: Callable[..., Any], example: Callable[[str], Path]) -> Any:
    folder = example("shop")
    return serve(folder, (folder / "headway.toml").read_text())


@pytest.fixture
def customer(shop: Any) -> Iterator[httpx.Client]:
    with shop.client(headers={"accept": "text/html"}) as client:
        yield client


def order_json(product_id: int, quantity: int = 1, email: str = "api@example.com") -> dict[str, Any]:
    return {"email": email, "lines": [{"product_id": product_id, "quantity": quantity}]}


def place(client: httpx.Client, body: dict[str, Any], key: str | None = None) -> httpx.Response:
    return client.post("/api/orders", json=body, headers={"idempotency-key": key or uuid.uuid4().hex})


def stock(client: httpx.Client, product_id: int) -> int:
    return client.get(f"/api/products/{product_id}").json()["stock"]


def key_on(page: httpx.Response) -> str:
    return re.search(r'name="idempotency_key" value="(\w+)"', page.text)[1]


def test_browse_search_and_page_through(customer: httpx.Client) -> None:
    first = customer.get("/")
    assert first.status_code == 200
    assert first.headers["content-type"].startswith("text/html")
    assert "40 products" in first.text
    names = [
        name for page in range(1, 5) for name in re.findall(r"<h2>(.*?)</h2>", customer.get(f"/?page={page}").text)
    ]
    assert len(names) == 40
    assert len(set(names)) == 40
    found = customer.get("/", params={"q": "kettle"})
    assert re.findall(r"<h2>(.*?)</h2>", found.text) == ["Gooseneck kettle"]
    assert "Gooseneck kettle" in customer.get("/products/13").text
    assert customer.get("/?category=Tools").text.count("<h2>") == 8


def test_api_pages_are_linked_by_absolute_addresses(shop: Any) -> None:
    with shop.client() as client:
        page = client.get("/api/products", params={"per_page": 15}).json()
        assert (page["total"], page["pages"]) == (40, 3)
        seen = [product["id"] for product in page["products"]]
        while page["next"] is not None:
            assert page["next"].startswith(shop.base_url + "/api/products?")
            page = client.get(page["next"]).json()
            seen += [product["id"] for product in page["products"]]
        assert seen == list(range(1, 41))
        assert client.get("/api/products/7").json()["url"] == f"{shop.base_url}/api/products/7"


def test_search_takes_wildcards_and_umlauts_as_they_are(customer: httpx.Client) -> None:
    assert "0 products" in customer.get("/", params={"q": "%"}).text
    assert "“Tür&amp;Tor”" in customer.get("/", params={"q": "Tür&Tor"}).text


def test_errors_are_pages_for_people_and_json_for_programs(customer: httpx.Client, shop: Any) -> None:
    page = customer.get("/products/4711")
    assert page.status_code == 404
    assert "There is no such product." in page.text
    with shop.client() as program:
        answer = program.get("/api/products/4711")
        assert (answer.status_code, answer.json()) == (404, {"detail": "There is no such product."})
        assert program.get("/api/products?page=0").status_code == 422
        assert program.post("/healthz").status_code == 405


def test_cart_survives_requests_and_belongs_to_one_customer(customer: httpx.Client, shop: Any) -> None:
    answer = customer.post("/cart", data={"product_id": 6, "quantity": 2, "add": "true"})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{shop.base_url}/cart"
    customer.post("/cart", data={"product_id": 6, "quantity": 1, "add": "true"})
    customer.post("/cart", data={"product_id": 17, "quantity": 1})
    page = customer.get("/cart").text
    assert "Stoneware mug" in page
    assert "€ 63.00" in page  # 3 x 18.00 + 9.00
    customer.post("/cart", data={"product_id": 17, "quantity": 0})
    assert "Carpenter pencils" not in customer.get("/cart").text
    with shop.client() as stranger:
        assert "Nothing in it yet" in stranger.get("/cart").text


def test_a_forged_session_is_worth_nothing(customer: httpx.Client) -> None:
    customer.post("/login", data={"email": "me@example.com"})
    cookie = customer.cookies["shop"]
    assert "Your orders" in customer.get("/orders").text
    customer.cookies.clear()
    customer.cookies.set("shop", cookie[:10] + ("A" if cookie[10] != "A" else "B") + cookie[11:])
    assert customer.get("/orders").status_code == 303


def test_checkout_takes_stock_and_leads_to_the_order(customer: httpx.Client, shop: Any) -> None:
    before = stock(customer, 8)
    customer.post("/cart", data={"product_id": 8, "quantity": 3})
    form = {"idempotency_key": key_on(customer.get("/cart")), "email": "Buyer@Example.com"}
    answer = customer.post("/checkout", data=form)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{shop.base_url}/orders/")
    page = customer.get(answer.headers["location"])
    assert "buyer@example.com" in page.text
    assert "€ 117.00" in page.text
    assert stock(customer, 8) == before - 3
    assert "Nothing in it yet" in customer.get("/cart").text
    assert answer.headers["location"].removeprefix(shop.base_url) in customer.get("/orders").text


def test_submitting_twice_at_once_makes_one_order(customer: httpx.Client, shop: Any) -> None:
    before = stock(customer, 9)
    customer.post("/cart", data={"product_id": 9, "quantity": 1})
    form = {"idempotency_key": key_on(customer.get("/cart")), "email": "twice@example.com"}
    session = {"cookie": f"shop={customer.cookies['shop']}"}

    def submit(_: int) -> str:
        with shop.client(headers=session) as tab:
            return tab.post("/checkout", data=form).headers["location"]

    with ThreadPoolExecutor(8) as pool:
        addresses = set(pool.map(submit, range(8)))
    assert len(addresses) == 1
    assert stock(customer, 9) == before - 1
    again = customer.post("/checkout", data=form)  # later, from the same form
    assert again.headers["location"] in addresses


def test_api_order_is_created_once_per_key(shop: Any) -> None:
    key = uuid.uuid4().hex
    with shop.client() as client:
        before = stock(client, 10)
        first, second = place(client, order_json(10, 2), key), place(client, order_json(10, 2), key)
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.headers["location"] == f"{shop.base_url}/api/orders/{first.json()['reference']}"
        assert client.get(first.headers["location"]).json() == first.json() == second.json()
        assert stock(client, 10) == before - 2
        assert place(client, order_json(10, 3), key).status_code == 409
        assert place(client, order_json(10, 2, "other@example.com"), key).json()["id"] != first.json()["id"]
        assert place(client, order_json(4711)).status_code == 422
        assert place(client, {"email": "nobody", "lines": []}).status_code == 422
        assert client.post("/api/orders", json=order_json(10)).status_code == 422  # no key


def test_concurrent_checkouts_never_oversell(shop: Any) -> None:
    with shop.client() as client:
        left = stock(client, LIMITED)
        assert left == 5

    def buy(number: int) -> int:
        with shop.client() as client:
            return place(client, order_json(LIMITED, 1, f"fan{number}@example.com")).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(buy, range(40)))
    assert sorted(statuses) == [201] * left + [409] * (40 - left)
    with shop.client() as client:
        assert stock(client, LIMITED) == 0


def test_orders_over_the_same_products_in_opposite_order_all_succeed(shop: Any) -> None:
    def buy(number: int) -> int:
        products = (18, 19, 20) if number % 2 else (20, 19, 18)
        lines = [{"product_id": product, "quantity": 1} for product in products]
        with shop.client() as client:
            return place(client, {"email": f"pair{number}@example.com", "lines": lines}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(buy, range(24))) == [201] * 24


def test_export_is_streamed_and_complete(shop: Any) -> None:
    with shop.client() as client, client.stream("GET", "/export/products.csv") as answer:
        assert answer.headers["content-type"].startswith("text/csv")
        assert "content-length" not in answer.headers
        rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
    assert [int(row["id"]) for row in rows] == list(range(1, 41))
    assert rows[0]["name"] == "Harbour desk lamp"
    assert rows[8]["name"] == "Bread knife, 25 cm"  # a comma that has to be quoted


def test_new_orders_arrive_as_events_and_none_is_missed(shop: Any) -> None:
    with shop.client() as client:
        with client.stream("GET", "/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = server_sent_events(stream)
            assert next(events)["event"] == "clock"
            placed = place(shop.client(), order_json(26, 4)).json()
            news = next(event for event in events if event["event"] == "order" and event["id"] == str(placed["id"]))
            assert json.loads(news["data"])["items"] == 4
            assert "email" not in news["data"]
        missed = place(client, order_json(26)).json()
        with client.stream("GET", "/events", headers={"last-event-id": news["id"]}) as stream:
            ids = (event["id"] for event in server_sent_events(stream) if event["event"] == "order")
            assert next(ids) == str(missed["id"])


def server_sent_events(stream: httpx.Response) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in stream.iter_lines():
        if line:
            field, _, value = line.partition(": ")
            event[field] = value
        else:
            yield event
            event = {}


def test_stock_is_told_over_a_websocket(shop: Any) -> None:
    async def watch() -> None:
        async with websockets.connect(shop.ws_url + "/ws/stock", proxy=None) as socket:
            await socket.send("nonsense")
            assert "error" in json.loads(await socket.recv())
            await socket.send(json.dumps({"watch": [30, 31]}))
            before = {news["product_id"]: news["stock"] for news in [json.loads(await socket.recv()) for _ in range(2)]}
            assert before.keys() == {30, 31}

            def buy() -> None:
                with shop.client() as client:
                    place(client, order_json(29))  # not watched: nothing may be told
                    place(client, order_json(31, 2))

            await asyncio.to_thread(buy)
            assert json.loads(await socket.recv()) == {"product_id": 31, "stock": before[31] - 2}
            assert await (await socket.ping()) >= 0

    asyncio.run(asyncio.wait_for(watch(), 100))


def picture(size_bytes: int) -> Iterator[bytes]:
    """A file that starts like a PNG, a chunk at a time."""
    yield PNG
    left = size_bytes - len(PNG)
    for number in range(-(-left // UPLOAD_CHUNK_BYTES)):
        yield bytes([number % 251]) * min(UPLOAD_CHUNK_BYTES, left - number * UPLOAD_CHUNK_BYTES)


def test_a_picture_of_50_mb_arrives_whole_in_chunks(customer: httpx.Client, shop: Any) -> None:
    assert customer.put("/api/products/3/image", content=PNG).status_code == 401
    customer.post("/login", data={"email": "painter@example.com"})
    wanted = hashlib.sha256()
    for chunk in picture(UPLOAD_BYTES):
        wanted.update(chunk)
    answer = customer.put("/api/products/3/image", content=picture(UPLOAD_BYTES))  # no length: chunked
    assert answer.status_code == 201
    assert answer.json()["size_bytes"] == UPLOAD_BYTES
    assert answer.json()["sha256"] == wanted.hexdigest()
    assert answer.json()["url"].startswith(f"{shop.base_url}/media/3-")
    got = hashlib.sha256()
    with customer.stream("GET", answer.json()["url"]) as download:
        assert download.headers["content-type"] == "image/png"
        assert download.headers["content-length"] == str(UPLOAD_BYTES)
        for chunk in download.iter_bytes():
            got.update(chunk)
    assert got.hexdigest() == wanted.hexdigest()
    part = customer.get(answer.json()["url"], headers={"range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, PNG)


def test_a_picture_of_50_mb_arrives_by_form(customer: httpx.Client, shop: Any, tmp_path: Path) -> None:
    customer.post("/login", data={"email": "painter@example.com"})
    file = tmp_path / "large.png"
    with file.open("wb") as out:
        out.writelines(picture(UPLOAD_BYTES))
    with file.open("rb") as content:
        answer = customer.post("/products/4/image", files={"image": ("large.png", content, "image/png")})
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{shop.base_url}/products/4"
    address = re.search(r'src="(/media/4-\w+\.png)"', customer.get(answer.headers["location"]).text)[1]
    with customer.stream("GET", address) as download, file.open("rb") as content:
        assert all(chunk == content.read(len(chunk)) for chunk in download.iter_bytes())
        assert content.read() == b""


def test_what_is_no_picture_or_too_large_is_refused(shop: Any, customer: httpx.Client) -> None:
    customer.post("/login", data={"email": "painter@example.com"})
    assert customer.put("/api/products/5/image", content=b"<script>").status_code == 415
    too_large = b"".join(picture(65 * 2**20))
    assert customer.post("/products/5/image", files={"image": too_large}).status_code == 413
    # A bare body is refused while it is still being sent: a client that goes on sending may find the connection cut
    # before it reads the answer, or after it, so nothing else is sent on it. Either way nothing may be stored.
    with shop.client(cookies=customer.cookies) as another, suppress(httpx.TransportError):
        assert another.put("/api/products/5/image", content=too_large).status_code == 413
    assert customer.get("/api/products/5").json()["image"] is None
    assert customer.get("/media/..%2fheadway.toml").status_code == 404


def test_static_files_have_their_types(shop: Any) -> None:
    with shop.client() as client:
        css, js = client.get("/static/shop.css"), client.get("/static/shop.js")
        assert css.headers["content-type"].startswith("text/css")
        assert "javascript" in js.headers["content-type"]
        assert b"--sea" in css.content
        assert client.get("/static/nothing.css").status_code == 404
        assert client.get("/static/..%2fheadway.toml").status_code in (400, 403, 404)
