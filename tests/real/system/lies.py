"""The costs app in a process that tells its controller what is not so: what stands in the file `says` beside it.

`nothing`: its counters stand still. `late`: they move on every 0.8 s alone. `no time`: no request has ever taken any.
`tomorrow`: the wall clock of the process is a day ahead. No file: the truth.
"""

from __future__ import annotations

import time
from pathlib import Path

from costs import app
from headway_worker.tally import Tallies  # the name under which the worker has itself

__all__ = ["app"]

LATE_NS = 800_000_000
DAY_NS = 86_400_000_000_000

_says = Path(__file__).with_name("says")
_true_publish, _true_time_ns = Tallies.publish, time.time_ns
_last_ns = 0


def _publish(self: Tallies, slots: memoryview, at_ns: int, lag_ns: int) -> None:
    global _last_ns
    what = _says.read_text() if _says.exists() else ""
    time.time_ns = (lambda: _true_time_ns() + DAY_NS) if what == "tomorrow" else _true_time_ns
    if what == "nothing" or (what == "late" and at_ns < _last_ns + LATE_NS):
        return
    if what == "no time":
        for tally in self.classes:
            tally.service_ns = 0
    _last_ns = at_ns
    _true_publish(self, slots, at_ns, lag_ns)


Tallies.publish = _publish
