"""How many replicas: up soon, down late, never to and fro, and no further than something else allows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest

from headway.overload.scaling import PACE, Bounds, Connections, Scaling, Seen, begin, most_for, scale

BOUNDS = Bounds(min=1, max=16, cores=8)
GIB = 2**30


@dataclass
class World:
    """A service under a load: `load` replicas' worth of work, spread over those that run."""

    bounds: Bounds = BOUNDS
    state: Scaling = field(default_factory=lambda: begin(1))
    now_s: float = 1000.0
    extra: Seen = field(default_factory=lambda: Seen(0))
    steps: list[tuple[float, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def run(self, load: float, seconds: float) -> int:
        began_s = self.now_s
        while self.now_s < began_s + seconds:
            count = self.state.replicas
            used = min(load, float(count))
            seen = replace(
                self.extra, replicas=count, cpu_cores=used, utilisation=used / count, queued=3 if load > count else 0
            )
            self.state, wanted, reason = scale(self.state, seen, self.bounds, self.now_s)
            if wanted != count:
                self.steps.append((self.now_s - began_s, wanted))
            if reason:
                self.told.append(reason)
            self.now_s += 0.5
        return self.state.replicas


def test_it_goes_up_after_two_seconds_of_pressure_and_no_faster_than_by_half() -> None:
    world = World()
    assert world.run(5.0, 60) == 8
    times, counts = zip(*world.steps, strict=True)
    assert counts == (2, 3, 4, 6, 8)
    assert times[0] == pytest.approx(2.0, abs=0.6)
    assert all(later - earlier >= PACE.up_after_s for earlier, later in pairwise(times))
    assert world.told[0] == "1 → 2 replicas: 3 waiting, in flight 100% of the limit, 1.00 of a core each"


def test_it_goes_down_after_a_minute_of_slack_one_by_one() -> None:
    world = World(state=begin(8))
    assert world.run(0.5, 300) == 1
    times, counts = zip(*world.steps, strict=True)
    assert counts == (7, 6, 5, 4, 3, 2, 1)
    assert times[0] == pytest.approx(PACE.down_after_s, abs=1.1)
    assert all(later - earlier >= PACE.down_again_s for earlier, later in pairwise(times))
    assert "7 could have done it for a while" in world.told[0]


def test_a_short_peak_changes_nothing() -> None:
    world = World(state=begin(2))
    world.run(1.0, 10)
    world.run(8.0, 1.5)
    world.run(1.0, 10)
    assert world.steps == []


def test_a_short_lull_lets_nobody_go() -> None:
    world = World(state=begin(4))
    for _ in range(5):
        world.run(0.2, 50)
        world.run(2.6, 5)
    assert world.steps == []


@pytest.mark.parametrize("load", [0.1, 0.69, 0.72, 0.78, 1.3, 1.6, 2.1, 2.9, 3.5, 5.0, 5.6, 7.9])
@pytest.mark.parametrize("start", [1, 3, 8])
def test_a_steady_load_ends_at_one_number_and_stays_there(load, start) -> None:
    world = World(state=begin(start))
    settled = world.run(load, 1200)
    directions = [b > a for (_, a), (_, b) in pairwise([(0.0, start), *world.steps])]
    assert len(set(directions)) <= 1, world.steps
    world.steps.clear()
    world.run(load, 1200)
    assert (world.steps, world.state.replicas) == ([], settled)


def test_a_step_down_that_was_too_early_makes_the_next_one_later() -> None:
    # Requests wait whenever there are fewer than three, though three have next to nothing to do.
    state, now_s, downs = begin(3), 0.0, []
    while now_s < 3600:
        few = state.replicas < 3
        seen = Seen(state.replicas, utilisation=0.2, queued=2 if few else 0)
        before = state.replicas
        state, wanted, _ = scale(state, seen, BOUNDS, now_s)
        if wanted < before:
            downs.append(now_s)
        now_s += 0.5
    gaps = [later - earlier for earlier, later in pairwise(downs)]
    assert len(downs) <= 6
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps) if earlier < 480)


def test_what_is_not_known_changes_nothing() -> None:
    state = begin(4)
    for second in range(300):
        state, wanted, reason = scale(state, None if second % 2 else Seen(4), BOUNDS, float(second))
        assert (wanted, reason) == (4, "")


