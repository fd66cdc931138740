"""`service(name)`: what the app holds of another service that it calls."""

from __future__ import annotations

import atexit
import inspect
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from headway.calls.client.answer import Answer
from headway.calls.client.asked import NOTHING, Headers, Outgoing, Params
from headway.calls.client.calling import Caller
from headway.calls.client.stream import StreamAnswer
from headway.calls.client.sync import SyncService
from headway.calls.client.tally import Tally
from headway.calls.client.target import Target
from headway.calls.client.told import told
from headway.calls.client.websocket import WebSocket
from headway.calls.client.wire import Wires
from headway.context.asked import tell_worker
from headway.errors import CallError

BODY_MAX = 64 * 1024 * 1024


class Options(TypedDict, total=False):
    """What a call may be given besides its path, under the names that httpx has for it where it has one.

    timeout: seconds for one attempt. deadline: seconds for the call with all its attempts.
    idempotency_key: sent as `Idempotency-Key`; the service sees to it that a call that comes twice is done once.
    body_max: bytes of an answer that are read.

    Beside these, `fallback` is given instead of an answer where there is none; a callable is called with the error.
    """

    params: Params | None
    json: Any
    data: Any
    content: Any
    headers: Headers | None
    timeout: float | None
    deadline: float | None
    idempotency_key: str
    body_max: int


