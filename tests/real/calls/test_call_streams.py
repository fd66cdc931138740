"""Answers that are read as they come, and WebSockets, by a real server at the other end."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from call_place import Call, Start, answer, says

from headway.calls.client.service import Service
from headway.errors import DeadlineExceeded, Refused, SocketClosed, StatusError, Unavailable
from headway.model.calls import SERVICES_VARIABLE


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "leave":
                await send({"type": "websocket.close", "code": 4001, "reason": "as you like"})
                return
            await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})
        return
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for number in range(3):
        await send({"type": "http.response.body", "body": f"line {number} ü\r\n".encode(), "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"last"})


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    path = str(tmp_path / "app.sock")
    server = uvicorn.Server(uvicorn.Config(app, uds=path, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until_s = time.monotonic() + 60
    while not server.started and time.monotonic() < until_s:
        time.sleep(0.01)
    monkeypatch.setenv(SERVICES_VARIABLE, json.dumps({"inventory": {"socket": path, "deadline_s": 60.0}}))
    service = Service("inventory")
    yield service
    service.let_go()
    server.should_exit = True
    thread.join(60)


def test_a_stream_is_read_as_it_comes(inventory: Service) -> None:
    async def use() -> None:
        async with inventory.stream("GET", "/") as found:
            assert found.raise_for_status().status_code == 200
            assert inventory.caller().target.counts()["in_flight"] == 1
            assert [line async for line in found.aiter_lines()] == ["line 0 ü", "line 1 ü", "line 2 ü", "last"]
        async with inventory.stream("GET", "/") as found:
            assert (await found.aread()).endswith(b"last")
        async with inventory.stream("GET", "/") as found:
            with pytest.raises(ValueError, match="larger than 5 bytes"):
                await found.aread(5)
        async with inventory.stream("GET", "/") as found:
            assert (await anext(found.aiter_text())).startswith("line 0")
        assert inventory.caller().target.counts()["in_flight"] == 0

    asyncio.run(use())
    with inventory.sync.stream("GET", "/") as found:
        assert list(found.iter_lines())[-1] == "last"
    with inventory.sync.stream("GET", "/") as found:
        assert b"".join(found.iter_bytes()) == b"line 0 \xc3\xbc\r\nline 1 \xc3\xbc\r\nline 2 \xc3\xbc\r\nlast"


def test_a_stream_outlives_its_deadline_as_long_as_something_comes(start: Start) -> None:
    def drips(connection: socket.socket, call: Call) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(8):
            connection.sendall(b"1\r\nx\r\n")
            time.sleep(0.4)
        if call.target == "/stops":
            raise ConnectionError
        time.sleep(60)

    _, leaf_client = start(drips)

    async def use() -> None:
        seen = b""
        async with leaf_client.stream("GET", "/hangs", deadline=2.5) as found:
            for _ in range(8):
                seen += await found.next_bytes()
            with pytest.raises(DeadlineExceeded, match="nothing more of the answer within"):
                await found.next_bytes()
        assert seen == b"x" * 8
        async with leaf_client.stream("GET", "/stops", deadline=60) as found:
            with pytest.raises(Unavailable, match="the answer broke off"):
                await found.aread()
        assert leaf_client.caller().target.counts()["in_flight"] == 0

    asyncio.run(use())


def test_a_stream_that_is_refused_is_refused(start: Start) -> None:
    leaf, inventory = start(says(answer(503, b"", "x-headway-answered: refused")))

    async def use() -> None:
        with pytest.raises(Refused):
            async with inventory.stream("GET", "/"):
                pass
        leaf.do = says(answer(503, b"sick"))
        async with inventory.stream("POST", "/", json={}) as found:
            assert (await found.aread(), found.status_code) == (b"sick", 503)
            with pytest.raises(StatusError):
                found.raise_for_status()

    asyncio.run(use())
    assert inventory.caller().target.counts()["in_flight"] == 0


def test_a_websocket_carries_messages_both_ways(inventory: Service) -> None:
    async def use() -> None:
        async with inventory.websocket("/changes", subprotocols=["v1"]) as socket:
            assert socket.subprotocol == "v1"
            await socket.send("hello")
            assert await socket.receive() == "hello"
            await socket.send(b"\x00\x01")
            assert await socket.receive_bytes() == b"\x00\x01"
            await socket.send_json({"a": "ü"})
            assert await socket.receive_json() == {"a": "ü"}
            await socket.send("leave")
            assert [message async for message in socket] == []
            with pytest.raises(SocketClosed, match="as you like") as told:
                await socket.receive()
            assert told.value.code == 4001
        assert inventory.caller().target.counts()["in_flight"] == 0

    asyncio.run(use())
    with inventory.sync.websocket("/changes") as socket:
        socket.send_json([1])
        assert socket.receive_json() == [1]
        socket.send("leave")
        assert list(socket) == []


def test_a_websocket_that_is_no_websocket(start: Start) -> None:
    _, inventory = start(says(answer(404, b"no")))

    async def use() -> None:
        with pytest.raises(StatusError, match="404") as told:
            async with inventory.websocket("/"):
                pass
        assert told.value.answer.status_code == 404

    asyncio.run(use())
    assert inventory.caller().target.counts()["in_flight"] == 0
