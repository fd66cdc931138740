"""The search for a capacity, on systems whose capacity is known."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.drill.recovery import Slice, recovered_s
from headway.lab.drill.search import RATE_MAX_PER_S, TRIES_MAX, Capacity, Tried, capacity, next_try


def search(goodput: Callable[[float], float], start_per_s: float = 20.0, generator_per_s: float = 1e9) -> Capacity:
    history: list[Tried] = []
    while (step := next_try(history, start_per_s)) is not None:
        limited = step.rate_per_s > generator_per_s
        carried = min(goodput(step.rate_per_s), generator_per_s if limited else 1e9)
        history.append(Tried(step.rate_per_s, step.rate_per_s, carried, limited, step.settling))
        assert len(history) <= TRIES_MAX
    return capacity(history)


@given(st.floats(1, 9_000), st.floats(0.5, 500))
def test_a_system_that_holds_is_found_within_a_few_per_cent(truth: float, start: float) -> None:
    found = search(lambda rate: min(rate, truth), start)
    assert found.wall == "system"
    assert found.per_s == pytest.approx(truth, rel=0.06)


@given(st.floats(1, 9_000), st.floats(0.5, 500))
def test_a_system_that_breaks_is_found_by_bisecting(truth: float, start: float) -> None:
    found = search(lambda rate: rate if rate <= truth else truth * 0.05, start)
    assert found.wall == "system"
    assert 0.8 * truth <= found.per_s <= truth


@given(st.floats(50, 5_000), st.integers(0, 1000))
def test_a_restless_machine_does_not_mislead_it_much(truth: float, seed: int) -> None:
    chance = Random(seed)
    found = search(lambda rate: min(rate, truth * chance.uniform(0.95, 1.03)) * chance.uniform(0.96, 1.0))
    assert found.per_s == pytest.approx(truth, rel=0.15)


def test_one_bad_moment_is_tried_again() -> None:
    bad = iter([0.8])

    def goodput(rate: float) -> float:
        return min(rate, 400.0) * (next(bad, 1.0) if rate == 40.0 else 1.0)

    found = search(goodput)
    assert [tried.rate_per_s for tried in found.tried][:4] == [20, 40, 40, 80]
    assert found.per_s == pytest.approx(400, rel=0.06)


def test_a_search_ends_at_the_generator_and_says_so() -> None:
    found = search(lambda rate: rate, generator_per_s=3_000)
    assert found.is_lower_bound
    assert 2_000 <= found.per_s <= 3_000
    assert search(lambda rate: rate).is_lower_bound, "nothing failed up to the highest rate"
    assert search(lambda rate: rate).per_s <= RATE_MAX_PER_S


def test_a_system_that_answers_nothing_in_time_has_no_capacity() -> None:
    found = search(lambda _rate: 0.0)
    assert found.per_s == 0
    assert found.wall == "system"
    assert len(found.tried) < 10


def test_what_does_not_last_is_not_the_capacity() -> None:
    history: list[Tried] = []
    while (step := next_try(history, 20)) is not None:
        truth = 400.0 if step.settling else 500.0  # a short try is also carried by an empty queue
        history.append(Tried(step.rate_per_s, step.rate_per_s, min(step.rate_per_s, truth), settling=step.settling))
    assert capacity(history).per_s == pytest.approx(400, rel=0.02)


def slices(shares: list[float], offered: int = 50) -> list[Slice]:
    return [Slice(number * 0.25, 0.25, offered, round(offered * share)) for number, share in enumerate(shares)]


def test_recovered_is_when_all_that_follows_is_in_time() -> None:
    assert recovered_s(slices([1.0] * 20)) == 0.0
    assert recovered_s(slices([0.0] * 6 + [1.0] * 14)) == 1.5
    assert recovered_s(slices([0.0, 1.0, 1.0, 0.2, 0.5] + [1.0] * 15)) == 1.25
    assert recovered_s(slices([1.0] * 8 + [0.0] * 12)) is None, "a relapse is no recovery"
    assert recovered_s(slices([0.0] * 20)) is None
    assert recovered_s(slices([0.0] * 18 + [1.0] * 2)) is None, "half a second of calm is too short to tell"
    assert recovered_s([]) is None


def test_one_late_answer_of_a_thousand_is_no_relapse() -> None:
    assert recovered_s(slices([0.5] * 2 + [1.0] * 10 + [0.98] + [1.0] * 10)) == 0.5


@given(st.lists(st.floats(0, 1), min_size=4, max_size=40))
def test_a_recovery_lies_within_what_was_watched(shares: list[float]) -> None:
    found = recovered_s(slices(shares))
    assert found is None or 0 <= found <= len(shares) * 0.25 - 1.0
