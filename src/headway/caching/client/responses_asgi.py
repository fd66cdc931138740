"""The layer around an ASGI app that gives kept responses before the app is asked.

An answer that may be kept is held until it is whole, within its bound, and then given to all who wait for it. One that
may not goes to its client as it comes: from the first byte on where its head says so, from the bound on where it grows
over it. The app answers in a task of its own, for others may wait for it when the client has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from headway.caching.client.responses import KEPT, NOT_IN_TIME, NOTHING_KEPT, Failed, Raised, Shelf, Shelves, wall_ms
from headway.caching.client.want import Found, Missed, NotKept, Want
from headway.caching.responses.answer import HOW_HEADER, Answer, How, how_kept, make, to_give
from headway.caching.responses.asked import Asked, Look, ask, bypasses
from headway.caching.responses.ruling import TAG_HEADER, Ruling, is_failure, rule
from headway.errors import CacheBusy

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
_log = logging.getLogger("headway.caching")
_FILE = "http.response.pathsend"  # the ASGI extension by which an app has the server send a file
_HEAD = (HOW_HEADER.encode(), TAG_HEADER.encode())


class Layer:
    """Wraps `app`; `routes` as the worker is told of them."""

    def __init__(self, app: App, service: str, routes: Iterable[Mapping[str, Any]]) -> None:
        self._app = app
        self._shelves = Shelves(service, routes)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and (found := self._shelves.find(scope["path"])) is not None:
            return self._answer(*found, scope, receive, send)
        return self._app(scope, receive, send)

    async def _answer(
        self, shelf: Shelf, places: Mapping[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        look = _look(scope["headers"])
        route, method = shelf.route, scope["method"]
        if bypasses(route, method, look):
            shelf.rule.counts.bypassed += 1
            await self._app(scope, receive, _bypassing(send))
            return
        path = scope.get("raw_path") or quote(scope["path"]).encode()
        query = scope["query_string"].decode("latin-1")
        asked = ask(route, self._shelves.service, method, scope["scheme"], path.decode("latin-1"), query, look)
        answer = shelf.near((asked.key,))
        if answer is not None and answer.suits(asked.look):
            await _give(answer, scope, look, send)
            return
        want = shelf.want(asked, places, (asked.key,))
        run = _Run(self._app, shelf, _clean(scope, asked), asked, receive, send)
        try:
            answer = None if shelf.passes(want) else await self._find(shelf, want, asked, scope, run)
        except asyncio.CancelledError:
            run.leave()
            raise
        except Exception as error:
            if isinstance(error, NotKept):
                shelf.let_pass(want)
            elif not run.has_begun and isinstance(error, Raised):
                raise error.error from None
            elif not run.has_begun and isinstance(error, CacheBusy):
                await _reply(*NOT_IN_TIME, send)
                return
            # Whatever else went wrong is the cache's own matter: the app answers.
            answer = error.answer if isinstance(error, Failed) else None
        if run.has_begun:
            await run.deliver(answer, look)
        elif answer is None and asked.only_kept:
            scope[KEPT] = True
            status, headers, body = NOTHING_KEPT
            await _reply(status, headers, b"" if asked.is_head else body, send)
        elif answer is None:
            shelf.rule.counts.bypassed += 1
            await self._app(scope, receive, _bypassing(send))
        else:
            await _give(answer, scope, look, send)

    async def _find(self, shelf: Shelf, want: Want, asked: Asked, scope: Scope, run: _Run) -> Answer | None:
        """A kept answer, or the run's own; None where none is to be had."""
        answer = await self._value(shelf, want, asked, scope, run)
        if answer is None or run.has_begun or answer.suits(asked.look):
            return answer
        other = shelf.other(want, answer, asked)
        answer = await self._value(shelf, other, asked, scope, run)
        return answer if answer is None or run.has_begun or answer.suits(asked.look) else None

    async def _value(self, shelf: Shelf, want: Want, asked: Asked, scope: Scope, run: _Run) -> Answer | None:
        loads = shelf.cache.parts().loads()

        async def again() -> Answer:
            try:
                return await _Run(self._app, shelf, _clean(scope, asked), asked).answer()
            except NotKept:
                shelf.let_pass(want)
                raise

        if asked.is_head or asked.only_kept:  # they may take what is there, and have nothing to keep
            found = await loads.looks.find(want)
        else:
            found = await loads.find(want, again)
            if isinstance(found, Missed):
                found = await loads.load(want, found, run.answer)
        return found.value if isinstance(found, Found) else None


