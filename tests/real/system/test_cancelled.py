"""Work that nobody waits for is cancelled where the service says so: it ends, and gives back what it held."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, wait_for

APP = """
import asyncio, os
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from headway import cache, database, service

orders, leaf, hot = database("orders"), service("leaf"), cache("hot")
noted = []

@hot.cached(ttl=60)
async def value() -> int:
    noted.append("load")
    await asyncio.sleep(2)
    return 7

async def shared(request):
    return PlainTextResponse(str(await value()))

async def whole(request):
    noted.append("whole")
    await asyncio.sleep(2)
    return PlainTextResponse("whole")

async def held(request):
    await request.body()
    async with orders.transaction(7) as (connection,):
        noted.append("begun")
        try:
            await connection.execute("INSERT INTO orders VALUES (7, 1)")
            await connection.execute(f"SELECT pg_sleep({3 if 'kept' in request.url.path else 100})")
            noted.append("done")
        except asyncio.CancelledError:
            noted.append("cancelled")
            raise

async def calls(request):
    await leaf.get("/held", fallback=None)
    return PlainTextResponse("fallen back")

async def later(request):
    async def work():
        noted.append("answered")
        await asyncio.sleep(1)
        noted.append("worked")
    return PlainTextResponse("ok", background=BackgroundTask(work))

async def told(request):
    async with orders.at(7) as connection:
        rows = await connection.fetch("SELECT id FROM orders")
        sleeping = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(100)'"
        )
    return JSONResponse({"noted": noted, "rows": len(rows), "sleeping": sleeping})

PLACES = [("/held", held), ("/kept/held", held), ("/calls", calls), ("/later", later), ("/told", told)]
PLACES += [("/shared", shared), ("/whole", whole)]
app = Starlette(routes=[Route(path, what, methods=["GET", "POST"]) for path, what in PLACES])
"""
LEAF = """
import asyncio
noted = []
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"].startswith("/narrow/"):
        noted.append(scope["path"])
    if scope["path"].endswith("/held"):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            noted.append("cancelled")
            raise
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": " ".join(noted).encode()})
"""
DECLARATION = """
[system]
name = "given-up"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "held:app"
routes = ["/"]
replicas = 1
deadline = "4s"
cancel = true
uses = ["orders", "leaf", "hot"]
[services.web.at."/kept"]
cancel = false
[services.web.cache."/whole"]
ttl = "60s"
[services.leaf]
app = "leaf:app"
routes = ["/leaf"]
replicas = 1
deadline = "20s"
cancel = true
[services.narrow]
app = "leaf:app"
routes = ["/narrow"]
replicas = 1
limit = 1
deadline = "60s"
cancel = true
[databases.orders]
shards = 2
keys = { orders = "customer_id" }
schema = "schema.sql"
active_max = 3
[caches.hot]
timeout = "2s"
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("held")
    (folder / "held.py").write_text(APP)
    (folder / "leaf.py").write_text(LEAF)
    (folder / "schema.sql").write_text("CREATE TABLE orders (customer_id bigint NOT NULL, id bigint)")
    with Running(folder, DECLARATION) as running:
        yield running


def give_up(system: Running, path: str, method: str = "GET", after_s: float = 1.0) -> None:
    content = b"x" * 20_000 if method == "POST" else None
    with contextlib.suppress(httpx.TimeoutException):
        httpx.request(method, f"{system.url}{path}", content=content, timeout=after_s)


def give_up_until_begun(system: Running, path: str) -> None:
    """Give up a request that had begun its work by then: on a busy machine not the first one may come so far."""
    before = told(system)["noted"].count("begun")

    def has_begun() -> bool:
        give_up(system, path)
        return told(system)["noted"].count("begun") > before

    wait_for(has_begun, 60, "the work begins")


def told(system: Running) -> dict[str, Any]:
    """What the app knows, once it has a place in its database to look there."""

    def look() -> dict[str, Any] | None:
        answer = httpx.get(f"{system.url}/told", timeout=30)
        return answer.json() if answer.status_code == 200 else None

    found: dict[str, Any] = wait_for(look, 60, "the app has room to tell")
    return found


