"""Small origins on loopback, each in a thread with its own event loop: they answer, hang, stall, cut and close."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
import uvloop

BOUND_S = 60.0


@dataclass(frozen=True)
class Seen:
    """A request as an origin saw it."""

    number: int  # of all requests, from 0
    on_connection: int  # of those on its connection, from 0
    method: str
    path: str
    load_id: str
    body: bytes
    reader: asyncio.StreamReader

    async def hang(self) -> None:
        """Until the client goes away."""
        await self.reader.read()


# Returns whether the connection goes on.
Answer = Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class Origin:
    """A server that runs `answer` for each request; `url` is where."""

    answer: Answer
    tls: ssl.SSLContext | None = None
    socket_path: str | None = None
    url: str = ""
    connections: int = 0
    open_now: int = 0
    seen: list[Seen] = field(default_factory=list)
    _ready: Future[asyncio.AbstractEventLoop] = field(default_factory=Future)
    _stop: asyncio.Event | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._loop = self._ready.result(BOUND_S)

    def stop(self) -> None:
        if self._thread.is_alive() and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(BOUND_S)
        assert not self._thread.is_alive()

    def stall(self, seconds: float) -> None:
        """Stand still as a whole, as in a collection of garbage or a blocking call."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    def ids(self) -> Counter[str]:
        return Counter(seen.load_id for seen in self.seen)

    def wait_until_unused(self) -> None:
        """Every connection is gone; fails when one stays."""
        until_s = time.monotonic() + BOUND_S
        while self.open_now:
            assert time.monotonic() < until_s, f"{self.open_now} connections stay open"
            time.sleep(0.005)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        if self.socket_path:
            server = await asyncio.start_unix_server(self._connection, self.socket_path, backlog=4096)
            self.url = f"unix:{self.socket_path}:/"
        else:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self.tls, backlog=4096)
            port = server.sockets[0].getsockname()[1]
            self.url = f"https://localhost:{port}/" if self.tls else f"http://127.0.0.1:{port}/"
        async with server:
            self._ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_now += 1
        try:
            on_connection = 0
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if on_connection == 0:
                    self.connections += 1  # here, so that the probe without a request does not count
                length = re.search(r"(?i)^content-length: (\d+)", head, re.MULTILINE)
                body = await reader.readexactly(int(length[1])) if length else b""
                load_id = re.search(r"(?i)^x-load-id: (\S+)", head, re.MULTILINE)
                method, path, _ = head.split(" ", 2)
                request = Seen(len(self.seen), on_connection, method, path, load_id[1] if load_id else "", body, reader)
                self.seen.append(request)
                if not await self.answer(request, writer) or "connection: close" in head.lower():
                    return
                on_connection += 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, which many of these tests are about, or the origin is being ended
        finally:
            self.open_now -= 1
            writer.close()


@pytest.fixture(scope="session", autouse=True)
def first_event_loop() -> None:
    """The first uvloop of a process opens descriptors that stay: not to be taken for ones that a load left open."""
    uvloop.new_event_loop().close()


@pytest.fixture
def origin() -> Iterator[Callable[..., Origin]]:
    """Starts origins, and ends them whatever became of the test."""
    started: list[Origin] = []

    def start(answer: Answer, *, tls: ssl.SSLContext | None = None, socket_path: str | None = None) -> Origin:
        made = Origin(answer, tls, socket_path)
        started.append(made)
        made.start()
        return made

    yield start
    for made in started:
        made.stop()


@pytest.fixture
def fixed() -> Callable[[bytes], Answer]:
    """An answer of these bytes, connection kept."""

    def make(raw: bytes) -> Answer:
        async def answer(_: Seen, writer: asyncio.StreamWriter) -> bool:
            writer.write(raw)
            await writer.drain()
            return True

        return answer

    return make