class _Run:
    """The app, asked once for an answer that may be kept. Without `send` nobody waits for it but the cache."""

    def __init__(
        self,
        app: App,
        shelf: Shelf,
        scope: Scope,
        asked: Asked,
        receive: Receive | None = None,
        send: Send | None = None,
    ) -> None:
        self._app = app
        self._shelf = shelf
        self._scope = scope
        self._asked = asked
        self._client_receive = receive
        self._client_send = send
        self._task: asyncio.Task[None] | None = None
        self._start: Message | None = None
        self._headers: list[tuple[str, str]] = []
        self._ruling: Ruling | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0
        self._stated = 0  # by the app's Content-Length; -1: what is no number
        self._asked_body = False
        self._passes = False

    @property
    def has_begun(self) -> bool:
        """Whether the app was asked."""
        return self._task is not None

    async def answer(self) -> Answer:
        """Ask it. Raises NotKept, Failed and Raised."""
        loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[Answer] = loop.create_future()
        self._outcome.add_done_callback(_seen)
        self._is_over = asyncio.Event()  # for the cache: the answer is whole, or passes
        self._task = loop.create_task(self._run())
        if self._client_send is None:
            self._task.add_done_callback(_told)
        return await asyncio.shield(self._outcome)

    async def deliver(self, answer: Answer | None, look: Look) -> None:
        """Give the client what the app answered, or `answer` instead; to the end, with the errors of the app."""
        assert self._task is not None
        assert self._client_send is not None
        try:
            if not self._passes:
                if answer is None and self._outcome.done() and self._outcome.exception() is None:
                    answer = self._outcome.result()  # the cache failed, the app did not
                if answer is not None:
                    is_own = self._outcome.done() and self._outcome.exception() is None
                    how: How = "miss" if is_own else how_kept(answer, wall_ms())
                    await _reply(*to_give(answer, how, look, wall_ms()), self._client_send)
            await asyncio.shield(self._task)
        except asyncio.CancelledError:
            self.leave()
            raise

    def leave(self) -> None:
        """The client has gone, or the replica stops: what passes is for nobody else."""
        self._client_send = None
        if self._task is not None and self._passes:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except BaseException as error:
            if not self._outcome.done():
                self._outcome.set_exception(Raised(error))
            raise
        finally:
            if not self._outcome.done():  # it ended without a whole answer: the client gets as much as there is
                await self._pass(None)

    async def _receive(self) -> Message:
        """No body; and then the client's going, which is nobody's concern while others may wait for the answer."""
        if not self._asked_body:
            self._asked_body = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._is_over.wait()
        if self._client_receive is None or not self._passes:
            return {"type": "http.disconnect"}
        while (message := await self._client_receive())["type"] == "http.request":
            pass
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._passes:
            if self._client_send is not None:
                await self._client_send(message)
        elif kind == "http.response.start" and self._start is None:
            self._start = message
            self._headers = [(_text(name).lower(), _text(value)) for name, value in message.get("headers", ())]
            self._ruling = rule(self._shelf.route, message["status"], self._headers, wall_ms() / 1000)
            stated = next((value for name, value in self._headers if name == "content-length"), "0")
            self._stated = int(stated) if stated.isdigit() else -1
            is_held = self._ruling is not None or is_failure(message["status"], self._headers)
            is_small = 0 <= self._stated <= self._shelf.route.body_max_bytes
            if not is_held or not is_small or message.get("trailers"):
                await self._pass(None)
        elif kind == "http.response.body" and self._start is not None:
            self._parts.append(bytes(message.get("body", b"")))
            self._size_bytes += len(self._parts[-1])
            if self._size_bytes > self._shelf.route.body_max_bytes:
                last = self._parts.pop()
                await self._pass({**message, "body": last})
            elif not message.get("more_body"):
                self._end()
        elif kind == _FILE and self._start is not None and not self._parts and not self._passes:
            body = await asyncio.to_thread(_read, message["path"], self._stated)
            if body is None:
                await self._pass(message)
            else:
                self._parts.append(body)
                self._end()
        else:
            await self._pass(message)

    def _end(self) -> None:
        """The answer is whole."""
        assert self._start is not None
        self._is_over.set()
        if self._outcome.done():
            return
        ruling = self._ruling or Ruling(0.0, 0.0)
        body = b"".join(self._parts)
        answer = make(self._start["status"], self._headers, body, ruling, self._asked.look, wall_ms())
        if self._ruling is None:
            self._outcome.set_exception(Failed(answer))
        else:
            self._outcome.set_result(answer)

    async def _pass(self, message: Message | None) -> None:
        """It is for this client alone: give it what there is, and the rest as it comes."""
        self._passes = True
        self._is_over.set()
        if not self._outcome.done():
            self._outcome.set_exception(NotKept())
        send = self._client_send
        if send is None:
            assert self._task is not None
            self._task.cancel()  # nobody hears it
            return
        if self._start is not None:
            await _bypassing(send)(self._start)
            if self._parts:
                await send({"type": "http.response.body", "body": b"".join(self._parts), "more_body": True})
                self._parts.clear()
        if message is not None:
            await send(message)


