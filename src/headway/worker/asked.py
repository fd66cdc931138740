"""What is known of the request that the app is working on, for the parts of Headway that the app calls.

They find this module by its name among those loaded, and say by `is_used` that somebody asks: until then no request
pays for it. A contextvar, so that tasks and threads of a request share what is theirs.
"""

from __future__ import annotations

from contextvars import ContextVar

is_used = False


class Asked:
    """One request. `retry_after_s` is set when the app was told to come again: a 500 then goes out as 503."""

    __slots__ = ("due_ns", "retry_after_s")

    def __init__(self, due_ns: int) -> None:
        self.due_ns = due_ns  # on the monotonic clock: after that nobody waits for the answer
        self.retry_after_s = 0

    def carried(self) -> dict[str, str]:
        """Headers that go with each call made for this request."""
        return {}


current: ContextVar[Asked | None] = ContextVar("headway_asked", default=None)
NEVER_DUE_NS = 1 << 62


def begin(due_ms: int, ahead_ns: int) -> Asked:
    """Take note of a request; `due_ms` by the wall clock, which is `ahead_ns` of the monotonic one."""
    due_ns = due_ms * 1_000_000 - ahead_ns
    asked = Asked(due_ns if due_ns < NEVER_DUE_NS else NEVER_DUE_NS)
    current.set(asked)
    return asked


def come_again(retry_after_s: int) -> None:
    """Somebody refuses this request for want of room: if the app does not handle it, the client hears so."""
    asked = current.get()
    if asked is not None:
        asked.retry_after_s = retry_after_s
