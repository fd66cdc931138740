"""Whatever is measured, even what cannot be: limits and bounds stay within theirs, and nothing raises."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite

from hypothesis import given
from hypothesis import strategies as st

from headway.model.overload import RouteCounts
from headway.overload import limiter, memory, queueing, routes

# A clock that jumps back, counters that jump ahead, figures without end of digits.
ANY_FLOAT = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.floats(-1, 100), st.sampled_from([0.0, -0.0, 5e-324, 1e308])
)
COUNTS = st.one_of(st.integers(0, 2000), st.integers(0, 2**63))
MEASURED = st.builds(
    limiter.Measured,
    duration_s=st.one_of(st.just(0.1), ANY_FLOAT),
    completed=COUNTS,
    failed=COUNTS,
    service_s=st.one_of(st.floats(0, 100), ANY_FLOAT),
    in_flight=COUNTS,
    saturated=st.booleans(),
    cpu_share=st.one_of(st.floats(0, 1), ANY_FLOAT),
    shares=st.booleans(),
)
PLAUSIBLE = st.builds(
    limiter.Measured,
    duration_s=st.floats(0.05, 0.4),
    completed=st.integers(0, 500),
    failed=st.integers(0, 500),
    service_s=st.floats(0, 1000),
    in_flight=st.integers(0, 3000),
    saturated=st.sampled_from([True, True, True, False]),
    cpu_share=st.floats(0, 1),
    shares=st.booleans(),
)
LOOKS = st.lists(st.one_of(PLAUSIBLE, PLAUSIBLE, MEASURED), max_size=80)
SLO = st.one_of(st.none(), st.floats(0.001, 60))
BOUNDS = st.builds(
    lambda floor, room, start, slo_s: limiter.Bounds(
        start=floor + min(room, start), ceiling=floor + room, slo_s=slo_s, floor=floor
    ),
    st.integers(1, 8),
    st.integers(0, 5000),
    st.integers(0, 64),
    SLO,
)
SEEN = st.builds(
    queueing.Seen,
    duration_s=st.one_of(st.just(0.1), ANY_FLOAT),
    completed=COUNTS,
    service_s=st.one_of(st.floats(0, 100), ANY_FLOAT),
    places=COUNTS,
    queued=COUNTS,
    refused=COUNTS,
    saturated=st.booleans(),
)
PROMISES = st.builds(queueing.Promise, slo_s=SLO, deadline_s=st.floats(0.001, 3600))


@given(LOOKS, BOUNDS, st.one_of(st.none(), st.integers(0, 10_000)))
def test_a_limit_stays_within_its_bounds_whatever_is_measured(looks, bounds, inherited) -> None:
    state = limiter.begin(bounds, inherited)
    for number, look in enumerate(looks):
        assert bounds.floor <= state.limit <= bounds.ceiling
        assert bounds.floor <= state.centre <= bounds.ceiling
        state = limiter.step(state, look, bounds, number / 10)
    assert bounds.floor <= state.limit <= bounds.ceiling


@given(LOOKS, BOUNDS, st.integers(1, 5000))
def test_a_ceiling_that_comes_down_is_obeyed_at_once(looks, bounds, ceiling) -> None:
    state = limiter.begin(bounds)
    for number, look in enumerate(looks):
        state = limiter.step(state, look, bounds, number / 10)
    lower = replace(bounds, ceiling=max(bounds.floor, min(bounds.ceiling, ceiling)))
    assert limiter.step(state, limiter.Measured(0.1, 0, 0, 0.0, 0, False), lower, 100.0).limit <= lower.ceiling


@given(LOOKS, BOUNDS)
def test_the_same_looks_give_the_same_limits(looks, bounds) -> None:
    one = other = limiter.begin(bounds)
    for number, look in enumerate(looks):
        one = limiter.step(one, look, bounds, number / 10)
        other = limiter.step(other, look, bounds, number / 10)
        assert one == other


@given(LOOKS, BOUNDS, LOOKS)
def test_a_load_that_does_not_reach_the_limit_never_raises_it(looks, bounds, calm) -> None:
    state = limiter.begin(bounds)
    for number, look in enumerate(looks):
        state = limiter.step(state, look, bounds, number / 10)
    for number, look in enumerate(calm):
        before = state
        idle = replace(look, saturated=False, cpu_share=min(look.cpu_share, 0.5))
        state = limiter.step(state, replace(look, saturated=False), bounds, 10 + number / 10)
        assert state.limit <= before.limit, "a full processor can show that it is too high, nothing that it is too low"
        assert limiter.step(before, idle, bounds, 10 + number / 10).limit == before.limit


@given(st.lists(st.tuples(SEEN, PROMISES), max_size=60))
def test_a_queue_has_a_bound_whatever_is_measured(looks) -> None:
    state = queueing.begin()
    for seen, promise in looks:
        before, state = state, queueing.step(state, seen, promise)
        assert queueing.step(before, seen, promise) == state
        assert isfinite(state.rate_per_s)
        assert 2 <= state.bound.queue_max <= queueing.QUEUE_MAX
        assert state.bound.floor_per_s >= 0
        assert state.bound.client_per_s >= 0
        assert state.bound.overloaded or not state.bound.newest_first


PREFIXES = st.sampled_from(["/", *(f"/r{number}" for number in range(24))])
SAMPLED = st.lists(
    st.builds(RouteCounts, PREFIXES, samples=st.integers(1, 10_000), service_s=st.floats(0, 1e6)), max_size=25
)
LOOKS = st.lists(st.tuples(st.floats(0, 100), SAMPLED), max_size=30)
EVERYTHING = frozenset({"/", *(f"/r{number}" for number in range(24))})


@given(LOOKS)
def test_routes_learned_one_after_the_other_stay_few(looks) -> None:
    windows: routes.Windows = {}
    slow: frozenset[str] = frozenset()
    now_s = 0.0
    for later_s, sampled in looks:
        now_s += later_s
        windows = routes.extend(windows, sampled, EVERYTHING, now_s)
        found = routes.assign(windows, slow, now_s)
        if found is not None:
            assert found.prefix in windows
            assert found.slow is (found.prefix not in slow)
            slow, windows = (slow | {found.prefix} if found.slow else slow - {found.prefix}), {}
        assert "/" not in slow
        assert len(slow) <= routes.ROUTES_MAX


@given(LOOKS)
def test_a_window_holds_what_was_sampled_lately_and_nothing_else(looks) -> None:
    windows: routes.Windows = {}
    now_s, total = 0.0, 0
    for later_s, sampled in looks:
        now_s += later_s
        windows = routes.extend(windows, sampled, EVERYTHING, now_s)
        total += sum(route.samples for route in sampled)
        assert sum(window.judged for window in windows.values()) <= total
        assert all(window.judged > 0 and window.mean_s >= 0 for window in windows.values())
        assert all(window.since_s <= window.turned_s <= now_s for window in windows.values())


@given(st.lists(st.tuples(st.integers(-1, 2**40), st.integers(0, 5000), ANY_FLOAT), max_size=40), st.integers(0, 2**40))
def test_what_a_request_costs_is_no_more_than_what_was_taken(looks, share_bytes) -> None:
    state = memory.Footprint()
    sizes = [rss_bytes for rss_bytes, _, _ in looks if rss_bytes > 0]
    for rss_bytes, in_flight, duration_s in looks:
        before, state = state, memory.observe(state, rss_bytes, in_flight, duration_s)
        assert 0 <= state.request_bytes <= (max(sizes) - min(sizes) if sizes else 0)
        assert not before.idle_bytes or state.idle_bytes <= before.idle_bytes
        most = memory.ceiling(state, share_bytes)
        assert most is None or most >= 1


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_load_that_falls_makes_no_request_cost_more(loads, idle_bytes, grown_bytes) -> None:
    state = memory.observe(memory.Footprint(), idle_bytes, 0, 0.1)
    for _ in range(30):
        state = memory.observe(state, idle_bytes + grown_bytes, max(loads), 0.1)
    before = state.request_bytes
    for in_flight in sorted(loads, reverse=True):
        state = memory.observe(state, idle_bytes + grown_bytes, in_flight, 0.1)
        assert state.request_bytes <= before


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40), st.floats(0, 1), ANY_FLOAT), max_size=200))
def test_a_shortage_shrinks_at_once_and_never_to_nothing(looks) -> None:
    state = memory.Shortage()
    for available_bytes, total_bytes, stalled_share, duration_s in looks:
        before, state = state, memory.shorten(state, available_bytes, total_bytes, stalled_share, duration_s)
        assert memory.SHRUNK_MIN <= state.factor <= 1.0
        assert before.factor * memory.SHRINK - 1e-9 <= state.factor <= max(before.factor * memory.RECOVER, 1e-9)
