"""The loads of the benchmark on one stack: a rate, the wait until it is itself again, and what it can carry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import count

import uvloop

from bench.overload_stacks import DEADLINE_S, SLO_S, Running
from headway.lab.drill.loads import Loads
from headway.lab.load import LoadPlan, LoadResult, load, scheduled
from headway.lab.plan import Connections
from headway.lab.schedule import Piece

# Tried where the first rate is too much already.
_RATES_DOWN = (200.0, 130.0, 80.0, 40.0)
_KEEPS_UP = 0.9
_IN_VAIN_MAX = 2  # one bad moment of the machine is no capacity
# Before and after what is judged. The first second is a burst (a row of its own): what it left in the queue is served
# while those who come are refused, which in a short load would pass for a loss. The end is as long as an SLO.
_LEAD_S, _TAIL_S = 1.0, 0.25
_seeds = count(1)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    own_rounds: int  # of the rows that are about Headway alone
    step_s: float
    try_s: float
    rates_up: tuple[float, ...]  # upwards until it gets no better; an app of 2 ms carries 500/s at most
    limits: tuple[int, ...]  # fixed ones that adapting is compared with


FULL = Size(
    rounds=5,
    own_rounds=5,
    step_s=2.5,
    try_s=1.5,
    rates_up=(320.0, 380.0, 440.0, 490.0),
    limits=(3, 6, 12, 24, 48, 96),
)
QUICK = Size(rounds=1, own_rounds=1, step_s=1.2, try_s=1.0, rates_up=(360.0, 430.0, 490.0), limits=(3, 12, 48))


def steady(stack: Running, rate_per_s: float, duration_s: float, connections: Connections = "new") -> LoadResult:
    """A load at a rate, whose goodput is that of `duration_s` in its middle.

    At the end nobody comes any more, and what waited is served in time: of a short load that would be counted as more
    than the stack can carry.
    """
    pieces = [Piece(lasting_s, rate_per_s, rate_per_s) for lasting_s in (_LEAD_S, duration_s, _TAIL_S)]
    plan = scheduled(stack.url, pieces, slo_s=SLO_S, deadline_s=DEADLINE_S, connections=connections, seed=next(_seeds))
    result = load(plan)
    return replace(result, goodput_per_s=result.pieces[1].goodput_per_s)


def warm(stack: Running) -> None:
    """A little load, so that a stack's first requests are not what is measured."""
    load(LoadPlan(stack.url, 100.0, 0.3, deadline_s=DEADLINE_S))


def calm(stack: Running, timeout_s: float = 1.0) -> bool:
    """Whether it answers in time again, soon enough."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Loads(stack.url, SLO_S, DEADLINE_S).calm(timeout_s))


def capacity(stack: Running, size: Size) -> float:
    """The best goodput of a few rates, a second; 0 when none of them could be measured."""
    best_per_s = 0.0
    for rates in (size.rates_up, _RATES_DOWN):
        in_vain = 0
        for rate_per_s in rates:
            result = steady(stack, rate_per_s, size.try_s)
            calm(stack)
            found_per_s = 0.0 if result.generator.bottleneck else result.goodput_per_s
            in_vain = 0 if found_per_s > best_per_s else in_vain + 1
            best_per_s = max(best_per_s, found_per_s)
            if in_vain == _IN_VAIN_MAX:
                break
        if best_per_s >= _KEEPS_UP * rates[0]:
            break
    return best_per_s
