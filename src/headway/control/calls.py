"""What other threads ask of the ticking thread: a queue of calls, each carried out once, or by nobody.

Whoever asks waits, but not for ever. A call that nobody waits for any more must not be carried out later: a `scale`
that was answered by "busy" would come as a surprise.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from headway.errors import HeadwayError

BEGUN_WITHIN_S = 30.0
DONE_WITHIN_S = 60.0  # once begun: a reload of the edge takes seconds on a busy machine


class Calls:
    """Asked by any thread, carried out by one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Calls that nobody has begun."""
        return self._queue.qsize()

    def ask(self, function: Callable[[], Any], begun_within_s: float = BEGUN_WITHIN_S) -> Any:
        """Have `function` carried out by the thread that serves, and give its result.

        HeadwayError when that thread is stuck: then it was not carried out, and will not be.
        """
        future: Future[Any] = Future()
        self._queue.put((function, future))
        wait([future], begun_within_s)
        if future.cancel():
            raise HeadwayError("the controller is busy: nothing was changed", hint="headway explain controller")
        # Begun at the last moment, or done: what comes of it is the answer.
        if not wait([future], DONE_WITHIN_S).done:
            raise HeadwayError("the controller is still at it", hint="see what came of it: headway explain controller")
        return future.result()

    def serve(self, for_s: float) -> None:
        """Carry out what is asked in the next `for_s`.

        What waits already has its turn even where no time is left, or a loop that is always late would be deaf.
        """
        until_s, overdue = time.monotonic() + for_s, self.waiting
        while overdue > 0 or time.monotonic() < until_s:
            overdue -= 1
            try:
                function, future = self._queue.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue  # whoever asked has given up, and was told so
            try:
                future.set_result(function())
            except BaseException as error:  # the caller's error: it is raised where the call was made
                future.set_exception(error)
