"""Kept responses in a whole system: declared, given by every replica, made void, and counted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from harness import Running, wait_for

ASGI = """
import asyncio, os
from headway import cache
asked = 0

async def app(scope, receive, send):
    global asked
    headers = [(b"content-type", b"text/plain")]
    if scope["type"] != "http":
        return
    if scope["method"] == "POST":
        await cache("hot").invalidate("product:" + scope["path"].rpartition("/")[2])
    elif scope["path"] == "/fails":
        raise KeyError("of the app")
    else:
        asked += 1
        await asyncio.sleep(0.1)
    body = f"{os.getpid()} {asked}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
WSGI = """
import os, time
from flask import Flask
from headway import cache
app = Flask(__name__)
asked = 0

@app.get("/products/<int:number>")
def product(number):
    global asked
    asked += 1
    time.sleep(0.1)
    return f"{os.getpid()} {asked}", {"Content-Type": "text/plain"}

@app.post("/products/<int:number>")
def change(number):
    cache("hot").sync.invalidate(f"product:{number}")
    return ""

@app.get("/fails")
def fails():
    raise KeyError("of the app")
"""
DJANGO = """
import os, time
from django.conf import settings
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", LOGGING_CONFIG=None,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.http.ConditionalGetMiddleware"])
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from headway import cache
app = get_wsgi_application()
asked = 0

def product(request, number):
    global asked
    if request.method == "POST":
        cache("hot").sync.invalidate(f"product:{number}")
        return HttpResponse()
    asked += 1
    time.sleep(0.1)
    return HttpResponse(f"{os.getpid()} {asked}", content_type="text/plain")

def fails(request):
    raise KeyError("of the app")
urlpatterns = [path("products/<int:number>", product), path("fails", fails)]
"""
APPS = {"asgi": ASGI, "flask": WSGI, "django": DJANGO}
DECLARATION = """
[system]
name = "kept"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "kept:app"
replicas = 2
[services.web.cache."/products/{id}"]
ttl = "60s"
tags = ["product:{id}"]
[services.web.cache."/fails"]
ttl = "60s"
[caches.hot]
memory_max = "16MiB"
timeout = "2s"
"""


@pytest.fixture(scope="module", params=list(APPS))
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "kept.py").write_text(APPS[request.param])
    with Running(folder, DECLARATION) as running:
        yield running


def how(answer: httpx.Response) -> str:
    return answer.headers["x-headway-cache"]


def test_one_replica_is_asked_and_all_give_what_it_said(system: Running) -> None:
    with httpx.Client(base_url=system.url) as client, ThreadPoolExecutor(8) as threads:
        # Each on a client of its own: one for all closes what another thread reads from.
        answers = list(threads.map(lambda _: httpx.get(f"{system.url}/products/1", verify=False), range(40)))
        assert {each.status_code for each in answers} == {200}
        assert len({each.text for each in answers}) == 1
        assert [how(each) for each in answers].count("miss") == 1
        tag = answers[0].headers["etag"]
        unchanged = client.get("/products/1", headers={"if-none-match": tag})
        assert (unchanged.status_code, unchanged.content, how(unchanged)) == (304, b"", "hit")
        head = client.head("/products/1")
        assert (head.status_code, how(head), head.headers["content-length"]) == (200, "hit", str(len(answers[0].text)))
        # Nobody from outside makes it void by asking for a fresh one.
        assert how(client.get("/products/1", headers={"cache-control": "no-cache"})) == "hit"
        assert how(client.get("/products/1", headers={"cookie": "a=1"})) == "bypass"


def test_what_a_client_asks_for_is_answered_from_what_is_kept(system: Running) -> None:
    with httpx.Client(base_url=system.url) as client:
        only_kept = {"cache-control": "only-if-cached"}
        assert client.get("/products/5", headers=only_kept).status_code == 504
        head = client.head("/products/5")
        assert (head.status_code, head.content, how(head)) == (200, b"", "bypass")
        first = client.get("/products/5")
        assert how(first) == "miss", "HEAD keeps nothing"
        # Of either replica, whose connections are kept open: none of them is left with a body that belongs to HEAD.
        for _ in range(6):
            head = client.head("/products/5", headers={"range": "bytes=0-0"})
            assert (head.status_code, head.content, how(head)) == (200, b"", "hit")
            assert int(head.headers["content-length"]) == len(first.content)
            assert client.get("/products/5", headers=only_kept).text == first.text
            unchanged = client.head("/products/5", headers={"if-none-match": f'"x", {first.headers["etag"]}'})
            assert (unchanged.status_code, how(unchanged)) == (304, "hit")
        assert how(client.get("/products/5", headers={"range": "bytes=0-0"})) == "bypass"
        assert how(client.get("/products/5", headers={"if-match": '"x"'})) == "bypass"


def test_an_invalidation_by_the_app_or_by_hand_makes_it_void(system: Running) -> None:
    with httpx.Client(base_url=system.url) as client:
        first = client.get("/products/2").text

        def voided() -> bool:
            return client.get("/products/2").text != first

        client.post("/products/2")
        wait_for(voided, 30, "another answer")
        first = client.get("/products/2").text
        system.ok("cache", "flush", "hot", "--tag", "product:2")
        wait_for(voided, 30, "another answer after the flush")


def test_it_is_counted_and_seen(system: Running) -> None:
    with httpx.Client(base_url=system.url) as client:
        for _ in range(5):
            client.get("/products/3")

    def counts() -> dict[str, Any]:
        told = json.loads(system.ok("cache", "stats", "hot", "--json").splitlines()[-1])
        found: dict[str, Any] = told["caches"]["hot"]["functions"].get("GET /products/{id}", {})
        return found

    wait_for(lambda: counts().get("calls", 0) >= 5 and counts()["loads"] >= 1, 30, "counts")
    httpx.get(f"{system.url}/products/3", headers={"cookie": "a=1"})
    wait_for(lambda: counts()["bypassed"] >= 1, 30, "the one that went past")
    shown = system.ok("cache", "stats", "hot")
    assert "GET /products/{id}" in shown
    assert "requests went past" in shown
    assert "http://127.0.0.1" in system.ok("cache", "inspect", "hot", "products/3")


def test_nobody_sees_an_error_when_the_server_is_killed(system: Running) -> None:
    before = system.processes()["cache.hot"]
    with httpx.Client(base_url=system.url) as client:
        client.get("/products/4")
        os.kill(before, signal.SIGKILL)
        answers = [client.get(f"/products/{number % 8}") for number in range(40)]
        assert {each.status_code for each in answers} == {200}
        wait_for(lambda: system.processes().get("cache.hot", before) != before, 30, "the server is back")
        system.wait_ready()
        assert client.get("/products/4").status_code == 200


def test_a_failure_is_the_apps_own(system: Running) -> None:
    answers = [httpx.get(f"{system.url}/fails") for _ in range(3)]
    assert {each.status_code for each in answers} == {500}


def test_another_time_to_keep_replaces_the_replicas(system: Running) -> None:
    text = (system.folder / "headway.toml").read_text()
    (system.folder / "headway.toml").write_text(text.replace('ttl = "60s"', 'ttl = "90s"', 1))
    assert "services.web.cache" in system.ok("check")
    assert "its replicas are replaced one by one" in system.ok("check")
