"""The twin of a service for code that is not asynchronous: the same names, and every call waits."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Unpack, overload

from headway.calls.client.answer import Answer, Head
from headway.calls.client.asked import NOTHING, Headers, Outgoing, Params
from headway.calls.client.background import block
from headway.calls.client.stream import Lines, StreamAnswer
from headway.calls.client.websocket import WebSocket
from headway.errors import CallError, SocketClosed

if TYPE_CHECKING:
    from headway.calls.client.service import Options, Service

_MESSAGE_MAX = 64 * 1024 * 1024


class SyncService:
    """A service for code that is not asynchronous."""

    def __init__(self, whole: Service) -> None:
        self._service = whole
        self.name = whole.name

    @overload
    def get(self, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def get(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def get(self, path: str, **options: Any) -> Any:
        """As `Service.get`."""
        return self.request("GET", path, **options)

    @overload
    def post(self, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def post(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def post(self, path: str, **options: Any) -> Any:
        """As `Service.post`."""
        return self.request("POST", path, **options)

    @overload
    def put(self, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def put(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def put(self, path: str, **options: Any) -> Any:
        """As `Service.put`."""
        return self.request("PUT", path, **options)

    @overload
    def patch(self, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def patch(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def patch(self, path: str, **options: Any) -> Any:
        """As `Service.patch`."""
        return self.request("PATCH", path, **options)

    @overload
    def delete(self, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def delete(self, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def delete(self, path: str, **options: Any) -> Any:
        """As `Service.delete`."""
        return self.request("DELETE", path, **options)

    @overload
    def request(self, method: str, path: str, **options: Unpack[Options]) -> Answer: ...
    @overload
    def request(self, method: str, path: str, *, fallback: Any, **options: Unpack[Options]) -> Any: ...
    def request(
        self,
        method: str,
        path: str,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        body_max: int = _MESSAGE_MAX,
        fallback: Any = NOTHING,
        **body: Any,
    ) -> Any:
        """As `Service.request`; a `fallback` that is called is called in this thread."""
        out = Outgoing(method, path, **body)
        try:
            return block(self._service.caller().call(out, timeout, deadline, body_max))
        except CallError as error:
            if fallback is NOTHING:
                error.come_again()
                raise
            return fallback(error) if callable(fallback) else fallback

    @contextmanager
    def stream(
        self, method: str, path: str, *, timeout: float | None = None, deadline: float | None = None, **body: Any
    ) -> Iterator[SyncStreamAnswer]:
        """As `Service.stream`."""
        answer = block(self._service.open_stream(Outgoing(method, path, **body), timeout, deadline))
        try:
            yield SyncStreamAnswer(answer)
        finally:
            block(_close(answer))

    @contextmanager
    def websocket(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Headers | None = None,
        subprotocols: Sequence[str] = (),
        deadline: float | None = None,
        message_max: int = _MESSAGE_MAX,
    ) -> Iterator[SyncWebSocket]:
        """As `Service.websocket`."""
        out = Outgoing("GET", path, params, headers=headers)
        socket = block(self._service.open_socket(out, tuple(subprotocols), deadline, message_max))
        try:
            yield SyncWebSocket(socket)
        finally:
            block(socket.close())


async def _close(answer: StreamAnswer) -> None:
    answer.close()


class SyncStreamAnswer(Head):
    """As `StreamAnswer`."""

    __slots__ = ("_answer",)

    def __init__(self, answer: StreamAnswer) -> None:
        super().__init__(answer.service, answer.status_code, answer.headers, answer.has_no_retry)
        self._answer = answer

    def raise_for_status(self) -> SyncStreamAnswer:
        """Itself; StatusError when the status is no success."""
        self.refuse_errors()
        return self

    def iter_bytes(self) -> Iterator[bytes]:
        """The body in pieces, as they come."""
        while piece := block(self._answer.next_bytes()):
            yield piece

    def iter_text(self) -> Iterator[str]:
        """The body as text, in pieces."""
        decode = codecs.getincrementaldecoder(self.encoding)("replace").decode
        for piece in self.iter_bytes():
            if text := decode(piece):
                yield text
        if text := decode(b"", True):
            yield text

    def iter_lines(self) -> Iterator[str]:
        """The body as lines, without their ends. ValueError for one of more than a MiB."""
        lines = Lines()
        for text in self.iter_text():
            yield from lines.feed(text)
        yield from lines.rest()

    def read(self, body_max: int = _MESSAGE_MAX) -> bytes:
        """What is left of the body, whole. ValueError when it is more than `body_max` bytes."""
        return block(self._answer.aread(body_max))


class SyncWebSocket:
    """As `WebSocket`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.service = socket.service
        self.subprotocol = socket.subprotocol

    def send(self, message: str | bytes) -> None:
        """As `WebSocket.send`."""
        block(self._socket.send(message))

    def send_json(self, value: Any) -> None:
        """As `WebSocket.send_json`."""
        block(self._socket.send_json(value))

    def receive(self) -> str | bytes:
        """As `WebSocket.receive`."""
        return block(self._socket.receive())

    def receive_text(self) -> str:
        """As `WebSocket.receive_text`."""
        return block(self._socket.receive_text())

    def receive_bytes(self) -> bytes:
        """As `WebSocket.receive_bytes`."""
        return block(self._socket.receive_bytes())

    def receive_json(self) -> Any:
        """As `WebSocket.receive_json`."""
        return block(self._socket.receive_json())

    def __iter__(self) -> Iterator[str | bytes]:
        try:
            while True:
                yield self.receive()
        except SocketClosed:
            return

    def close(self, code: int = 1000, reason: str = "") -> None:
        """As `WebSocket.close`."""
        block(self._socket.close(code, reason))
