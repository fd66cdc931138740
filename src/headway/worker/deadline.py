"""When nobody waits any more: the edge's wall clock held against this process's clock, without a jump dropping all.

Deadlines travel as moments of the wall clock, the only one that the edge can put into a header. A wall clock may be set
while requests are on their way, and then each of them looks hours late, or not late at all. So the worker watches how
far the wall clock is ahead of the monotonic one, which is never set, and trusts no deadline for a while after a step.
"""

from __future__ import annotations

import time

_STEP_NS = 1_000_000_000  # a clock that is only steered moves by far less between two looks
_DISTRUST_NS = 60_000_000_000  # longer than requests from before the step usually wait
NOTHING_IS_DUE = -(1 << 70)  # as an offset: no deadline is ever reached


class WallClock:
    """Looked at on each beat; in between, the monotonic clock and the last offset say what time it is."""

    def __init__(self) -> None:
        self._ahead_ns: int | None = None
        self._distrusted_until_ns: int | None = None

    def look(self, now_ns: int, wall_ns: int) -> int:
        """What to add to the monotonic clock to get the wall clock; NOTHING_IS_DUE while that is not to be trusted."""
        before_ns, self._ahead_ns = self._ahead_ns, wall_ns - now_ns
        if before_ns is not None and abs(self._ahead_ns - before_ns) > _STEP_NS:
            self._distrusted_until_ns = now_ns + _DISTRUST_NS
        if self._distrusted_until_ns is not None:
            if now_ns < self._distrusted_until_ns:
                return NOTHING_IS_DUE
            self._distrusted_until_ns = None
        return self._ahead_ns


def is_past(due_ms: int) -> bool:
    """Whether the wall clock itself says so; asked before a request is dropped, for it may have been set just now."""
    return time.time_ns() > due_ms * 1_000_000
