"""Rows about other apps and other company: threads, a database, a second service, a neighbour, memory.

Each is held against what it carries itself, in the same arrangement and the same run.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.overload_load import FULL, Size, calm
from bench.overload_sample import Sample, cell, detail, refused, sample_of, served, share
from bench.overload_stacks import APP, DEADLINE_S, DECLARATION, SLO_S, Peer, Running, generator_core, running
from bench.stacks import BIN, await_answer, family, free_port, headway, spawn
from headway.lab.drill.cores import pin
from headway.lab.load import burst, load, scheduled
from headway.lab.outcome import LoadResult
from headway.lab.schedule import Piece
from headway.process.machine import available_cores

TEXT = """Other apps and other company behind Headway, each loaded with ten times what it carries itself; medians of
{rounds} rounds:

| what | own capacity | goodput at 10x | served, p50 / p99 | refused, p99 |
|---|---|---|---|---|
{rows}

{others}"""

_TIMES = 10
_LEAD_S, _TAIL_S = 1.5, 0.25
_RATES = (50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 450.0, 500.0)
_KEEPS_UP = 0.85
_MEMORY_MAX_MIB, _HOLD_DEADLINE_S, _CROWD = 256, 150, 10_000
_WSGI = f'{DECLARATION}interface = "wsgi"\nthreads = 8\n'
_DATABASE = 'env = { DATABASE_URL = "{main.url}" }\n[databases.main]\n'
_OTHER = f'[services.other]\napp = "{APP}:app"\nroutes = ["/other"]\nreplicas = 1\nslo = "250ms"\n'
_BURN = "import ctypes, signal\nctypes.CDLL(None).prctl(1, signal.SIGKILL)\nwhile True: pass"


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an app with its declaration, and who else is on the machine."""

    what: str
    app: str
    declaration: str = DECLARATION
    neighbour: bool = False


CASES = (
    Case("Flask, 8 threads", "overload_flask", _WSGI),
    Case("Django, 8 threads", "overload_django", _WSGI),
    Case("FastAPI + SQLAlchemy, five hot rows", "overload_rows", DECLARATION + _DATABASE),
    Case("a neighbour that takes every core", APP, neighbour=True),
)


def measured(size: Size = FULL) -> str:
    """Measure all of it; the section in Markdown."""
    if available_cores() < 2:
        return "Not measured: it needs two cores, one for the worker and one for the load."
    with generator_core() as cores:
        return run(replace(size, own_rounds=min(3, size.own_rounds)), cores)


def run(size: Size, cores: tuple[int, ...]) -> str:
    """All rows, in Markdown."""
    rows = []
    for case in CASES:
        rows.append(_case(case, size, cores))
        print(f"  {rows[-1]}", flush=True)
    others = [
        (
            "the same FastAPI app behind uvicorn alone, at ten times what it carries behind Headway",
            _direct(size, cores),
        ),
        ("two services on one core, one at 10x of what it carries, the other at half of it", _two(size, cores)),
        ('10,000 at once, each holding 4 MiB in the app, `memory_max = "256MiB"`', _memory(cores)),
    ]
    for what, outcome in others:
        print(f"  {what}: {outcome}", flush=True)
    listed = "\n".join(f"| {what} | {outcome} |" for what, outcome in others)
    return TEXT.format(rounds=size.own_rounds, rows="\n".join(rows), others=f"| what | outcome |\n|---|---|\n{listed}")


def _served_by(case: Case) -> Peer:
    @contextmanager
    def start() -> Iterator[str]:
        with headway(case.app, case.declaration) as stack:
            yield stack.url

    return Peer(start, balancer=True, abrupt=False)


def steady(url: str, rate_per_s: float, duration_s: float) -> LoadResult:
    """A load at a rate whose goodput is that of `duration_s`, after its first burst."""
    pieces = [Piece(lasting_s, rate_per_s, rate_per_s) for lasting_s in (_LEAD_S, duration_s, _TAIL_S)]
    return load(scheduled(url, pieces, slo_s=SLO_S, deadline_s=DEADLINE_S))


def _good_per_s(result: LoadResult) -> float:
    return result.pieces[1].goodput_per_s


def _sample(result: LoadResult) -> Sample:
    sample = sample_of(result)
    return Sample(
        _good_per_s(result), sample.p50_ms, sample.p99_ms, sample.refused_p99_ms, sample.hung_share, sample.void
    )


def _carries(stack: Running, size: Size, url: str | None = None) -> float:
    """The best goodput of rates upwards, until it keeps up no longer."""
    best_per_s = 0.0
    for rate_per_s in _RATES:
        found_per_s = _good_per_s(steady(url or stack.url, rate_per_s, size.try_s))
        calm(stack)
        best_per_s = max(best_per_s, found_per_s)
        if found_per_s < _KEEPS_UP * rate_per_s:
            break
    return best_per_s


def _case(case: Case, size: Size, cores: tuple[int, ...]) -> str:
    samples: list[Sample] = []
    carried: list[float] = []
    for _ in range(size.own_rounds):
        with ExitStack() as opened:
            if case.neighbour:
                opened.enter_context(neighbours(cores))
            stack = opened.enter_context(running(cores, _served_by(case)))
            carried.append(_carries(stack, size))
            samples.append(_sample(steady(stack.url, _TIMES * carried[-1], size.step_s)))
    own_per_s = statistics.median(carried)

    def goodput(good: Sequence[Sample]) -> str:
        return share(good, own_per_s)

    texts: list[Callable[[Sequence[Sample]], str]] = [served, refused]
    cells = [cell(samples, goodput), *(detail(samples, text) for text in texts)]
    return f"| {case.what} | {own_per_s:.0f}/s | {' | '.join(cells)} |"


