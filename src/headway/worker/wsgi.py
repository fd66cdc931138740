"""The thin layer around a WSGI app: counts, real client addresses, bounds, and a pulse of its threads.

The edge's internal header (see `origin`) arrives as HTTP_X_HEADWAY_FROM and is taken out. Counts are integers under one
lock, held for a few assignments; the process's beat publishes them.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from . import asked, origin
from .answers import ANSWERED, CAP_REACHED, COME_AGAIN, NOBODY_WAITS, REASONS, STREAMS_FULL
from .deadline import NOTHING_IS_DUE, WallClock, is_past
from .tally import SAMPLE_EVERY, Tallies, Tally
from .telemetry import Slot

Environ = dict[str, Any]

_KEPT = "headway.kept"  # in an environ: it was answered from a cache, by the layer below this one
_NEVER_DUE_MS = 1 << 60
_SPOOL_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16


class BodyTooLarge(Exception):
    """The request body grew over the declared bound while it was read."""


class _Exchange:
    """One request on its way through the app, and what its answer turned out to be."""

    __slots__ = ("_start_response", "asked", "began_ns", "has_failed", "is_kept", "path", "status", "tally")

    def __init__(self, start_response: Callable[..., Any], tally: Tally | None, path: str, began_ns: int) -> None:
        self._start_response = start_response
        self.tally = tally  # None: an event stream, in no class
        self.path = path
        self.began_ns = began_ns
        self.status = 0
        self.has_failed = False
        self.is_kept = False
        self.asked: asked.Asked | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """`start_response` for the app. Drops its own Transfer-Encoding: framing is the server's, and granian breaks
        off when both say something.
        """
        self.status = int(status[:3])
        if self.status == 500 and self.asked is not None and self.asked.retry_after_s:
            # The app failed because it found no room in its database: that is nobody's error, and passes.
            self.status, status = 503, "503 Service Unavailable"
            headers = [*headers, *self.asked.told_to_come_again()]
        elif self.status in asked.PASSED_ON and self.asked is not None and self.asked.has_no_retry:
            headers = [*headers, asked.NO_RETRY]
        for name, _value in headers:
            if len(name) == 17 and name.lower() == "transfer-encoding":
                headers = [header for header in headers if header[0].lower() != "transfer-encoding"]
                break
        return self._start_response(status, headers, exc_info)


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
        self._tallies = Tallies()
        self._in_flight = 0  # without event streams
        self._event_streams = 0
        self._ended = 0
        self._raised = 0
        self._free_ns = time.monotonic_ns()  # when a thread was last known to be free, or a request ended
        self._clock = WallClock()
        self._ahead_ns = NOTHING_IS_DUE
        self.stopping = False

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        began_ns = time.monotonic_ns()
        came = self._take_origin(environ)
        is_stream = came is not None and came.is_stream
        tally = self._tallies.classes[came.number if came is not None else 0]
        due_ms = came.due_ms if came is not None else None
        is_late = due_ms is not None and due_ms * 1_000_000 < began_ns + self._ahead_ns and is_past(due_ms)
        with self._lock:
            refusal = self._admit(tally, is_stream, is_late, began_ns)
        if refusal is not None:
            headers = [("content-type", "text/plain"), ("retry-after", "1"), (ANSWERED, REASONS[refusal])]
            start_response("503 Service Unavailable", headers)
            return [refusal]
        path = environ.get("PATH_INFO") or "/"
        exchange = _Exchange(start_response, None if is_stream else tally, path, began_ns)
        if asked.is_used:
            due_ms = due_ms if due_ms is not None else _NEVER_DUE_MS
            exchange.asked = asked.begin(due_ms, self._ahead_ns, environ, began_ns)
        try:
            if "HTTP_TRANSFER_ENCODING" in environ:  # a stated length was checked at the edge
                # WSGI knows no body without a length: most frameworks would see none at all.
                environ["wsgi.input"], length = _whole(environ["wsgi.input"], self._body_max_bytes)
                environ["CONTENT_LENGTH"] = str(length)
                del environ["HTTP_TRANSFER_ENCODING"]
            body = self._app(environ, exchange.start)
            exchange.is_kept = _KEPT in environ
            counted = None if isinstance(body, list) else _CountedBody(body, self, exchange)
        except BodyTooLarge:
            exchange.status = 413
            self._done(exchange)
            start_response("413 Content Too Large", [("content-type", "text/plain"), ("connection", "close")])
            return [b"the request body is too large\n"]
        except BaseException as error:
            exchange.has_failed = True
            self._done(exchange)
            request = exchange.asked
            if exchange.status or request is None or not request.retry_after_s or not isinstance(error, Exception):
                raise
            # As above, of an app without a framework that would have made it a 500.
            again = [("content-type", "text/plain"), *request.told_to_come_again()]
            start_response("503 Service Unavailable", again)
            return [COME_AGAIN]
        if counted is not None:
            return counted
        self._done(exchange)
        return body

    def _take_origin(self, environ: Environ) -> origin.Origin | None:
        value = environ.pop("HTTP_X_HEADWAY_FROM", None)
        came = origin.read(value) if value is not None else None
        if came is not None:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = came.address, str(came.port)
            environ["wsgi.url_scheme"] = "https" if came.is_secure else "http"
            if came.is_secure:
                environ["HTTPS"] = "on"
        return came

    def _admit(self, tally: Tally, is_stream: bool, is_late: bool, now_ns: int) -> bytes | None:
        """Count a request in, or say why it is not to be run. Under the lock."""
        slots = self._slots
        if is_late:
            tally.dropped += 1
            return NOBODY_WAITS
        if is_stream:
            if slots[Slot.STREAMS] >= self._streams_max:
                return STREAMS_FULL
            slots[Slot.STREAMS] += 1
            self._event_streams += 1
        else:
            if 0 < slots[Slot.CAP] <= self._in_flight:
                tally.refused += 1
                return CAP_REACHED
            self._in_flight += 1
            tally.in_flight += 1
        if self._in_flight + self._event_streams < self._threads:
            self._free_ns = now_ns
        return None

    def _done(self, exchange: _Exchange) -> None:
        asked.left(exchange.asked, 500 if exchange.has_failed else exchange.status)
        tally = exchange.tally
        with self._lock:
            now_ns = self._free_ns = time.monotonic_ns()
            self._ended += 1
            self._raised += exchange.has_failed
            if tally is None:
                self._event_streams -= 1
                self._slots[Slot.STREAMS] -= 1
                return
            self._in_flight -= 1
            tally.in_flight -= 1
            is_kept = exchange.is_kept and exchange.status > 0  # then a failure is not the app's
            if exchange.has_failed or not (0 < exchange.status < 500 or is_kept):
                tally.failed += 1
                return
            service_ns = now_ns - exchange.began_ns
            tally.count(exchange.status, service_ns, is_kept=exchange.is_kept)
            if not exchange.is_kept and not self._ended % SAMPLE_EVERY:
                self._tallies.sample(exchange.path, exchange.status, service_ns)

    def pulse(self) -> None:
        """Called by the process's beat: an idle thread is a sign of life, for no request may come to give one."""
        slots = self._slots
        now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        with self._lock:
            self._ahead_ns = self._clock.look(now_ns, wall_ns)
            in_flight = self._in_flight + self._event_streams
            if in_flight < self._threads:
                self._free_ns = now_ns
            slots[Slot.LOOP_BEAT_NS] = self._free_ns
            slots[Slot.IN_FLIGHT] = in_flight
            slots[Slot.COMPLETED] = self._ended
            slots[Slot.STARTED] = self._ended + in_flight
            slots[Slot.FAILED] = self._raised
            self._tallies.publish(slots, now_ns, 0)


class _CountedBody:
    """An iterable body that is counted as done when it ends or is closed, whichever comes first."""

    def __init__(self, body: Iterable[bytes], layer: Layer, exchange: _Exchange) -> None:
        self._body = body
        self._iterator: Iterator[bytes] = iter(body)
        self._layer = layer
        self._exchange = exchange
        self._open = True

    def __iter__(self) -> _CountedBody:
        return self

    def __next__(self) -> bytes:
        if self._layer.stopping:
            self.close()
            if self._exchange.tally is None:
                raise StopIteration  # a clean end: its client comes again
            raise ConnectionAbortedError("the replica is stopping")  # the client must see that it is cut
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException:
            self._exchange.has_failed = True
            raise

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                close = getattr(self._body, "close", None)
                if close is not None:
                    close()
            finally:
                self._layer._done(self._exchange)


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
