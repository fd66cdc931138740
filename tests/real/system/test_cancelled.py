"""Work that nobody waits for is cancelled where the service says so: it ends, and gives back what it held."""

from __future__ import annotations

import contextlib
import re
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


def give_up(system: Running, path: str, method: str = "GET", after_s: float = 0.7) -> None:
    content = b"x" * 20_000 if method == "POST" else None
    with contextlib.suppress(httpx.TimeoutException):
        httpx.request(method, f"{system.url}{path}", content=content, timeout=after_s)


def told(system: Running) -> dict[str, Any]:
    answer = httpx.get(f"{system.url}/told", timeout=30)
    return answer.raise_for_status().json() if answer.status_code != 503 else {"noted": [], "sleeping": -1}


def ended(system: Running, cancelled: int) -> bool:
    found = told(system)
    return found["noted"].count("cancelled") == cancelled and found["sleeping"] == 0


def test_who_hangs_up_ends_the_work_and_frees_the_database(system: Running) -> None:
    with ThreadPoolExecutor(6) as pool:  # twice as many as may be at work in the database: the others wait for a place
        list(pool.map(lambda method: give_up(system, "/held", method), ["GET", "POST"] * 3))

    def all_ended() -> int:
        found = told(system)
        begun: int = found["noted"].count("begun")
        return begun if begun == found["noted"].count("cancelled") and found["sleeping"] == 0 else 0

    begun = wait_for(all_ended, 30, "all of it was cancelled")
    assert begun >= 3
    assert told(system)["rows"] == 0
    assert wait_for(lambda: not system.replicas()[0]["in_flight"], 30, "no place is held")
    give_up(system, "/held")  # and all of it can be had again
    wait_for(lambda: ended(system, begun + 1), 30, "and again")
    wait_for(lambda: system.replicas()[0]["cancelled"] > begun, 30, "it is counted, with those that waited for a place")
    found = re.search(r'headway_replica_cancelled_total{replica="web.1",service="web"} ([0-9]+)', system.ok("metrics"))
    assert found is not None
    assert int(found[1]) > begun


def test_the_deadline_ends_it_too(system: Running) -> None:
    before = told(system)["noted"].count("cancelled")
    assert httpx.get(f"{system.url}/held", timeout=30).status_code in (503, 504)
    wait_for(lambda: ended(system, before + 1), 30, "the work ends soon after its deadline")


def test_a_call_is_given_up_by_whoever_makes_it(system: Running) -> None:
    give_up(system, "/calls")
    wait_for(lambda: httpx.get(f"{system.url}/leaf").text == "cancelled", 30, "the called service ends as well")


def test_what_follows_an_answer_goes_on(system: Running) -> None:
    assert httpx.get(f"{system.url}/later", headers={"connection": "close"}).text == "ok"
    wait_for(lambda: "worked" in told(system)["noted"], 30, "the work afterwards is done")


def test_a_route_that_is_not_to_be_cancelled_goes_on(system: Running) -> None:
    before = told(system)["noted"].count("cancelled")
    give_up(system, "/kept/held")
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

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(give_up, system, "/narrow/held", after_s=3.0)
        wait_for(in_flight, 30, "the only place is taken")
        give_up(system, "/narrow/second")
        first.result(30)
    wait_for(lambda: not in_flight(), 30, "the place is free again")
    assert httpx.get(f"{system.url}/narrow/third", timeout=30).text == "/narrow/held cancelled /narrow/third"
