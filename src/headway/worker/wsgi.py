"""The thin layer around a WSGI app: counts, real client addresses, body bounds, and a pulse of its threads.

The edge's internal header arrives as HTTP_X_HEADWAY_FROM ("SCHEME ADDRESS PORT [stream]") and is taken out.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .telemetry import Slot

Environ = dict[str, Any]

_SPOOL_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


class BodyTooLarge(Exception):
    """The request body grew over the declared bound while it was read."""


class Layer:
    """Wraps `app`, served by `threads` threads."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        slots: memoryview,
        *,
        body_max_bytes: int,
        streams_max: int,
        threads: int,
    ) -> None:
        self._app = app
        self._slots = slots
        self._body_max_bytes = body_max_bytes
        self._streams_max = streams_max
        self._threads = threads
        self._lock = threading.Lock()
        self.stopping = False

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        slots = self._slots
        came_from = environ.pop("HTTP_X_HEADWAY_FROM", None)
        is_stream = False
        if came_from is not None:
            parts = came_from.split(" ")
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = parts[1], parts[2]
            environ["wsgi.url_scheme"] = parts[0]
            if parts[0] == "https":
                environ["HTTPS"] = "on"
            is_stream = len(parts) > 3
        is_chunked = "HTTP_TRANSFER_ENCODING" in environ  # a stated length was checked at the edge
        with self._lock:
            is_refused = is_stream and slots[6] >= self._streams_max
            slots[5] += 1
            slots[7] += 1
            slots[6] += is_stream
            if slots[5] < self._threads:
                slots[4] = time.monotonic_ns()
        if is_refused:
            self._done(is_stream)
            start_response("503 Service Unavailable", [("content-type", "text/plain"), ("retry-after", "1")])
            return [b"as many event streams are open as may be\n"]
        try:
            if is_chunked:
                # WSGI knows no body without a length: most frameworks would see none at all.
                environ["wsgi.input"], length = _whole(environ["wsgi.input"], self._body_max_bytes)
                environ["CONTENT_LENGTH"] = str(length)
                del environ["HTTP_TRANSFER_ENCODING"]
            body = self._app(environ, _framed(start_response))
        except BodyTooLarge:
            self._done(is_stream)
            start_response("413 Content Too Large", [("content-type", "text/plain"), ("connection", "close")])
            return [b"the request body is too large\n"]
        except BaseException:
            self._slots[9] += 1
            self._done(is_stream)
            raise
        if isinstance(body, list):
            self._done(is_stream)
            return body
        return _CountedBody(body, self, is_stream)

    def _done(self, is_stream: bool) -> None:
        slots = self._slots
        with self._lock:
            slots[5] -= 1
            slots[8] += 1
            slots[6] -= is_stream
            slots[4] = time.monotonic_ns()

    def pulse(self) -> None:
        """Called by the process's beat: an idle thread is a sign of life, for no request may come to give one."""
        with self._lock:
            if self._slots[Slot.IN_FLIGHT] < self._threads:
                self._slots[Slot.LOOP_BEAT_NS] = time.monotonic_ns()


def _framed(start_response: Callable[..., Any]) -> Callable[..., Any]:
    """Drops an app's own Transfer-Encoding: framing is the server's, and granian breaks off when both say something."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        for name, _value in headers:
            if len(name) == 17 and name.lower() == "transfer-encoding":
                headers = [header for header in headers if header[0].lower() != "transfer-encoding"]
                break
        return start_response(status, headers, exc_info)

    return start


class _CountedBody:
    """An iterable body that is counted as done when it ends or is closed, whichever comes first."""

    def __init__(self, body: Iterable[bytes], layer: Layer, is_stream: bool) -> None:
        self._body = body
        self._iterator: Iterator[bytes] = iter(body)
        self._layer = layer
        self._is_stream = is_stream
        self._open = True

    def __iter__(self) -> _CountedBody:
        return self

    def __next__(self) -> bytes:
        if self._layer.stopping:
            self.close()
            if self._is_stream:
                raise StopIteration  # a clean end: its client comes again
            raise ConnectionAbortedError("the replica is stopping")  # the client must see that it is cut
        return next(self._iterator)

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                close = getattr(self._body, "close", None)
                if close is not None:
                    close()
            finally:
                self._layer._done(self._is_stream)


def _whole(stream: Any, bound: int) -> tuple[Any, int]:
    """A chunked body as a file with a known length, on disk above a size; BodyTooLarge when it grows over `bound`."""
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115  closed when the request is forgotten
    left = bound
    while data := stream.read(_PIECE_BYTES):
        left -= len(data)
        if left < 0:
            spool.close()
            raise BodyTooLarge
        spool.write(data)
    length = spool.tell()
    spool.seek(0)
    return spool, length
