"""Whether a process that tells of itself from time to time has been silent for too long."""

from __future__ import annotations

from dataclasses import dataclass

_LATE_S = 2.0


@dataclass(slots=True)
class Silence:
    """Of one process, as its watcher sees it. All times are of one monotonic clock, in seconds.

    A watcher that was itself not running (a machine that slept, a whole system stopped by a signal) looks late; what
    nobody could say or hear meanwhile is not held against anyone.
    """

    limit_s: float
    begin_s: float = 0.0

    def end(self, now_s: float) -> None:
        """It told of itself, or was just started."""
        self.begin_s = now_s

    @property
    def next_s(self) -> float:
        """When it is too long, if it stays silent: look then."""
        return self.begin_s + self.limit_s

    def is_too_long(self, now_s: float) -> bool:
        """Whether it is; looked at in time, for a late look begins anew."""
        late_s = now_s - self.next_s
        if late_s > _LATE_S:
            self.begin_s = now_s
        return 0 <= late_s <= _LATE_S
