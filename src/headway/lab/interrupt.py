"""Ends what was begun by SIGTERM and SIGHUP as by Ctrl-C: what was stopped, scaled or started is put right first.

A shell without job control starts `command &` with SIGINT ignored. Python then leaves it ignored, and so does asyncio:
raising SIGINT would do nothing. So the one who takes SIGINT is called; where nobody does, the task that `run` runs is
cancelled, as asyncio would do it, and what runs without an event loop gets KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import uvloop

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Run:
    """An event loop of the main thread, and what it runs."""

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any] | None = None
    is_asked: bool = False


_runs: list[_Run] = []


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Within it either signal interrupts the main thread, or cancels what `run` runs there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's alone
        return
    # `nohup` has SIGHUP ignored so that the end of a terminal ends nothing.
    numbers = [n for n in _NUMBERS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    former = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it in an event loop of its own; an interrupt cancels it, lets it end in order, and is then raised."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        this = _Run(runner.get_loop())

        async def known() -> T:
            this.task = asyncio.current_task()
            return await main

        if threading.current_thread() is threading.main_thread():
            _runs.append(this)
        try:
            return runner.run(known())
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            # A connection cut off in the middle of its handshake is what was asked for, and nothing to be told.
            this.loop.set_exception_handler(lambda _loop, _context: None)
            if this.is_asked:
                raise KeyboardInterrupt from error
            raise
        finally:
            if this in _runs:
                _runs.remove(this)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    takes = signal.getsignal(signal.SIGINT)
    if callable(takes):
        takes(signal.SIGINT, frame)
        return
    this = _runs[-1] if _runs else None
    if this is None or this.task is None or this.is_asked:
        raise KeyboardInterrupt
    this.is_asked = True
    this.task.cancel()
    this.loop.call_soon_threadsafe(lambda: None)  # wakes it from its wait
