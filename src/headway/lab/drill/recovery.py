"""When is a system itself again after a burst? When everything that starts from then on is answered in time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 1.0  # so long must all be well before it counts as over
WELL = 0.99  # of the requests in the window, answered in time
STAYS_WELL = 0.97  # of all that follow: a relapse is no recovery, one late answer of a busy machine is no relapse


@dataclass(frozen=True, slots=True)
class Slice:
    """Requests that started in a short time, from `start_s` after the end of the burst."""

    start_s: float
    duration_s: float
    offered: int
    ok: int


def recovered_s(slices: Sequence[Slice]) -> float | None:
    """Seconds from the burst's end until all answers are in time again; None: not while it was watched."""
    for number, first in enumerate(slices):
        window = [entry for entry in slices[number:] if entry.start_s < first.start_s + WINDOW_S - 1e-9]
        if first.start_s + WINDOW_S > slices[-1].start_s + slices[-1].duration_s + 1e-9:
            return None
        if first.ok >= first.offered * WELL and _share(window) >= WELL and _share(slices[number:]) >= STAYS_WELL:
            return first.start_s
    return None


def _share(slices: Sequence[Slice]) -> float:
    offered = sum(entry.offered for entry in slices)
    return sum(entry.ok for entry in slices) / offered if offered else 1.0
