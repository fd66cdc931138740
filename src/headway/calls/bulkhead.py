"""How many calls to one service may be under way in a process, so that a slow one leaves room for everything else.

The bound follows AIMD (additive increase, multiplicative decrease; Chiu and Jain, 1989): a deadline that is missed cuts
it, answers while it is in use widen it again. It never exceeds what is declared. Where threads serve requests it does
not exceed half of them either, for a thread that waits for a slow service serves nobody.

Above the bound a call waits a moment when places come back quickly enough to reach it within `WAIT_S`, as they do
from a service that is quick; else it is refused at once.

Pure: the time comes in.
"""

from __future__ import annotations

from headway.calls.window import Window

BOUND_MIN = 4  # a service that nobody else asks must be able to show that it is quick again
WAIT_S = 0.1
_CUT = 0.7
_FEW = 16.0  # with no more than that under way, a miss does not say that they were too many
_CUT_EVERY_S = 0.1  # calls that fail together are one reason
_SLOTS, _SLOT_S = 5, 0.1


def bound_max(declared: int, threads: int) -> int:
    """The most that a process may have under way; `threads` serve its requests, 0 for an event loop."""
    return min(declared, max(1, threads // 2)) if threads else declared


class Bulkhead:
    """The places of one process for calls to one service."""

    __slots__ = ("_bound", "_busy_s", "_cut_s", "_ended", "in_flight", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.in_flight = 0
        self._bound = float(most)
        self._cut_s = 0.0
        self._busy_s = 0.0  # since then there was always one under way
        self._ended = Window(_SLOTS, _SLOT_S)

    @property
    def bound(self) -> int:
        """How many may be under way now."""
        return int(self._bound)

    def enter(self, now_s: float) -> bool:
        """Take a place, if there is one."""
        if self.in_flight >= int(self._bound):
            return False
        if not self.in_flight:
            self._busy_s = now_s
        self.in_flight += 1
        return True

    def leave(self, now_s: float) -> bool:
        """Give a place back; whether somebody who waits may have it."""
        self.in_flight -= 1
        self._ended.add_first(now_s)
        return self.in_flight < int(self._bound)

    def waiters_max(self, now_s: float) -> int:
        """How many may wait for a place: as many as will have one in time, by how quickly they came back lately."""
        self._ended.turn(now_s)
        soon = int(self._ended.first * WAIT_S / (_SLOTS * _SLOT_S))
        # Before anything can have come back, nobody knows.
        return max(soon, self.bound) if now_s - self._busy_s < WAIT_S else soon

    def answered(self) -> None:
        """An answer came in time."""
        bound = self._bound
        if bound < self.most and 2 * self.in_flight >= bound:
            self._bound = min(float(self.most), bound + 1 / bound)

    def missed(self, now_s: float) -> None:
        """An answer did not come in time."""
        if now_s - self._cut_s >= _CUT_EVERY_S:
            self._cut_s = now_s
            least = float(min(BOUND_MIN, self.most))
            self._bound = max(least, min(self._bound, max(float(self.in_flight), _FEW)) * _CUT)
