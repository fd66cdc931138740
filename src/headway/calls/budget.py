"""How many retries a process may send to a service: a share of its calls, so that they are never a load of their own.

A service that fails for want of strength gets weaker by retries: three tries a call are three times the load at the
worst moment. So of the calls of the last ten seconds a fifth may be repeated, as in Finagle's retry budgets and Envoy's
(and a tenth in the Google SRE book, chapter 21). The larger share costs a failing service 20 % more load at most, and
carries calls over a replica's death. A process with few calls may repeat one a second.

Pure: the time comes in.
"""

from __future__ import annotations

from headway.calls.window import Window

SHARE = 0.2
FLOOR_PER_S = 1.0
WINDOW_S = 10


class RetryBudget:
    """The budget of one process for one service."""

    __slots__ = ("_began_s", "_window")

    def __init__(self, now_s: float) -> None:
        self._window = Window(WINDOW_S, 1.0)  # calls and retries
        self._began_s = now_s

    def called(self, now_s: float) -> None:
        """A call begins."""
        self._window.add_first(now_s)

    def take(self, now_s: float) -> bool:
        """Whether one more retry may be sent; it counts as sent then."""
        window = self._window
        window.turn(now_s)
        floor = FLOOR_PER_S * min(float(WINDOW_S), 1.0 + max(0.0, now_s - self._began_s))
        if window.second + 1 > max(SHARE * window.first, floor):
            return False
        window.add_second(now_s)
        return True
