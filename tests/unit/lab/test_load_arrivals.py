"""Arrivals are fixed beforehand: by rate, duration and seed alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.arrivals import Pattern, arrivals


def test_constant_arrivals_are_evenly_spaced_from_zero() -> None:
    assert list(arrivals(4, 1.5, pattern="constant")) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_constant_arrivals_do_not_drift_over_a_long_load() -> None:
    *_, last = arrivals(1000 / 3, 3000, pattern="constant")
    assert last == pytest.approx(3000 - 0.003, abs=1e-9)


def test_a_burst_is_all_at_once() -> None:
    assert list(arrivals(10_000, 1, pattern="burst")) == [0.0] * 10_000


def test_poisson_arrivals_have_the_mean_and_the_spread_of_chance() -> None:
    moments = list(arrivals(1000, 100, seed=7))
    assert len(moments) == pytest.approx(100_000, abs=4 * 100_000**0.5)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    # Of exponential gaps 1/e are longer than the mean; evenly spaced ones would give none or all.
    assert sum(gap > 0.001 for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.01)


def test_a_seed_repeats_and_another_differs() -> None:
    assert list(arrivals(100, 5, seed=1)) == list(arrivals(100, 5, seed=1))
    assert list(arrivals(100, 5, seed=1)) != list(arrivals(100, 5, seed=2))


@given(
    rate_per_s=st.floats(0.1, 500),
    duration_s=st.floats(0.01, 20),
    seed=st.integers(0, 2**32),
    pattern=st.sampled_from(["poisson", "constant", "burst"]),
)
def test_arrivals_ascend_within_the_duration(rate_per_s: float, duration_s: float, seed: int, pattern: Pattern) -> None:
    moments = list(arrivals(rate_per_s, duration_s, seed, pattern))
    assert moments == sorted(moments)
    assert all(0 <= moment < duration_s for moment in moments)
