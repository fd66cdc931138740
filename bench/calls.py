"""Calls between services, by Headway's client and by what people use today: `python -m bench calls`.

Each figure is that of fresh processes; clients and ways are compared in turn within a round. Latencies are differences
to a direct call in the same round, rates are ratios.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.database_system import HEADWAY, command, system
from bench.markdown import table

HERE = Path(__file__).resolve().parent
ROUNDS, QUICK_ROUNDS = 5, 1
TASKS = 16
CHAIN = 5
PATIENCE_S = 0.3

DECLARATION = """
[system]
name = "calls"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "calls_app:web"
routes = ["/"]
replicas = 1
threads = 8
uses = ["leaf"]
env = { LEAF_URL = "{leaf.url}" }
[services.leaf]
app = "calls_app:leaf"
replicas = 1
limit = 8
slo = "500ms"
"""
UNBOUNDED = DECLARATION.replace('limit = 8\nslo = "500ms"\n', "")
HELD = UNBOUNDED.replace('calls_app:leaf"', 'calls_app:held"\ninterface = "wsgi"\nthreads = 2')
CHAINED = '[system]\nname = "chain"\n[edge]\nbind = ["127.0.0.1:$PORT"]\n' + "".join(
    f'[services.c{number}]\napp = "calls_app:link"\nreplicas = 2\n'
    + ('routes = ["/"]\n' if number == 1 else "")
    + (f'uses = ["c{number + 1}"]\nenv = {{ NEXT = "c{number + 1}" }}\n' if number < CHAIN else "")
    for number in range(1, CHAIN + 1)
)


def run(quick: object = None) -> str:
    """The section's text."""
    rounds = QUICK_ROUNDS if quick else int(os.environ.get("BENCH_ROUNDS", ROUNDS))
    seconds = 3.0 if quick else 6.0
    return f"""\
`python -m bench calls` measures it again; rounds: {rounds}.

What one hop adds: 500 calls a second (open loop) from a process on one core to a trivial endpoint, the same client once
through the service's private frontend and once straight at the worker's socket; HAProxy and the worker have the other
core. Medians of the rounds' differences:

{hop(rounds, seconds)}

Calls by the second of the caller's own processor time, {TASKS} tasks, the same socket:

{rates(rounds, seconds)}

A leaf turns 20 times slower (10 to 200 ms) and then does 40 requests a second. A WSGI service with 8 threads gets 100
requests a second that do not need the leaf, and as many that do; in time is an answer within a second:

{slow_leaf(seconds * 2)}

A leaf answers 503 to half of the calls, 50 a second:

{half_failing(seconds * 2)}

A chain of {CHAIN} services of two replicas each, 60 GETs a second, one replica of each level killed, one by one:

{chain()}

200 calls in the same moment to a service of two threads, 50 ms each, with {PATIENCE_S * 1000:.0f} ms of patience:

{abandoned()}
"""


def _files(declaration: str) -> dict[str, str]:
    return {"headway.toml": declaration, "calls_app.py": (HERE / "calls_app.py").read_text()}