def test_the_next_step_waits_for_those_that_still_start() -> None:
    state = begin(2)
    for tick in range(100):
        state, wanted, _ = scale(state, Seen(1, utilisation=1.0, cpu_cores=1.0), BOUNDS, tick / 2)
        assert wanted == 2


def test_a_controller_that_stood_still_saw_neither_pressure_nor_slack() -> None:
    state = begin(2)
    state, _, _ = scale(state, Seen(2, utilisation=1.0), BOUNDS, 0.0)
    state, wanted, _ = scale(state, Seen(2, utilisation=1.0), BOUNDS, 1000.0)
    assert wanted == 2


@pytest.mark.parametrize(("declared", "expected"), [(Bounds(4, 8, 8), 4), (Bounds(1, 2, 8), 2)])
def test_other_bounds_hold_at_once(declared, expected) -> None:
    state = begin(3)
    state, wanted, reason = scale(state, None, declared, 0.0)
    assert (wanted, state.replicas) == (expected, expected)
    assert "are declared" in reason


# -- what stands in the way


def pressed(extra: Seen, bounds: Bounds = BOUNDS, start: int = 2) -> World:
    world = World(bounds=bounds, state=begin(start), extra=extra)
    world.run(16.0, 120)
    return world


def test_more_than_the_cores_make_no_sense_where_replicas_compute() -> None:
    world = pressed(Seen(0), Bounds(1, 64, 4))
    assert world.state.replicas == 4
    assert "more than 4 do not make 4 cores faster" in world.told[-1] or "of 4 cores already" in world.told[-1]


@pytest.mark.parametrize(
    ("cores", "each", "most"),
    [(4, 1.0, 4), (4, 0.9, 4), (4, 0.6, 6), (4, 0.1, 8), (4, None, 8), (1, 1.0, 1), (1.5, 1.0, 2), (0.5, None, 1)],
)
def test_how_many_the_cores_can_use(cores, each, most) -> None:
    assert most_for(cores, each) == most


def test_the_declared_minimum_holds_on_a_small_machine_too() -> None:
    world = World(bounds=Bounds(6, 16, 2), state=begin(6))
    assert world.run(6.0, 60) == 6


def test_it_stops_where_other_services_use_the_cores() -> None:
    world = pressed(Seen(0, others_cores=6.0))
    assert world.state.replicas == 2
    assert "replicas use 8.0 of 8 cores already" in world.told[-1]


def test_it_stops_where_the_memory_ends() -> None:
    world = pressed(Seen(0, rss_bytes=GIB, available_bytes=GIB))
    assert world.state.replicas == 2
    assert "1024 MiB of memory are left, and one takes 1024 MiB" in world.told[-1]


def test_it_stops_where_the_connections_of_the_database_end() -> None:
    world = pressed(Seen(0, connections=Connections("main", open=75, most=100, each=10.0)))
    assert world.state.replicas == 2
    assert world.told == [
        "more than 2 are needed (3 waiting, in flight 100% of the limit, 1.00 of a core each), but "
        "75 of 100 connections to database main are open"
    ]


def test_a_step_is_as_long_as_the_connections_allow() -> None:
    world = World(state=begin(6), extra=Seen(0, connections=Connections("main", open=60, most=100, each=10.0)))
    world.run(8.0, 3)
    assert [count for _, count in world.steps] == [8]  # 9 by its load


def test_what_stands_in_the_way_is_told_once_until_it_was_gone() -> None:
    world = pressed(Seen(0), Bounds(1, 2, 8))
    assert len(world.told) == 1
    assert "2 is the most that is declared" in world.told[0]
    world.run(1.2, 30)
    world.run(16.0, 30)
    assert len(world.told) == 2


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (Seen(0, busy_cores=7.5), "7.5 of 8 cores are in use, by whomever"),
        (Seen(0, uncounted="database main is not ready"), "database main is not ready"),
    ],
)
def test_it_does_not_go_up_where_more_would_not_help(extra: Seen, why: str) -> None:
    world = World(state=begin(2), extra=extra)
    assert world.run(5.0, 30) == 2
    assert len(world.told) == 1
    assert world.told[0].endswith(f"but {why}")


