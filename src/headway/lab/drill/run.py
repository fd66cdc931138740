"""Runs a drill: look, find the capacity, do too much, kill, take cores away. What it means is said elsewhere.

Nothing here starts or ends a system. It is given a target, and what it may do to it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from headway.errors import AppError, HeadwayError
from headway.lab.drill.ceiling import ceiling, why_limited
from headway.lab.drill.cores import Used, confined, own_cores
from headway.lab.drill.findings import Bare, Death, Drill, Recovery, Size, Step, Subject
from headway.lab.drill.loads import Loads
from headway.lab.drill.replicas import Replicas
from headway.lab.drill.search import Capacity, Tried, capacity, next_try
from headway.lab.outcome import LoadResult
from headway.model.units import format_duration

MULTIPLES = (0.5, 1.0, 2.0, 5.0, 10.0)
BURST_TIMES, AFTER_TIMES, DEATH_TIMES = 10.0, 0.7, 0.5
# At the capacity of the size itself: above it an app that breaks would show how it breaks, not what it carries.
SIZE_REPEATS = 3
# Before what is measured for its own sake, in a quick drill as well.
_PATIENT_CALM_S = 20.0
# A queue that may fill for the length of the SLO carries SLO / duration more than lasts: an eighth at the most.
_SETTLE_SLOS, _SETTLE_MAX_S = 8.0, 10.0
_START_MIN_PER_S, _START_MAX_PER_S = 2.0, 100.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long each part lasts. Longer is steadier: the queue's first filling matters less."""

    warm_s: float
    try_s: float
    settle_s: float
    step_s: float
    burst_s: float
    watched_s: float
    death_s: float
    calm_s: float  # at most, between two loads, until it answers in time again

    def estimate_s(self, *, sizes: int, bare: bool, kills: bool) -> float:
        """About how long a drill takes, with the pauses between its parts."""
        search_s = 12 * (self.try_s + 0.3) + 2 * self.settle_s
        overload_s = len(MULTIPLES) * (self.step_s + 1.3) + self.burst_s + self.watched_s + 2.0
        sizes_s = sizes * (4.0 + 7 * (self.try_s + 0.3) + (1 + SIZE_REPEATS) * self.settle_s)
        death_s = self.death_s + 2.0 if kills else 0.0
        return 5.0 + self.warm_s + search_s + overload_s * (2 if bare else 1) + sizes_s + death_s


