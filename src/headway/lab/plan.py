"""A load as it was asked for: typed, frozen, checked before the first packet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headway.errors import HeadwayError
from headway.lab.arrivals import Pattern
from headway.lab.schedule import Piece
from headway.lab.target import Request

Connections = Literal["new", "keep"]

# Latencies are kept one by one for exact percentiles: five million are about 160 MB at the end.
REQUESTS_MAX = 5_000_000
CONNECTIONS_MAX = 20_000
DURATION_MAX_S = 86_400.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send where, how fast and for how long. Raises HeadwayError when it makes no sense."""

    url: str
    rate_per_s: float
    duration_s: float
    requests: tuple[Request, ...] = (Request(),)  # sent in turn, each as often as its weight says
    pattern: Pattern = "poisson"
    connections: Connections = "new"  # "new": each request its own; "keep": pooled keep-alive
    slo_s: float | None = None  # an answer complete after this is late; None: nothing is late
    deadline_s: float = 10.0  # the client gives up this long after the intended start
    connections_max: int | None = None  # open at once; None: 20,000 or what the descriptors allow
    seed: int = 0
    identify: bool = False  # send a unique X-Load-Id with each request
    failures_max: int = 0  # how many failed requests to list one by one
    ca_file: str | None = None  # trust these authorities instead of the machine's
    insecure: bool = False  # do not check the certificate
    schedule: tuple[Piece, ...] = ()  # a rate that changes; `scheduled` makes such a plan

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate_per_s), ("duration", self.duration_s), ("deadline", self.deadline_s)):
            if not (math.isfinite(value) and value > 0):
                raise HeadwayError(
                    f"the {name} of a load must be above 0, not {value:g}", hint="give a positive number"
                )
        if self.slo_s is not None and not (math.isfinite(self.slo_s) and self.slo_s > 0):
            raise HeadwayError(f"the SLO of a load must be above 0, not {self.slo_s:g}", hint="or leave it out")
        if self.pattern not in ("poisson", "constant", "burst"):
            raise HeadwayError(f"{self.pattern!r} is no arrival pattern", hint="use poisson, constant or burst")
        if self.connections not in ("new", "keep"):
            raise HeadwayError(f"connections cannot be {self.connections!r}", hint='use "new" or "keep"')
        if self.connections_max is not None and self.connections_max < 1:
            raise HeadwayError("a load needs at least one connection", hint="raise the maximum of connections")
        if not self.requests:
            raise HeadwayError("a load needs at least one request to send", hint="give a method and a path")
        if self.duration_s > DURATION_MAX_S:
            raise HeadwayError("a load lasts a day at most", hint="lower the duration")
        if self.offered_expected > REQUESTS_MAX:
            raise HeadwayError(
                f"{self.offered_expected:,.0f} requests are more than one load keeps in memory ({REQUESTS_MAX:,})",
                hint="lower the rate or the duration",
            )
        if self.pattern == "burst" and self.offered_expected < 1:
            raise HeadwayError("a burst needs at least one request", hint="raise rate x duration to 1 or more")
        if self.schedule and self.pattern == "burst":
            raise HeadwayError("a burst is all at once and has no schedule", hint="leave out one of the two")
        if self.schedule and not math.isclose(self.duration_s, math.fsum(piece.duration_s for piece in self.schedule)):
            raise HeadwayError("the duration of a load is that of its schedule", hint="make it by plan.scheduled")

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The schedule; of a load at one rate, a single piece."""
        return self.schedule or (Piece(self.duration_s, self.rate_per_s, self.rate_per_s),)

    @property
    def rate_max_per_s(self) -> float:
        """The highest rate it comes to."""
        return max(max(piece.from_per_s, piece.to_per_s) for piece in self.pieces)

    @property
    def offered_expected(self) -> float:
        """How many requests this comes to, on average."""
        return self.rate_per_s * self.duration_s

    @property
    def connections_needed(self) -> int:
        """Fewer connections than this make the generator the wall: the burst, else what comes in 250 ms."""
        if self.pattern == "burst":
            return round(self.offered_expected)
        return math.ceil(min(self.offered_expected, self.rate_max_per_s * min(self.deadline_s, 0.25)))


def scheduled(url: str, schedule: Sequence[Piece], **options: Any) -> LoadPlan:
    """A plan whose rate follows `schedule`; `options` are those of LoadPlan."""
    duration_s = math.fsum(piece.duration_s for piece in schedule)
    offered = math.fsum(piece.offered_expected for piece in schedule)
    if offered <= 0:
        raise HeadwayError("a schedule needs a rate above 0 somewhere", hint='like "100 for 10s"')
    return LoadPlan(url, offered / duration_s, duration_s, schedule=tuple(schedule), **options)


def burst(
    url: str, count: int, *, deadline_s: float = 10.0, slo_s: float | None = None, ca_file: str | None = None
) -> LoadPlan:
    """A plan of `count` requests that all start at once, each on its own connection."""
    return LoadPlan(url, float(count), 1.0, pattern="burst", deadline_s=deadline_s, slo_s=slo_s, ca_file=ca_file)
