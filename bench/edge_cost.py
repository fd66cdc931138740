"""What the way through the edge costs: a trivial endpoint, one worker, each stack in turn, fresh processes, medians."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
from dataclasses import dataclass

from bench.stacks import STACKS, Stack
from headway.lab.load import LoadPlan, load

CONNECTIONS = 32
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "5"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one stack."""

    kept_per_s: float
    new_per_s: float
    balancer_us: float  # processor time of the balancer for each request, kept connections
    worker_us: float  # processor time of the worker, likewise
    p50_ms: float
    p99_ms: float


def cpu_s(pids: tuple[int, ...]) -> float:
    """Processor time of processes so far, all threads."""
    total = 0
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def wrk(url: str, *headers: str, seconds: int = SECONDS, connections: int = CONNECTIONS) -> tuple[float, int]:
    """Requests per second and requests in all, of a closed loop that keeps so many connections busy."""
    argv = [shutil.which("wrk") or "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
    for header in headers:
        argv += ["-H", header]
    said = subprocess.run([*argv, url], capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if errors := re.search(r"(Socket errors|Non-2xx).*", said):
        raise RuntimeError(f"{url}: {errors[0]}")
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"(\d+) requests in", said)
    assert rate
    assert count
    return float(rate[1]), int(count[1])


def _measure(stack: Stack) -> Sample:
    wrk(stack.url)  # warm-up, discarded
    before_s = cpu_s(stack.balancer_pids), cpu_s(stack.worker_pids)
    kept_per_s, count = wrk(stack.url)
    balancer_us = (cpu_s(stack.balancer_pids) - before_s[0]) / count * 1e6
    worker_us = (cpu_s(stack.worker_pids) - before_s[1]) / count * 1e6
    new_per_s, _ = wrk(stack.url, "Connection: close")
    steady = load(LoadPlan(stack.url, 500, SECONDS, connections="new"))
    latency = steady.as_json()["latency_ms"]
    return Sample(kept_per_s, new_per_s, balancer_us, worker_us, latency["p50"], latency["p99"])


def run() -> str:
    """Measure all stacks in turn, ROUNDS times; the table in Markdown."""
    samples: dict[str, list[Sample]] = {name: [] for name in STACKS}
    for number in range(ROUNDS):
        names = list(STACKS)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with STACKS[name]("trivial") as stack:
                samples[name].append(_measure(stack))
            print(f"  {number + 1}/{ROUNDS} {name}: {samples[name][-1].kept_per_s:,.0f}/s", flush=True)
    return table(samples)


def table(samples: dict[str, list[Sample]]) -> str:
    """Medians, and ratios to the yardstick paired round by round."""
    yard = samples["HAProxy → granian, by hand"]

    def ratio(name: str, field: str) -> str:
        pairs = [getattr(a, field) / getattr(b, field) for a, b in zip(samples[name], yard, strict=True)]
        return f"{statistics.median(pairs):.2f}"

    def median(name: str, field: str) -> float:
        return float(statistics.median(getattr(sample, field) for sample in samples[name]))

    lines = [
        "| stack | kept connections/s | ratio | new connections/s | ratio | balancer CPU a request | ratio "
        "| worker CPU a request | ratio | p50 / p99 at 500/s, new connections |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in samples:
        lines.append(
            f"| {name} | {median(name, 'kept_per_s'):,.0f} | {ratio(name, 'kept_per_s')} "
            f"| {median(name, 'new_per_s'):,.0f} | {ratio(name, 'new_per_s')} "
            f"| {median(name, 'balancer_us'):.1f} µs | {ratio(name, 'balancer_us')} "
            f"| {median(name, 'worker_us'):.1f} µs | {ratio(name, 'worker_us')} "
            f"| {median(name, 'p50_ms'):.2f} / {median(name, 'p99_ms'):.2f} ms |"
        )
    return "\n".join(lines)
