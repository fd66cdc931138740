"""Work that nobody waits for is cancelled before it has answered, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request

from headway.runtimes.local.counts import read_counts
from headway.worker import telemetry
from headway.worker.asgi import Layer

Message = dict[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"done"}
GONE = {"type": "http.disconnect"}
EMPTY = {"type": "http.request", "body": b"", "more_body": False}


class Client:
    """One request to a layer whose beat is told by hand."""

    def __init__(self, folder: Path, app: Any, *, method: str = "GET", cancels: tuple[int, ...] = (0,)) -> None:
        self.slots = telemetry.create(str(folder / "web.1.tele"))
        self.layer = Layer(app, self.slots, body_max_bytes=99, streams_max=2, failed=pytest.fail, cancels=cancels)
        self.comes: asyncio.Queue[Message] = asyncio.Queue()
        self.receives = 0  # by whom ever, at this moment
        self.sent: list[Message] = []
        scope: Message = {
            "type": "http",
            "method": method,
            "path": "/",
            "scheme": "http",
            "client": None,
            "headers": [],
        }
        scope |= {"query_string": b"", "root_path": ""}
        self.task = asyncio.get_running_loop().create_task(self.layer(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        self.receives += 1
        try:
            return await self.comes.get()
        finally:
            self.receives -= 1

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def beat(self, times: int = 4) -> Any:
        """What was counted of the main class after so many beats."""
        for _ in range(times):
            for _ in range(10):
                await asyncio.sleep(0)
            self.layer._beat(asyncio.get_running_loop())
        found = read_counts(self.slots)
        assert found is not None
        return found.classes[0]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


class App:
    """Works until it is let go, and notes how it ended."""

    def __init__(self, *, reads: bool = False) -> None:
        self.reads = reads
        self.go = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        try:
            if self.reads:
                while (await receive()).get("more_body"):
                    pass
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        await send(START)
        await send(END)


@pytest.mark.parametrize(
    ("method", "reads", "comes"),
    [
        ("GET", False, [EMPTY]),
        ("GET", True, [EMPTY]),
        ("POST", True, [{"type": "http.request", "body": b"a", "more_body": True}, EMPTY]),
    ],
)
def test_a_client_that_goes_ends_the_work(tmp_path: Path, method: str, reads: bool, comes: list[Message]) -> None:
    async def test() -> None:
        app = App(reads=reads)
        client = Client(tmp_path, app, method=method)
        for message in comes:
            client.comes.put_nowait(message)
        assert (await client.beat()).cancelled == 0
        assert app.ended == []
        client.comes.put_nowait(GONE)
        await client.beat(2)
        await client.task
        assert app.ended == ["cancelled"]
        counts = await client.beat(1)
        assert (counts.cancelled, counts.failed, counts.completed, counts.in_flight) == (1, 0, 0, 0)
        assert client.sent[0]["status"] == 503
        assert client.receives == 0

    run(test)


def test_without_the_key_it_goes_on(tmp_path: Path) -> None:
    async def test() -> None:
        app = App()
        client = Client(tmp_path, app, cancels=(1, 2))
        client.comes.put_nowait(EMPTY)
        client.comes.put_nowait(GONE)
        await client.beat()
        app.go.set()
        await client.task
        assert app.ended == ["done"]
        assert client.comes.qsize() == 2  # nobody listened

    run(test)


def test_a_quick_answer_is_not_listened_for(tmp_path: Path) -> None:
    async def test() -> None:
        app = App()
        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        await client.beat(1)
        app.go.set()
        await client.task
        assert app.ended == ["done"]
        assert client.comes.qsize() == 1

    run(test)


def test_an_answer_that_has_begun_and_work_after_it_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        go, ended = asyncio.Event(), []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await send(START)
            await send(END)
            await go.wait()
            ended.append("afterwards")

        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        client.comes.put_nowait(GONE)
        await client.beat()
        go.set()
        await client.task
        assert ended == ["afterwards"]
        assert [message["type"] for message in client.sent] == [START["type"], END["type"]]

    run(test)


def test_an_app_that_listens_by_itself_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        heard = []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            heard.append((await receive())["type"])
            heard.append((await receive())["type"])
            await asyncio.sleep(0)
            await send(START)
            await send(END)

        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        await client.beat()
        client.comes.put_nowait(GONE)
        await client.beat()
        await client.task
        assert heard == ["http.request", "http.disconnect"]
        assert client.sent[0]["status"] == 200

    run(test)


def test_an_app_that_reads_late_gets_what_was_heard_for_it(tmp_path: Path) -> None:
    async def test() -> None:
        go, heard = asyncio.Event(), []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await go.wait()
            heard.append((await receive())["type"])
            await send(START)
            await send(END)

        client = Client(tmp_path, app)
        await client.beat()
        client.comes.put_nowait(EMPTY)
        await client.beat()
        go.set()
        await client.task
        await asyncio.sleep(0)
        assert heard == ["http.request"]
        assert client.receives == 0

    run(test)


def test_a_body_that_an_app_takes_late_is_all_there(tmp_path: Path) -> None:
    async def test() -> None:
        go, bodies = asyncio.Event(), []

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await go.wait()
            while True:
                message = await receive()
                bodies.append(message["body"])
                if not message.get("more_body"):
                    break
            await send(START)
            await send(END)

        client = Client(tmp_path, app)  # a GET with a body: rare, and allowed
        client.comes.put_nowait({"type": "http.request", "body": b"a", "more_body": True})
        client.comes.put_nowait({"type": "http.request", "body": b"b", "more_body": True})
        client.comes.put_nowait({"type": "http.request", "body": b"c", "more_body": False})
        await client.beat()
        go.set()
        await client.task
        assert bodies == [b"a", b"b", b"c"]

    run(test)


def test_cancelled_by_another_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def test() -> None:
        app = App()
        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        await client.beat()
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        assert (await client.beat(1)).cancelled == 0

    run(test)


def test_an_app_that_cancels_all_other_tasks_stops_no_beat(tmp_path: Path) -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def app(scope: Message, receive: Any, send: Any) -> None:
            await go.wait()
            for task in asyncio.all_tasks():
                if "receive" in repr(task.get_coro()):  # not those of the test itself
                    cancelled.append(task.cancel())
            await asyncio.Event().wait()

        cancelled: list[bool] = []
        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        await client.beat()
        go.set()
        await client.beat()
        assert cancelled == [True]
        assert not client.task.done()
        client.comes.put_nowait(GONE)
        await client.beat()
        await client.task
        assert (await client.beat(1)).cancelled == 1

    run(test)


def test_what_the_app_makes_of_it_is_the_apps(tmp_path: Path) -> None:
    async def test() -> None:
        async def app(scope: Message, receive: Any, send: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await send(START)
                await send(END)

        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        client.comes.put_nowait(GONE)
        await client.beat(6)
        await client.task
        assert client.sent[0]["status"] == 200
        assert (await client.beat(1)).completed == 1

    run(test)


def test_a_framework_cleans_up_behind_its_handler(tmp_path: Path) -> None:
    async def test() -> None:
        noted: list[str] = []
        app = FastAPI()

        @app.middleware("http")
        async def around(request: Request, call_next: Any) -> Any:
            try:
                return await call_next(request)
            finally:
                noted.append("middleware")

        async def session() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                noted.append("session closed")

        @app.get("/", dependencies=[Depends(session)])
        async def held() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                noted.append("handler")

        client = Client(tmp_path, app)
        client.comes.put_nowait(EMPTY)
        client.comes.put_nowait(GONE)
        while not client.task.done():
            await client.beat(1)
        await client.task
        assert set(noted) == {"handler", "session closed", "middleware"}
        assert (await client.beat(1)).cancelled == 1

    run(test)
