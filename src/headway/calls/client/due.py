"""The end of an attempt's time. What `asyncio.timeout` is, for a fraction of its price: every call has one.

A timer of the event loop costs more than all else that is decided about a call. So those that are due late are looked
at by one timer for all, ten times a second while there are any, and end up to two tenths of a second late; only short
ones have their own.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from types import TracebackType

_TICK_S = 0.1
_OWN_S = 2.0  # shorter than that: a timer of its own


class Due:
    """`with dues.within(…):` cancels what the task waits for after that time, and makes a TimeoutError of it."""

    __slots__ = ("_cancelling", "_dues", "_handle", "_is_over", "_task", "_tick", "_time_s")

    def __init__(self, dues: Dues, time_s: float, now_s: float) -> None:
        self._dues = dues
        self._time_s = time_s
        self._tick = int((now_s + time_s) / _TICK_S) + 1
        self._is_over = False
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        dues = self._dues
        task = asyncio.current_task(dues.loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        if self._time_s < _OWN_S:
            self._handle = dues.loop.call_later(self._time_s, self.end)
        else:
            dues.add(self, self._tick)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        elif not self._is_over:
            self._dues.remove(self, self._tick)
        # Of a task that somebody else cancels as well, the cancellation goes on.
        if (
            self._is_over
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def end(self) -> None:
        """The time is over."""
        self._is_over = True
        self._task.cancel()


class Dues:
    """All of one event loop, by the tick of the clock at which they end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ticks: dict[int, set[Due]] = {}
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None

    def within(self, time_s: float, now_s: float) -> Due:
        """One that ends `time_s` seconds after `now_s` of the monotonic clock."""
        return Due(self, time_s, now_s)

    def add(self, due: Due, tick: int) -> None:
        """Look after it."""
        found = self._ticks.get(tick)
        if found is None:
            found = self._ticks[tick] = set()
        found.add(due)
        self._count += 1
        if self._handle is None:
            self._handle = self.loop.call_later(_TICK_S, self._look)

    def remove(self, due: Due, tick: int) -> None:
        """It ended before its time."""
        self._ticks[tick].discard(due)
        self._count -= 1

    def _look(self) -> None:
        now = int(monotonic() / _TICK_S)
        for tick in [tick for tick in self._ticks if tick <= now]:
            for due in self._ticks.pop(tick):
                self._count -= 1
                due.end()
        if self._count:
            self._handle = self.loop.call_later(_TICK_S, self._look)
        else:
            self._handle = None
            self._ticks.clear()
