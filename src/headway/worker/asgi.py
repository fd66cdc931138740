"""The thin layer around an ASGI app: counts, real client addresses, body bounds, and an orderly end of open streams.

It runs for every request, so the common path is a handful of byte-code instructions: no header is searched for that the
edge could put in a known place. The edge's internal header `x-headway-from: SCHEME ADDRESS PORT [stream]` is the last
header of a request; it is taken out before the app sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .telemetry import Slot, Stage

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Known = tuple[tuple[str, int], bool, bool]  # client address, whether by TLS, whether an event stream

_FROM = b"x-headway-from"
_NO_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENTS_MAX = 4096
_BEAT_S = 0.1
_CLOSE_SERVICE_RESTART = 1012
_CLOSE_TRY_LATER = 1013
_CLOSE_GRACE_S = 0.25  # for close frames and cancelled handlers before the server itself is told to end


class BodyTooLarge(Exception):
    """The request body grew over the declared bound while it was read."""


def single_callable(app: Any) -> App:
    """An ASGI 2 app (app(scope) -> instance(receive, send)) as an ASGI 3 one."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope)(receive, send)

    return call


def _move_last(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the edge's header is there though not the last; then it is moved there. Direct requests have none."""
    for index, header in enumerate(headers):
        if header[0] == _FROM:
            headers.append(headers.pop(index))
            return True
    return False


def framed(send: Send) -> Send:
    """Drops an app's own Transfer-Encoding: framing is the server's, and granian breaks off when both say something."""

    def send_framed(message: dict[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start" and "headers" in message:
            headers = message["headers"]
            for header in headers:
                if len(header[0]) == 17 and bytes(header[0]).lower() == b"transfer-encoding":
                    kept = [(name, value) for name, value in headers if bytes(name).lower() != b"transfer-encoding"]
                    return send({**message, "headers": kept})
        return send(message)

    return send_framed


class Layer:
    """Wraps `app`. `failed(kind, message, detail)` is told when the app's own start-up fails."""

    def __init__(
        self,
        app: App,
        slots: memoryview,
        *,
        body_max_bytes: int,
        streams_max: int,
        failed: Callable[[str, str, str], None],
    ) -> None:
        self._app = app
        self._slots = slots
        self._body_max_bytes = body_max_bytes
        self._streams_max = streams_max
        self._failed = failed
        self._sockets: dict[asyncio.Task[Any], Send] = {}
        self._in_flight = 0
        self._clients: dict[bytes, Known] = {}
        self._completed = 0
        self._failures = 0
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._websocket if scope["type"] == "websocket" else self._lifespan)(scope, receive, send)
            return
        # One coroutine and as few calls as can be: this is paid for every request.
        headers = scope["headers"]
        is_stream = False
        if headers:
            name, value = headers[-1]
            if name == _FROM or _move_last(headers):
                known = self._clients.get(value) if name == _FROM else None
                if known is None:
                    known = self._remember(headers[-1][1])
                del headers[-1]
                scope["client"] = known[0]
                if known[1]:
                    scope["scheme"] = "https"
                is_stream = known[2]
        if scope["method"] not in _NO_BODY:
            receive = self._bounded(receive)
        if is_stream:
            if self._slots[6] >= self._streams_max:
                await self._refuse(send)
                return
            self._slots[6] += 1
        self._in_flight += 1
        try:
            await self._app(scope, receive, framed(send))
        except BodyTooLarge:
            with contextlib.suppress(Exception):  # too late when the answer has begun
                await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
                await send({"type": "http.response.body", "body": b"the request body is too large\n"})
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            await self._end(send, is_stream)
        except Exception:
            self._failures += 1
            raise
        finally:
            self._in_flight -= 1
            self._completed += 1
            if is_stream:
                self._slots[6] -= 1

    async def _refuse(self, send: Send) -> None:
        """It holds as many streams as it may: another replica, or this one a moment later, may take it."""
        headers = [(b"content-type", b"text/plain"), (b"retry-after", b"1")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"as many event streams are open as may be\n"})

    async def _end(self, send: Send, is_stream: bool) -> None:
        """The replica stops and this request was still open: end an event stream cleanly, refuse what has not begun."""
        if not is_stream:
            retry = [(b"retry-after", b"1"), (b"connection", b"close")]
            try:
                await send({"type": "http.response.start", "status": 503, "headers": retry})
            except Exception as error:  # it has begun: the client must see that it is cut, not take it for whole
                raise ConnectionAbortedError("the replica stopped before the answer was whole") from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _remember(self, value: bytes) -> Known:
        """Reads the edge's header once for a connection: on a kept one it is always the same."""
        parts = value.decode("latin-1").split(" ")
        if len(self._clients) >= _CLIENTS_MAX:
            self._clients.clear()
        known = self._clients[value] = ((parts[1], int(parts[2])), parts[0] == "https", len(parts) > 3)
        return known

    def _bounded(self, receive: Receive) -> Receive:
        left = self._body_max_bytes

        async def bounded() -> dict[str, Any]:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyTooLarge
            return message

        return bounded

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        slots = self._slots
        headers = scope["headers"]
        if headers and (headers[-1][0] == _FROM or _move_last(headers)):
            scope["client"], is_secure, _ = self._remember(headers.pop()[1])
            scope["scheme"] = "wss" if is_secure else "ws"
        if self._stopping or slots[Slot.STREAMS] >= self._streams_max:
            # Closing it before it is accepted would say 403, which a client takes for its own fault.
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": _CLOSE_TRY_LATER, "reason": "try again later"})
            return
        task = asyncio.current_task()
        assert task is not None
        self._sockets[task] = send
        slots[6] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            slots[6] -= 1
            self._sockets.pop(task, None)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        # granian has installed its own handler just before; ours ends streams first and then passes the wish on.
        loop.add_signal_handler(signal.SIGTERM, self._stop, loop)
        self._beat(loop)

        async def listen(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.failed":
                text = str(message.get("message") or "")
                last = text.strip().splitlines()[-1] if text.strip() else "no reason given"
                self._failed("startup", f"the app's start-up failed: {last}", text)
            elif message["type"] == "lifespan.startup.complete":
                self._slots[Slot.STAGE] = Stage.SERVING
            await send(message)

        try:
            await self._app(scope, receive, listen)
        except Exception:
            if self._slots[Slot.STAGE] != Stage.STARTING:
                raise
            # An app without lifespan support raises here: by the specification the server goes on without it.
            await listen({"type": "lifespan.startup.complete"})
            await receive()
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        finally:
            if self._slots[Slot.STAGE] == Stage.STARTING:
                self._slots[Slot.STAGE] = Stage.SERVING

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        # The counts of requests are written here and not where they change: that costs a request nothing. The edge
        # counts open requests exactly, and a replica is taken for idle only when both say so.
        slots = self._slots
        slots[Slot.LOOP_BEAT_NS] = time.monotonic_ns()
        slots[Slot.IN_FLIGHT] = self._in_flight
        slots[Slot.COMPLETED] = self._completed
        slots[Slot.STARTED] = self._completed + self._in_flight
        slots[Slot.FAILED] = self._failures
        loop.call_later(_BEAT_S, self._beat, loop)

    def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._slots[Slot.STAGE] = Stage.STOPPING
        sockets, requests = dict(self._sockets), self._open_requests(loop)
        for task, send in sockets.items():
            loop.create_task(self._close(task, send))
        for request in requests:
            request.cancel()
        grace_s = _CLOSE_GRACE_S if sockets or requests else 0.0
        loop.call_later(grace_s, os.kill, os.getpid(), signal.SIGINT)

    def _open_requests(self, loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
        """Tasks that are in the middle of a request: found when they are needed, for keeping a list would cost each."""
        ours = Layer.__call__.__code__
        found = []
        for task in asyncio.all_tasks(loop):
            inner: Any = task.get_coro()
            while inner is not None and getattr(inner, "cr_code", None) is not ours:
                inner = getattr(inner, "cr_await", None)
            if inner is not None and inner.cr_frame.f_locals["scope"]["type"] == "http":
                found.append(task)
        return found

    async def _close(self, task: asyncio.Task[Any], send: Send) -> None:
        with contextlib.suppress(Exception):
            await send({"type": "websocket.close", "code": _CLOSE_SERVICE_RESTART, "reason": "service restart"})
        task.cancel()
