"""The nouns of a drill: what was done to the app, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headway.lab.drill.recovery import Slice
from headway.lab.drill.search import Capacity
from headway.lab.drill.usl import Forecast, Unknown
from headway.lab.outcome import LoadResult

# Less than this of the rate asked for, and the step is no measurement at that rate.
MADE_MIN = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """A steady load at a multiple of the capacity. Times in milliseconds, None where nothing was counted."""

    times: float
    rate_per_s: float
    offered: int
    goodput_per_s: float
    late: int
    refused: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None
    generator_cpu_share: float
    at_least: bool = False  # the generator was short of time: the figures are a lower bound
    void: str = ""  # why this is no measurement at that rate


@dataclass(frozen=True, slots=True)
class Recovery:
    """A burst, then a load that can be carried: how long until all answers are in time again."""

    burst_per_s: float
    burst_s: float
    after_per_s: float
    watched_s: float
    recovered_s: float | None
    slices: tuple[Slice, ...]
    generator_was_short: bool = False  # of time: the burst was less than it says


@dataclass(frozen=True, slots=True)
class Death:
    """A replica killed by SIGKILL under half of the capacity."""

    replica: str
    of: int  # replicas before
    rate_per_s: float
    offered: int
    late: int
    refused: int
    failed: int
    back_s: float | None  # until as many were ready as before; None: not while it was watched


@dataclass(frozen=True, slots=True)
class Size:
    """Throughput with the workers on so many cores, measured repeatedly. `limit`: what else than they bounded it."""

    cores: float
    replicas: int
    per_s: tuple[float, ...]
    is_lower_bound: bool = False
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is drilled. `slo_from` says who set the SLO: "option", "declared" or "default"."""

    system: str
    url: str
    service: str
    replicas: int
    slo_s: float
    slo_from: Literal["option", "declared", "default"]
    deadline_s: float  # of the clients of the drill: when they give up
    cores: int


@dataclass(frozen=True, slots=True)
class Bare:
    """The same app on a server without Headway, under the same rates."""

    server: str
    steps: tuple[Step, ...]
    recovery: Recovery | None


@dataclass(frozen=True, slots=True)
class Drill:
    """Everything that a drill found; what was left out is None or empty."""

    subject: Subject
    capacity: Capacity
    steps: tuple[Step, ...] = ()
    recovery: Recovery | None = None
    death: Death | None = None
    sizes: tuple[Size, ...] = ()
    ceiling: Forecast | Unknown | None = None
    bare: Bare | None = None
    notes: tuple[str, ...] = ()
    took_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The document that `headway drill --json` prints."""
        document: dict[str, Any] = asdict(self)
        document["capacity"]["is_lower_bound"] = self.capacity.is_lower_bound
        return document


def step_of(times: float, rate_per_s: float, result: LoadResult) -> Step:
    """The step that a load at `rate_per_s` makes."""
    generator = result.generator
    latency: Mapping[str, float | None] = result.latency_ms
    void = ""
    if generator.bottleneck and generator.made_per_s < MADE_MIN * result.offered / result.duration_s:
        void = f"the generator made only {generator.made_per_s:,.0f}/s of it ({generator.cause or 'too slow'})"
    return Step(
        times=times,
        rate_per_s=round(rate_per_s, 2),
        offered=result.offered,
        goodput_per_s=result.goodput_per_s,
        late=result.late,
        refused=result.refused,
        failed=result.failed,
        p50_ms=latency["p50"],
        p99_ms=latency["p99"],
        refused_p99_ms=result.refused_ms["p99"],
        generator_cpu_share=generator.cpu_share,
        at_least=generator.bottleneck,
        void=void,
    )


def void_step(times: float, rate_per_s: float, why: str) -> Step:
    """A step that was not even tried."""
    return Step(times, round(rate_per_s, 2), 0, 0.0, 0, 0, 0, None, None, None, 0.0, void=why)
