"""Wakes the event loop at a moment, within a fraction of a millisecond and without spinning.

The loop's own timers count whole milliseconds: a request would start up to one late, which is more than the answers of
a fast system take, or the loop would have to spin and take the core away from what is measured. Linux has a timer that
is a file; where there is none, the loop's own timers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
# Moments closer than this are served by one waking: it bounds what wakings cost, and is the precision promised.
_APART_S = 0.0001


class Alarm:
    """Calls `ring` at the moment last set (`time.monotonic` seconds), in the event loop that made it."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._fd = -1
        if self._libc is not None:
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            self._setting = ctypes.create_string_buffer(struct.calcsize("4l"))
            self._loop.add_reader(self._fd, self._rung)

    def set(self, moment_s: float) -> None:
        """Ring at `moment_s`, or as soon as the loop has done what is ready when that is past."""
        if self._libc is None or self._fd < 0:
            self._timer = self._loop.call_later(max(0.0, moment_s - time.monotonic()), self._ring)
            return
        soonest_s = max(moment_s, time.monotonic() + _APART_S)
        seconds = int(soonest_s)
        # No interval, one expiry: {interval s, ns}, {expiry s, ns}.
        struct.pack_into("4l", self._setting, 0, 0, 0, seconds, int((soonest_s - seconds) * 1e9))
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, self._setting, None)

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):  # set anew since it expired
            os.read(self._fd, 8)
            self._ring()
