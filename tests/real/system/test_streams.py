"""What stays open or is large: WebSockets, event streams, streamed bodies both ways; and how it ends with a replica."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, wait_for
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

ASGI = """
import asyncio, hashlib, json, os

NAME = os.environ["HEADWAY_REPLICA"]
released = asyncio.Event()
seen = {"now": 0, "most": 0, "received": 0}

async def body_of(receive):
    digest, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        digest.update(message.get("body", b""))
        size += len(message.get("body", b""))
        seen["received"] = size
        if not message.get("more_body"):
            return {"size": size, "sha256": digest.hexdigest()}

async def disconnected(receive):
    while (await receive())["type"] != "http.disconnect":
        pass

async def socket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        await send({"type": "websocket.send", "text": NAME if text == "who" else text, "bytes": message.get("bytes")})

async def http(scope, receive, send):
    path = scope["path"].rpartition("/")[2]

    async def start(kind=b"application/json"):
        await send({"type": "http.response.start", "status": 200,
            "headers": [(b"content-type", kind), (b"replica", NAME.encode())]})
    async def write(data, more=True):
        await send({"type": "http.response.body", "body": data, "more_body": more})
    async def answer(value):
        await start()
        await write(json.dumps(value).encode(), False)

    if path == "upload":
        await answer(await body_of(receive))
    elif path == "seen":
        await answer(seen)
    elif path == "release":
        released.set()
        await answer(NAME)
    elif path in ("events", "chunks"):
        released.clear()
        await start(b"text/event-stream" if path == "events" else b"text/plain")
        await write(b"data: 1\\n\\n")
        await released.wait()
        await write(b"data: 2\\n\\n")
        await write(b"", False)
    elif path == "ticks":
        await start(b"text/event-stream")
        left = asyncio.ensure_future(disconnected(receive))
        while not left.done():
            await write(b"data: tick\\n\\n")
            await asyncio.sleep(0.05)
    elif path == "background":
        await answer(NAME)
        while not os.path.exists("go"):
            await asyncio.sleep(0.02)
        with open(os.environ["DONE"], "a") as file:
            file.write(NAME + "\\n")
    else:
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        await asyncio.sleep(float(dict(scope["headers"]).get(b"sleep", b"0.15")))
        seen["now"] -= 1
        await answer(NAME)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await socket(scope, receive, send)
    else:
        await http(scope, receive, send)
"""
WSGI = """
import hashlib, json, threading, time

released = threading.Event()
seen = {"received": 0}

def app(environ, start_response):
    path = environ["PATH_INFO"].rpartition("/")[2]
    if path in ("chunks", "ticks"):
        start_response("200 OK", [("content-type", "text/event-stream" if path == "ticks" else "text/plain")])
        return ticks() if path == "ticks" else chunks()
    start_response("200 OK", [("content-type", "application/json")])
    value = None
    if path == "upload":
        digest, size = hashlib.sha256(), 0
        while data := environ["wsgi.input"].read(65536):
            digest.update(data)
            size += len(data)
            seen["received"] = size
        value = {"size": size, "sha256": digest.hexdigest()}
    elif path == "seen":
        value = seen
    elif path == "release":
        released.set()
    elif path == "slow":
        time.sleep(0.6)
    return [json.dumps(value).encode()]

def ticks():
    while True:
        yield b"data: tick\\n\\n"
        time.sleep(0.05)

def chunks():
    released.clear()
    yield b"data: 1\\n\\n"
    released.wait(60)
    yield b"data: 2\\n\\n"
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "streams:app"
routes = ["/"]
replicas = 1
limit = 1
deadline = "5s"
drain_timeout = "1s"
env = { DONE = "{env.DONE}" }
[services.big]
app = "streams:app"
routes = ["/big"]
replicas = 1
body_max = "51MiB"
streams_max = 1
[services.wsgi]
app = "threads:app"
routes = ["/wsgi"]
replicas = 1
threads = 3
body_max = "51MiB"
streams_max = 1
drain_timeout = "1s"
"""
EVENTS = {"accept": "text/event-stream"}
PIECE = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "streams.py").write_text(ASGI)
    (folder / "threads.py").write_text(WSGI)
    with Running(folder, DECLARATION, env={"DONE": str(folder / "done")}) as running:
        yield running


@pytest.fixture
def web(system: Running) -> Iterator[Callable[[int], None]]:
    """Sets how many replicas `web` has; one again afterwards."""

    def scale(count: int) -> None:
        system.ok("scale", "web", str(count))

    yield scale
    if len(system.replicas()) != 1:
        scale(1)
    wait_for(lambda: _quiet(system.replicas()[0]), 30, "web has nothing open")


def _quiet(replica: dict[str, Any]) -> bool:
    return replica["state"] == "ready" and (replica["in_flight"], replica["streams"], replica["limit"]) == (0, 0, 1)


def _open(system: Running, path: str = "/socket") -> ClientConnection:
    return connect(f"ws://127.0.0.1:{system.port}{path}", open_timeout=60, close_timeout=2)


def _who(socket: ClientConnection) -> str:
    socket.send("who")
    return str(socket.recv(timeout=60))


def _close_code(socket: ClientConnection) -> int | None:
    """Wait until the other side closes it; its code, None when the connection just broke."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=60)
    return closed.value.rcvd.code if closed.value.rcvd else None


def _only(system: Running, service: str = "web") -> dict[str, Any]:
    (replica,) = system.replicas(service)
    return replica


def _head_of(url: str) -> httpx.Response:
    """An event stream's status and headers, without waiting for its end."""
    with httpx.stream("GET", url, headers=EVENTS, timeout=60) as response:
        return response


def _slow(system: Running, path: str, seconds: float) -> httpx.Response:
    return httpx.get(system.url + path, headers={"sleep": str(seconds)}, timeout=60)


# -- one open stream, many requests ------------------------------------------------------------------------------------


def test_websocket_is_counted_and_takes_no_requests_place(system: Running, web: Callable[[int], None]) -> None:
    with _open(system) as socket:
        for message in ("text", "ünïcode ✓", b"\x00\xff" * 1000, "x" * 100_000):
            socket.send(message)
            assert socket.recv(timeout=60) == message
        wait_for(lambda: _only(system)["streams"] == 1, 30, "one stream open")
        wait_for(lambda: _only(system)["limit"] == 2, 30, "the limit makes room for it")
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _n: _slow(system, "/", 0.15), range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        # One at a time, as declared: the room is for the WebSocket alone.
        assert httpx.get(system.url + "/seen").json()["most"] == 1
        socket.send("still there")
        assert socket.recv(timeout=60) == "still there"
    wait_for(lambda: _quiet(_only(system)), 30, "the limit without streams")


def test_event_stream_is_counted_unbuffered_and_outlives_the_deadline(
    system: Running, web: Callable[[int], None]
) -> None:
    with httpx.stream("GET", system.url + "/events", headers=EVENTS, timeout=60) as response:
        lines = response.iter_lines()
        assert next(line for line in lines if line) == "data: 1"
        began_s = time.monotonic()
        wait_for(lambda: _only(system)["limit"] == 2 and _only(system)["streams"] == 1, 30, "counted as a stream")
        assert httpx.get(system.url + "/", timeout=60).status_code == 200
        while time.monotonic() < began_s + 5.3:  # past the deadline of 5 s, and not a word on the wire
            time.sleep(0.05)
        assert httpx.get(system.url + "/release", timeout=60).status_code == 200
        assert [line for line in lines if line] == ["data: 2"]


@pytest.mark.parametrize("service", ["big", "wsgi"])
def test_streamed_answer_is_not_buffered(system: Running, service: str) -> None:
    with httpx.stream("GET", f"{system.url}/{service}/chunks", timeout=60) as response:
        assert response.headers["transfer-encoding"] == "chunked"
        lines = response.iter_lines()
        assert next(line for line in lines if line) == "data: 1"
        # The rest is not even made before this request, which is answered while the first is open.
        assert httpx.get(f"{system.url}/{service}/release", timeout=60).status_code == 200
        assert [line for line in lines if line] == ["data: 2"]


def test_streams_max_is_enforced(system: Running) -> None:
    with _open(system, "/big/socket") as socket:
        assert _who(socket) == "big.1"
        with _open(system, "/big/socket") as second:
            assert _close_code(second) == 1013
        refused = _head_of(system.url + "/big/ticks")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert httpx.get(system.url + "/big/", timeout=60).status_code == 200
        assert _who(socket) == "big.1"
    wait_for(lambda: _only(system, "big")["streams"] == 0, 30, "its place is free again")
    with _open(system, "/big/socket") as again:
        assert _who(again) == "big.1"
    wait_for(lambda: _only(system, "big")["streams"] == 0, 30, "its place is free again")


def test_streams_max_is_enforced_with_threads(system: Running) -> None:
    with httpx.stream("GET", system.url + "/wsgi/ticks", headers=EVENTS, timeout=60) as first:
        lines = first.iter_lines()
        assert next(lines) == "data: tick"
        refused = _head_of(system.url + "/wsgi/ticks")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert httpx.get(system.url + "/wsgi/", timeout=60).status_code == 200
    # An abandoned stream gives its thread and its place back.
    wait_for(lambda: _only(system, "wsgi")["streams"] == 0, 30, "its place is free again")
    wait_for(lambda: _only(system, "wsgi")["in_flight"] == 0, 30, "its thread is free again")


