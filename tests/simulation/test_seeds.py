"""Whole lives of systems drawn from seeds: every tick is checked, each ends exactly as wanted, with nothing left."""

from __future__ import annotations

import pytest
from simulate import simulate


@pytest.mark.parametrize("seed", range(80))
def test_nobody_notices_one_fault_at_a_time(seed: int) -> None:
    system = simulate(seed)
    assert system.world.tally("web").served > 50


@pytest.mark.parametrize("seed", range(80))
def test_faults_all_over_each_other_are_survived(seed: int) -> None:
    simulate(seed, storm=True)


@pytest.mark.parametrize("seed", [3, 14])
def test_a_seed_repeats_to_the_letter(seed: int) -> None:
    first, second = simulate(seed, storm=True), simulate(seed, storm=True)
    assert first.journal.lines == second.journal.lines
    assert first.world.tally("web") == second.world.tally("web")
    assert first.journal.lines != simulate(seed + 1, storm=True).journal.lines


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", range(1000, 2000, 250))
@pytest.mark.parametrize("storm", [False, True])
def test_thousands_of_lives(first: int, storm: bool) -> None:
    for seed in range(first, first + 250):
        simulate(seed, storm=storm, seconds=120.0)
