"""Rows about Headway alone: the worst overload, what follows it, an app that turns slow, who is served, the price."""

from __future__ import annotations

import asyncio
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import uvloop

from bench.edge_cost import wrk
from bench.overload_load import FULL, Size, calm, capacity, steady, warm
from bench.overload_sample import Sample, cell, refused, sample_of, served, share, void_of
from bench.overload_stacks import APP, DEADLINE_S, DECLARATION, SLO_S, Peer, Running, generator_core, running
from bench.stacks import headway
from headway.lab.drill.findings import Recovery
from headway.lab.drill.loads import Loads
from headway.lab.load import LoadPlan, Request, load, scheduled
from headway.lab.schedule import Piece
from headway.process.machine import available_cores

TEXT = """Headway alone, medians of {rounds} rounds:

| what | outcome |
|---|---|
{rows}"""

_TIMES = 10
# An app that turns slow: how it is paced from then on.
SLOWER = {"3x the processor time": {"cpu": 0.006}, "10x the waiting": {"wait": 0.1}}
# Of what the app carried before it turned slow, which this generator can make beside the balancer.
_SLOWER_TIMES = 6
_BEFORE_S, _ADAPTING_S, _JUDGED_S = 1.0, 3.0, 3.0
_SETTLED_S = 1.0
_WATCHED_S = 5.0
_HIGH_LIMIT = 1024
_GENERATOR_MOST = 0.7  # of its core, at 50x: above it the load itself may be what is measured
_UNSATURATED = 8  # connections of `wrk`, fewer than the limit a replica begins with: no overload
_COST_S = 2


def measured(size: Size = FULL) -> str:
    """Measure all of it; the section in Markdown."""
    if available_cores() < 2:
        return "Not measured: it needs two cores, one for the worker and one for the load."
    with generator_core() as cores:
        carried = []
        for _ in range(min(3, size.own_rounds)):
            with running(cores) as stack:
                warm(stack)
                carried.append(capacity(stack, size))
        return run(size, cores, statistics.median(carried))


def run(size: Size, cores: tuple[int, ...], capacity_per_s: float) -> str:
    """All rows, in Markdown."""
    rows: list[tuple[str, Callable[[], str]]] = [
        ("50x, an app of 20 ms of processor time", lambda: _fifty(size, cores)),
        (
            "3 s of 10x, then 0.7x, an app of 8 ms: until everything is in time again",
            lambda: _after(size, cores),
        ),
        *(
            (
                f"at {_SLOWER_TIMES}x the app turns to {what}: goodput from 3 s on",
                functools.partial(_slower, size, cores, capacity_per_s, change),
            )
            for what, change in SLOWER.items()
        ),
        ("5x, a tenth of it `critical_plus`", lambda: _critical(size, cores, capacity_per_s)),
        (
            "no overload, an app that does nothing: requests/s, adapting against a high fixed `limit`",
            lambda: _cost(size, cores),
        ),
    ]
    lines = []
    for what, measure in rows:
        outcome = measure()
        print(f"  {what}: {outcome}", flush=True)
        lines.append(f"| {what} | {outcome} |")
    return TEXT.format(rounds=size.own_rounds, rows="\n".join(lines))


def _declared(text: str) -> Peer:
    """Headway with these lines in its declaration."""

    @contextmanager
    def start() -> Iterator[str]:
        with headway(APP, text) as stack:
            yield stack.url

    return Peer(start, balancer=True, abrupt=False)


def _fifty(size: Size, cores: tuple[int, ...]) -> str:
    """A slower app, so that this generator can make fifty times as much as it carries."""
    samples, best_per_s = [], 0.0
    for _ in range(size.own_rounds):
        with running(cores) as stack:
            stack.pace(cpu=0.02)
            best_per_s = best_per_s or max(
                steady(stack, rate, size.try_s + 1).goodput_per_s for rate in (35.0, 45.0, 60.0)
            )
            calm(stack)
            result = steady(stack, 50 * best_per_s, size.step_s)
            sample = sample_of(result)
            if result.generator.cpu_share > _GENERATOR_MOST and not sample.void:
                sample = replace(sample, void=f"generator: used {result.generator.cpu_share:.0%} of its core")
            samples.append(sample)

    def text(good: Sequence[Sample]) -> str:
        return f"{share(good, best_per_s)} of {best_per_s:.0f}/s; served {served(good)}, refused p99 {refused(good)}"

    return cell(samples, text)


