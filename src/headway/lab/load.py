"""Measures a system by a load that does not wait for it: what got through in time, what was refused, what failed.

    result = load(LoadPlan("http://127.0.0.1:8000/", rate_per_s=200, duration_s=10, slo_s=0.25))

Requests start at moments fixed beforehand (open loop) and every latency counts from the intended start to the last byte
of the answer: a request that had to wait, in the system or in this generator, is not flattered.
"""

from __future__ import annotations

from collections.abc import Callable

from headway.lab.engine import Engine
from headway.lab.interrupt import run
from headway.lab.outcome import LoadResult, Progress
from headway.lab.plan import LoadPlan, burst, scheduled
from headway.lab.preflight import allow_connections, reach
from headway.lab.report import render
from headway.lab.target import Request, parse_target, wire_request

__all__ = [
    "Interrupted",
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


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a load; `result` is what had been measured until then."""

    def __init__(self, result: LoadResult) -> None:
        super().__init__()
        self.result = result


def load(plan: LoadPlan, on_progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """`run_load` for callers without an event loop. Interrupted by Ctrl-C, it raises Interrupted with its figures."""
    engines: list[Engine] = []

    async def whole() -> LoadResult:
        engines.append(await prepare(plan, on_progress))
        return await engines[0].run()

    try:
        return run(whole())
    except KeyboardInterrupt as error:
        found = engines[0].so_far() if engines else None
        if found is None:
            raise
        raise Interrupted(found) from error
