"""What is in force at the edge for the less critical and between clients while a class is overloaded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.model.overload import QueueBound
from headway.overload.queueing import Promise, Queue, Seen, begin, step

RATE_PER_S = 120.0
# Below its limit, above it by a little, above it by far.
CALM = Seen(0.1, 12, 0.12, places=4, queued=0, refused=0, saturated=False)
BUSY = replace(CALM, queued=3, saturated=True)


def overloaded(promise: Promise, seen: Seen = BUSY) -> Queue:
    """A queue after five seconds of more than can be done."""
    state = begin()
    for _ in range(50):
        state = step(state, seen, promise)
    return state


@pytest.mark.parametrize("slo_s", [None, 0.25])
def test_the_less_critical_keep_a_twelfth_whatever_was_declared(slo_s: float | None) -> None:
    # A client's Priority header demotes in every class, also where no criticality was declared.
    state = overloaded(Promise(slo_s, 30.0))
    assert state.bound.overloaded
    assert state.rate_per_s == pytest.approx(RATE_PER_S)
    assert 10 <= state.bound.floor_per_s <= 11


def test_fairness_begins_at_all_that_is_done() -> None:
    state = overloaded(Promise(0.25, 30.0))
    assert 120 <= state.bound.client_per_s <= 121


def test_without_overload_there_is_neither_floor_nor_fairness() -> None:
    bound = step(begin(QueueBound(10)), CALM, Promise(0.25, 30.0)).bound
    assert (bound.floor_per_s, bound.client_per_s) == (0, 0)
