"""Whether a measurement had the machine to itself: what others used of its processors while it ran.

A benchmark beside somebody's tests measures those. It waits for a quiet machine as long as its patience lasts, measures
again what was disturbed, and says of the rest that it does not count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.stacks import family

_OTHERS_MAX = 0.15  # of a core
_QUIET_S = 0.5
_TIMES_MAX = 3
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
T = TypeVar("T")


@dataclass(slots=True)
class Patience:
    """How long to wait for others, in a whole section."""

    left_s: float

    def measure(self, call: Callable[[], T]) -> tuple[T, str]:
        """What `call` measures, and why it does not count; nothing when it does."""
        for _ in range(_TIMES_MAX):
            self._await_quiet()
            before = _Used.now()
            found = call()
            others = _Used.now().others_since(before)
            if others <= _OTHERS_MAX or self.left_s <= 0:
                break
        return found, f"machine: others used {others * 100:.0f} % of a core" if others > _OTHERS_MAX else ""

    def _await_quiet(self) -> None:
        while self.left_s > 0:
            before = _Used.now()
            time.sleep(_QUIET_S)
            others = _Used.now().others_since(before)
            if others <= _OTHERS_MAX:
                return
            self.left_s -= _QUIET_S


@dataclass(frozen=True, slots=True)
class _Used:
    """Processor time of all processes, and of this one with all that it started; differences count."""

    at_s: float
    all_s: float
    own_s: float

    @classmethod
    def now(cls) -> _Used:
        user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
        own_ticks = 0
        for pid in family(os.getpid()):
            with suppress(OSError):  # with those of its children that have ended
                own_ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return cls(time.monotonic(), (int(user) + int(nice) + int(system)) / _TICKS_PER_S, own_ticks / _TICKS_PER_S)

    def others_since(self, earlier: _Used) -> float:
        """Cores that others used on average."""
        used_s = (self.all_s - earlier.all_s) - (self.own_s - earlier.own_s)
        return max(0.0, used_s / (self.at_s - earlier.at_s))
