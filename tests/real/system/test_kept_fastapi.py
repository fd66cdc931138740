"""Kept responses around what a framework does: codings, files, large bodies, streams, WebSockets, work afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
import websockets
from harness import Running, wait_for

APP = """
import asyncio
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, StreamingResponse

app = FastAPI()
app.add_middleware(GZipMiddleware, minimum_size=100)
asked = 0
done = []

@app.middleware("http")
async def count(request: Request, call_next):
    global asked
    asked += 1
    return await call_next(request)

@app.get("/kept/page")
async def page():
    return {"asked": asked, "pad": "x" * 500}

@app.get("/kept/later")
async def later(tasks: BackgroundTasks):
    async def work():
        await asyncio.sleep(0.3)
        done.append(1)
    tasks.add_task(work)
    return {"asked": asked}

@app.get("/kept/file")
async def file():
    return FileResponse("kept.py")

@app.get("/kept/large")
async def large():
    async def parts():
        for _ in range(300):
            yield b"y" * 10_000
    return StreamingResponse(parts())

@app.get("/kept/events")
async def events():
    async def parts():
        try:
            for number in range(100_000):
                yield f"data: {number}\\n\\n"
                await asyncio.sleep(0.01)
        finally:
            done.append(2)
    return StreamingResponse(parts(), media_type="text/event-stream")

@app.websocket("/kept/socket")
async def socket(socket: WebSocket):
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()

@app.get("/done")
async def told():
    return done
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "kept:app"
replicas = 1
[services.web.cache."/kept/{what}"]
ttl = "60s"
[caches.hot]
memory_max = "16MiB"
timeout = "2s"
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("fastapi")
    (folder / "kept.py").write_text(APP)
    with Running(folder, DECLARATION) as system, httpx.Client(base_url=system.url) as client:
        yield client


def how(answer: httpx.Response) -> str:
    return answer.headers["x-headway-cache"]


def test_each_coding_is_kept_by_itself(client: httpx.Client) -> None:
    for coding in ("gzip", "identity"):
        headers = {"accept-encoding": coding}
        first, second = (client.get("/kept/page", headers=headers) for _ in range(2))
        assert (how(first), how(second)) == ("miss", "hit")
        assert first.json() == second.json()
        assert second.headers.get("content-encoding", "identity") == coding
    sent = {"accept-encoding": "br;q=0.1, gzip"}  # another spelling, another set
    assert how(client.get("/kept/page", headers=sent)) == "miss"


def test_nobody_waits_for_what_the_app_does_afterwards(client: httpx.Client) -> None:
    first = client.get("/kept/later")
    assert how(first) == "miss"
    assert client.get("/kept/later").json() == first.json()
    wait_for(lambda: 1 in client.get("/done").json(), 30, "the work afterwards")
    assert client.get("/done").json().count(1) == 1


def test_files_and_large_bodies_come_whole(client: httpx.Client) -> None:
    for way in ("miss", "hit"):
        answer = client.get("/kept/file", headers={"accept-encoding": "identity"})
        assert (answer.text, how(answer)) == (APP, way)
        part = client.get("/kept/file", headers={"range": "bytes=0-9", "accept-encoding": "identity"})
        assert (part.status_code, part.text, how(part)) == (206, APP[:10], "bypass")
        large = client.get("/kept/large", headers={"accept-encoding": "identity"})
        assert (len(large.content), how(large)) == (3_000_000, "bypass")


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_an_event_stream_comes_as_it_is_made_and_ends_with_its_client(client: httpx.Client, accept: str) -> None:
    before = client.get("/done").json().count(2)
    with client.stream("GET", "/kept/events", headers={"accept": accept}) as answer:
        assert how(answer) == "bypass"
        lines = answer.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 0", "", "data: 1"]
    wait_for(lambda: client.get("/done").json().count(2) > before, 30, "the app sees that the client has gone")


def test_a_websocket_is_not_its_business(client: httpx.Client) -> None:
    async def talk() -> str:
        async with websockets.connect(f"ws://127.0.0.1:{client.base_url.port}/kept/socket") as socket:
            return str(await socket.recv())

    assert asyncio.run(talk()) == "hello"
