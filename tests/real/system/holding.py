"""What the tests of holding under overload have in common: a system of the `costs` app, loads, and what was told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import Running, wait_for

from headway.lab.load import LoadPlan, LoadResult, Request, load

SLO_S = 0.25
GIVE_UP_S = 1.0
# Two kinds of work with a known wall. A pool of four places, each taken for 40 ms, gives a hundred a second whatever
# else the machine does; 5 ms of processor give up to 180, fewer where others take a part of the core.
POOL = "/?pool=4&wait=40"
POOL_PER_S = 100
BURN = "/?cpu=5&wait=10"

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "costs:app"
routes = ["/"]
replicas = 1
"""


@contextmanager
def system_of(folder: Path, declaration: str, *, detached: bool = False) -> Iterator[Running]:
    """A running system of the costs app."""
    shutil.copy(Path(__file__).with_name("costs.py"), folder / "costs.py")
    with Running(folder, declaration, detached=detached) as system:
        yield system


def offer(
    system: Running,
    rate_per_s: float,
    duration_s: float,
    path: str = POOL,
    *,
    slo_s: float | None = SLO_S,
    deadline_s: float = GIVE_UP_S,
) -> LoadResult:
    """A load of new connections that does not wait for the system."""
    result = load(LoadPlan(system.url + path, rate_per_s, duration_s, slo_s=slo_s, deadline_s=deadline_s))
    tell(f"{rate_per_s:.0f}/s", result)
    return result


def capacity(system: Running, path: str) -> float:
    """Answers a second that a system gives when it is asked for more, once it has learned its limit."""
    result = offer(system, 300, 5, path)
    return sum(second.ok for second in result.timeline[2:5]) / 3


def mix(
    system: Running, rate_per_s: float, duration_s: float, requests: tuple[Request, ...], *, deadline_s: float
) -> LoadResult:
    """A load of several kinds of requests."""
    result = load(LoadPlan(system.url, rate_per_s, duration_s, requests=requests, deadline_s=deadline_s))
    tell(f"{rate_per_s:.0f}/s", result)
    return result


def tell(name: str, result: LoadResult) -> None:
    """The figures, seen with `pytest -s` and beside a failure."""
    parts = [
        f"{part.name}: {part.ok}+{part.late}/{part.offered} p99 {part.latency_ms['p99']}" for part in result.requests
    ]
    print(
        f"{name}: {result.goodput_per_s:.0f}/s good, ok {result.ok} late {result.late} refused {result.refused} "
        f"failed {result.failed} {dict(result.failures)}, p50 {result.latency_ms['p50']} p99 "
        f"{result.latency_ms['p99']} ms, refusals p50 {result.refused_ms['p50']} p99 {result.refused_ms['p99']} ms, "
        f"generator {result.generator.cpu_share:.2f}",
        *(parts if len(parts) > 1 else ()),
        flush=True,
    )


def overload(system: Running, service: str = "web") -> dict[str, Any]:
    """The overload section of a service's status."""
    document = wait_for(system.quick_status, 60, "the controller answers")
    section: dict[str, Any] = document["services"][service]["overload"]
    return section


def told(system: Running, about: str = "web") -> list[str]:
    """What the journal says of a name, in order."""
    return [entry["reason"] for entry in system.journal() if entry["about"] == about]


def wait_told(system: Running, words: str, about: str = "web", timeout_s: float = 60.0) -> str:
    """The first sentence of the journal about `about` that has `words` in it."""

    def found() -> str | None:
        return next((sentence for sentence in told(system, about) if words in sentence), None)

    sentence: str = wait_for(found, timeout_s, f"the journal says {words!r} of {about}", every_s=0.1)
    print(f"journal: {sentence}", flush=True)
    return sentence
