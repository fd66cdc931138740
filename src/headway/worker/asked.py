"""What is known of the request that the app is working on, for the parts of Headway that the app calls.

They find this module by its name among those loaded, and say by `is_used` that somebody asks: until then no request
pays for it. A contextvar, so that tasks and threads of a request share what is theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic_ns
from typing import Protocol

from . import carried

is_used = False
threads = 0  # that serve requests; 0: an event loop does
at_end: list[Callable[[], None]] = []  # called once, when the worker ends in order


class Traced(Protocol):
    """Keeps what the request spends its time on."""

    def end(self, status: int) -> None:
        """The app is done with it; what its answer was, 0 or less when there was none."""


NO_RETRY = ("x-headway-answered", "no-retry")
PASSED_ON = frozenset({502, 503, 504})  # statuses by which an app says that something behind it fails


class Asked:
    """One request. `retry_after_s` is set when the app was told to come again: a 500 then goes out as 503."""

    __slots__ = ("_carried", "began_ns", "due_ns", "has_no_retry", "headers", "retry_after_s", "traced")

    def __init__(self, due_ns: int, headers: carried.Headers = (), began_ns: int = 0) -> None:
        self.due_ns = due_ns  # on the monotonic clock: after that nobody waits for the answer
        self.headers = headers  # as the server made them
        self.began_ns = began_ns  # on the monotonic clock; 0: not known
        self.retry_after_s = 0
        self.has_no_retry = False  # what failed behind it has been tried as often as may be
        self.traced: Traced | None = None
        self._carried: dict[str, str] | None = None

    def carried(self) -> dict[str, str]:
        """Headers that go with each call made for this request."""
        found = self._carried
        if found is None:
            found = self._carried = carried.read(self.headers)
        return dict(found)

    def told_to_come_again(self) -> list[tuple[str, str]]:
        """Headers of that 503."""
        when = ("retry-after", str(self.retry_after_s))
        return [when, NO_RETRY] if self.has_no_retry else [when]


current: ContextVar[Asked | None] = ContextVar("headway_asked", default=None)
NEVER_DUE_NS = 1 << 62


def begin(due_ms: int, ahead_ns: int, headers: carried.Headers = (), began_ns: int = 0) -> Asked:
    """Take note of a request; `due_ms` by the wall clock, which is `ahead_ns` of the monotonic one."""
    due_ns = due_ms * 1_000_000 - ahead_ns
    asked = Asked(due_ns if due_ns < NEVER_DUE_NS else NEVER_DUE_NS, headers, began_ns)
    current.set(asked)
    return asked


def stays(headers: carried.Headers) -> Asked | None:
    """Take note of what stays open, a WebSocket or an event stream, where somebody asks: its end is due never."""
    if not is_used:
        return None
    asked = Asked(NEVER_DUE_NS, headers, monotonic_ns())
    current.set(asked)
    return asked


def left(asked: Asked | None, status: int) -> None:
    """The app is done with a request; what its answer was, 0 or less when there was none."""
    if asked is not None and asked.traced is not None:
        asked.traced.end(status)


def come_again(retry_after_s: int, has_no_retry: bool = False) -> None:
    """Somebody refuses this request for want of room: if the app does not handle it, the client hears so.

    With `has_no_retry` whoever called hears as well that a retry has no point.
    """
    asked = current.get()
    if asked is not None:
        asked.retry_after_s = retry_after_s
        asked.has_no_retry = asked.has_no_retry or has_no_retry


def no_retry() -> None:
    """What this request needs has been tried as often as may be. If the app passes its failure on, that is told too."""
    asked = current.get()
    if asked is not None:
        asked.has_no_retry = True


def ended() -> None:
    """The worker ends: whoever has something left to write down does it now."""
    while at_end:
        with contextlib.suppress(Exception):  # nothing must keep a worker from its end
            at_end.pop()()
