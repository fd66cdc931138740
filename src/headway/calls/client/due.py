"""The end of an attempt's time. What `asyncio.timeout` is, for half of its price: every call has one."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Due:
    """`with Due(seconds):` cancels what the task waits for after that time, and makes a TimeoutError of it."""

    __slots__ = ("_cancelling", "_handle", "_is_over", "_task", "_time_s")

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._handle = task.get_loop().call_later(self._time_s, self._end)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        # Of a task that somebody else cancels as well, the cancellation goes on.
        if (
            self._is_over
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()
