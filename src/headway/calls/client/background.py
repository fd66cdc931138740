"""The event loop in a thread of its own that serves calls of code that is not asynchronous: one a process."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def block(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` in that loop, with the context of this thread, and wait for it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop or _start())
    try:
        return future.result()
    except BaseException:
        future.cancel()  # the thread was interrupted: nobody waits any more
        raise


def _start() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="headway: calls", daemon=True).start()
            _loop = loop
        return _loop


def _in_child() -> None:
    """The parent's thread is not here."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_in_child)
