"""Finds the capacity of a system nobody knows yet: the rate doubles until answers no longer keep up, then it settles.

The next rate is a function of what was tried so far, so a search can be replayed from its history. A single bad second
happens on every machine: a rate that failed by little, or while the generator itself was short of a core, is tried
twice before it counts. What a short try carries may come out of an empty queue; only a longer one settles it. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

HOLDS = 0.95  # goodput of what was offered, at which a rate counts as carried
HOPELESS = 0.7  # below this no second try changes the verdict
NARROW = 1.2  # highest failed / highest carried rate, at which bisecting ends
RATE_MIN_PER_S = 0.5
RATE_MAX_PER_S = 20_000.0  # about twice what one generator makes with new connections
TRIES_MAX = 40
SETTLES_MAX = 3
STEP_DOWN = 0.9  # from a rate that did not settle

Wall = Literal["system", "generator"]


@dataclass(frozen=True, slots=True)
class Tried:
    """One short load: what was offered and what came back in time."""

    rate_per_s: float
    offered_per_s: float
    goodput_per_s: float
    limited: bool = False  # by the generator
    settling: bool = False

    @property
    def share(self) -> float:
        """Goodput of what was offered; 1 of nothing."""
        return self.goodput_per_s / self.offered_per_s if self.offered_per_s > 0 else 1.0

    @property
    def holds(self) -> bool:
        """Whether the rate was carried."""
        return self.share >= HOLDS


@dataclass(frozen=True, slots=True)
class Next:
    """What to try next."""

    rate_per_s: float
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Capacity:
    """The best goodput that lasted; `wall` says who could not do more. "generator": the system can do more."""

    per_s: float
    wall: Wall
    tried: tuple[Tried, ...] = ()

    @property
    def is_lower_bound(self) -> bool:
        return self.wall == "generator"


def next_try(history: Sequence[Tried], start_per_s: float) -> Next | None:
    """The rate to try now; None when the capacity is known."""
    if len(history) >= TRIES_MAX:
        return None
    if any(tried.settling for tried in history):
        return _next_settle([tried for tried in history if tried.settling])
    if not history:
        return Next(min(max(start_per_s, RATE_MIN_PER_S), RATE_MAX_PER_S))
    if (again := _unsure(history)) is not None:
        return Next(again)
    carried, failed = _carried(history), _failed(history)
    if not failed:
        return Next(carried[-1] * 2) if carried[-1] * 2 <= RATE_MAX_PER_S else _settle(history)
    below = [rate for rate in carried if rate < failed[0]]
    if not below:
        return Next(failed[0] / 2) if failed[0] / 2 >= RATE_MIN_PER_S else _settle(history)
    if failed[0] / below[-1] > NARROW:
        return Next(math.sqrt(failed[0] * below[-1]))
    return _settle(history)


def capacity(history: Sequence[Tried]) -> Capacity:
    """What the search found."""
    settled = [tried for tried in history if tried.settling] or list(history)
    best = max((tried.goodput_per_s for tried in settled), default=0.0)
    failed = _failed(history)
    # Without a failed rate the search ended at the most this generator is asked for.
    limits = [t for t in history if failed and t.rate_per_s == failed[0] and not t.settling]
    limited = (bool(history) and not failed) or (bool(limits) and all(t.limited for t in limits))
    return Capacity(best, "generator" if limited else "system", tuple(history))


def _of_rate(history: Sequence[Tried]) -> dict[float, list[Tried]]:
    found: dict[float, list[Tried]] = {}
    for tried in history:
        if not tried.settling:
            found.setdefault(tried.rate_per_s, []).append(tried)
    return dict(sorted(found.items()))


def _unsure(history: Sequence[Tried]) -> float | None:
    for rate, tries in _of_rate(history).items():
        if len(tries) == 1 and not tries[0].holds and (tries[0].limited or tries[0].share >= HOPELESS):
            return rate
    return None


def _carried(history: Sequence[Tried]) -> list[float]:
    return [rate for rate, tries in _of_rate(history).items() if any(tried.holds for tried in tries)]


def _failed(history: Sequence[Tried]) -> list[float]:
    return [rate for rate, tries in _of_rate(history).items() if not any(tried.holds for tried in tries)]


def _settle(history: Sequence[Tried]) -> Next | None:
    best = max(tried.goodput_per_s for tried in history)
    return Next(best, settling=True) if best >= RATE_MIN_PER_S else None


def _next_settle(settled: Sequence[Tried]) -> Next | None:
    last = settled[-1]
    if last.holds or len(settled) >= SETTLES_MAX:
        return None
    rate = last.rate_per_s * STEP_DOWN
    return Next(rate, settling=True) if rate >= RATE_MIN_PER_S else None
