"""What a request spent its time on, asked by its id; and that keeping it never stands in an app's way."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from called import explained
from harness import Running, wait_for

APP = """
import asyncio, json
from headway import cache, database, service

hot, main, stock = cache("hot"), database("main"), service("stock")


@hot.cached(ttl=60)
async def product(number: int) -> dict:
    async with main.at() as connection:
        await connection.fetch("SELECT pg_sleep(0.05)")
    return {"number": number}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/plain":
        body = b"{}"
    elif path.startswith("/call"):
        query = scope["query_string"].decode()
        answer = await stock.get(path.removeprefix("/call") + (f"?{query}" if query else ""))
        body = answer.content
    elif path.startswith("/slow"):
        async with main.at() as connection:
            await connection.fetch("SELECT pg_sleep(20)")
        body = b"{}"
    else:
        body = json.dumps(await product(int(path.rpartition("/")[2]))).encode()
        async with main.at() as connection:
            await connection.fetchval("SELECT 1")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
THREADS = """
from sqlalchemy import text

from headway import cache, database

hot, main = cache("hot"), database("main")


@hot.cached(ttl=60)
def product(number: int) -> int:
    with main.sync.at() as connection:
        connection.execute("SELECT pg_sleep(0.05)")
    return number


def app(environ, start_response):
    if environ["PATH_INFO"].endswith("/orm"):
        with main.sqlalchemy.session() as session:
            session.execute(text("SELECT pg_sleep(0.02)"))
        start_response("200 OK", [])
        return [b""]
    found = product(int(environ["PATH_INFO"].rpartition("/")[2]))
    start_response("200 OK", [])
    return [b"%d" % found]
"""
STOCK = """
import asyncio
from headway import database

main = database("main")
seen = set()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    status = 200
    async with main.at() as connection:
        await connection.fetch("SELECT pg_sleep(0.02)")
    if path.startswith("/once") and path not in seen:
        seen.add(path)
        status = 503
    if path == "/never":
        await asyncio.sleep(30)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"5"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]

[services.web]
app = "shop:app"
routes = ["/"]
replicas = 1
uses = ["main", "hot", "stock"]
deadline = "20s"

[services.stock]
app = "stock:app"
replicas = 1
uses = ["main"]

[services.threads]
app = "threads:app"
routes = ["/threads"]
replicas = 1
uses = ["main", "hot"]

[services.full]
app = "full:app"
routes = ["/full"]
replicas = 1
threads = 1
limit = 1
deadline = "2s"

[databases.main]

[caches.hot]
timeout = "2s"
"""
FULL = """
import time


def app(environ, start_response):
    time.sleep(5)
    start_response("200 OK", [])
    return [b""]
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("traces")
    (folder / "shop.py").write_text(APP)
    (folder / "threads.py").write_text(THREADS)
    (folder / "full.py").write_text(FULL)
    (folder / "stock.py").write_text(STOCK)
    with Running(folder, DECLARATION) as system:
        yield system


def ask(system: Running, path: str, headers: dict[str, str] | None = None) -> str:
    """The id of an answered request."""
    request = urllib.request.Request(system.url + path, headers=headers or {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
        found: str = answer.headers["x-request-id"]
        return found


def answered(system: Running, path: str) -> str:
    """The same; empty when it is refused."""
    try:
        return ask(system, path)
    except urllib.error.HTTPError:
        return ""


def kinds(document: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(span["kind"], span["name"], span["depth"]) for span in document["spans"] if span["kind"] != "queue"]


@pytest.mark.parametrize(("path", "module"), [("/7", "shop"), ("/threads/7", "threads")])
def test_a_request_is_told_from_the_edge_to_the_query_of_a_load(shop: Running, path: str, module: str) -> None:
    request = ask(shop, path)
    document = explained(shop, request)
    service = "web" if module == "shop" else "threads"
    expected = [
        ("edge", f"GET {path}", 0),
        ("service", service, 1),
        ("cache", f"cache {module}.product", 2),
        ("database", "database main", 3),
        ("database", "database main", 2),
    ]
    assert kinds(document) == (expected if module == "shop" else expected[:-1])
    by_kind = {span["kind"]: span for span in reversed(document["spans"])}
    assert by_kind["cache"]["duration_ns"] > by_kind["database"]["duration_ns"] * 0.5
    assert document["spent_ms"]["database main"] > 45
    assert document["failure"] == ""
    text = shop.ok("explain", request)
    assert f"edge GET {path} → {service}.1 200" in text
    assert f"      cache {module}.product" in text
    assert "its time went to: " in text


def test_a_session_of_sqlalchemy_is_told_as_well(shop: Running) -> None:
    document = explained(shop, ask(shop, "/threads/orm"))
    assert kinds(document) == [
        ("edge", "GET /threads/orm", 0),
        ("service", "threads", 1),
        ("database", "database main", 2),
    ]
    assert document["spent_ms"]["database main"] > 15


def test_no_query_of_a_path_is_written(shop: Running) -> None:
    request = ask(shop, "/call/7?token=secret")
    document = explained(shop, request)
    assert [span["attributes"]["path"] for span in document["spans"] if span["kind"] == "call"] == ["/7"]
    assert "secret" not in json.dumps(document)
    assert not any("secret" in file.read_text() for file in shop.folders.traces.iterdir())


def test_what_is_found_in_the_cache_is_no_load(shop: Running) -> None:
    ask(shop, "/8")
    document = explained(shop, ask(shop, "/8"))
    assert kinds(document) == [("edge", "GET /8", 0), ("service", "web", 1), ("database", "database main", 2)]


def test_a_request_that_does_nothing_else_is_told_from_the_access_log(shop: Running) -> None:
    assert kinds(explained(shop, ask(shop, "/plain"))) == [("edge", "GET /plain", 0)]


def test_a_trace_from_outside_goes_on(shop: Running) -> None:
    trace = f"{os.getpid():08x}{'ab' * 12}"
    request = ask(shop, "/9", {"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    document = explained(shop, request)
    assert ("cache", "cache shop.product", 2) in kinds(document)
    service = next(span for span in document["spans"] if span["kind"] == "service")
    assert (service["trace"], service["parent"]) == (trace, "b7ad6b7169203331")
    of_trace = explained(shop, trace)
    assert {("cache", "cache shop.product"), ("service", "web")} <= {kind[:2] for kind in kinds(of_trace)}


def test_a_call_is_told_from_one_service_into_the_other(shop: Running) -> None:
    request = ask(shop, "/call/7")
    document = explained(shop, request)
    assert kinds(document) == [
        ("edge", "GET /call/7", 0),
        ("service", "web", 1),
        ("call", "stock", 2),
        ("edge", "GET /7", 3),
        ("service", "stock", 4),
        ("database", "database main", 5),
    ]
    assert {span["trace"] for span in document["spans"]} == {request}
    assert {span["request"] for span in document["spans"]} == {request}
    text = shop.ok("explain", request)
    assert "    call stock GET /7 " in text
    assert "      edge GET /7 → stock.1 200" in text


def test_each_attempt_of_a_call_is_told(shop: Running) -> None:
    document = explained(shop, ask(shop, f"/call/once-{os.urandom(4).hex()}"))
    hops = [span for span in document["spans"] if span["kind"] == "edge"][1:]
    assert [hop["attributes"].get("attempt", 1) for hop in hops] == [1, 2]
    assert [hop.get("failure", "") for hop in hops] == ["stock.1 answered 503", ""]
    assert document["failure"] == ""
    services = [(span["name"], span["depth"]) for span in document["spans"] if span["kind"] == "service"]
    assert services == [("web", 1), ("stock", 4), ("stock", 4)]


def test_a_call_that_came_to_nothing_says_why(shop: Running) -> None:
    request = urllib.request.Request(shop.url + "/call/never", headers={"x-request-id": "not believed"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=40)
    document = explained(shop, raised.value.headers["x-request-id"])
    call = next(span for span in document["spans"] if span["kind"] == "call")
    assert call["failure"].startswith("DeadlineExceeded: ")
    assert document["failure"]


def test_a_refused_request_says_who_refused_it_and_why(shop: Running) -> None:
    refused: list[tuple[int, str]] = []

    def hit() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=60)
        connection.request("GET", "/full/x")
        answer = connection.getresponse()
        refused.append((answer.status, answer.headers["x-request-id"]))
        connection.close()

    threads = [threading.Thread(target=hit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    request = next(request for status, request in refused if status == 503)
    document = explained(shop, request)
    assert document["failure"] == "refused by the edge: it waited in the queue of full until its deadline"
    assert document["spent_ms"]["queue of full"] > 1500
    assert f"it came to nothing: {document['failure']}" in shop.ok("explain", request)


def test_an_unknown_request_is_an_error_that_says_how_long_they_are_kept(shop: Running) -> None:
    done = shop.run("explain", "0" * 32)
    assert done.returncode == 1
    assert "error: nothing is known of request 0000" in done.stderr
    assert "hint: the access log goes back to 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_parts_are_explained_as_before(shop: Running) -> None:
    assert "start: wanted" in shop.ok("explain", "web")
    for arguments in (("explain", "nobody"), ("explain", "web.77"), ("explain", "nobody", "--json")):
        done = shop.run(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert f"error: there is no part '{arguments[1]}', and no request with this id is known" in done.stderr
        assert "hint: parts are: controller, edge, " in done.stderr


def test_of_a_killed_worker_what_was_written_stays_readable(shop: Running) -> None:
    before = ask(shop, "/10")
    explained(shop, before)
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=60)
    connection.request("GET", "/slow", headers={"x-request-id": "not believed from here"})
    wait_for(lambda: shop.replicas()[0]["in_flight"], 30, "the request is at work")
    killed = shop.pid("web.1")
    os.kill(killed, signal.SIGKILL)
    connection.close()
    after = wait_for(lambda: answered(shop, "/11"), 30, "web.1 is back")
    assert shop.pid("web.1") != killed
    for request in (before, after):
        assert ("database", "database main", 2) in kinds(explained(shop, request))


def test_without_a_place_to_write_the_app_goes_on(shop: Running) -> None:
    folder = shop.folders.traces
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.write_text("no folder\n")  # as little to be written to as a full disk
    try:
        request = ask(shop, "/12")
        assert kinds(explained(shop, request)) == [("edge", "GET /12", 0)]
    finally:
        folder.unlink()
        kept.rename(folder)
    later = ask(shop, "/13")
    assert ("cache", "cache shop.product", 2) in kinds(explained(shop, later))
    assert explained(shop, request)["dropped"]["web.1"] >= 4
    assert "spans of web.1 had no room around that time and are not told here" in shop.ok("explain", request)
    page = shop.ok("metrics")
    assert re.search(r'^headway_spans_dropped_total\{replica="web.1"\} [4-9]', page, re.MULTILINE), page


def test_a_system_that_wants_none_keeps_none(shop: Running) -> None:
    declared = shop.folder / "headway.toml"
    former = declared.read_text()
    declared.write_text(f"[system]\ntraces = false\n{former}")
    try:
        told = shop.ok("check")
        assert "system.traces: true → false; replicas are replaced one by one" in told
        shop.up()
        shutil.rmtree(shop.folders.traces)
        shop.folders.traces.mkdir(mode=0o700)
        assert kinds(explained(shop, ask(shop, "/14"))) == [("edge", "GET /14", 0)]
        assert list(Path(shop.folders.traces).iterdir()) == []
    finally:
        declared.write_text(former)
        shop.up()
