"""The scalability law: known curves are found again, intervals hold, and nothing is told that cannot be known."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.drill.usl import Curve, Forecast, Unknown, fit, forecast

CURVES = st.builds(
    Curve,
    per_core=st.floats(0.5, 50_000),
    contention=st.one_of(st.just(0.0), st.floats(0.0, 0.9)),
    coherence=st.one_of(st.just(0.0), st.floats(0.0, 0.05)),
)
SIZES = st.lists(st.integers(1, 64), min_size=3, max_size=8, unique=True)


@given(CURVES, SIZES)
def test_a_curve_without_noise_is_found_again(curve: Curve, sizes: list[int]) -> None:
    found = fit([(float(n), curve.at(n)) for n in sizes])
    for n in sizes:
        assert found.at(n) == pytest.approx(curve.at(n), rel=1e-6)
    if 1 in sizes:
        assert found.per_core == pytest.approx(curve.per_core, rel=1e-6)
        assert found.contention == pytest.approx(curve.contention, abs=1e-6)
        assert found.coherence == pytest.approx(curve.coherence, abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0.1, 1e5)), min_size=1, max_size=12))
def test_contention_and_coherence_are_never_negative(points: list[tuple[int, float]]) -> None:
    curve = fit([(float(n), x) for n, x in points])
    assert curve.per_core > 0
    assert curve.contention >= 0
    assert curve.coherence >= 0


@given(CURVES)
def test_no_other_curve_near_it_fits_better(curve: Curve) -> None:
    chance = Random(7)
    points = [(float(n), curve.at(n) * (1 + chance.uniform(-0.1, 0.1))) for n in (1, 2, 3, 4, 6, 8)]

    def error(tried: Curve) -> float:
        return sum((1 - x / tried.at(n)) ** 2 for n, x in points)

    best = fit(points)
    for factor in (0.97, 1.03):
        for change in ((factor, 1, 1), (1, factor, 1), (1, 1, factor)):
            near = Curve(best.per_core * change[0], best.contention * change[1], best.coherence * change[2])
            assert error(near) >= error(best) - 1e-9


def test_faster_than_linear_becomes_linear() -> None:
    assert fit([(1.0, 100.0), (2.0, 230.0), (4.0, 500.0)]).contention == 0


def test_half_a_core_tells_of_one_core_only() -> None:
    curve = Curve(100.0, 0.1, 0.01)
    assert curve.at(0.5) == 50.0
    found = fit([(n, curve.at(n)) for n in (0.5, 1.0, 2.0, 4.0)])
    assert found.contention == pytest.approx(0.1)


def _measured(
    curve: Curve, sizes: tuple[float, ...], noise: float, repeats: int, seed: int
) -> dict[float, list[float]]:
    chance = Random(seed)
    return {float(n): [curve.at(n) * chance.gauss(1, noise) for _ in range(repeats)] for n in sizes}


def _shifted(curve: Curve, sizes: tuple[int, ...], shift: float, noise: float, seed: int) -> dict[float, list[float]]:
    """Three repeats in a row say little against each other and share what that minute did to all of them."""
    chance = Random(seed)
    found = {}
    for n in sizes:
        level = curve.at(n) * chance.gauss(1, shift)
        found[float(n)] = [level * chance.gauss(1, noise) for _ in range(3)]
    return found


def _held(found: list[Forecast | Unknown], truth: float) -> int:
    return sum(isinstance(f, Forecast) and f.low_per_s <= truth <= f.high_per_s for f in found)


def test_the_interval_holds_the_truth() -> None:
    curve, narrow = Curve(400.0, 0.06, 0.004), 0
    found = [forecast(_measured(curve, (1, 2, 4, 6, 8), 0.03, 4, seed), 12, seed=seed) for seed in range(40)]
    for one in found:
        assert isinstance(one, Forecast)
        narrow += one.high_per_s - one.low_per_s < curve.at(12)
    assert _held(found, curve.at(12)) >= 36, "intervals of 95 %"
    assert narrow >= 36, "an interval that holds everything says nothing"


@pytest.mark.parametrize(("sizes", "shift"), [((1, 2, 4, 6), 0.02), ((1, 2, 3, 4, 6, 8), 0.06)])
def test_repeats_that_agree_too_well_do_not_make_it_narrow(sizes: tuple[int, ...], shift: float) -> None:
    curve, end = Curve(400.0, 0.06, 0.004), 1.5 * sizes[-1]
    found = [forecast(_shifted(curve, sizes, shift, 0.004, seed), end, seed=seed) for seed in range(30)]
    assert _held(found, curve.at(end)) >= 26


def test_a_forecast_of_a_measurement_holds_the_next_one() -> None:
    curve, held = Curve(400.0, 0.06, 0.004), 0
    chance = Random(1)
    for seed in range(30):
        found = forecast(_measured(curve, (1, 2, 4, 6, 8), 0.05, 3, seed), 8, seed=seed)
        assert isinstance(found, Forecast)
        held += found.low_per_s <= curve.at(8) * chance.gauss(1, 0.05) <= found.high_per_s
    assert held >= 27


def test_the_same_seed_tells_the_same() -> None:
    samples = _measured(Curve(400.0, 0.06, 0.004), (1, 2, 4), 0.03, 3, 1)
    assert forecast(samples, 8, seed=5) == forecast(samples, 8, seed=5)
    assert forecast(samples, 8, seed=5) != forecast(samples, 8, seed=6)


@given(st.integers(2, 16), st.floats(2.001, 50))
def test_nothing_is_told_beyond_twice_the_largest_size(largest: int, times: float) -> None:
    samples = _measured(Curve(100.0, 0.05, 0.001), (1, 1.5, largest), 0.01, 3, 1)
    found = forecast(samples, largest * times)
    assert isinstance(found, Unknown)
    assert "twice the largest" in found.reason


def test_three_sizes_give_a_bound_and_fewer_give_nothing() -> None:
    curve = Curve(100.0, 0.1, 0.02)
    for seed in range(20):
        bound = forecast(_measured(curve, (1, 2, 4), 0.02, 3, seed), 8, seed=seed)
        assert isinstance(bound, Forecast)
        assert bound.is_bound
        assert bound.curve.coherence == 0
        assert bound.high_per_s >= curve.at(8), "what is said to be the most is more than the truth"
    for sizes in ((1,), (1, 2)):
        few = forecast(_measured(curve, sizes, 0.01, 3, 1), 2)
        assert isinstance(few, Unknown)
        assert "3 or more" in few.reason
    assert isinstance(forecast({0.25: [25.0, 26.0], 0.5: [50.0, 51.0], 1.0: [100.0, 99.0]}, 2), Unknown)


def test_without_repeats_there_is_no_interval_and_so_no_figure() -> None:
    found = forecast({1.0: [100.0], 2.0: [180.0], 4.0: [300.0]}, 8)
    assert isinstance(found, Unknown)
    assert "repeats" in found.reason
