"""Measures a system by a load that does not wait for it: what got through in time, what was refused, what failed.

    result = load(LoadPlan("http://127.0.0.1:8000/", rate_per_s=200, duration_s=10, slo_s=0.25))

Requests start at moments fixed beforehand (open loop) and every latency counts from the intended start to the last byte
of the answer: a request that had to wait, in the system or in this generator, is not flattered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

from headway.lab.engine import Engine
from headway.lab.outcome import LoadResult, Progress
from headway.lab.plan import LoadPlan, burst, scheduled
from headway.lab.preflight import allow_connections, reach
from headway.lab.report import render
from headway.lab.target import Request, parse_target, wire_request

__all__ = [
    "LoadPlan",
    "LoadResult",
    "Progress",
    "Request",
    "burst",
    "load",
    "prepare",
    "render",
    "run_load",
    "scheduled",
]


async def prepare(plan: LoadPlan, on_progress: Callable[[Progress], None] | None = None) -> Engine:
    """Check everything that can be wrong before the first request, and make the engine that will run the plan."""
    target = parse_target(plan.url)
    for request in plan.requests:
        wire_request(request, target, keep=True)
    connections_max = allow_connections(plan)
    return Engine(plan, await reach(plan, target), connections_max, on_progress)


async def run_load(plan: LoadPlan, on_progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """Run `plan` in this event loop (on uvloop it carries three times as much) and sum up.

    Ends at the latest `deadline_s` and a few seconds after the last request was due. `on_progress` is called twice a
    second. Raises a HeadwayError before the first request when the target or this machine cannot take the load.
    """
    engine = await prepare(plan, on_progress)
    return await engine.run()


def load(plan: LoadPlan, on_progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """`run_load` for callers without an event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_load(plan, on_progress))