def test_background_work_goes_on_after_the_answer(system: Running, web: Callable[[int], None]) -> None:
    done = system.folder / "done"
    assert httpx.get(system.url + "/background", timeout=60).json() == "web.1"
    assert not done.exists()
    (system.folder / "go").touch()
    wait_for(done.exists, 30, "the background work is done")


# -- large bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "chunked"), [("big", False), ("big", True), ("wsgi", False)])
def test_large_upload_streams_to_the_app(system: Running, service: str, chunked: bool) -> None:
    url, count = f"{system.url}/{service}", 50
    waited = []

    def pieces() -> Iterator[bytes]:
        for number in range(count):
            if number == 25:  # the app must have half of it before the rest is sent
                wait_for(lambda: httpx.get(url + "/seen").json()["received"] > 20 << 20, 30, "the first half arrived")
                waited.append(True)
            yield PIECE

    headers = {} if chunked else {"content-length": str(count * len(PIECE))}
    answer = httpx.post(url + "/upload", content=pieces(), headers=headers, timeout=30).json()
    assert waited == [True]
    assert answer == {"size": count << 20, "sha256": hashlib.sha256(PIECE * count).hexdigest()}


def test_chunked_upload_reaches_a_wsgi_app_whole(system: Running) -> None:
    answer = httpx.post(system.url + "/wsgi/upload", content=iter([PIECE] * 5), timeout=30).json()
    assert answer == {"size": 5 << 20, "sha256": hashlib.sha256(PIECE * 5).hexdigest()}


@pytest.mark.parametrize("service", ["big", "wsgi"])
def test_chunked_upload_over_the_bound_is_refused(system: Running, service: str) -> None:
    answer = httpx.post(f"{system.url}/{service}/upload", content=iter([PIECE] * 52), timeout=30)
    assert answer.status_code == 413
    assert httpx.get(f"{system.url}/{service}/", timeout=60).status_code == 200


@pytest.mark.parametrize("service", ["big", "wsgi"])
def test_stated_length_over_the_bound_is_refused_at_once(system: Running, service: str) -> None:
    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(60):
            sent.append(1)
            yield PIECE

    headers = {"content-length": str(60 << 20), "expect": "100-continue"}
    try:
        answer = httpx.post(f"{system.url}/{service}/upload", content=pieces(), headers=headers, timeout=30)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError):
        pass  # the answer came and the connection was closed while more was being sent
    assert len(sent) < 60
    assert httpx.get(f"{system.url}/{service}/seen", timeout=60).json()["received"] <= 51 << 20


# -- the end of a replica ----------------------------------------------------------------------------------------------


def _until_on(name: str, open_one: Callable[[], tuple[Any, str]]) -> Any:
    """Open one after the other until one is on that replica; that one."""
    for _ in range(4):
        opened, where = open_one()
        if where == name:
            return opened
    raise AssertionError(f"none of four was sent to {name}")


@pytest.mark.alone  # who drains has a second, and so have those who ask meanwhile
def test_drain_ends_streams_in_order_and_answers_what_is_short(system: Running, web: Callable[[int], None]) -> None:
    web(2)
    event_streams: list[httpx.Response] = []
    with ThreadPoolExecutor(8) as pool, ExitStack() as after:

        def socket() -> tuple[ClientConnection, str]:
            opened = after.enter_context(_open(system))
            return opened, _who(opened)

        def events() -> tuple[httpx.Response, str]:
            response = after.enter_context(
                httpx.stream("GET", system.url + "/ticks", headers=EVENTS, timeout=60),
            )
            event_streams.append(response)
            return response, response.headers["replica"]

        leaving = _until_on("web.2", socket)
        stream = _until_on("web.2", events)
        wait_for(lambda: sum(replica["streams"] for replica in system.replicas()) >= 2, 30, "both are counted")
        wait_for(
            lambda: all(replica["limit"] == 1 + replica["streams"] for replica in system.replicas()),
            30,
            "room for the streams",
        )
        reading: Future[list[str]] = pool.submit(lambda: list(stream.iter_lines()))
        slow = [pool.submit(_slow, system, "/", 0.7) for _ in range(2)]
        # An event stream is a request in flight as well, a WebSocket is not.
        wait_for(lambda: sum(r["in_flight"] for r in system.replicas()) == len(event_streams) + 2, 30, "both at work")
        began_s = time.monotonic()
        scaling = pool.submit(web, 1)
        assert _close_code(leaving) == 1012
        took_s = time.monotonic() - began_s
        assert 0.9 < took_s < 5.0, f"streams were ended after {took_s:.2f} s instead of 1 s"
        # A clean end: the chunked answer has its last chunk, else this raises.
        assert set(reading.result(60)) == {"data: tick", ""}
        answers = [each.result(60) for each in slow]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {answer.json() for answer in answers} == {"web.1", "web.2"}
        scaling.result(60)
        assert _only(system)["name"] == "web.1"


