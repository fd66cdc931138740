"""Which sizes a forecast may be made from."""

from __future__ import annotations

from typing import Any

import pytest

from headway.lab.drill.ceiling import ceiling, why_limited
from headway.lab.drill.findings import Size
from headway.lab.drill.usl import Forecast, Unknown

FREE: dict[str, Any] = {
    "generator_is_wall": False, "generator_cores": 0.5, "edge_cores": 0.3, "edge_threads": 1
}  # fmt: skip


@pytest.mark.parametrize(
    ("size", "cores", "changes", "reason"),
    [
        (1, 2, {}, ""),
        (4, 8, {}, ""),
        (2, 2, {}, "same cores"),
        (2, 2, {"generator_cores": 0.01, "edge_cores": 0.01}, "same cores"),
        (7, 8, {"generator_cores": 0.8}, "same cores"),
        (1, 8, {"generator_is_wall": True}, "generator"),
        (1, 8, {"edge_cores": 0.95}, "the edge was the wall"),
        (1, 8, {"edge_cores": 0.95, "edge_threads": 2}, ""),
    ],
)
def test_what_bounded_a_size(size: float, cores: int, changes: dict[str, Any], reason: str) -> None:
    found = why_limited(size, cores, **{**FREE, **changes})
    assert reason in found
    assert bool(reason) == bool(found)


def sizes(*limits: str) -> tuple[Size, ...]:
    """1, 2, 4, … cores; the law holds where nothing limits, and half of it where something does."""
    found = []
    for power, limit in enumerate(limits):
        cores = 2.0**power
        per_s = 100 * cores * (0.5 if limit else 1.0)
        found.append(Size(cores, int(cores), (per_s, 0.99 * per_s, 1.01 * per_s), bool(limit), limit))
    return tuple(found)


def test_a_size_that_was_limited_is_left_out() -> None:
    found = ceiling(sizes("", "", "", "", "the edge was the wall"))
    assert isinstance(found, Forecast)
    assert found.size == 16
    assert found.per_s == pytest.approx(1600, rel=0.02), "the fifth would bend the curve"


def test_too_few_are_left_and_it_is_said_why() -> None:
    found = ceiling(sizes("", "the edge and the load took from the same cores"))
    assert isinstance(found, Unknown)
    assert "at 2 cores the edge and the load took from the same cores" in found.reason
    assert "1 size of at least a core" in found.reason
    assert ceiling(()) == ceiling(sizes())
