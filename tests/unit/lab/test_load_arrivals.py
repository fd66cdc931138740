"""Arrivals are fixed beforehand: by rate, duration and seed alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.arrivals import Pattern, arrivals, scheduled_arrivals
from headway.lab.schedule import Piece


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


def count_between(moments: list[float], low_s: float, high_s: float) -> int:
    return sum(low_s <= moment < high_s for moment in moments)


def test_a_ramp_offers_what_lies_under_its_line() -> None:
    moments = list(scheduled_arrivals((Piece(60, 0, 1000),), seed=3))
    # 30,000 in all, 1/4 of them in the first half; four standard deviations of chance.
    assert len(moments) == pytest.approx(30_000, abs=4 * 30_000**0.5)
    assert count_between(moments, 0, 30) == pytest.approx(7_500, abs=4 * 7_500**0.5)
    assert count_between(moments, 59, 60) == pytest.approx(991.7, abs=4 * 992**0.5)


def test_a_spike_and_a_pause_are_where_they_were_asked_for() -> None:
    moments = list(scheduled_arrivals((Piece(10, 100, 100), Piece(3, 1000, 1000), Piece(5, 0, 0), Piece(2, 50, 50)), 1))
    assert count_between(moments, 10, 13) == pytest.approx(3000, abs=4 * 3000**0.5)
    assert count_between(moments, 13, 18) == 0
    assert count_between(moments, 18, 20) == pytest.approx(100, abs=40)


def test_constant_arrivals_of_a_falling_ramp_get_farther_apart() -> None:
    moments = list(scheduled_arrivals((Piece(10, 20, 0),), pattern="constant"))
    assert len(moments) == 100
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps == sorted(gaps)
    assert gaps[0] == pytest.approx(0.05, rel=0.01)


def test_one_piece_is_the_load_at_one_rate() -> None:
    assert list(scheduled_arrivals((Piece(5, 100, 100),), 7)) == list(arrivals(100, 5, 7))


@given(
    pieces=st.lists(st.builds(Piece, st.floats(0.01, 5), st.floats(0, 200), st.floats(0, 200)), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    pattern=st.sampled_from(["poisson", "constant"]),
)
def test_scheduled_arrivals_ascend_within_the_duration(pieces: list[Piece], seed: int, pattern: Pattern) -> None:
    moments = list(scheduled_arrivals(pieces, seed, pattern))
    assert moments == sorted(moments)
    assert all(0 <= moment <= sum(piece.duration_s for piece in pieces) for moment in moments)
    if pattern == "constant":
        assert len(moments) == pytest.approx(sum(piece.offered_expected for piece in pieces), abs=len(pieces) + 1)


def test_a_pause_takes_no_request_that_rounding_left_over() -> None:
    # 2.2 x 25 is a little over 55 in binary: request 55 is due at the very end of the first piece, or behind the pause.
    pieces = (Piece(2.2, 25, 25), Piece(1, 0, 0), Piece(1, 25, 25))
    moments = list(scheduled_arrivals(pieces, pattern="constant"))
    assert len(moments) == 80
    assert moments == sorted(moments)
    assert moments[55] == pytest.approx(3.2)
    assert not [moment for moment in moments if 2.2 <= moment < 3.2 - 1e-9]


@given(
    st.lists(
        st.builds(Piece, st.floats(0.01, 5), *[st.one_of(st.just(0.0), st.floats(0, 50))] * 2), min_size=1, max_size=6
    ),
    st.sampled_from(["constant", "poisson"]),
)
def test_every_schedule_can_be_sent(pieces: list[Piece], pattern: Pattern) -> None:
    moments = list(scheduled_arrivals(pieces, 3, pattern))
    assert moments == sorted(moments)
    assert all(0 <= moment <= sum(piece.duration_s for piece in pieces) for moment in moments)
