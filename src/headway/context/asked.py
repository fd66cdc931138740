"""What the worker around this app knows of the request at work: until when somebody waits for its answer.

The worker is another package, in the same process or not there at all; it is found by its name among the loaded ones.
"""

from __future__ import annotations

import sys
import time


def patience_s(wait_s: float) -> float:
    """How long to wait at most: for no longer than somebody waits for the answer to this request."""
    worker = sys.modules.get("headway_worker.asked")
    asked = worker.current.get() if worker is not None else None
    return wait_s if asked is None else max(0.0, min(wait_s, asked.due_ns / 1e9 - time.monotonic()))


def threads() -> int:
    """How many threads serve the requests of this process; 0 where an event loop does, or nobody."""
    worker = sys.modules.get("headway_worker.asked")
    return worker.threads if worker is not None else 0


def no_retry() -> None:
    """What the request at work needs has been tried as often as may be, and nobody above it is to try again."""
    worker = sys.modules.get("headway_worker.asked")
    if worker is not None:
        worker.no_retry()


def tell_worker() -> None:
    """Have the worker take note of requests, for `patience_s` and for errors that pass."""
    worker = sys.modules.get("headway_worker.asked")
    if worker is not None:
        worker.is_used = True  # type: ignore[attr-defined]


def leave_request() -> None:
    """What goes on here is not for the request at work any more: it has no deadline, and its errors are nobody's."""
    worker = sys.modules.get("headway_worker.asked")
    if worker is not None:
        worker.current.set(None)


def carried() -> dict[str, str]:
    """Headers of the request at work that go with each call made for it; empty outside of a request."""
    worker = sys.modules.get("headway_worker.asked")
    asked = worker.current.get() if worker is not None else None
    return {} if asked is None else asked.carried()


def has_caller_gone() -> bool:
    """Whether nobody waits for the answer to the request at work any more."""
    return patience_s(1.0) <= 0.0