@pytest.mark.alone
def test_drain_with_threads_ends_event_streams(system: Running) -> None:
    system.ok("scale", "wsgi", "2")
    with ThreadPoolExecutor(4) as pool, ExitStack() as after:
        after.callback(system.ok, "scale", "wsgi", "1")
        streams = [
            after.enter_context(httpx.stream("GET", system.url + "/wsgi/ticks", headers=EVENTS, timeout=60))
            for _ in range(2)
        ]
        wait_for(lambda: all(replica["streams"] == 1 for replica in system.replicas("wsgi")), 30, "one stream on each")
        lines = [0, 0]
        ended: list[tuple[int, str, float]] = []
        stop = threading.Event()

        def read(index: int) -> None:
            how = "clean"
            try:
                for _line in streams[index].iter_lines():
                    lines[index] += 1
                    if stop.is_set():
                        how = "left"
                        break
            except httpx.HTTPError as error:
                how = type(error).__name__
            ended.append((index, how, time.monotonic()))

        for index in range(2):
            pool.submit(read, index)
        slow = [pool.submit(httpx.get, system.url + "/wsgi/slow", timeout=60) for _ in range(2)]
        wait_for(lambda: all(replica["in_flight"] == 2 for replica in system.replicas("wsgi")), 30, "at work")
        began_s = time.monotonic()
        system.ok("scale", "wsgi", "1")
        wait_for(lambda: len(ended) == 1, 30, "the leaving replica's stream ended")
        _index, how, at_s = ended[0]
        assert how == "clean"
        assert 0.9 < at_s - began_s < 5.5, f"ended after {at_s - began_s:.2f} s instead of 1 s"
        assert [each.result(60).status_code for each in slow] == [200, 200]
        stop.set()


# -- shapes of apps ----------------------------------------------------------------------------------------------------

SHAPES = """
import os

def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(os.environ["HEADWAY_REPLICA"] + " " + text + "\\n")

async def hello(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})

async def lifespan(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            note(message["type"])
            scope["state"]["connected"] = "yes"
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await hello(send, "lifespan " + scope["state"]["connected"])

async def plain(scope, receive, send):
    assert scope["type"] == "http", "no lifespan here"
    await hello(send, "plain")

class Two:
    def __init__(self, scope):
        self.scope = scope
    async def __call__(self, receive, send):
        assert self.scope["type"] == "http"
        await hello(send, "two " + self.scope["path"])

def make():
    async def made(scope, receive, send):
        assert scope["type"] == "http"
        await hello(send, "made")
    return made

class Inner:
    async def app(self, scope, receive, send):
        assert scope["type"] == "http"
        await hello(send, "inner")

inner = Inner()
"""
SHAPES_DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.lifespan]
app = "shapes:lifespan"
routes = ["/"]
replicas = 1
env = { NOTES = "{env.NOTES}" }
[services.plain]
app = "shapes:plain"
routes = ["/plain"]
replicas = 1
[services.two]
app = "shapes:Two"
routes = ["/two"]
replicas = 1
[services.made]
app = "shapes:make()"
routes = ["/made"]
replicas = 1
[services.inner]
app = "shapes:inner.app"
routes = ["/inner"]
replicas = 1
"""


def test_apps_of_every_shape_and_their_lifespan(tmp_path: Path) -> None:
    (tmp_path / "shapes.py").write_text(SHAPES)
    notes = tmp_path / "notes"
    with Running(tmp_path, SHAPES_DECLARATION, env={"NOTES": str(notes)}) as system:
        got = {path: httpx.get(system.url + path).text for path in ("/", "/plain", "/two/x", "/made", "/inner")}
        assert got == {
            "/": "lifespan yes",
            "/plain": "plain",
            "/two/x": "two /two/x",
            "/made": "made",
            "/inner": "inner",
        }
        assert notes.read_text().splitlines() == ["lifespan.1 lifespan.startup"]
        system.stop()
        assert notes.read_text().splitlines() == ["lifespan.1 lifespan.startup", "lifespan.1 lifespan.shutdown"]
