"""What the load generator itself got of a core: how long it ran, and how long it was ready to run and had to wait.

Both make it late, and the remedies differ. One that ran all the time needs a lower rate; one that waited needs a core
of its own, for others (perhaps the system under load) have taken it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Self

# Of the thread that reads it: time run, time waited on a run queue, both in nanoseconds, and how often it ran.
_SCHEDSTAT = "/proc/thread-self/schedstat"


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Readings of this thread, in seconds from anywhere; their differences count."""

    ran_s: float
    waited_s: float  # 0 where the system does not tell

    @classmethod
    def now(cls) -> Self:
        """Read for the calling thread."""
        try:
            with open(_SCHEDSTAT, "rb") as file:
                waited_s = int(file.read().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # no Linux, or a kernel without it
            waited_s = 0.0
        return cls(time.thread_time(), waited_s)

    def since(self, earlier: CoreTime) -> CoreTime:
        """What was used between two readings."""
        return CoreTime(self.ran_s - earlier.ran_s, self.waited_s - earlier.waited_s)
