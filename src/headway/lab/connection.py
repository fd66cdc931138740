"""One client connection that speaks HTTP/1.1: sends a request, reads the answer, and says exactly how it ended.

General HTTP clients cost several times more per request than the systems they would have to load, and hide what matters
here: whether a connection was refused, reset, closed early or cut in the middle of an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from headway.lab.target import WireRequest

CLOSED_EARLY = "closed before answer"
KEPT_CLOSED = "kept connection closed"
RESET = "connection reset"
TRUNCATED = "truncated answer"
MALFORMED = "malformed answer"


@dataclass(slots=True, eq=False)
class Exchange:
    """A request on its way, from its intended start until its fate is known."""

    intended_s: float  # from the beginning of the load
    request: WireRequest
    load_id: str  # "" where requests carry none
    kind: int = 0  # which of the plan's requests it is
    connection: Connection | None = None
    opening: asyncio.Task[None] | None = None
    ended: bool = False


class Owner(Protocol):
    """Who is told what became of a connection and its exchange."""

    def opened(self, connection: Connection) -> None:
        """The connection stands."""

    def answered(self, exchange: Exchange, status: int, kept: Connection | None) -> None:
        """The whole answer is there; `kept` is the connection when it can carry another request."""

    def broken(self, exchange: Exchange, reason: str) -> None:
        """No whole answer will come."""

    def closed(self, connection: Connection) -> None:
        """The connection is gone, whoever ended it."""


class Connection(asyncio.Protocol):
    """Carries one exchange at a time; made for the first one, given further ones by `send` while it is kept."""

    __slots__ = (
        "_exchange",
        "_framed",
        "_headers_done",
        "_keep",
        "_owner",
        "_parser",
        "_started",
        "_transport",
        "_used",
    )

    def __init__(self, owner: Owner, exchange: Exchange, *, keep: bool) -> None:
        self._owner = owner
        self._exchange: Exchange | None = exchange
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._used = False  # has carried an answer before
        self._started = False  # a byte of the current answer came
        self._headers_done = False
        self._framed = False  # the answer says where it ends

    # --- towards the server

    @property
    def usable(self) -> bool:
        """Whether a kept connection can carry another request, as far as one knows without asking the server."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        """Put a further request on a kept connection."""
        self._exchange = exchange
        self._started = self._headers_done = self._framed = False
        self._write(exchange)

    def abort(self) -> None:
        """Drop the connection at once; its exchange is nobody's business any more."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    def _write(self, exchange: Exchange) -> None:
        assert self._transport is not None
        exchange.connection = self
        request = exchange.request
        head = request.head
        if exchange.load_id:
            head += b"X-Load-Id: " + exchange.load_id.encode() + b"\r\n"
        self._transport.write(head + b"\r\n")
        if request.body:
            # Apart from the head: a large body is then shared by all requests in flight instead of copied.
            self._transport.write(request.body)

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)
        if self._exchange is None or self._exchange.ended:
            self.abort()
        else:
            self._write(self._exchange)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.abort()  # a kept connection on which the server speaks unasked cannot be used again
            return
        self._started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a mistake of ours, not of the answer
        except httptools.HttpParserError:
            if self._exchange is None:
                self.abort()  # the answer was whole; what came behind it is not ours
            else:
                self._break(MALFORMED)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self._exchange
        if exchange is not None:
            if self._headers_done and not self._framed and exc is None:
                self._complete(reusable=False)  # such a body ends where the connection ends
            elif self._started:
                self._break(TRUNCATED)
            elif self._used:
                self._break(KEPT_CLOSED)
            else:
                self._break(RESET if isinstance(exc, ConnectionResetError) else CLOSED_EARLY)
        self._owner.closed(self)
        del self._parser  # they refer to each other: ten thousand such pairs a second are not left to the collector

    # --- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._headers_done = True
        if self._exchange is not None and self._exchange.request.method == "HEAD":
            self._complete(reusable=self._parser.should_keep_alive())
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for a body that never comes

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._framed = False  # only a hint (100, 103): the answer itself follows
        elif self._exchange is not None:
            self._complete(reusable=self._parser.should_keep_alive())

    # --- endings

    def _complete(self, *, reusable: bool) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        assert self._transport is not None
        status = self._parser.get_status_code()
        self._used = True
        kept = self._keep and reusable and self.usable
        if not kept:
            self._transport.close()
        self._owner.answered(exchange, status, self if kept else None)

    def _break(self, reason: str) -> None:
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        if self._transport is not None:
            self._transport.abort()
        self._owner.broken(exchange, reason)
