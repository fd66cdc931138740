"""The thin layer around an ASGI app: counts, real client addresses, bounds, and an orderly end of open streams.

It runs for every request, so the common path is a handful of byte-code instructions: no header is searched for that the
edge could put in a known place (see `origin`), nothing is written to shared memory, and one closure is made,
around `send`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio import current_task
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic_ns
from typing import Any

from . import abandoned, asked, origin
from .abandoned import Work
from .answers import ANSWERED, CAP_REACHED, COME_AGAIN, NOBODY_WAITS, REASONS, STREAMS_FULL, UNAVAILABLE
from .deadline import NOTHING_IS_DUE, WallClock, is_past
from .tally import CLIENT_ERROR, SAMPLE_EVERY, Tallies, Tally
from .telemetry import Slot, Stage

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Known = tuple[tuple[str, int] | None, bool, bool, Tally]  # client, whether by TLS, whether an event stream, its class

_FROM = b"x-headway-from"
_NO_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
_CLIENTS_MAX = 4096
_BEAT_S = 0.1
_BEAT_NS = 100_000_000
_CLOSE_SERVICE_RESTART = 1012
_CLOSE_TRY_LATER = 1013
_CLOSE_GRACE_S = 0.25  # for close frames and cancelled handlers before the server itself is told to end
_NO_CAP = 1 << 64
_NEVER_DUE = b"9" * 18
_KEPT = "headway.kept"  # in a scope: it was answered from a cache, by the layer below this one
_SOON = ((b"retry-after", b"1"),)
_NO_RETRY = tuple(part.encode() for part in asked.NO_RETRY)
_CUT = -1  # instead of a status: cancelled, nobody's success or failure


# The sender of a body may keep the app waiting for so long, and a second more for each of so many bytes (the form of
# Apache's mod_reqtimeout): a slow line is served, one who sends a byte a second is not. The app's own pauses between
# two reads do not count.
_BODY_GRACE_S = 10.0
_BODY_MIN_PER_S = 500.0


class BodyTooLarge(Exception):
    """The request body grew over the declared bound while it was read."""


class BodyTooSlow(Exception):
    """The sender of the request body held the place of others for too long."""


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


def _without_transfer_encoding(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "headers": [h for h in message["headers"] if bytes(h[0]).lower() != b"transfer-encoding"]}


def _come_again_headers(request: asked.Asked) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in request.told_to_come_again()]


def _come_again(message: dict[str, Any], request: asked.Asked) -> dict[str, Any]:
    """The app failed because it found no room in its database: that is nobody's error, and passes."""
    headers = [*message.get("headers", ()), *_come_again_headers(request)]
    return {**message, "status": 503, "headers": headers}


