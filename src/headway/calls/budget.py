"""How many retries a process may send to a service: a share of its calls, so that they are never a load of their own.

A service that fails for want of strength gets weaker by retries: three tries a call are three times the load at the
worst moment. So of the calls of the last ten seconds a fifth may be repeated, as in Finagle's retry budgets and Envoy's
(and a tenth in the Google SRE book, chapter 21). The larger share costs a failing service 20 % more load at most, and
carries calls over a replica's death. A process with few calls may repeat one a second.

What was in the hands of a replica that died or hung breaks all at once, and once: such calls are no more than they
were, and each may be repeated one time beyond the share, out of a reserve that fills slowly.

Pure: the time comes in.
"""

from __future__ import annotations

from headway.calls.window import Window

SHARE = 0.2
FLOOR_PER_S = 1.0
WINDOW_S = 10
RESERVE, RESERVE_PER_S = 50.0, 5.0  # calls that a replica took along


class RetryBudget:
    """The budget of one process for one service."""

    __slots__ = ("_began_s", "_reserve", "_reserve_s", "_window")

    def __init__(self, now_s: float) -> None:
        self._window = Window(WINDOW_S, 1.0)  # calls and retries
        self._began_s = self._reserve_s = now_s
        self._reserve = RESERVE

    def called(self, now_s: float) -> None:
        """A call begins."""
        self._window.add_first(now_s)

    def take(self, now_s: float, *, is_broken: bool = False) -> bool:
        """Whether one more retry may be sent; it counts as sent then. `is_broken`: the first of a call whose connection
        was lost."""
        window = self._window
        window.turn(now_s)
        floor = FLOOR_PER_S * min(float(WINDOW_S), 1.0 + max(0.0, now_s - self._began_s))
        if window.second + 1 > max(SHARE * window.first, floor):
            return is_broken and self._take_reserve(now_s)
        window.add_second(now_s)
        return True

    def _take_reserve(self, now_s: float) -> bool:
        passed_s = max(0.0, now_s - self._reserve_s)
        self._reserve = min(RESERVE, self._reserve + passed_s * RESERVE_PER_S)
        self._reserve_s = now_s
        if self._reserve < 1:
            return False
        self._reserve -= 1
        return True
