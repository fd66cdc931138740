"""Counts of the last seconds, as sums over a few slots that are forgotten one by one. Pure: the time comes in."""

from __future__ import annotations


class Window:
    """Two kinds of events, counted over the last `slots` times `slot_s` seconds."""

    __slots__ = ("_at", "_first", "_per_s", "_second", "_slot", "first", "second")

    def __init__(self, slots: int, slot_s: float) -> None:
        self._per_s = 1 / slot_s
        self._first = [0] * slots
        self._second = [0] * slots
        self._at = self._slot = 0
        self.first = 0  # the sums, as of the last `turn`
        self.second = 0

    def turn(self, now_s: float) -> None:
        """Forget what is too old. A clock that goes back changes nothing."""
        at = int(now_s * self._per_s)
        slots = len(self._first)
        if at > self._at:
            for passed in range(max(self._at + 1, at - slots + 1), at + 1):
                slot = passed % slots
                self.first -= self._first[slot]
                self.second -= self._second[slot]
                self._first[slot] = self._second[slot] = 0
            self._at = at
            self._slot = at % slots

    def add_first(self, now_s: float) -> None:
        """One of the first kind."""
        at = int(now_s * self._per_s)
        if at != self._at:
            self.turn(now_s)
        self._first[self._slot] += 1
        self.first += 1

    def add_second(self, now_s: float) -> None:
        """One of the second kind."""
        at = int(now_s * self._per_s)
        if at != self._at:
            self.turn(now_s)
        self._second[self._slot] += 1
        self.second += 1

    def clear(self) -> None:
        """Forget everything."""
        self._first = [0] * len(self._first)
        self._second = [0] * len(self._second)
        self.first = self.second = 0