def _measured(folder: Path, kind: str, socket: str, task: str, core: int | None = None, **arguments: Any) -> Any:
    """What a fresh process measured that has the environment of `web`."""
    argv = [*HEADWAY, "run", "web", "--", sys.executable, str(HERE / "calls_client.py"), kind, socket, task]

    def pinned() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})

    done = subprocess.run(
        [*argv, json.dumps(arguments)], cwd=folder, capture_output=True, text=True, timeout=120, preexec_fn=pinned
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _status(folder: Path) -> Any:
    return json.loads(command(folder, "status", "--json"))


def _socket(folder: Path, replica: str) -> str:
    """The worker's own."""
    replicas = _status(folder)["services"][replica.partition(".")[0]]["replicas"]
    return str(next(each["address"] for each in replicas if each["name"] == replica)).removeprefix("unix:")


def hop(rounds: int, seconds: float) -> str:
    """Added latency."""
    ours, theirs = _two_cores()
    everything = os.sched_getaffinity(0)
    added: dict[str, list[tuple[float, float]]] = {"headway": [], "aiohttp": []}
    through: dict[str, list[tuple[float, float]]] = {"headway": [], "aiohttp": []}
    os.sched_setaffinity(0, {theirs})
    try:
        with system(_files(UNBOUNDED)) as folder:
            direct = _socket(folder, "leaf.1")
            for _ in range(rounds):
                for kind in added:
                    plan = {"rate_per_s": 500, "seconds": seconds}
                    bare = _measured(folder, kind, direct, "latency", ours, **plan)
                    edge = _measured(folder, kind, "", "latency", ours, **plan)
                    through[kind].append((edge["p50_ms"], edge["p99_ms"]))
                    added[kind].append((edge["p50_ms"] - bare["p50_ms"], edge["p99_ms"] - bare["p99_ms"]))
    finally:
        os.sched_setaffinity(0, everything)
    rows = []
    for kind, label in (("headway", "Headway's client"), ("aiohttp", "aiohttp through the same frontend")):
        p50, p99 = (statistics.median(each[at] for each in added[kind]) for at in (0, 1))
        whole50, whole99 = (statistics.median(each[at] for each in through[kind]) for at in (0, 1))
        rows.append((label, f"{p50:.2f} ms", f"{p99:.2f} ms", f"{whole50:.2f} / {whole99:.2f} ms"))
    return table(("added p50", "added p99", "whole call p50 / p99"), rows)


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def rates(rounds: int, seconds: float) -> str:
    """Calls per core."""
    found: dict[str, list[float]] = {"headway": [], "aiohttp": [], "httpx": []}
    with system(_files(UNBOUNDED)) as folder:
        for _ in range(rounds):
            for kind, each in found.items():
                each.append(_measured(folder, kind, "", "rate", tasks=TASKS, seconds=seconds)["per_core_s"])
    rows = []
    for kind, label in (("headway", "Headway's client"), ("aiohttp", "aiohttp"), ("httpx", "httpx")):
        per_s = statistics.median(found[kind])
        to = {
            other: statistics.median(a / b for a, b in zip(found[kind], found[other], strict=True))
            for other in ("httpx", "aiohttp")
        }
        rows.append((label, f"{per_s:,.0f}", f"{to['httpx']:.2f}", f"{to['aiohttp']:.2f}"))
    return table(("calls by core and second", "to httpx", "to aiohttp"), rows)


def slow_leaf(seconds: float) -> str:
    """Who goes down with the leaf."""
    rows = []
    for path, label in (
        ("/fallback", "Headway, `fallback`"),
        ("/headway", "Headway, no fallback"),
        ("/httpx", "httpx by URL, its own time-out (5 s)"),
    ):
        for is_slow in (False, True):
            with system(_files(DECLARATION)) as folder:
                url = _status(folder)["edge"]["url"]
                (folder / "mode").write_text("slow" if is_slow else "")
                with ThreadPoolExecutor(2) as both:
                    plain, needs = (both.submit(_load, f"{url}{each}", 100, seconds) for each in ("/plain", path))
                plain_found, needs_found = plain.result(), needs.result()
            rows.append(
                (
                    f"{label}: {'slow leaf' if is_slow else 'as usual'}",
                    _share(plain_found, "ok"),
                    _share(needs_found, "ok"),
                    _share(needs_found, "refused"),
                    f"{100 - 100 * (needs_found['ok'] + needs_found['refused']) / needs_found['offered']:.1f} %",
                )
            )
    head = ("that do not need it, in time", "that do: in time", "refused", "late or failed")
    return table(head, rows)


def _load(url: str, rate_per_s: float, seconds: float) -> Any:
    """A load from a process of its own."""
    argv = [*HEADWAY, "load", url, "--rate", str(rate_per_s), "--for", f"{seconds}s", "--slo", "1s", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
    if not done.stdout:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _share(found: Any, what: str) -> str:
    return f"{100 * found[what] / found['offered']:.1f} %"


def half_failing(seconds: float) -> str:
    """Attempts for each call."""
    rows = []
    for path, label in (("/headway", "Headway"), ("/httpx-3", "httpx, three tries each")):
        with system(_files(DECLARATION)) as folder:
            url = _status(folder)["edge"]["url"]
            (folder / "mode").write_text("half")
            found = _load(f"{url}{path}", 50, seconds)
            attempts = len((folder / "started").read_text().splitlines())
        succeeded = found["statuses"].get("200", 0)
        rows.append((label, f"{attempts / found['offered']:.2f}", f"{100 * succeeded / found['offered']:.1f} %"))
    return table(("attempts a call", "answered 200"), rows)


def chain() -> str:
    """Deaths in a chain."""
    with system(_files(CHAINED)) as folder:
        url = _status(folder)["edge"]["url"]
        killed: list[str] = []

        def kill() -> None:
            for number in range(1, CHAIN + 1):
                time.sleep(3)
                replica = _status(folder)["services"][f"c{number}"]["replicas"][0]
                os.kill(replica["pid"], signal.SIGKILL)
                killed.append(replica["name"])

        killer = threading.Thread(target=kill)
        killer.start()
        found = _load(f"{url}/", 60, 3 * (CHAIN + 2))
        killer.join()
    assert len(killed) == CHAIN
    failed = found["offered"] - found["statuses"].get("200", 0)
    row = ("Headway", f"{found['offered']:,}", str(failed), f"{found['latency_ms']['max']:.0f} ms")
    return table(("requests", "failed", "slowest"), [row])


def abandoned() -> str:
    """Work begun for nobody."""
    rows = []
    for kind, direct, label in (
        ("headway", False, "Headway"),
        ("aiohttp", True, "aiohttp, its own time-out, straight at the worker"),
    ):
        with system(_files(HELD)) as folder:
            socket = _socket(folder, "leaf.1") if direct else ""
            told = _measured(folder, kind, socket, "gone", count=200, patience_s=PATIENCE_S, path="/held")
            time.sleep(8)
            file = folder / "started"
            started = [float(line) for line in file.read_text().splitlines()] if file.exists() else []
        late = sum(at > told["left_at_s"] for at in started)
        rows.append((label, str(len(started)), str(late), f"{100 * late / 200:.1f} %"))
    return table(("begun of 200", "begun after all had gone", "share"), rows)