NORMAL = Pace(warm_s=1.0, try_s=1.0, settle_s=2.5, step_s=5.0, burst_s=3.0, watched_s=10.0, death_s=6.0, calm_s=20.0)
QUICK = Pace(warm_s=0.5, try_s=0.5, settle_s=1.0, step_s=2.0, burst_s=1.5, watched_s=4.0, death_s=3.0, calm_s=5.0)


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to be done to the subject. `replicas` None: nothing is known of them, so none is killed or confined."""

    subject: Subject
    pace: Pace
    replicas: Replicas | None = None
    kills: bool = False
    sizes: tuple[float, ...] = ()
    start_bare: Callable[[], Awaitable[tuple[str, str]]] | None = None  # gives the server's name and its URL
    notes: tuple[str, ...] = ()
    ca_file: str | None = None  # whose certificates the subject may show; None: the machine's authorities


Say = Callable[[str], None]


async def run_drill(orders: Orders, say: Say) -> Drill:
    """Everything that was ordered, in turn. HeadwayError before any load when the path does not answer as it should."""
    began_s = time.monotonic()
    subject = orders.subject
    loads = Loads(subject.url, subject.slo_s, subject.deadline_s, orders.ca_file)
    notes = list(orders.notes)
    notes += check_answer(await loads.look(), subject)
    drill = await _find(orders, loads, say)
    if orders.replicas is not None and orders.kills:
        # Before too much is done, as the sizes: what an overload leaves behind would be blamed on them.
        say("killing a replica at half of the capacity")
        drill = replace(drill, death=await _death(loads, orders, drill, notes))
    if orders.replicas is not None and orders.sizes:
        drill = await _sizes(orders, loads, drill, notes, say)
    drill = await _overload(orders, loads, drill, notes, say)
    return replace(drill, notes=tuple(notes), took_s=round(time.monotonic() - began_s, 1))


def check_answer(found: LoadResult, subject: Subject) -> list[str]:
    """Notes on the first answer. AppError or HeadwayError when a load on it would measure nothing."""
    status = int(next(iter(found.statuses), "0"))
    hint = "name a path that answers: --path /health"
    if status == 404:
        raise HeadwayError(f"{subject.url} answers 404: there is nothing to drill", hint=hint)
    if status >= 500 and status != 503:
        raise AppError(f"{subject.url} answers {status} without any load", hint=f"mend it, or {hint}")
    if status == 503 or status == 429:
        raise HeadwayError(f"{subject.url} answers {status} without any load", hint=f"headway status; or {hint}")
    if status >= 400:
        raise HeadwayError(f"{subject.url} answers {status}: a load would only measure that", hint=hint)
    if status == 0:
        why = next(iter(found.failures), "no answer")
        raise HeadwayError(f"{subject.url} gave no answer to a first request: {why}", hint=hint)
    if 300 <= status < 400:
        return [f"it answers {status}, a redirect: drill the page itself with --path, if that is what counts"]
    return []


async def _find(orders: Orders, loads: Loads, say: Say) -> Drill:
    subject, pace = orders.subject, orders.pace
    say("warming up")
    warm = await loads.steady(max(10.0, 5 / pace.warm_s), pace.warm_s)
    p50_s = (warm.latency_ms["p50"] or 1000 * subject.slo_s) / 1000
    start = min(_START_MAX_PER_S, max(_START_MIN_PER_S, 0.25 / max(p50_s, 1e-4)))
    found = await _capacity(loads, pace, start, say)
    if found.per_s <= 0:
        raise HeadwayError(
            f"no answer came within {format_duration(subject.slo_s)}; p50 of a light load is {format_duration(p50_s)}",
            hint=f"give it the time that its users give it: --slo {max(1, math.ceil(4000 * p50_s))}",
        )
    say(f"capacity: {found.per_s:,.0f}/s{' or more' if found.is_lower_bound else ''}")
    return Drill(subject, found)


async def _overload(orders: Orders, loads: Loads, drill: Drill, notes: list[str], say: Say) -> Drill:
    subject, pace, found = orders.subject, orders.pace, drill.capacity
    bare_name, bare_loads = "", None
    if orders.start_bare is not None:
        bare_name, url = await orders.start_bare()
        bare_loads = Loads(url, subject.slo_s, subject.deadline_s)
        await _calm(bare_loads, pace, notes, bare_name)
    steps: list[Step] = []
    bare_steps: list[Step] = []
    for times in MULTIPLES:
        rate = times * found.per_s
        say(f"{times:g}x: {rate:,.0f}/s")
        await _calm(loads, pace, notes, subject.service)
        steps.append(await loads.step(times, rate, pace.step_s))
        if bare_loads is not None:
            await _calm(bare_loads, pace, notes, bare_name)
            bare_steps.append(await bare_loads.step(times, rate, pace.step_s))
    say(f"a burst of {pace.burst_s:g} s at {BURST_TIMES:g}x, then {AFTER_TIMES:g}x")
    recovery = await _recovery(loads, found, pace, notes, subject.service)
    bare = None
    if bare_loads is not None:
        bare = Bare(bare_name, tuple(bare_steps), await _recovery(bare_loads, found, pace, notes, bare_name))
        await _calm(bare_loads, pace, notes, bare_name)
    return replace(drill, steps=tuple(steps), recovery=recovery, bare=bare)


async def _capacity(loads: Loads, pace: Pace, start_per_s: float, say: Say) -> Capacity:
    history: list[Tried] = []
    while (step := next_try(history, start_per_s)) is not None:
        await loads.calm(_PATIENT_CALM_S)
        lasting_s = _settle_s(loads, pace) if step.settling else pace.try_s
        tried = await loads.attempt(step.rate_per_s, lasting_s, settling=step.settling)
        history.append(tried)
        say(f"{'settling at' if step.settling else 'trying'} {tried.rate_per_s:,.0f}/s: {tried.share:.0%} in time")
    return capacity(history)


def _settle_s(loads: Loads, pace: Pace) -> float:
    return max(pace.settle_s, min(_SETTLE_MAX_S, _SETTLE_SLOS * loads.slo_s))


async def _calm(loads: Loads, pace: Pace, notes: list[str], name: str) -> None:
    if not await loads.calm(pace.calm_s):
        note = f"{name} had not calmed down {format_duration(pace.calm_s)} after a load; the next began all the same"
        if note not in notes:
            notes.append(note)


async def _recovery(loads: Loads, found: Capacity, pace: Pace, notes: list[str], name: str) -> Recovery:
    await _calm(loads, pace, notes, name)
    return await loads.burst_then(
        BURST_TIMES * found.per_s, pace.burst_s, AFTER_TIMES * found.per_s, watched_s=pace.watched_s
    )


async def _death(loads: Loads, orders: Orders, drill: Drill, notes: list[str]) -> Death | None:
    assert orders.replicas is not None
    replicas, pace = orders.replicas, orders.pace
    if not await loads.calm(_PATIENT_CALM_S):
        notes.append("no replica was killed: it had not calmed down before")
        return None
    count = len(await asyncio.to_thread(replicas.ready_pids))
    rate = max(1.0, DEATH_TIMES * drill.capacity.per_s)

    async def kill() -> tuple[str, float | None]:
        await asyncio.sleep(pace.death_s / 4)
        name, pid = await asyncio.to_thread(replicas.kill_one)
        return name, await replicas.back_s(count, pid, 30.0 + pace.death_s)

    found, (name, back_s) = await asyncio.gather(loads.steady(rate, pace.death_s), kill())
    return Death(name, count, round(rate, 2), found.offered, found.late, found.refused, found.failed, back_s)


async def _sizes(orders: Orders, loads: Loads, drill: Drill, notes: list[str], say: Say) -> Drill:
    assert orders.replicas is not None
    found: list[Size] = []
    per_replica = drill.capacity.per_s / max(1, drill.subject.replicas)
    edge_pid = await asyncio.to_thread(orders.replicas.edge_pid)
    async with orders.replicas.given_back():
        for size in orders.sizes:
            count = max(1, math.ceil(size))
            say(f"{size:g} cores: {count} replica{'s' if count > 1 else ''}")
            await orders.replicas.scale(count)
            pids = await asyncio.to_thread(orders.replicas.ready_pids)
            if not await loads.calm(_PATIENT_CALM_S):
                notes.append(f"{size:g} cores were not measured: it had not calmed down before")
                continue
            try:
                with confined(pids, size):
                    found.append(await _size(loads, orders.pace, size, count, per_replica * size / 2, edge_pid, say))
            except PermissionError as error:
                notes.append(f"{size:g} cores were not measured: {error.strerror or error}")
    notes += [f"{size.cores:g} cores tell the least they carry: {size.limit}" for size in found if size.limit]
    return replace(drill, sizes=tuple(found), ceiling=ceiling(found))


async def _size(
    loads: Loads, pace: Pace, size: float, count: int, start: float, edge_pid: int | None, say: Say
) -> Size:
    best = await _capacity(loads, pace, max(_START_MIN_PER_S, start), say)
    samples, limits, generator_is_wall = [], [], best.is_lower_bound
    for _ in range(SIZE_REPEATS if best.per_s > 0 else 0):
        await loads.calm(_PATIENT_CALM_S)
        before = Used.now(edge_pid)
        tried = await loads.attempt(best.per_s, _settle_s(loads, pace), settling=True)
        used = Used.now(edge_pid)
        own, edge = used.cores_since(before)
        samples.append(max(tried.goodput_per_s, 0.0))
        limits.append(
            why_limited(
                size,
                len(own_cores()),
                generator_is_wall=generator_is_wall or tried.limited,
                generator_cores=own,
                edge_cores=edge,
                edge_threads=used.edge_threads,
            )
        )
    limit = next((reason for reason in limits if reason), "")
    return Size(size, count, tuple(round(x, 2) for x in samples if x > 0), bool(limit), limit)
