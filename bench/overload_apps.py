"""Rows about other apps and other company: threads, a database, a second service, a neighbour, memory.

Each is held against what it carries itself, in the same arrangement and the same run. That capacity is looked for by
rates around what a closed loop gets through, and has to agree with it and with arithmetic: else its row is void.
"""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import statistics
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import uvloop

from bench.edge_cost import wrk
from bench.overload_load import FULL, Size, warm
from bench.overload_machine import Patience
from bench.overload_sample import Sample, cell, detail, refused, sample_of, served, void_of
from bench.overload_stacks import APP, DEADLINE_S, DECLARATION, NORMAL, SLO_S, Peer, generator_core, running
from bench.stacks import BIN, await_answer, family, free_port, headway, spawn
from headway.errors import HeadwayError
from headway.lab.drill.cores import pin
from headway.lab.drill.loads import Loads
from headway.lab.load import LoadPlan, LoadResult, burst, load, run_load, scheduled
from headway.lab.plan import Connections
from headway.lab.schedule import Piece
from headway.process.machine import available_cores

TEXT = """Other apps and other company behind Headway, each loaded with ten times what it carries itself: an open loop,
Poisson arrivals, in time within 250 ms, clients give up after 1 s, each request on a new connection where nothing else
is said. Fresh processes each round; worker and database on the first core; balancer, controller and generator on the
second. A request takes 2 ms of processor time and waits 10 ms; that with the database takes 2 ms while it holds a
row that others want too. Own capacity is the best goodput of several rates, looked for in each round anew. It has to
reach {floor:.0f} % of what a closed loop gets through, cannot be more than the {ceiling:.0f}/s that 2 ms allow, and a
share of it cannot be more than {most:.0f} %: else a round is void, as it is when this generator could not make the
load or something else ran on this machine meanwhile. Medians of {rounds} rounds (of one, where so many come at once):

| what | own capacity | goodput at 10x | served, p50 / p99 | refused, p99 |
|---|---|---|---|---|
{rows}

{others}

`python -m bench apps` measures this section alone."""