@contextmanager
def neighbours(cores: tuple[int, ...]) -> Iterator[None]:
    """A process on each core that never rests."""
    with ExitStack() as opened:
        for core in cores:
            pin(opened.enter_context(spawn(sys.executable, "-c", _BURN)).pid, (core,))
        yield


def _direct(size: Size, cores: tuple[int, ...]) -> str:
    """The peer of the row with the database: what its users have today."""
    case = next(case for case in CASES if case.app == "overload_rows")
    shares = []
    for _ in range(min(3, size.own_rounds)):
        with running(cores, _served_by(case)) as stack:
            own_per_s = _carries(stack, size)
            port, folder = free_port(), Path(f"/proc/{stack.worker_pid}/cwd").resolve()
            uvicorn = (str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", f"{case.app}:app")
            with spawn(str(BIN / "headway"), "run", "web", "--", *uvicorn, cwd=folder):
                await_answer(f"http://127.0.0.1:{port}/")
                server = next(pid for pid in family(os.getpid()) if f"--port\0{port}" in _command(pid))
                pin(server, cores[:1])
                result = steady(f"http://127.0.0.1:{port}/", _TIMES * own_per_s, size.step_s)
                shares.append(_good_per_s(result) / own_per_s)
    return f"{statistics.median(shares) * 100:.0f} % in time"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _two(size: Size, cores: tuple[int, ...]) -> str:
    """Both workers on the first core. The load of the second runs beside that of the first."""
    loud, quiet, took = [], [], []
    for _ in range(size.own_rounds):
        with running(cores, _served_by(Case("", APP, DECLARATION + _OTHER))) as stack:
            for pid in family(os.getpid()):
                if "worker/boot.py" in _command(pid):
                    pin(pid, cores[:1])
            own_per_s = _carries(stack, size) / 2  # they share the core
            found: list[LoadResult] = []
            calm_one = threading.Thread(
                target=lambda: found.append(steady(f"{stack.url}other", own_per_s / 2, size.step_s))  # noqa: B023
            )
            calm_one.start()
            result = steady(stack.url, _TIMES * own_per_s, size.step_s)
            calm_one.join()
            loud.append(_good_per_s(result) / own_per_s)
            quiet.append(_good_per_s(found[0]) / (own_per_s / 2))
            took.append(found[0].latency_ms["p99"] or 0.0)
    first, second = statistics.median(loud) * 100, statistics.median(quiet) * 100
    slowest_ms = statistics.median(took)
    return f"{first:.0f} % of half the core's capacity; {second:.0f} % of the other's, p99 {slowest_ms:.0f} ms"


def _memory(cores: tuple[int, ...]) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _CROWD + 1000:
        return f"not measured: this shell may open {hard} descriptors, the clients alone need {_CROWD:,}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    declaration = (
        f'deadline = "{_HOLD_DEADLINE_S}s"\nmemory_max = "{_MEMORY_MAX_MIB}MiB"\nuses = ["main"]\n[databases.main]\n'
    )
    try:
        with running(cores, _served_by(Case("", "overload_memory", declaration))) as stack:
            before, ready = _kernel(), threading.Event()
            peak = [0]
            watch = threading.Thread(target=_watch, args=(stack.worker_pid, peak, ready))
            watch.start()
            result = load(burst(stack.url, _CROWD, deadline_s=_HOLD_DEADLINE_S))
            ready.set()
            watch.join()
            lives = Path(f"/proc/{stack.worker_pid}").exists()
            after, first = _kernel(), _dies_first()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        f"{result.ok / result.offered * 100:.1f} % answered; the worker used {peak[0] >> 20} MiB at most and "
        f"{'lives' if lives else 'died'}; {after['oom_kill'] - before['oom_kill']} killed by the kernel, "
        f"{after['pswpout'] - before['pswpout']} pages swapped; the kernel would take first: {first}"
    )


def _kernel() -> dict[str, int]:
    """What the kernel counts of memory that ran out."""
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(counts.get(name, 0)) for name in ("oom_kill", "pswpout")}


def _watch(pid: int, peak: list[int], ready: threading.Event) -> None:
    while not ready.wait(0.01):
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        peak[0] = max(peak[0], pages * resource.getpagesize())


def _dies_first() -> str:
    """By the kernel's own score, which grows with what a process holds and with what we say of it."""
    names = {
        "worker/boot.py": "the worker",
        "haproxy.cfg": "HAProxy",
        "postgres\0-D": "PostgreSQL",
        "cli.main": "Headway",
    }
    scores: dict[str, int] = {}
    for pid in family(os.getpid()):
        for part, name in names.items():
            if part in _command(pid):
                scores[name] = max(scores.get(name, 0), int(Path(f"/proc/{pid}/oom_score").read_text()))
    ordered = sorted(scores, key=lambda name: -scores[name])
    return ", ".join(f"{name} ({scores[name]})" for name in ordered)
