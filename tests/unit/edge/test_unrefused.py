"""What would have been refused is counted as a queue with a bound would have refused it."""

from __future__ import annotations

import pytest

from headway.edge.unrefused import Unrefused, step


def overload(per_look: int, done: int, looks: int, *, queue_max: int = 10, level: int = 1) -> Unrefused:
    """So many come at each look, and so many of those who wait are handed to replicas."""
    state = step(None, queued=0, arrived=0, begun=0, queue_max=queue_max, level=level)
    for number in range(1, looks + 1):
        arrived, begun = per_look * number, done * number
        state = step(state, queued=arrived - begun, arrived=arrived, begun=begun, queue_max=queue_max, level=level)
    return state


@pytest.mark.parametrize(("level", "stay"), [(0, 20), (1, 10), (2, 8), (3, 5)])
def test_who_comes_beyond_what_is_done_and_may_wait_is_counted(level: int, stay: int) -> None:
    # 30 come and 10 are done in each look: two thirds, whatever stands in the real queue meanwhile.
    assert overload(30, 10, 100, level=level).refused == 20 * 100 - stay


def test_who_would_wait_within_the_bound_is_not_counted() -> None:
    assert overload(11, 10, 10).refused == 0
    assert overload(9, 9, 100).refused == 0


def test_an_overload_that_is_over_counts_no_more_while_its_queue_is_worked_off() -> None:
    state = overload(30, 10, 100)
    arrived, begun, before = state.arrived, state.begun, state.refused
    while begun < arrived:
        arrived, begun = arrived + 5, begun + 10
        state = step(state, queued=max(0, arrived - begun), arrived=arrived, begun=begun, queue_max=10, level=1)
    assert state.refused == before


def test_clients_that_gave_up_waiting_were_not_served() -> None:
    state = step(None, queued=0, arrived=0, begun=0, queue_max=10, level=1)
    for number in range(1, 101):  # the real queue holds no more than 100: the rest hangs up
        state = step(state, queued=100, arrived=30 * number, begun=10 * number, queue_max=10, level=1)
    assert state.refused == 20 * 100 - 10


def test_a_bound_that_shrinks_refuses_nobody_who_waits() -> None:
    state = step(None, queued=40, arrived=50, begun=10, queue_max=40, level=1)
    assert step(state, queued=40, arrived=50, begun=10, queue_max=5, level=1).refused == 0
    assert step(state, queued=43, arrived=53, begun=10, queue_max=5, level=1).refused == 3


def test_another_process_counts_anew_and_nothing_is_counted_twice() -> None:
    state = overload(30, 10, 10)
    anew = step(state, queued=3, arrived=3, begun=0, queue_max=10, level=1)
    assert (anew.refused, anew.waiting) == (state.refused, 3)
    adopted = step(None, queued=500, arrived=900, begun=400, queue_max=10, level=1)
    assert (adopted.refused, adopted.waiting) == (0, 10)