async def _give(answer: Answer, scope: Scope, look: Look, send: Send) -> None:
    scope[KEPT] = True
    at_ms = wall_ms()
    status, headers, body = to_give(answer, how_kept(answer, at_ms), look, at_ms)
    await _reply(status, headers, b"" if scope["method"] == "HEAD" else body, send)


async def _reply(status: int, headers: list[tuple[str, str]], body: bytes, send: Send) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _bypassing(send: Send) -> Send:
    """Passes on what the app says, with word of it in the head."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if bytes(header[0]).lower() not in _HEAD]
            message = {**message, "headers": [*headers, (_HEAD[0], b"bypass")]}
        await send(message)

    return answer


def _look(headers: Iterable[tuple[bytes, bytes]]) -> Look:
    pairs = list(headers)
    found = dict(pairs)
    if len(found) < len(pairs):
        for name in found:
            several = [value for other, value in pairs if other == name]
            found[name] = (b"; " if name == b"cookie" else b", ").join(several)

    def look(name: str) -> str | None:
        value = found.get(name.encode())
        return None if value is None else value.decode("latin-1")

    return look


def _clean(scope: Scope, asked: Asked) -> Scope:
    """The request as the app is asked: with what is in the key and no more."""
    names = dict.fromkeys(name for name, _ in scope["headers"])
    headers = []
    for name in names:
        value = asked.look(name.decode("latin-1"))
        if value is not None:
            headers.append((name, value.encode("latin-1")))
    return {**scope, "headers": headers, "query_string": asked.query.encode("latin-1")}


def _read(path: str, size_bytes: int) -> bytes | None:
    """A file as long as its head said; None where it is not, or not to be read: the server may say what is wrong."""
    try:
        with open(path, "rb") as file:
            body = file.read(size_bytes + 1)
    except OSError:
        return None
    return body if len(body) == size_bytes else None


def _text(part: Any) -> str:
    return bytes(part).decode("latin-1")


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _told(task: asyncio.Task[None]) -> None:
    """What the app raised when nobody waited for it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("the app raised while a response was refreshed: %s: %s", type(error).__name__, error)
