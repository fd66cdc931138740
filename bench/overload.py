"""Holding under overload: what still gets through in time when ten times as much comes as can be carried.

    python -m bench overload            measures (twenty minutes) and rewrites its section of docs/benchmarks.md
    python -m bench overload --quick    one short round, printed and not written

Each stack is first asked how much it carries, and then loaded with multiples of *its own* capacity: a slow stack is not
punished for being slow, nor a fast one. All in one run, stack by stack in turn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.overload_load import FULL, Size, calm, capacity, steady, warm
from bench.overload_sample import Sample, cell, detail, hung, refused, sample_of, served, share
from bench.overload_stacks import PEERS, generator_core, running
from headway.lab.plan import Connections
from headway.process.machine import available_cores

TIMES = (1, 2, 5, 10)

TEXT = """An app that takes 2 ms of processor time and waits 10 ms. An answer is in time within 250 ms (goodput),
clients give up after 1 s, and nobody waits for anybody: an open loop, Poisson arrivals, each request on a new
connection. One worker process on the first core; balancer, controller and the generator on the second. Shares are of
each stack's *own* capacity, its best goodput over a few rates; each is loaded with multiples of that. Fresh processes
each round, and after a load that a stack does not get over soon. Medians of {rounds} rounds ({own_rounds} of Ray Serve,
which starts slowly); goodput is that of {step_s:g} s, a second after the load
began. A figure is void when this
generator could not make the load.

{table}

At 10x, in other circumstances: on connections that are kept, and with the balancer and controller (not the generator)
on the worker's core too. Shares are of the same capacity; medians of {own_rounds} rounds.

{others}

{notes}`python -m bench overload` measures this section alone, in {took}."""


@dataclass(slots=True)
class Measured:
    """What is known of one stack so far."""

    capacity_per_s: float = 0.0
    steps: dict[int, list[Sample]] = field(default_factory=lambda: {times: [] for times in TIMES})
    keep: list[Sample] = field(default_factory=list)
    shared: list[Sample] = field(default_factory=list)
    lacks: str = ""


def run(size: Size = FULL) -> str:
    """Measure all of it; the section in Markdown."""
    if available_cores() < 2:
        return "Not measured: it needs two cores, one for the worker and one for the load."
    began_s = time.monotonic()
    with generator_core() as cores:
        found = peers(size, cores)
    table, others, notes = tables(found)
    took = f"{(time.monotonic() - began_s) / 60:.0f} minutes"
    return TEXT.format(
        rounds=size.rounds,
        own_rounds=size.own_rounds,
        step_s=size.step_s,
        table=table,
        others=others,
        notes=notes,
        took=took,
    )


def peers(size: Size, cores: tuple[int, ...]) -> dict[str, Measured]:
    """Every stack in turn, each round beginning with another one."""
    found = {name: Measured(lacks=peer.lacks() or "") for name, peer in PEERS.items()}
    for number in range(size.rounds):
        names = list(PEERS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if not found[name].lacks and (number < size.own_rounds or not PEERS[name].slow_start):
                began_s = time.monotonic()
                try:
                    _round(name, found[name], size, cores, with_others=number < size.own_rounds)
                except (OSError, RuntimeError) as error:
                    if name == "Headway":
                        raise
                    found[name].lacks = f"did not run: {error}"
                print(f"  {number + 1}/{size.rounds} {name}: {_said(found[name], began_s)}", flush=True)
    return found


def _said(measured: Measured, began_s: float) -> str:
    if measured.lacks:
        return measured.lacks
    last = [f"{steps[-1].goodput_per_s:.0f}" if steps else "–" for steps in measured.steps.values()]
    took_s = time.monotonic() - began_s
    return f"{' / '.join(last)} of {measured.capacity_per_s:.0f}/s in time, {took_s:.0f} s"


def _round(name: str, measured: Measured, size: Size, cores: tuple[int, ...], *, with_others: bool) -> None:
    """All loads on one stack. One that does not get over a load is started again, so that the next is not its heir."""
    peer = PEERS[name]
    with ExitStack() as opened:
        stack = opened.enter_context(running(cores, peer))
        warm(stack)
        if not measured.capacity_per_s:
            measured.capacity_per_s = capacity(stack, size)
            if not measured.capacity_per_s:
                raise RuntimeError("its capacity could not be measured")
        loads: list[tuple[int, Connections, bool, list[Sample]]] = [
            (times, "new", False, samples) for times, samples in measured.steps.items()
        ]
        if with_others:
            loads.append((TIMES[-1], "keep", False, measured.keep))
        if with_others and peer.balancer:
            loads.append((TIMES[-1], "new", True, measured.shared))
        for times, connections, shared, samples in loads:
            if not calm(stack, peer.calm_timeout_s):
                opened.close()
                stack = opened.enter_context(running(cores, peer))
                warm(stack)
            stack.place(shared=shared)
            samples.append(sample_of(steady(stack, times * measured.capacity_per_s, size.step_s, connections)))


def tables(found: Mapping[str, Measured]) -> tuple[str, str, str]:
    """The main table, the one of 10x in other circumstances, and a sentence for each stack that is missing."""
    steps = " | ".join(f"{times}x" for times in TIMES)
    main = [
        f"| stack | own capacity | {steps} | served at 10x, p50 / p99 | refused at 10x, p99 | unanswered at 10x |",
        "|---|" + "---|" * (len(TIMES) + 4),
    ]
    others = [
        "| stack | kept connections | served, p50 / p99 | unanswered | on the worker's core | served, p50 / p99 "
        "| unanswered |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, measured in found.items():
        if measured.lacks:
            continue
        most = measured.steps[TIMES[-1]]
        cells = [_share(samples, measured) for samples in measured.steps.values()]
        cells += [detail(most, text) for text in (served, refused, hung)]
        main.append(f"| {name} | {measured.capacity_per_s:.0f}/s | {' | '.join(cells)} |")
        both = [
            text
            for samples in (measured.keep, measured.shared)
            for text in (_share(samples, measured), detail(samples, served), detail(samples, hung))
        ]
        others.append(f"| {name} | {' | '.join(both)} |")
    notes = "".join(f"{name} is not in the table: {entry.lacks}.\n\n" for name, entry in found.items() if entry.lacks)
    return "\n".join(main), "\n".join(others), notes


def _share(samples: Sequence[Sample], measured: Measured) -> str:
    return cell(samples, lambda good: share(good, measured.capacity_per_s))