class Service:
    """A service by its declared name. Made once a process by `service(name)`; nothing is opened before it is used.

    A call is one line: `answer = await inventory.get(f"/stock/{number}")`. It takes no longer than somebody waits for
    the request at work, is tried again only where that is safe and within a budget, and not sent at all to a service
    that is known to be away. What any app answers is an answer, whatever its status; where none did, a call raises
    Refused, DeadlineExceeded, Unavailable, CircuitOpen or BadAnswer, all of them CallError, or gives its `fallback`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._caller: Caller | None = None
        self._lock = threading.Lock()
        tell_worker()

    @overload
    def get(self, path: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def get(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Coroutine[Any, Any, Any]: ...
    def get(self, path: str, **options: Any) -> Coroutine[Any, Any, Any]:
        """Call it by GET."""
        return self.request("GET", path, **options)

    @overload
    def post(self, path: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def post(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Coroutine[Any, Any, Any]: ...
    def post(self, path: str, **options: Any) -> Coroutine[Any, Any, Any]:
        """Call it by POST."""
        return self.request("POST", path, **options)

    @overload
    def put(self, path: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def put(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Coroutine[Any, Any, Any]: ...
    def put(self, path: str, **options: Any) -> Coroutine[Any, Any, Any]:
        """Call it by PUT."""
        return self.request("PUT", path, **options)

    @overload
    def patch(self, path: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def patch(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Coroutine[Any, Any, Any]: ...
    def patch(self, path: str, **options: Any) -> Coroutine[Any, Any, Any]:
        """Call it by PATCH."""
        return self.request("PATCH", path, **options)

    @overload
    def delete(self, path: str, **options: Unpack[Options]) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def delete(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Coroutine[Any, Any, Any]: ...
    def delete(self, path: str, **options: Any) -> Coroutine[Any, Any, Any]:
        """Call it by DELETE."""
        return self.request("DELETE", path, **options)

    @overload
    async def request(self, method: str, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    async def request(self, method: str, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = NOTHING,
        data: Any = None,
        content: Any = None,
        headers: Headers | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        idempotency_key: str = "",
        body_max: int = BODY_MAX,
        fallback: Any = NOTHING,
    ) -> Any:
        """Call it by any method. Raises CallError, ValueError for what is no path; NotRunning where it is not told of
        the service."""
        out = Outgoing(method, path, params, json, data, content, headers, idempotency_key)
        try:
            return await (self._caller or self.caller()).call(out, timeout, deadline, body_max)
        except CallError as error:
            if fallback is NOTHING:
                error.come_again()
                raise
            found = fallback(error) if callable(fallback) else fallback
            if inspect.isawaitable(found):
                found = await found
            return found

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        json: Any = NOTHING,
        data: Any = None,
        content: Any = None,
        headers: Headers | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        idempotency_key: str = "",
    ) -> AsyncIterator[StreamAnswer]:
        """Call it, and read the answer as it comes: `async with inventory.stream("GET", "/all") as answer`.

        The deadline holds for the head of the answer, and then for each read. There is no bound on the whole.
        """
        out = Outgoing(method, path, params, json, data, content, headers, idempotency_key)
        answer = await self.open_stream(out, timeout, deadline)
        try:
            yield answer
        finally:
            answer.close()

    @asynccontextmanager
    async def websocket(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Headers | None = None,
        subprotocols: Sequence[str] = (),
        deadline: float | None = None,
        message_max: int = BODY_MAX,
    ) -> AsyncIterator[WebSocket]:
        """A WebSocket: `async with inventory.websocket("/changes") as changes`. The deadline holds for opening it."""
        out = Outgoing("GET", path, params, headers=headers)
        socket = await self.open_socket(out, tuple(subprotocols), deadline, message_max)
        try:
            yield socket
        finally:
            await socket.close()

    @property
    def sync(self) -> SyncService:
        """The same for code that is not asynchronous."""
        return SyncService(self)

    async def close(self) -> None:
        """End this event loop's connections; they open again when they are needed."""
        if self._caller is not None:
            await self._caller.wires.close()

    def let_go(self) -> None:
        """Close everything that this process has of it, from any thread; the next use begins anew."""
        caller = self._caller
        self._begin_anew()
        if caller is not None:
            caller.wires.end()

    # -- for the twin -------------------------------------------------------------------------------------------------

    async def open_stream(self, out: Outgoing, timeout: float | None, deadline: float | None) -> StreamAnswer:
        """As `stream`, to be closed by whoever asked."""
        try:
            return await self.caller().stream(out, timeout, deadline, BODY_MAX)
        except CallError as error:
            error.come_again()
            raise

    async def open_socket(
        self, out: Outgoing, subprotocols: tuple[str, ...], deadline: float | None, message_max: int
    ) -> WebSocket:
        """As `websocket`, to be closed by whoever asked."""
        try:
            return await self.caller().socket(out, subprotocols, deadline, message_max)
        except CallError as error:
            error.come_again()
            raise

    def caller(self) -> Caller:
        """What calls it for this process, made at the first call. Raises NotRunning."""
        caller = self._caller
        if caller is None:
            known = told(self.name)
            with self._lock:
                caller = self._caller
                if caller is None:
                    target = Target(known, _tally(known.folder, known.caller))
                    caller = self._caller = Caller(target, Wires(known.name, known.socket))
        return caller

    def _begin_anew(self) -> None:
        """Forget what is open: in a forked child, it is the parent's."""
        self._caller = None
        self._lock = threading.Lock()


_services: dict[str, Service] = {}
_lock = threading.Lock()
_told: Tally | None = None


def service(name: str) -> Service:
    """The declared service `name`, the same object each time. Its use raises NotRunning when this process was told of
    none."""
    found = _services.get(name)
    if found is None:
        with _lock:
            found = _services.setdefault(name, Service(name))
    return found


def _tally(folder: Path | None, caller: str) -> Tally | None:
    """Where this process tells what it counts; None outside of Headway."""
    global _told
    with _lock:
        if _told is None and folder is not None:
            _told = Tally(folder, caller)
        return _told


def _end() -> None:
    for each in _services.values():
        if each._caller is not None:
            each._caller.wires.drop()
        each._begin_anew()


def _in_child() -> None:
    global _lock, _told
    _end()
    _lock, _told = threading.Lock(), None


atexit.register(_end)
os.register_at_fork(after_in_child=_in_child)
