"""Spans: what a request spent its time on, for the parts of Headway that the app calls.

They are kept where Headway's environment names a folder for them, of requests alone: what a process does by itself has
no id by which somebody could ask. A request in which nothing is done that has a span leaves none of its own: the access
log says as much. Where nothing is kept, a span costs a look at a variable.
"""

from __future__ import annotations

import os
import random
import re
import sys
from contextvars import ContextVar
from time import monotonic_ns, time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any

from headway.context.asked import tell_worker
from headway.errors import HeadwayError
from headway.model.span import TRACE_VARIABLE, WAITED_MS, Value

if TYPE_CHECKING:
    from headway.context.span_log import SpanLog

SPANS_MAX = 500  # of one request; more are counted
_TEXT_MAX = 300
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Span:
    """One stretch of a request's time: from its making to `end`, or to the end of its `with` block."""

    __slots__ = ()

    @property
    def traceparent(self) -> str:
        """For what goes on within it elsewhere; empty: pass on what came."""
        return ""

    def set(self, **attributes: Value) -> None:
        """Say more of it."""

    def waited(self) -> None:
        """So far it was waiting for its turn."""

    def fail(self, reason: str | BaseException) -> None:
        """It came to nothing."""

    def end(self) -> None:
        """It is over; only the first time counts."""

    def __enter__(self) -> Span:
        """What begins within the block is part of it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


_NONE = Span()
_log: SpanLog | None = None
_service = os.environ.get("HEADWAY_SERVICE", "")
_replica = os.environ.get("HEADWAY_REPLICA", "")
_chance = random.Random()  # one of our own: what the app seeds would give each of its replicas the same ids
os.register_at_fork(after_in_child=_chance.seed)
_current: ContextVar[KeptSpan | None] = ContextVar("headway_span", default=None)


def span(name: str, kind: str = "internal", **attributes: Value) -> Span:
    """A stretch of the time of the request at work; kind: "call", "database", "cache" or "internal".

    In a `with` block, or ended by `end`. An error that leaves the block is its failure.
    """
    if _log is None:
        return _NONE
    worker = sys.modules.get("headway_worker.asked")
    asked = worker.current.get() if worker is not None else None
    if asked is None:
        tell_worker()
        return _NONE
    traced = asked.traced
    if type(traced) is not _Traced:
        traced = asked.traced = _Traced(asked)
    return traced.begin(name, kind, attributes)


class KeptSpan(Span):
    """One that is written down."""

    __slots__ = ("_attributes", "_began_ns", "_begin_ns", "_failure", "_kind", "_name", "_outer", "_parent", "id", "of")

    def __init__(self, of: _Traced, name: str, kind: str, attributes: dict[str, Value]) -> None:
        self.of = of
        self.id = _new_id()
        self._name, self._kind, self._attributes = name, kind, attributes
        outer = _under_way(_current.get())
        self._parent = outer.id if outer is not None and outer.of is of else of.id
        self._outer = outer
        self._failure: str | None = ""  # None: it is over
        self._begin_ns = time_ns()
        self._began_ns = monotonic_ns()

    @property
    def traceparent(self) -> str:
        return f"00-{self.of.trace}-{self.id}-{self.of.flags}"

    @property
    def is_over(self) -> bool:
        return self._failure is None

    def set(self, **attributes: Value) -> None:
        self._attributes.update(attributes)

    def waited(self) -> None:
        self._attributes[WAITED_MS] = round((monotonic_ns() - self._began_ns) / 1e6, 3)

    def fail(self, reason: str | BaseException) -> None:
        if self._failure is not None:
            self._failure = _text(reason) or "failed"

    def end(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self.of.write(
                self.id,
                self._parent,
                self._name,
                self._kind,
                self._begin_ns,
                monotonic_ns() - self._began_ns,
                failure,
                self._attributes,
            )

    def __enter__(self) -> Span:
        _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _current.get() is self:
            _current.set(_under_way(self._outer))
        if error is not None and (not self._failure or isinstance(error, HeadwayError)):
            self.fail(error)  # of ours the words say more than what was said of it before
        self.end()


def _under_way(span: KeptSpan | None) -> KeptSpan | None:
    """The innermost that is not over: blocks can end in another order than they began."""
    while span is not None and span.is_over:
        span = span._outer
    return span


class _Traced:
    """A request whose spans are kept. Told its end by the worker, it writes the service's own."""

    def __init__(self, asked: Any) -> None:
        carried = asked.carried()
        _, self.trace, self._parent, self.flags = carried.get("traceparent", f"-{_new_id()}{_new_id()}--01").split("-")
        self._request = carried.get("x-request-id", self.trace)
        self.id = _new_id()
        self._count = 0
        self._end_ns = 0
        now_ns = monotonic_ns()
        self._began_ns = asked.began_ns or now_ns
        self._begin_ns = time_ns() - (now_ns - self._began_ns)

    def begin(self, name: str, kind: str, attributes: dict[str, Value]) -> Span:
        self._count += 1
        return KeptSpan(self, name, kind, attributes) if self._count <= SPANS_MAX else _NONE

    def end(self, status: int) -> None:
        attributes: dict[str, Value] = {"http.response.status_code": status} if status > 0 else {}
        if self._count > SPANS_MAX:
            attributes["spans_left_out"] = self._count - SPANS_MAX
        failure = "" if 0 <= status < 500 else "broken off" if status < 0 else f"answered {status}"
        duration_ns = monotonic_ns() - self._began_ns
        self.write(self.id, self._parent, _service, "service", self._begin_ns, duration_ns, failure, attributes)

    def write(
        self,
        id_: str,
        parent: str,
        name: str,
        kind: str,
        begin_ns: int,
        duration_ns: int,
        failure: str,
        attributes: dict[str, Value],
    ) -> None:
        assert _log is not None
        document: dict[str, Any] = {
            "trace": self.trace,
            "span": id_,
            "parent": parent,
            "name": name[:_TEXT_MAX],
            "kind": kind,
            "begin_ns": begin_ns,
            "duration_ns": duration_ns,
            "replica": _replica,
        }
        if self._request != self.trace:
            document["request"] = self._request
        if failure:
            document["failure"] = failure
        if self.flags[1] in "02468ace":
            document["sampled"] = False
        if attributes:
            document["attributes"] = {
                key: _told(key, value) if isinstance(value, str) else value for key, value in attributes.items()
            }
        _log.add(document)


def _told(key: str, value: str) -> str:
    """A path is told without its query, which may hold secrets; so it is in the access log."""
    return (value.partition("?")[0] if key == "path" else value)[:_TEXT_MAX]


def _text(reason: str | BaseException) -> str:
    """Errors of others are told by their kind alone: their words can hold what is stored."""
    if isinstance(reason, HeadwayError):
        reason = f"{type(reason).__name__}: {reason.message}"
    elif isinstance(reason, BaseException):
        reason = type(reason).__name__
    return reason[:_TEXT_MAX]


def _new_id() -> str:
    return f"{_chance.getrandbits(64) or 1:016x}"


def _open_log() -> SpanLog | None:
    folder = os.environ.get(TRACE_VARIABLE)
    if not folder:
        return None
    from headway.context.span_log import SpanLog

    name = _UNSAFE.sub("_", _replica or f"process-{os.getpid()}")
    found = SpanLog(os.path.join(folder, f"{name}.jsonl"))
    worker = sys.modules.get("headway_worker.asked")
    if worker is not None:
        worker.at_end.append(found.flush)
    return found


_log = _open_log()
