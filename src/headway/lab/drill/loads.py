"""The loads of a drill, on one target with one SLO: a look, a short try, a steady step, a burst and what follows."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from headway.lab.drill.findings import Recovery, Step, step_of, void_step
from headway.lab.drill.recovery import Slice, recovered_s
from headway.lab.drill.search import RATE_MAX_PER_S, Tried
from headway.lab.load import LoadPlan, LoadResult, burst, run_load, scheduled
from headway.lab.schedule import Piece

_SLICE_S = 0.25
_CALM_POLL_S = 0.1
_CALM_IN_A_ROW = 3
# A short try needs some requests to judge a rate by, and no more than it takes.
_REQUESTS_MIN = 20
_TRY_MAX_S = 6.0


@dataclass(slots=True)
class Loads:
    """Loads on `url`. Every one has its own seed, so that a bad spell of arrivals does not repeat itself."""

    url: str
    slo_s: float
    deadline_s: float
    ca_file: str | None = None
    seed: int = 1

    def _next_seed(self) -> int:
        self.seed += 1
        return self.seed

    async def look(self) -> LoadResult:
        """One request, as patient as a person. A HeadwayError says why nobody can be reached."""
        return await self._one(max(10.0, self.deadline_s))

    async def _one(self, deadline_s: float) -> LoadResult:
        return await run_load(burst(self.url, 1, deadline_s=deadline_s, slo_s=self.slo_s, ca_file=self.ca_file))

    async def calm(self, timeout_s: float) -> bool:
        """Wait until it answers in time again; False when it does not. What one load left must not be the next's."""
        until_s, well = time.monotonic() + timeout_s, 0
        while time.monotonic() < until_s:
            found = await self._one(self.deadline_s)
            well = well + 1 if found.ok else 0
            if well == _CALM_IN_A_ROW:
                return True
            await asyncio.sleep(_CALM_POLL_S)
        return False

    async def steady(self, rate_per_s: float, duration_s: float) -> LoadResult:
        """A steady load with new connections."""
        return await run_load(
            LoadPlan(
                self.url,
                rate_per_s,
                duration_s,
                slo_s=self.slo_s,
                deadline_s=self.deadline_s,
                seed=self._next_seed(),
                ca_file=self.ca_file,
            )
        )

    async def attempt(self, rate_per_s: float, duration_s: float, *, settling: bool) -> Tried:
        """One try of a search; longer where the rate is low."""
        lasting_s = max(duration_s, min(_TRY_MAX_S, _REQUESTS_MIN / rate_per_s))
        found = await self.steady(rate_per_s, lasting_s)
        offered_per_s = found.offered / found.duration_s if found.duration_s else 0.0
        return Tried(rate_per_s, offered_per_s, found.goodput_per_s, found.generator.bottleneck, settling)

    async def step(self, times: float, rate_per_s: float, duration_s: float) -> Step:
        """A steady load at a multiple of the capacity; void where this generator cannot make it."""
        if rate_per_s > RATE_MAX_PER_S:
            return void_step(times, rate_per_s, f"this generator is not asked for more than {RATE_MAX_PER_S:,.0f}/s")
        return step_of(times, rate_per_s, await self.steady(rate_per_s, duration_s))

    async def burst_then(self, burst_per_s: float, burst_s: float, after_per_s: float, watched_s: float) -> Recovery:
        """A burst and then, without a pause, a rate that can be carried."""
        rate = min(burst_per_s, RATE_MAX_PER_S)
        count = math.ceil(watched_s / _SLICE_S)
        pieces = (Piece(burst_s, rate, rate), *[Piece(_SLICE_S, after_per_s, after_per_s)] * count)
        plan = scheduled(
            self.url,
            pieces,
            slo_s=self.slo_s,
            deadline_s=self.deadline_s,
            seed=self._next_seed(),
            ca_file=self.ca_file,
        )
        found = await run_load(plan)
        short = found.generator.bottleneck
        slices = tuple(
            Slice(round(part.start_s - burst_s, 3), part.duration_s, part.offered, part.ok) for part in found.pieces[1:]
        )
        return Recovery(rate, burst_s, round(after_per_s, 2), watched_s, recovered_s(slices), slices, short)
