"""Ten thousand at once: memory and answers when everybody asks a slow endpoint (5 s) in the same moment."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from bench.stacks import STACKS, Stack
from headway.lab.load import burst, load

COUNT = 10_000
DEADLINE_S = 60.0


def rss_bytes(pids: tuple[int, ...]) -> int:
    """Resident memory of processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def _measure(stack: Stack) -> tuple[int, int, float, float]:
    """Answered in full, failed or refused, peak memory of the balancer for each request in KiB, seconds in all."""
    before = rss_bytes(stack.balancer_pids)
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, rss_bytes(stack.balancer_pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began_s = time.monotonic()
    try:
        result = load(burst(stack.url, COUNT, deadline_s=DEADLINE_S))
    finally:
        done.set()
        watcher.join()
    return result.ok, result.failed + result.refused, (peak - before) / COUNT / 1024, time.monotonic() - began_s


def run(names: tuple[str, ...] = tuple(STACKS)) -> str:
    """One run of each stack; the table in Markdown."""
    lines = [
        "| stack | answered | failed or refused | balancer memory a request | all done after |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        extra = 'deadline = "60s"\n' if name == "Headway" else ""
        opened = STACKS[name]("slow", extra) if extra else STACKS[name]("slow")
        with opened as stack:
            ok, bad, each_kib, took_s = _measure(stack)
        print(f"  {name}: {ok} answered, {each_kib:.1f} KiB each", flush=True)
        lines.append(f"| {name} | {ok:,} | {bad:,} | {each_kib:.1f} KiB | {took_s:.1f} s |")
    return "\n".join(lines)
