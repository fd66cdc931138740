"""Which sizes say what the workers carry, and what these foretell.

The law is about the workers' cores. A size at which the load or the edge had reached its own end, or took its cores
from the workers, tells of those instead: it stays in the table, as a lower bound, and out of the forecast. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from headway.lab.drill.findings import Size
from headway.lab.drill.usl import BEYOND_MAX, Forecast, Unknown, forecast

BUSY_MAX = 0.9  # of its own cores, above which the edge has no room


def why_limited(
    size: float, cores: int, *, generator_is_wall: bool, generator_cores: float, edge_cores: float, edge_threads: int
) -> str:
    """What else than the workers bounded the throughput at a size; "" for nothing. Cores are those that were used."""
    if generator_is_wall:
        return "the generator was the wall"
    if edge_cores > BUSY_MAX * edge_threads:
        return "the edge was the wall"
    if size + generator_cores + edge_cores > cores:
        return "the edge and the load took from the same cores"
    return ""


def ceiling(sizes: Sequence[Size]) -> Forecast | Unknown:
    """What twice the largest size would carry, from those sizes that tell of the workers alone."""
    samples = {size.cores: size.per_s for size in sizes if size.per_s and not size.limit}
    largest = max((size for size in samples if size >= 1), default=1.0)
    found = forecast(samples, BEYOND_MAX * largest, seed=1)
    left_out = [f"at {size.cores:g} cores {size.limit}" for size in sizes if size.limit]
    if isinstance(found, Unknown) and left_out:
        return Unknown(f"{', '.join(left_out)}; without that, {found.reason}")
    return found