@pytest.mark.parametrize(("each_s", "told_max"), [(0.5, 1), (1.0, 1), (2.5, 1), (5.0, 13), (30.0, 6)])
def test_reasons_that_take_turns_are_told_once_and_those_that_last_a_few_times_a_minute(each_s, told_max) -> None:
    world = World(state=begin(2))
    for turn in range(round(120 / each_s)):
        world.extra = Seen(0, uncounted="main") if turn % 2 else Seen(0, others_cores=8.0)
        world.run(5.0, each_s)
    assert world.state.replicas == 2
    assert len(world.told) <= told_max
    assert len(world.told) == 1 or "main" in "".join(world.told)


def test_another_reason_is_told_once_it_lasts() -> None:
    world = World(state=begin(2), extra=Seen(0, connections=Connections("main", open=75, most=100, each=10.0)))
    world.run(5.0, 30)
    world.extra = replace(world.extra, connections=Connections("reports", open=75, most=100, each=10.0))
    world.run(5.0, 30)
    assert [told.rpartition("database ")[2] for told in world.told] == ["main are open", "reports are open"]


def test_of_several_reasons_the_one_that_lasts_is_told() -> None:
    world = World(state=begin(2), extra=Seen(0, busy_cores=8.0, uncounted="database main is full"))
    world.run(5.0, 60)
    assert len(world.told) == 1
    assert world.told[0].endswith("but database main is full")


def test_a_neighbours_moment_of_rest_is_no_room() -> None:
    world = World(state=begin(2), extra=Seen(0, busy_cores=8.0))
    for _ in range(20):
        world.extra = Seen(0, busy_cores=8.0)
        world.run(5.0, 3)
        world.extra = Seen(0, busy_cores=6.8)
        world.run(5.0, 0.5)
    assert world.steps == []
    world.extra = Seen(0, busy_cores=4.0)
    assert world.run(5.0, 10) > 2


def test_a_replica_that_does_not_come_is_told_once() -> None:
    state, told, now_s = begin(4), [], 1000.0
    for _ in range(400):
        state, wanted, reason = scale(state, Seen(3, utilisation=1.0, queued=5), BOUNDS, now_s)
        assert wanted == 4
        told += [reason] if reason else []
        now_s += 0.5
    assert told == ["stays at 4 replicas until all serve: 3 do"]


def unsettled(looks: list[Seen], seconds: float, start: int = 4) -> tuple[list[int], list[str]]:
    """Numbers and what was told, where each of these is seen for half a second in turn."""
    state, numbers, told = begin(start), [start], []
    for look in range(round(2 * seconds)):
        state, wanted, reason = scale(state, looks[look % len(looks)], BOUNDS, 1000.0 + look / 2)
        numbers += [wanted] if wanted != numbers[-1] else []
        told += [reason] if reason else []
    return numbers, told


def test_a_replica_that_does_not_come_keeps_no_number_up_that_nobody_needs() -> None:
    numbers, told = unsettled([Seen(3, utilisation=0.1)], 92)
    assert numbers == [4, 3]
    assert told == [
        "stays at 4 replicas until all serve: 3 do",
        "4 → 3 replicas: 3 could have done it for a while (in flight 10% of the limit)",
    ]
    # Of five that are wanted two serve: those go on down to what they can do.
    numbers, told = unsettled([Seen(2, utilisation=0.5)], 600, start=5)
    assert numbers == [5, 4, 3, 2]
    assert sum("until all serve" in reason for reason in told) == 1


@pytest.mark.parametrize("look", [Seen(1, utilisation=0.7), Seen(1, utilisation=0.1, queued=1), Seen(0, queued=9)])
def test_a_load_that_those_who_serve_can_hardly_bear_lets_nobody_go(look) -> None:
    numbers, told = unsettled([look], 300)
    assert numbers == [4]
    assert told == [f"stays at 4 replicas until all serve: {look.replicas} do"]


def test_a_replica_that_comes_and_goes_is_told_once_too() -> None:
    calm = {"utilisation": 0.66}  # three could not have done it
    numbers, told = unsettled([Seen(3, **calm)] * 20 + [Seen(4, **calm)] * 6, 600)
    assert numbers == [4]
    assert told == ["stays at 4 replicas until all serve: 3 do"]