_TIMES = 10
_LEAD_S, _TAIL_S = 1.5, 0.25
_TRY_LEAD_S, _TRY_S = 1.0, 2.5
# Of what a closed loop gets through: so few clients leave the app idle at times, so there may be more to find.
_TRIES = (0.8, 1.0, 1.2)
_FURTHER, _TRIES_MAX = 1.2, 8
_BETTER = 1.02
_CLOSED_CONNECTIONS, _CLOSED_S = (8, 4, 2), 2  # eight are as many as a replica is given to begin with
_CLOSED_SHARE_MIN = 0.85
_SHARE_MAX = 1.10
_PACED_PER_S = 1 / NORMAL["cpu"]
_QUIET = 0.25
_MEMORY_MAX_MIB, _HOLD_DEADLINE_S, _CROWD = 256, 150, 10_000
_HOLD_CONNECTIONS = 128
_WSGI = f'{DECLARATION}interface = "wsgi"\nthreads = 8\n'
_DATABASE = 'env = { DATABASE_URL = "{main.url}" }\n[databases.main]\n'
_OTHER = f'routes = ["/"]\n[services.other]\napp = "{APP}:app"\nroutes = ["/other"]\nreplicas = 1\nslo = "250ms"\n'
_BURN = "import ctypes, signal\nctypes.CDLL(None).prctl(1, signal.SIGKILL)\nwhile True: pass"
_WORKER, _POSTGRES = "worker/boot.py", "postgres"
_seeds = count(1)
_patience = Patience(120.0)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: an app with its declaration, who comes, and who else is on the machine."""

    what: str
    app: str
    declaration: str = DECLARATION
    connections: Connections = "new"
    neighbour: bool = False


ROWS = Case("FastAPI + SQLAlchemy, five hot rows", "overload_rows", DECLARATION + _DATABASE)
CASES = (
    Case("Flask, 8 threads", "overload_flask", _WSGI),
    Case("Django, 8 threads", "overload_django", _WSGI),
    Case("clients that keep their connections", APP, connections="keep"),
    Case("a neighbour that takes every core", APP, neighbour=True),
    ROWS,
)


@dataclass(frozen=True, slots=True)
class Carried:
    """What an app carries, and why that is not to be believed."""

    per_s: float
    closed_per_s: float
    void: str = ""


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
        try:
            rows.append(_case(case, size, cores))
        except (OSError, RuntimeError, HeadwayError) as error:
            rows.append(f"| {case.what} | – | did not run: {error} | – | – |")
        print(f"  {rows[-1]}", flush=True)
    others: list[tuple[str, Callable[[], str]]] = [
        ("the same FastAPI app started directly, uvicorn alone", lambda: _direct(size, cores)),
        (
            "two services on one core, one offered ten times what the other leaves of it, the other a quarter",
            lambda: _two(size, cores),
        ),
        (
            f'{_CROWD:,} at once, each holding 4 MiB in the app, `memory_max = "{_MEMORY_MAX_MIB}MiB"`',
            lambda: _memory(cores),
        ),
    ]
    listed = []
    for what, measure in others:
        try:
            listed.append(f"| {what} | {measure()} |")
        except (OSError, RuntimeError, HeadwayError) as error:
            listed.append(f"| {what} | did not run: {error} |")
        print(f"  {listed[-1]}", flush=True)
    return TEXT.format(
        rounds=size.own_rounds,
        floor=_CLOSED_SHARE_MIN * 100,
        ceiling=_PACED_PER_S,
        most=_SHARE_MAX * 100,
        rows="\n".join(rows),
        others="\n".join(["| what | outcome |", "|---|---|", *listed]),
    )


def _served_by(case: Case) -> Peer:
    @contextmanager
    def start() -> Iterator[str]:
        with headway(case.app, case.declaration) as stack:
            yield stack.url

    return Peer(start, balancer=True, abrupt=False)


def _plan(
    url: str, rate_per_s: float, duration_s: float, connections: Connections = "new", lead_s: float = _LEAD_S
) -> LoadPlan:
    """A load at a rate whose goodput is that of `duration_s`, after its first burst."""
    pieces = [Piece(lasting_s, rate_per_s, rate_per_s) for lasting_s in (lead_s, duration_s, _TAIL_S)]
    return scheduled(url, pieces, slo_s=SLO_S, deadline_s=DEADLINE_S, connections=connections, seed=next(_seeds))


def _good_per_s(result: LoadResult) -> float:
    return result.pieces[1].goodput_per_s


def _loaded(plan: LoadPlan) -> tuple[LoadResult, str]:
    """A load, and why it does not count."""
    result, disturbed = _patience.measure(lambda: load(plan))
    return result, disturbed or void_of(result)


def _sample(result: LoadResult, void: str, carried: Carried) -> Sample:
    """What a row shows of a load: its middle, and no share that cannot be."""
    void = void or carried.void
    if not void and _good_per_s(result) > _SHARE_MAX * carried.per_s:
        void = f"capacity: {_good_per_s(result):.0f}/s in time of {carried.per_s:.0f}/s carried"
    return replace(sample_of(result), goodput_per_s=_good_per_s(result), void=void)


def _tried(url: str, carried: Carried, size: Size, connections: Connections = "new", times: int = _TIMES) -> Sample:
    """A multiple of what it carries."""
    if not carried.per_s:
        return Sample(0.0, None, None, None, 0.0, carried.void)
    return _sample(*_loaded(_plan(url, times * carried.per_s, size.step_s, connections)), carried)


def _closed_per_s(url: str) -> float:
    """What a closed loop gets through, of few clients, for none may be refused."""
    for connections in _CLOSED_CONNECTIONS:
        with suppress(RuntimeError):
            closed = functools.partial(wrk, url, seconds=_CLOSED_S, connections=connections)
            return _patience.measure(closed)[0][0]
    raise RuntimeError("a closed loop is refused")


def _carries(url: str, connections: Connections = "new") -> Carried:
    """The best goodput of rates around that of a closed loop, upwards as long as it gets better.

    Each rate has arrivals of its own, and no rate ends the search by itself: a bad moment is no capacity. More than
    was asked for is luck of the arrivals and does not count.
    """
    closed_per_s = _closed_per_s(url)
    rates = [times * closed_per_s for times in _TRIES]
    best_per_s, voids = 0.0, []
    for number in range(_TRIES_MAX):
        if number == len(rates):
            rates.append(_FURTHER * rates[-1])
        result, void = _loaded(_plan(url, rates[number], _TRY_S, connections, _TRY_LEAD_S))
        _await_calm(url)
        voids += [void] if void else []
        found_per_s = 0.0 if void else min(rates[number], _good_per_s(result))
        is_better = found_per_s > _BETTER * best_per_s
        best_per_s = max(best_per_s, found_per_s)
        if number >= len(_TRIES) - 1 and not is_better:
            break
    if not best_per_s:
        return Carried(0.0, closed_per_s, voids[-1] if voids else "capacity: nothing was in time")
    void = ""
    if best_per_s < _CLOSED_SHARE_MIN * closed_per_s:
        void = f"capacity: {best_per_s:.0f}/s found, but a closed loop gets {closed_per_s:.0f}/s"
    elif best_per_s > _SHARE_MAX * _PACED_PER_S:
        void = f"capacity: {best_per_s:.0f}/s found, but {_PACED_PER_S:.0f}/s is the most there can be"
    return Carried(best_per_s, closed_per_s, void)


def _case(case: Case, size: Size, cores: tuple[int, ...]) -> str:
    samples: list[Sample] = []
    carried: list[Carried] = []
    for _ in range(size.own_rounds):
        with ExitStack() as opened:
            stack = opened.enter_context(running(cores, _served_by(case)))
            _place(cores)
            if case.neighbour:
                opened.enter_context(neighbours(cores))
            warm(stack)
            found = _carries(stack.url, case.connections)
            carried.append(found)
            samples.append(_tried(stack.url, found, size, case.connections))
        print(f"    {_said(samples[-1], found)}", flush=True)
    own_per_s = _median_per_s(carried)

    texts: list[Callable[[Sequence[Sample]], str]] = [served, refused]
    cells = [_share(samples, carried), *(detail(samples, text) for text in texts)]
    return f"| {case.what} | {own_per_s:.0f}/s | {' | '.join(cells)} |"


def _share(samples: Sequence[Sample], carried: Sequence[Carried]) -> str:
    """Each goodput compared with the capacity of its own round."""
    pairs = zip(samples, carried, strict=True)
    shares = [sample.goodput_per_s / found.per_s for sample, found in pairs if not sample.void]
    return cell(samples, lambda _good: _percent(shares))


def _median_per_s(carried: Sequence[Carried]) -> float:
    return statistics.median([found.per_s for found in carried if not found.void] or [0.0])


def _said(sample: Sample, carried: Carried) -> str:
    of = f"{sample.goodput_per_s:.0f} of {carried.per_s:.0f}/s, {carried.closed_per_s:.0f}/s in a closed loop"
    return f"{of} {sample.void}".rstrip()


def _place(cores: tuple[int, ...]) -> None:
    """Workers and databases on the first core."""
    for pid in family(os.getpid())[1:]:
        if _WORKER in _command(pid) or _POSTGRES in _command(pid).partition("\0")[0]:
            pin(pid, cores[:1])


@contextmanager
def neighbours(cores: tuple[int, ...]) -> Iterator[None]:
    """A process on each core that never rests."""
    with ExitStack() as opened:
        for core in cores:
            pin(opened.enter_context(spawn(sys.executable, "-c", _BURN)).pid, (core,))
        yield


def _await_calm(url: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Loads(url, SLO_S, DEADLINE_S).calm(2.0))


def _direct(size: Size, cores: tuple[int, ...]) -> str:
    """The peer of the row with the database: what its users have today."""
    samples: dict[int, list[Sample]] = {times: [] for times in (2, _TIMES)}
    carried = []
    for _ in range(size.own_rounds):
        with running(cores, _served_by(ROWS)) as stack:
            port, folder = free_port(), Path(f"/proc/{stack.worker_pid}/cwd").resolve()
            uvicorn = (str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", f"{ROWS.app}:app")
            with spawn(str(BIN / "headway"), "run", "web", "--", *uvicorn, cwd=folder):
                url = f"http://127.0.0.1:{port}/"
                await_answer(url)
                _place(cores)
                for pid in family(os.getpid()):
                    if f"--port\0{port}" in _command(pid):
                        pin(pid, cores[:1])
                found = _carries(url)
                carried.append(found)
                for times, of_them in samples.items():
                    _await_calm(url)
                    of_them.append(_tried(url, found, size, times=times))
                    print(f"    {times}x: {_said(of_them[-1], found)}", flush=True)
    shares = [f"at {times}x {_share(of_them, carried)}" for times, of_them in samples.items()]
    return f"carries {_median_per_s(carried):.0f}/s; in time {', '.join(shares)}"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _two(size: Size, cores: tuple[int, ...]) -> str:
    """Both workers on the first core, whose work they share: what the quiet one leaves is there for the loud one."""
    loud, quiet, took_ms, voids = [], [], [], []
    for _ in range(size.own_rounds):
        with running(cores, _served_by(Case("", APP, DECLARATION + _OTHER))) as stack:
            _place(cores)
            warm(stack)
            found = _carries(stack.url)
            if not found.per_s:
                voids.append(found.void)
                continue
            calm_per_s = found.per_s * _QUIET
            left_per_s = found.per_s - calm_per_s
            plans = (
                _plan(stack.url, _TIMES * left_per_s, size.step_s),
                _plan(f"{stack.url}other", calm_per_s, size.step_s),
            )
            (first, second), disturbed = _patience.measure(functools.partial(_together, *plans))
        void = disturbed or void_of(first) or void_of(second) or found.void
        if not void and _good_per_s(first) > _SHARE_MAX * left_per_s:
            void = f"capacity: {_good_per_s(first):.0f}/s in time of {left_per_s:.0f}/s left"
        voids.append(void)
        if not void:
            loud.append(_good_per_s(first) / left_per_s)
            quiet.append(second.pieces[1].ok / max(1, second.pieces[1].offered))
            took_ms.append(second.pieces[1].latency_ms["p99"] or float("inf"))
        print(f"    {_good_per_s(first):.0f} of {left_per_s:.0f}/s, {_good_per_s(second):.0f} {void}", flush=True)
    if len(loud) * 2 < size.own_rounds:
        return f"void ({next(filter(None, voids))})"
    return (
        f"{_percent(loud)} of what is left; {_percent(quiet)} of the other's requests in time, "
        f"p99 {statistics.median(took_ms):.0f} ms"
    )


def _percent(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares) * 100:.0f} %"


def _together(*plans: LoadPlan) -> list[LoadResult]:
    """Several loads at the same time."""

    async def all_of_them() -> list[LoadResult]:
        return list(await asyncio.gather(*map(run_load, plans)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of_them())


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
            _place(cores)
            before, ready = _kernel(), threading.Event()
            peak = [0]
            watch = threading.Thread(target=_watch, args=(stack.worker_pid, peak, ready))
            watch.start()
            try:
                result = load(burst(stack.url, _CROWD, deadline_s=_HOLD_DEADLINE_S))
            finally:
                ready.set()
                watch.join()
            lives = Path(f"/proc/{stack.worker_pid}").exists()
            after, first = _kernel(), _dies_first()
            # Afterwards, so that Headway has learnt nothing from it.
            closed_per_s, _count = wrk(stack.url, seconds=_CLOSED_S, connections=_HOLD_CONNECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if void := void_of(result):
        return f"void ({void})"
    per_s = result.ok / ((result.latency_ms["max"] or float("inf")) / 1000)
    return (
        f"{result.ok / result.offered * 100:.1f} % answered, {per_s:.0f}/s: {per_s / closed_per_s * 100:.0f} % of what "
        f"{_HOLD_CONNECTIONS} clients in a closed loop get; the worker used {peak[0] >> 20} MiB at most and "
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
