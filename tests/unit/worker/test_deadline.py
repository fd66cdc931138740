"""A wall clock that is set drops nothing; one that is steered changes nothing."""

from __future__ import annotations

from headway.worker.deadline import NOTHING_IS_DUE, WallClock

S = 1_000_000_000


def test_the_offset_follows_a_steered_clock() -> None:
    clock = WallClock()
    assert clock.look(10 * S, 1000 * S) == 990 * S
    assert clock.look(11 * S, 1001 * S + S // 2) == 990 * S + S // 2


def test_after_a_step_no_deadline_counts_for_a_minute() -> None:
    for step_s in (-3600, -2, 2, 3600):
        clock = WallClock()
        clock.look(10 * S, 1000 * S)
        assert clock.look(11 * S, (1001 + step_s) * S) == NOTHING_IS_DUE
        assert clock.look(70 * S, (1060 + step_s) * S) == NOTHING_IS_DUE
        assert clock.look(71 * S, (1061 + step_s) * S) == (990 + step_s) * S


def test_a_second_step_begins_another_minute() -> None:
    clock = WallClock()
    clock.look(10 * S, 1000 * S)
    clock.look(11 * S, 2000 * S)
    clock.look(60 * S, 1000 * S)
    assert clock.look(100 * S, 1040 * S) == NOTHING_IS_DUE
    assert clock.look(120 * S, 1060 * S) == 940 * S
