"""Holding under overload, on virtual time: each way in which known limiters fail, played and measured.

Shares are of what the app can carry (500 requests a second of 2 ms of computing), or, where it says so, of the best
limit that somebody could have declared for that very app and load, found by a sweep in the same world. Bounds leave
some room below the worst of five seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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

SEEDS: tuple[int, ...] = (1,)
SWEEP = (2, 4, 6, 8, 10, 12, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128)
CORES_PER_S = {"tenfold": 500.0, "fiftyfold": 50.0, "two-replicas": 1000.0, "cold": 500.0}


@pytest.fixture(
    autouse=True, params=[pytest.param((1,), id="one-seed"), pytest.param((2, 3), id="more", marks=pytest.mark.long)]
)
def _seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SEEDS", request.param)


def worlds(name: str) -> Iterator[World]:
    """A scenario with each of some seeds."""
    return (played(name, seed) for seed in SEEDS)


@pytest.mark.parametrize("name", CORES_PER_S)
def test_ten_and_fifty_times_the_load_cost_no_goodput(name: str) -> None:
    for world in worlds(name):
        assert world.goodput(3, SCENARIOS[name].end_s) >= 0.95 * CORES_PER_S[name]
        assert world.took_s(5, SCENARIOS[name].end_s, 0.99) <= 0.24


def test_an_app_of_20_ms_at_fifty_times_its_load_serves_from_the_first_seconds_on() -> None:
    for world in worlds("fiftyfold"):
        assert world.goodput(0, 20) >= 0.90 * 50
        assert world.goodput(1, 20) >= 0.95 * 50


def test_a_core_that_others_use_does_not_pass_for_an_idle_one() -> None:
    for world in worlds("robbed"):
        assert max(world.limits(0, 20)) <= 16
        assert world.goodput(3, 20) >= 0.90 * 25


def test_answers_are_quick_under_ten_times_the_load() -> None:
    for world in worlds("tenfold"):
        assert world.took_s(5, 20, 0.50) <= 0.050
        assert world.took_s(5, 20, 0.99) <= 0.070


def test_a_constant_gradient_makes_nothing_grow_without_end() -> None:
    for world in worlds("constant-gradient"):
        assert max(world.limits(20, 300)) <= 32
        assert world.goodput(240, 300) >= 0.97 * CAPACITY_PER_S


def test_a_baseline_cannot_drift_up_because_there_is_none() -> None:
    for world in worlds("constant-gradient"):
        assert world.took_s(240, 300, 0.5) <= 1.15 * world.took_s(20, 80, 0.5)


def test_what_was_slow_and_is_quick_again_is_found_again() -> None:
    for world in worlds("faster-again"):
        assert world.goodput(72, 120) >= 0.95 * CAPACITY_PER_S
        assert max(world.limits(90, 120)) <= 24
        assert world.took_s(90, 120, 0.5) <= 0.055


@pytest.mark.parametrize(("name", "back_s"), [("constant-timeout", 30.0), ("lasting-timeout", 130.0)])
def test_a_constant_time_out_is_not_read_as_health(name: str, back_s: float) -> None:
    for world in worlds(name):
        assert max(world.limits(10, back_s)) <= 24
        assert min(world.limits(10, back_s)) >= 4  # or nobody would see that it is back
        assert world.goodput(back_s + 2, SCENARIOS[name].end_s) >= 0.95 * CAPACITY_PER_S


def test_silence_is_not_read_as_room() -> None:
    for world in worlds("nothing-comes"):
        before = max(world.limits(9, 10))
        assert max(world.limits(10, 30)) <= 2 * before
        assert world.goodput(31, 50) >= 0.95 * CAPACITY_PER_S
        assert max(world.limits(31, 50)) <= 32
        assert world.took_s(31, 50, 0.99) <= 0.24


def test_fast_errors_do_not_pass_for_quick_answers() -> None:
    quick_errors_per_s = CAPACITY_PER_S / (0.5 + 0.5 * 0.05)  # half of all, each a twentieth of the computing
    for world in worlds("fast-errors"):
        assert max(world.limits(12, 30)) <= 24
        assert world.goodput(12, 30) >= 0.95 * quick_errors_per_s / 2


def test_a_quick_route_does_not_wait_behind_a_slow_one() -> None:
    for world in worlds("slow-and-quick"):
        assert world.told("/reports queues by itself")[0] <= 2.0
        assert world.took_s(5, 30, 0.99, "/quick") <= 0.040
        assert world.goodput(5, 30, "/quick") >= 0.95 * 160
        assert not world.told("claims service times"), "slow requests in their places are no lie"


def test_a_quick_route_would_wait_behind_a_slow_one_in_one_limit() -> None:
    world = World(*SCENARIOS["slow-and-quick"].begin(1).app, seed=1, limit=16)
    world.offer(200.0)
    assert world.until(20.0).goodput(5, 20, "/quick") <= 0.8 * 160


def test_the_first_requests_ever_may_come_all_at_once() -> None:
    for world in worlds("cold"):
        assert world.goodput(0.5, 2) >= 0.95 * CAPACITY_PER_S
    for crowd in worlds("cold-crowd"):
        assert crowd.refused(0, 20) == 0
        assert len(crowd.answers) == 2000
        assert crowd.took_s(0, 20, 1.0) <= 10.0  # 5 s to 7.5 s that a request waits, and 1 s that all compute


def test_trying_limits_refuses_nobody_below_the_capacity() -> None:
    for world in worlds("near-capacity"):
        assert world.refused(0, 60) <= 0.0005 * 450 * 60  # even nine tenths are too much now and then, by chance
        assert world.goodput(1, 60) >= 0.99 * world.throughput(1, 60)


def test_trying_limits_makes_no_dips() -> None:
    for world in worlds("constant-gradient"):
        shares = world.refused_shares(10, 300, 0.5)
        mean = sum(shares) / len(shares)
        assert mean == pytest.approx(0.5, abs=0.02)
        assert max(shares) <= mean + 0.15  # of 500 that come in such a time: chance alone makes 0.06


@pytest.mark.parametrize(("name", "app", "share"), [("oscillating", PATIENT, 0.85), ("quick-oscillating", APP, 0.90)])
def test_a_load_that_comes_and_goes_leaves_the_limit_neither_low_nor_high(name: str, app: Route, share: float) -> None:
    best = max(_goodput_at(app, limit, SCENARIOS[name].play) for limit in SWEEP)
    for world in worlds(name):
        assert world.goodput(5, 30) >= share * best


def _goodput_at(app: Route, limit: int, play: Callable[[World], object]) -> float:
    world = World(app, seed=99, limit=limit)
    play(world)
    return world.until(30.0).goodput(5, 30)


@pytest.mark.parametrize(("name", "app", "share"), [("computes-longer", HEAVY, 0.95), ("waits-longer", PATIENT, 0.90)])
def test_an_app_that_turns_slower_is_followed_within_three_seconds(name: str, app: Route, share: float) -> None:
    best = best_fixed(app, TENFOLD, SWEEP)
    for world in worlds(name):
        assert world.goodput(13, 30) >= share * best


def test_throughput_that_falls_with_concurrency_is_protected() -> None:
    best, worst = best_fixed(HOT, 5000.0, SWEEP), best_fixed(HOT, 5000.0, (32,))
    assert worst < 0.75 * best, "a limit far too high would cost a quarter"
    for world in worlds("hot-rows"):
        assert world.goodput(3, 30) >= 0.95 * best


def test_after_a_burst_all_are_in_time_from_half_a_second_on() -> None:
    for world in worlds("burst"):
        after = [answer for answer in world.answers if answer.arrived_s >= 5.5]
        assert len(after) > 1000
        assert max(answer.took_s for answer in after) <= 0.25
        assert world.refused(5.5, 10) == 0


def test_a_worker_that_lies_is_not_believed() -> None:
    for world in worlds("liar"):
        assert len(world.told("claims service times")) == 1
        assert world.goodput(2, 20) >= 0.95 * CAPACITY_PER_S


def test_a_worker_that_tells_nothing_keeps_its_limit() -> None:
    for world in worlds("silence"):
        assert [round(at_s) for at_s in world.told("tells")] == [11, 20]  # nothing; again
        assert len(set(world.limits(10.3, 20))) == 1
        assert world.goodput(10, 20) >= 0.95 * CAPACITY_PER_S


def test_readings_that_come_late_or_never_cost_little() -> None:
    for world in worlds("late-telling"):
        assert world.goodput(5, 30) >= 0.90 * CAPACITY_PER_S


def test_a_service_time_above_the_slo_does_not_collapse_the_throughput() -> None:
    for world in worlds("beyond-slo"):
        assert world.throughput(10, 120) >= 0.90 / BEYOND.cpu_s
        assert min(world.throughput(at_s, at_s + 10) for at_s in range(10, 120, 10)) >= 0.70 / BEYOND.cpu_s


def test_a_service_time_that_is_within_the_slo_again_is_found_again() -> None:
    for world in worlds("from-beyond-slo"):
        assert world.goodput(135, 150) >= 0.95 * CAPACITY_PER_S


def test_requests_that_hold_memory_stay_inside_their_share() -> None:
    for world in worlds("memory"):
        held = [(60 << 20) + line.in_flight * (4 << 20) for line in world.lines]
        assert max(held) <= MEMORY_SHARE_BYTES
        assert min(world.limits(2, 20)) >= 24, "and use what there is"


def test_without_overload_nothing_is_refused_and_nothing_changes() -> None:
    world = World(APP, seed=5)
    world.offer(200.0)
    world.until(30.0)
    assert world.refused(0, 30) == 0
    assert len(set(world.limits(1, 30))) == 1
    assert not world.told("")


def test_a_seed_replays_a_world_to_the_letter() -> None:
    one, other = (SCENARIOS["burst"].begin(7) for _ in range(2))
    for world in (one, other):
        SCENARIOS["burst"].play(world)
        world.until(6.0)
    assert one.lines == other.lines
    assert one.answers == other.answers


def test_the_pictures_in_the_docs_are_of_these_worlds() -> None:
    for name, text in pictures():
        path = FOLDER / f"{name}.svg"
        assert path.exists(), f"{path} is missing: make docs"
        assert path.read_text() == text, f"{path} is out of date: make docs"
        assert len(text) <= 20_000
    assert {path.stem for path in FOLDER.glob("*.svg")} == {name for name, _ in pictures()} <= set(SCENARIOS)