def _after(size: Size, cores: tuple[int, ...]) -> str:
    """A slower app again: seconds of ten times 450 requests leave the balancer too little of the generator's core."""
    found: list[Recovery] = []
    capacity_per_s = 0.0
    for _ in range(size.own_rounds):
        with running(cores) as stack:
            stack.pace(cpu=0.008)
            capacity_per_s = capacity_per_s or max(
                steady(stack, rate, size.try_s).goodput_per_s for rate in (80.0, 100.0, 120.0)
            )
            _warm(stack, capacity_per_s)
            loads = Loads(stack.url, SLO_S, DEADLINE_S)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rates = (_TIMES * capacity_per_s, 3.0, 0.7 * capacity_per_s)
                found.append(runner.run(loads.burst_then(*rates, _WATCHED_S)))
    good = [entry for entry in found if not entry.generator_was_short]
    if len(good) * 2 < len(found):
        return "void (generator)"
    times_s = [entry.recovered_s if entry.recovered_s is not None else float("inf") for entry in good]
    middle_s = statistics.median_high(times_s)
    return f"not within {_WATCHED_S:g} s" if middle_s == float("inf") else f"{middle_s:.2f} s"


def _slower(size: Size, cores: tuple[int, ...], capacity_per_s: float, change: dict[str, float]) -> str:
    """Adapting to what nobody foresaw, against the fixed limit that one would have chosen had one foreseen it."""
    rate_per_s = _SLOWER_TIMES * capacity_per_s
    adapted, best_per_s, best_limit = [], 0.0, 0
    for _ in range(size.own_rounds):
        with running(cores) as stack:
            _warm(stack, capacity_per_s)
            stack.pace(after_s=_BEFORE_S, **change)
            pieces = [Piece(lasting_s, rate_per_s, rate_per_s) for lasting_s in (_BEFORE_S, _ADAPTING_S, _JUDGED_S)]
            result = load(scheduled(stack.url, pieces, slo_s=SLO_S, deadline_s=DEADLINE_S))
            if not void_of(result):
                adapted.append(result.pieces[-1].goodput_per_s)
    for limit in size.limits:
        with running(cores, _declared(f"{DECLARATION}limit = {limit}\n")) as stack:
            stack.pace(**change)
            pieces = [Piece(lasting_s, rate_per_s, rate_per_s) for lasting_s in (_SETTLED_S, _JUDGED_S)]
            result = load(scheduled(stack.url, pieces, slo_s=SLO_S, deadline_s=DEADLINE_S))
            if not void_of(result) and result.pieces[-1].goodput_per_s > best_per_s:
                best_per_s, best_limit = result.pieces[-1].goodput_per_s, limit
    if len(adapted) * 2 < size.own_rounds or not best_per_s:
        return "void (generator)"
    got_per_s = statistics.median(adapted)
    return (
        f"{got_per_s:.0f}/s, {got_per_s / best_per_s * 100:.0f} % of the {best_per_s:.0f}/s with the best fixed limit "
        f"({best_limit}, of {', '.join(map(str, size.limits))})"
    )


def _critical(size: Size, cores: tuple[int, ...], capacity_per_s: float) -> str:
    declaration = f'{DECLARATION}[services.web.at."/vip"]\ncriticality = "critical_plus"\n'
    requests = (Request(path="/vip"), Request(path="/", weight=9))
    shares: list[tuple[float, float]] = []
    for _ in range(size.own_rounds):
        with running(cores, _declared(declaration)) as stack:
            _warm(stack, capacity_per_s)
            result = load(
                LoadPlan(stack.url, 5 * capacity_per_s, 2 * size.step_s, requests, slo_s=SLO_S, deadline_s=DEADLINE_S)
            )
            if not void_of(result):
                first, rest = (part.ok / max(1, part.offered) for part in result.requests)
                shares.append((first, rest))
    if len(shares) * 2 < size.own_rounds:
        return "void (generator)"
    first, rest = (statistics.median(pair[side] for pair in shares) * 100 for side in (0, 1))
    return f"{first:.0f} % of it served in time, and {rest:.0f} % of the rest"


def _cost(size: Size, cores: tuple[int, ...]) -> str:
    """Adapting and a limit that never binds, in pairs."""
    ratios = []
    for number in range(2 * size.own_rounds - 1):
        got = {}
        for text in sorted((DECLARATION, f"{DECLARATION}limit = {_HIGH_LIMIT}\n"), reverse=number % 2 == 1):
            with running(cores, _declared(text)) as stack:
                stack.pace(cpu=0.0, wait=0.0)
                wrk(stack.url, seconds=1, connections=_UNSATURATED)
                got[text], _ = wrk(stack.url, seconds=_COST_S, connections=_UNSATURATED)
        ratios.append(got[DECLARATION] / got[f"{DECLARATION}limit = {_HIGH_LIMIT}\n"])
    return f"{statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} pairs)"


def _warm(stack: Running, capacity_per_s: float) -> None:
    """A second as on every day: what is measured is a burst that meets a running system."""
    steady(stack, 0.7 * capacity_per_s, 1.0)
    calm(stack)
