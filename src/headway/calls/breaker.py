"""When a service is not asked at all for a while: a circuit breaker (Nygard, "Release It!").

A service that hangs costs everybody who asks it the whole of their patience. When half of the attempts of the last
seconds came to nothing, or nothing has come back for a while, calls fail at once. After a pause, which grows, one call
at a time is let through to see; when a few of them are answered, all are.

What counts as nothing: nobody there, a broken connection, garbage, a time-out that was long enough for an answer. A
refusal for want of room is none of it, for that is a service that works, and neither is an app's own answer, whatever
its status.

Pure: the time and chance come in.
"""

from __future__ import annotations

from typing import Literal

from headway.calls.window import Window

State = Literal["closed", "open", "half-open"]

FAILED_SHARE = 0.5
ATTEMPTS_MIN = 10  # in the window, before a share says anything
SILENT_MIN = 5  # attempts that failed since the last answer ...
SILENT_S = 1.0  # ... which was so long ago: a burst that is cut at once by a restart is not a sick service
PAUSE_S, PAUSE_MAX_S = 1.0, 5.0
PROBES = 3  # answered, one after the other, before all calls are let through
_CALM_S = 60.0  # closed for so long, the next pause is a short one again
_JITTER = 0.2
_SLOTS, _SLOT_S = 10, 1.0


class Breaker:
    """The breaker of one process for one service."""

    __slots__ = ("_answered_s", "_closed_s", "_pause_s", "_probes", "_probing", "_silent", "_window", "until_s")

    def __init__(self, now_s: float) -> None:
        self._window = Window(_SLOTS, _SLOT_S)  # answers and failures
        self._silent = 0  # failures since the last answer
        self._answered_s = self._closed_s = now_s
        self._pause_s = 0.0
        self._probes = 0  # answered since it was open
        self._probing = False
        self.until_s = 0.0  # open until then; 0: closed

    def state(self, now_s: float) -> State:
        """The word for it."""
        if not self.until_s:
            return "closed"
        return "open" if now_s < self.until_s else "half-open"

    def admits(self, now_s: float) -> bool:
        """Whether a call may be sent. When it is not closed, the call is a probe, ended by one of the others."""
        if not self.until_s:
            return True
        if now_s < self.until_s or self._probing:
            return False
        self._probing = True
        return True

    def answered(self, began_s: float, now_s: float) -> None:
        """An answer came, to an attempt that began at `began_s`."""
        self._silent = 0
        self._answered_s = now_s
        if not self.until_s:
            self._window.add_first(now_s)
        elif began_s >= self.until_s:  # not one of those that were under way when it opened
            self._probing = False
            self._probes += 1
            if self._probes >= PROBES:
                self.until_s = 0.0
                self._closed_s = began_s
                self._window.clear()

    def failed(self, began_s: float, now_s: float, chance: float) -> None:
        """Nothing came, to an attempt that began at `began_s`."""
        if self.until_s:
            if began_s >= self.until_s:
                self._open(now_s, chance)
            return
        if began_s < self._closed_s:
            return  # from before it was found to work again
        self._silent += 1
        window = self._window
        window.add_second(now_s)
        attempts = window.first + window.second
        is_sick = attempts >= ATTEMPTS_MIN and window.second >= FAILED_SHARE * attempts
        if is_sick or (self._silent >= SILENT_MIN and now_s - self._answered_s >= SILENT_S):
            if now_s - self._closed_s >= _CALM_S:
                self._pause_s = 0.0
            self._open(now_s, chance)

    def let_go(self) -> None:
        """A call ended that says nothing of the service: given up by its caller, or refused for want of room."""
        self._probing = False

    def _open(self, now_s: float, chance: float) -> None:
        self._pause_s = min(PAUSE_MAX_S, self._pause_s * 2 or PAUSE_S)
        self.until_s = now_s + self._pause_s * (1 - _JITTER * chance)
        self._probes = 0
        self._probing = False
