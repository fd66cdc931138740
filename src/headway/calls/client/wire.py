"""The connections of one event loop to the edge's socket for a service, by aiohttp, which is known here alone.

A loop's connections are of no use to another, so each has its own, made at the first call in it. They end with the
loop: an open asynchronous generator is what a loop closes at its end (`asyncio.run` does), and it closes them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any

import aiohttp
from aiohttp.http_exceptions import PayloadEncodingError
from yarl import URL

from headway.calls.client.due import Dues
from headway.calls.retry import Ended

_IDLE_S = 15.0  # shorter than the edge's own: who closes an idle connection last loses a race with a POST
_LINE_MAX = 65_536
_AUTOMATIC = ("Accept-Encoding", "Content-Type", "User-Agent")  # on one machine, packing costs more than it saves
_PIECE_BYTES = 65_536
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)
Response = aiohttp.ClientResponse
Socket = aiohttp.ClientWebSocketResponse


class TooLarge(Exception):
    """The answer is larger than it may be."""


class _Connector(aiohttp.UnixConnector):
    @property
    def closed(self) -> bool:
        return self._closed or self._loop.is_closed()

    def __del__(self, _warnings: Any = None) -> None:
        """A loop that ended without a word took its connections along; there is nothing to complain of."""


class Wire:
    """Those of one loop. To be made in it."""

    def __init__(self, service: str, socket: str) -> None:
        connector = _Connector(path=socket, limit=0, keepalive_timeout=_IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            skip_auto_headers=_AUTOMATIC,
            read_bufsize=_PIECE_BYTES,
            max_line_size=_LINE_MAX,
            max_field_size=_LINE_MAX,
        )
        self._session._retry_connection = False  # attempts are counted, and so made by whoever counts them
        self._origin = f"http://{service.replace('_', '-')}"  # as a host has no underscore
        self._request = self._session._request  # without the wrapping that makes it a context manager
        self.dues = Dues(asyncio.get_running_loop())
        self._end = self._ended()

    async def open(self) -> None:
        """Have the loop close it at its end."""
        await anext(self._end)

    async def _ended(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._session.close()

    async def close(self) -> None:
        """End the connections."""
        await self._end.aclose()

    def drop(self) -> None:
        """The loop has ended, and the connections with it."""
        if not self._session.closed:
            self._session.detach()

    def send(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Awaitable[Response]:
        """Send a request; its answer's head."""
        return self._request(method, URL(self._origin + target), data=body, headers=headers, allow_redirects=False)

    async def socket(
        self, target: str, headers: Mapping[str, str], protocols: tuple[str, ...], message_max: int
    ) -> Socket:
        """Open a WebSocket."""
        return await self._session.ws_connect(
            URL(self._origin + target),
            headers=headers,
            protocols=protocols,
            max_msg_size=message_max,
            heartbeat=20.0,
        )


async def whole(response: Response, body_max: int) -> bytes:
    """The body of an answer, which is done with then. TooLarge."""
    length = response.content_length
    if length is not None and "content-encoding" not in response.headers:
        if length > body_max and response.method != "HEAD":
            response.close()
            raise TooLarge
        return await response.read()
    pieces, size = [], 0
    try:
        while piece := await response.content.readany():
            size += len(piece)
            if size > body_max:
                raise TooLarge
            pieces.append(piece)
    except BaseException:
        response.close()
        raise
    return b"".join(pieces)


def ended_by(error: Exception) -> Ended:
    """How an attempt ended that raised this."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return Ended.UNSENT
    if isinstance(error, aiohttp.ClientResponseError | TooLarge):
        return Ended.GARBAGE
    if isinstance(error, aiohttp.ClientPayloadError) and isinstance(error.__cause__, PayloadEncodingError):
        return Ended.GARBAGE if "not enough data" not in str(error).lower() else Ended.BROKEN
    return Ended.BROKEN


def reason_of(error: BaseException) -> str:
    """Why, in a few words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


# What the wire raises for faults of the other side.
FAULTS = (aiohttp.ClientError, OSError, TooLarge)


class Wires:
    """Those of all loops of a process for one service."""

    def __init__(self, service: str, socket: str) -> None:
        self._service = service
        self._socket = socket
        self._wires: dict[asyncio.AbstractEventLoop, Wire] = {}
        self._last: tuple[asyncio.AbstractEventLoop, Wire] | None = None
        self._lock = threading.Lock()

    def known(self) -> Wire | None:
        """The one of the running loop, where there is one and it was the last that was used."""
        last = self._last
        return last[1] if last is not None and last[0] is asyncio.get_running_loop() else None

    async def open(self) -> Wire:
        """The one of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._wires.get(loop)
        if found is None:
            with self._lock:
                for ended in [other for other in list(self._wires) if other.is_closed()]:
                    self._wires.pop(ended).drop()
                found = self._wires[loop] = Wire(self._service, self._socket)
            await found.open()
        self._last = loop, found
        return found

    async def close(self) -> None:
        """End the running loop's connections; they open again when they are needed."""
        self._last = None
        found = self._wires.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()

    def end(self) -> None:
        """Close all of them, from any thread."""
        for loop, wire in list(self._wires.items()):
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(wire.close(), loop)
            else:
                wire.drop()

    def drop(self) -> None:
        """Nothing is to be said of them: the process ends, or they are another process's."""
        for wire in list(self._wires.values()):
            wire.drop()


def message_of(message: aiohttp.WSMessage) -> str | bytes | None:
    """A text or bytes; None when the WebSocket has ended."""
    if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
        found: str | bytes = message.data
        return found
    return None


def ending_of(message: aiohttp.WSMessage, socket: Socket) -> tuple[int, str]:
    """Code and reason of a WebSocket that ended with this message; 1006 when it broke off."""
    error = socket.exception()
    reason = message.extra if message.type is aiohttp.WSMsgType.CLOSE else reason_of(error) if error else ""
    return socket.close_code or 1006, str(reason or "")


def refusal_of(error: Exception) -> tuple[int, Mapping[str, str]] | None:
    """Status and headers of an answer that refused a WebSocket; None when the error is another."""
    if isinstance(error, aiohttp.WSServerHandshakeError) and error.status >= 300:
        return error.status, error.headers or {}
    return None