def ended(system: Running) -> int:
    """How often work was cancelled, once all that is to be is and nothing of it is left in the database; else 0."""
    found = told(system)
    noted = found["noted"]
    cancelled: int = noted.count("cancelled")
    return cancelled if cancelled == noted.count("begun") - noted.count("done") and not found["sleeping"] else 0


@contextlib.contextmanager
def asked(system: Running, path: str) -> Iterator[None]:
    """Somebody waits for an answer until the end of the block, and hangs up then."""
    with socket.create_connection(("127.0.0.1", system.port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        yield


def test_who_hangs_up_ends_the_work_and_frees_the_database(system: Running) -> None:

    def all_begun() -> bool:
        with ThreadPoolExecutor(6) as pool:  # twice as many as may be at work in the database: the others wait for it
            list(pool.map(lambda method: give_up(system, "/held", method), ["GET", "POST"] * 3))
        return told(system)["noted"].count("begun") >= 3

    wait_for(all_begun, 60, "as many as may be at work there are")
    begun = wait_for(lambda: ended(system), 30, "all of it was cancelled")
    assert begun >= 3
    assert told(system)["rows"] == 0
    assert wait_for(lambda: not system.replicas()[0]["in_flight"], 30, "no place is held")
    give_up_until_begun(system, "/held")  # and all of it can be had again
    wait_for(lambda: ended(system) > begun, 30, "and again")
    wait_for(lambda: system.replicas()[0]["cancelled"] > begun, 30, "it is counted, with those that waited for a place")
    found = re.search(r'headway_replica_cancelled_total{replica="web.1",service="web"} ([0-9]+)', system.ok("metrics"))
    assert found is not None
    assert int(found[1]) > begun


def test_the_deadline_ends_it_too(system: Running) -> None:
    before = told(system)["noted"].count("cancelled")
    assert httpx.get(f"{system.url}/held", timeout=30).status_code in (503, 504)
    wait_for(lambda: ended(system) == before + 1, 30, "the work ends soon after its deadline")


def test_a_call_is_given_up_by_whoever_makes_it(system: Running) -> None:

    def leaf() -> str:
        return httpx.get(f"{system.url}/leaf", timeout=30).text

    def is_given_up() -> bool:
        give_up(system, "/calls")
        return leaf().startswith("cancelled")

    wait_for(is_given_up, 60, "the called service ends as well")


def test_what_follows_an_answer_goes_on(system: Running) -> None:
    assert httpx.get(f"{system.url}/later", headers={"connection": "close"}, timeout=30).text == "ok"
    wait_for(lambda: "worked" in told(system)["noted"], 30, "the work afterwards is done")


def test_a_route_that_is_not_to_be_cancelled_goes_on(system: Running) -> None:
    before = told(system)["noted"].count("cancelled")
    give_up_until_begun(system, "/kept/held")
    wait_for(lambda: "done" in told(system)["noted"], 30, "it comes to its end")
    assert told(system)["noted"].count("cancelled") == before


@pytest.mark.parametrize(("path", "work", "answer"), [("/shared", "load", "7"), ("/whole", "whole", "whole")])
def test_what_others_wait_for_as_well_goes_on(system: Running, path: str, work: str, answer: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        given_up = pool.submit(give_up, system, path)
        wait_for(lambda: work in told(system)["noted"], 30, "it is at work")
        assert httpx.get(f"{system.url}{path}", timeout=30).text == answer
        given_up.result(30)
    assert told(system)["noted"].count(work) == 1


def test_who_hangs_up_in_the_queue_is_not_begun(system: Running) -> None:
    def in_flight() -> int:
        return int(system.replicas("narrow")[0]["in_flight"])

    def queued() -> int:
        return int(system.status()["services"]["narrow"]["overload"]["classes"]["narrow"]["queued"])

    with asked(system, "/narrow/held"):
        wait_for(in_flight, 30, "the only place is taken")
        with asked(system, "/narrow/second"):
            wait_for(queued, 30, "another one waits")
        wait_for(lambda: not queued(), 30, "it is gone")
    wait_for(lambda: not in_flight(), 30, "the place is free again")
    assert httpx.get(f"{system.url}/narrow/third", timeout=30).text == "/narrow/held cancelled /narrow/third"
