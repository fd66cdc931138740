"""Ends what was begun by SIGTERM and SIGHUP as by Ctrl-C: what was stopped, scaled or started is put right first.

A shell without job control starts `command &` with SIGINT ignored. Python then leaves it ignored, and so does asyncio:
raising SIGINT would do nothing. So the one who takes SIGINT is called, and where nobody does, KeyboardInterrupt raised.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Within it the main thread gets KeyboardInterrupt, or a running asyncio.Runner cancels its task."""
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


def _interrupt(_number: int, frame: FrameType | None) -> None:
    takes = signal.getsignal(signal.SIGINT)
    if callable(takes):
        takes(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt
