"""Holding under overload, on virtual time: each way in which known limiters fail, played and measured.

Shares are of what the app could carry (500 requests a second of 2 ms), or of the best limit that somebody could have
declared for that very app and load, found by a sweep in the same world.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from overload_pictures import FOLDER, pictures
from overload_scenarios import (
    APP,
    BEYOND,
    CAPACITY_PER_S,
    HEAVY,
    HOT,
    MEMORY_SHARE_BYTES,
    PATIENT,
    SCENARIOS,
    TENFOLD,
    played,
)
from overload_world import Route, World, best_fixed

SEEDS = (1, 2, 3)
SWEEP = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)


@pytest.mark.parametrize("seed", SEEDS)
def test_ten_times_the_load_costs_no_goodput(seed: int) -> None:
    world = played("tenfold", seed)
    assert world.goodput(2, 20) >= 0.96 * CAPACITY_PER_S
    assert world.took_s(5, 20, 0.5) <= 0.050
    assert world.took_s(5, 20, 0.99) <= 0.200


@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_times_the_load_costs_little(seed: int) -> None:
    assert played("fiftyfold", seed).goodput(3, 20) >= 0.85 * 50


def test_two_replicas_learn_for_themselves() -> None:
    assert played("two-replicas").goodput(2, 20) >= 0.96 * 2 * CAPACITY_PER_S


def test_a_constant_gradient_makes_nothing_grow_without_end() -> None:
    world = played("constant-gradient")
    assert max(world.limits(60, 300)) <= 3 * max(world.limits(10, 60))
    assert world.goodput(200, 300) >= 0.96 * CAPACITY_PER_S


def test_a_baseline_cannot_drift_because_there_is_none() -> None:
    world = played("constant-gradient")
    early, late = world.took_s(20, 60, 0.5), world.took_s(260, 300, 0.5)
    assert late <= 1.5 * early


def test_what_turned_slow_and_quick_again_is_found_again() -> None:
    world = played("faster-again")
    assert world.goodput(73, 120) >= 0.95 * CAPACITY_PER_S
    assert max(world.limits(100, 120)) <= 32


def test_a_constant_time_out_is_not_read_as_health() -> None:
    world = played("constant-timeout")
    # Until the first time-out nothing comes back at all, which may as well be patience: then it is known.
    assert max(world.limits(10, 30)) <= 3 * max(world.limits(2, 10))
    assert world.limits(29, 30)[-1] <= world.limits(9, 10)[-1]
    assert world.goodput(33, 40) >= 0.9 * CAPACITY_PER_S


def test_fast_errors_do_not_pass_for_quick_answers() -> None:
    world = played("fast-errors")
    assert max(world.limits(12, 30)) <= 48
    assert world.goodput(12, 30) >= 0.85 * CAPACITY_PER_S  # errors cost a tenth of an answer


def test_slow_and_quick_routes_get_limits_of_their_own() -> None:
    world = played("slow-and-quick")
    assert world.told("/reports queues by itself")
    assert world.took_s(20, 30, 0.99, "/quick") <= 0.1


def test_the_first_requests_ever_may_come_all_at_once() -> None:
    assert played("cold").goodput(1, 10) >= 0.95 * CAPACITY_PER_S
    crowd = played("cold-crowd")
    assert len(crowd.answers) == 2000
    assert crowd.refused(0, 20) == 0


def test_trying_limits_refuses_nobody_below_the_capacity() -> None:
    world = played("near-capacity")
    assert world.refused(2, 60) <= 0.001 * 450 * 60


def test_trying_limits_makes_no_dips() -> None:
    world = played("constant-gradient")
    shares = world.refused_shares(10, 100, 0.5)
    mean = sum(shares) / len(shares)
    assert max(abs(share - mean) for share in shares) <= 0.2


def test_a_load_that_comes_and_goes_does_not_keep_the_limit_low() -> None:
    world = played("oscillating")
    served = world.goodput(15, 30) * 15
    offered = sum(line.offered for line in world.lines if line.at_s >= 15)
    assert min(world.limits(15, 30)) >= 25  # it takes 50 at once to carry what it can
    assert served >= 0.75 * min(offered, 15 * CAPACITY_PER_S)


@pytest.mark.parametrize(
    ("name", "route", "share"), [("computes-longer", HEAVY, 0.90), ("waits-longer", PATIENT, 0.85)]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_app_that_turns_slower_is_followed_within_three_seconds(
    name: str, route: Route, share: float, seed: int
) -> None:
    world = played(name, seed)
    assert world.goodput(13, 30) >= share * best_fixed(route, TENFOLD, SWEEP)


def test_throughput_that_falls_with_concurrency_is_protected() -> None:
    assert played("hot-rows").goodput(3, 30) >= 0.9 * best_fixed(HOT, 5000.0, SWEEP)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_burst_all_are_in_time_from_half_a_second_on(seed: int) -> None:
    world = played("burst", seed)
    after = [answer for answer in world.answers if answer.arrived_s >= 5.5]
    assert after
    assert all(answer.took_s <= 0.25 for answer in after)
    assert world.refused(5.6, 10) == 0


def test_a_worker_that_lies_is_not_believed() -> None:
    world = played("liar")
    assert world.told("claims service times")
    assert world.goodput(2, 20) >= 0.95 * CAPACITY_PER_S


def test_a_worker_that_tells_nothing_keeps_its_limit() -> None:
    world = played("silence")
    assert world.told("tells nothing")
    assert len(set(world.limits(12, 20))) == 1
    assert world.goodput(12, 20) >= 0.9 * CAPACITY_PER_S


def test_readings_that_come_late_or_never_cost_little() -> None:
    assert played("late-telling").goodput(5, 30) >= 0.88 * CAPACITY_PER_S


def test_a_service_time_above_the_slo_does_not_collapse_the_throughput() -> None:
    world = played("beyond-slo")
    assert world.throughput(10, 120) >= 0.85 / BEYOND.cpu_s


def test_requests_that_hold_memory_stay_inside_their_share() -> None:
    world = played("memory")
    held = [line.in_flight * (4 << 20) for line in world.lines if line.at_s > 1]
    assert max(held) <= MEMORY_SHARE_BYTES


def test_without_overload_nothing_is_refused_and_nothing_changes() -> None:
    world = World(replace(APP), seed=5)
    world.offer(200.0)
    world.until(30.0)
    assert world.refused(0, 30) == 0
    assert len(set(world.limits(1, 30))) == 1


def test_the_pictures_in_the_docs_are_of_these_worlds() -> None:
    for name, text in pictures():
        path = FOLDER / f"{name}.svg"
        assert path.exists(), f"{path} is missing: make docs"
        assert path.read_text() == text, f"{path} is out of date: make docs"
    assert {path.stem for path in FOLDER.glob("*.svg")} == {name for name, _ in pictures()} <= set(SCENARIOS)