class Layer:
    """Wraps `app`. `failed(kind, message, detail)` is told when the app's own start-up fails.

    `cancels`: the classes whose work is cancelled when nobody waits for it.
    """

    def __init__(
        self,
        app: App,
        slots: memoryview,
        *,
        body_max_bytes: int,
        streams_max: int,
        failed: Callable[[str, str, str], None],
        cancels: Iterable[int] = (),
    ) -> None:
        self._app = app
        self._slots = slots
        self._body_max_bytes = body_max_bytes
        self._streams_max = streams_max
        self._failed = failed
        self._sockets: dict[asyncio.Task[Any], Send] = {}
        self._clients: dict[bytes, Known] = {}
        self._tallies = Tallies()
        self._main = self._tallies.classes[0]
        for number in cancels:
            self._tallies.classes[number].cancels = True
        self._in_flight = 0  # without event streams
        self._event_streams = 0
        self._ended = 0
        self._raised = 0
        self._works: set[Work] = set()  # of the classes that are cancelled
        self._loop: asyncio.AbstractEventLoop | None = None  # that serves; to find it out is paid for each time
        self._cap = _NO_CAP
        self._clock = WallClock()
        self._ahead_ns = NOTHING_IS_DUE
        self._beat_due_ns = 0
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (self._websocket if scope["type"] == "websocket" else self._lifespan)(scope, receive, send)
            return
        # One coroutine and as few calls as can be: this is paid for every request.
        began_ns = monotonic_ns()
        tally, due = self._main, _NEVER_DUE
        headers = scope["headers"]
        if headers and (headers[-1][0] == _FROM or _move_last(headers)):
            value = headers.pop()[1]
            head, _, due = value.rpartition(b" ")
            known = self._clients.get(head)
            if known is None:
                known, due = self._remember(value, head, due)
            client, is_secure, is_stream, tally = known
            if client is not None:
                scope["client"] = client
            if is_secure:
                scope["scheme"] = "https"
            try:
                is_late = int(due) * 1_000_000 < began_ns + self._ahead_ns and is_past(int(due))
            except ValueError:
                is_late, due = False, _NEVER_DUE
            if is_late:
                tally.dropped += 1
                await self._refuse(send, NOBODY_WAITS)
                return
            if is_stream:
                await self._event_stream(scope, receive, send)
                return
        if self._in_flight >= self._cap:
            self._cap = self._slots[Slot.CAP] or _NO_CAP  # it may have been raised since the last beat
            if self._in_flight >= self._cap:
                tally.refused += 1
                await self._refuse(send, CAP_REACHED)
                return
        if scope["method"] not in _NO_BODY:
            receive = self._bounded(receive)
        work: Work | None = None
        if tally.cancels:
            work = Work(receive, scope["method"] in _NO_BODY, current_task(self._loop))
            self._works.add(work)
            receive = work.receive
        request = asked.begin(int(due), self._ahead_ns, headers, began_ns) if asked.is_used else None
        path = scope["path"]
        status = 0

        def answer(message: dict[str, Any]) -> Awaitable[None]:
            # Framing is the server's: granian breaks off when an app's own Transfer-Encoding says something as well.
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if work is not None:
                    work.has_begun = True
                if status >= 500 and request is not None:
                    if status == 500 and request.retry_after_s:
                        status = 503
                        message = _come_again(message, request)
                    elif request.has_no_retry and status in asked.PASSED_ON:
                        message = {**message, "headers": [*message.get("headers", ()), _NO_RETRY]}
                if "headers" in message:
                    for name, _value in message["headers"]:
                        if len(name) == 17 and bytes(name).lower() == b"transfer-encoding":
                            return send(_without_transfer_encoding(message))
            return send(message)

        self._in_flight += 1
        tally.in_flight += 1
        try:
            await self._app(scope, receive, answer)
        except BodyTooLarge:
            status = 413
            await self._broken_body(send, 413, b"the request body is too large\n")
        except BodyTooSlow:
            status = _CUT
            await self._broken_body(send, 408, b"the request body came too slowly\n")
        except asyncio.CancelledError:
            status = _CUT
            if work is not None and work.was_given_up():
                tally.cancelled += 1
                with contextlib.suppress(Exception):  # to a connection that the edge has closed
                    await self._refuse(send, NOBODY_WAITS)
            elif self._stopping:
                await self._end(send, False)
            else:
                raise
        except Exception:
            if not status and request is not None and request.retry_after_s:
                # As above, of an app without a framework that would have made it a 500.
                status = 503
                await self._refuse(send, COME_AGAIN, _come_again_headers(request))
                return
            status = 500
            self._raised += 1
            raise
        finally:
            self._in_flight -= 1
            tally.in_flight -= 1
            if work is not None:
                self._works.discard(work)
                if work.listening is not None:
                    work.leave()
            self._ended = ended = self._ended + 1
            is_kept = _KEPT in scope  # then a failure is not the app's
            if 0 < status < 500 or (is_kept and status > 0):
                service_ns = monotonic_ns() - began_ns
                if status < CLIENT_ERROR and not is_kept:
                    tally.service_ns += service_ns
                    tally.histogram[(service_ns >> 10).bit_length()] += 1
                else:
                    tally.count(status, service_ns, is_kept=is_kept)
                if not ended % SAMPLE_EVERY and not is_kept:
                    self._tallies.sample(path, status, service_ns)
            elif status != _CUT:
                tally.failed += 1
            if request is not None:
                asked.left(request, status)

    async def _event_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """It is in no class: it holds its slot for long, and its time says nothing of the app's speed."""
        if self._slots[Slot.STREAMS] >= self._streams_max:
            await self._refuse(send, STREAMS_FULL)
            return
        if scope["method"] not in _NO_BODY:
            receive = self._bounded(receive)
        request = asked.stays(scope["headers"])

        def answer(message: dict[str, Any]) -> Awaitable[None]:
            return send(_without_transfer_encoding(message) if message.get("headers") else message)

        self._slots[6] += 1
        self._event_streams += 1
        try:
            await self._app(scope, receive, answer)
        except BodyTooLarge:
            await self._broken_body(send, 413, b"the request body is too large\n")
        except BodyTooSlow:
            await self._broken_body(send, 408, b"the request body came too slowly\n")
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            await self._end(send, True)
        except Exception:
            self._raised += 1
            raise
        finally:
            self._event_streams -= 1
            self._ended += 1
            self._slots[6] -= 1
            asked.left(request, 0)

    async def _refuse(self, send: Send, why: bytes, again: Iterable[tuple[bytes, bytes]] = _SOON) -> None:
        """Not done: another replica, or this one a moment later, may take it."""
        headers = [(b"content-type", b"text/plain"), *again]
        if why in REASONS:
            headers.append((ANSWERED.encode(), REASONS[why].encode()))
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": why})

    async def _broken_body(self, send: Send, status: int, why: bytes) -> None:
        with contextlib.suppress(Exception):  # too late when the answer has begun
            await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": why})

    async def _end(self, send: Send, is_stream: bool) -> None:
        """The replica stops and this request was still open: end an event stream cleanly, refuse what has not begun."""
        if not is_stream:
            retry = [(b"retry-after", b"1"), (b"connection", b"close"), (ANSWERED.encode(), UNAVAILABLE.encode())]
            try:
                await send({"type": "http.response.start", "status": 503, "headers": retry})
            except Exception as error:  # it has begun: the client must see that it is cut, not take it for whole
                raise ConnectionAbortedError("the replica stopped before the answer was whole") from error
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _remember(self, value: bytes, head: bytes, due: bytes) -> tuple[Known, bytes]:
        """Reads the edge's header once for a connection and class: all but its end is then the same.

        The form from before there were classes has no DUE_MS at its end, so what was split off is not one.
        """
        read = origin.read(value.decode("latin-1"))
        if read is None:
            return (None, False, False, self._main), _NEVER_DUE
        known = ((read.address, read.port), read.is_secure, read.is_stream, self._tallies.classes[read.number])
        if read.has_due:
            if len(self._clients) >= _CLIENTS_MAX:
                self._clients.clear()
            self._clients[head] = known
            return known, due
        return known, _NEVER_DUE

    def _bounded(self, receive: Receive) -> Receive:
        left = self._body_max_bytes
        patience_s = _BODY_GRACE_S
        more = True  # after its end an app waits here for the client to go, as long as it likes

        async def bounded() -> dict[str, Any]:
            nonlocal left, patience_s, more
            if not more:
                return await receive()
            began_ns = monotonic_ns()
            try:
                async with asyncio.timeout(patience_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTooSlow from None
            came = len(message.get("body", b""))
            left -= came
            if left < 0:
                raise BodyTooLarge
            more = bool(message.get("more_body"))
            patience_s += came / _BODY_MIN_PER_S - (monotonic_ns() - began_ns) / 1e9
            return message

        return bounded

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        slots = self._slots
        headers = scope["headers"]
        if headers and (headers[-1][0] == _FROM or _move_last(headers)):
            came = origin.read(headers.pop()[1].decode("latin-1"))
            if came is not None:
                scope["client"] = (came.address, came.port)
                scope["scheme"] = "wss" if came.is_secure else "ws"
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
        request = asked.stays(scope["headers"])
        try:
            await self._app(scope, receive, send)
        finally:
            slots[6] -= 1
            self._sockets.pop(task, None)
            asked.left(request, 0)

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
        slots, self._loop = self._slots, loop
        now_ns = monotonic_ns()
        lag_ns = max(0, now_ns - self._beat_due_ns) if self._beat_due_ns else 0
        self._ahead_ns = self._clock.look(now_ns, time.time_ns())
        self._cap = slots[Slot.CAP] or _NO_CAP
        in_flight = self._in_flight + self._event_streams
        slots[Slot.LOOP_BEAT_NS] = now_ns
        slots[Slot.IN_FLIGHT] = in_flight
        slots[Slot.COMPLETED] = self._ended
        slots[Slot.STARTED] = self._ended + in_flight
        slots[Slot.FAILED] = self._raised
        self._tallies.publish(slots, now_ns, lag_ns)
        abandoned.look(self._works)
        self._beat_due_ns = monotonic_ns() + _BEAT_NS
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
