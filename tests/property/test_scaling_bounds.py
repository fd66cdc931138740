"""Whatever is measured: the number stays within its bounds, in steps of bounded size, and constant input ends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from headway.overload.scaling import PACE, Bounds, Connections, Seen, begin, scale

SHARES = st.one_of(st.none(), st.floats(0, 1.5))
LOOKS = st.builds(
    Seen,
    replicas=st.just(0),
    utilisation=SHARES,
    cpu_cores=st.one_of(st.none(), st.floats(0, 64)),
    queued=st.integers(0, 1000),
    shed_per_s=st.one_of(st.just(0.0), st.floats(0, 1e5)),
    others_cores=st.floats(0, 64),
    rss_bytes=st.integers(0, 2**33),
    available_bytes=st.integers(0, 2**36),
    connections=st.one_of(
        st.none(),
        st.builds(Connections, st.just("main"), st.integers(0, 500), st.integers(1, 200), st.floats(0, 100)),
    ),
)
BOUNDS = st.tuples(st.integers(1, 40), st.integers(0, 40), st.floats(0.25, 64)).map(
    lambda parts: Bounds(parts[0], parts[0] + parts[1], parts[2])
)


@given(st.lists(st.tuples(st.one_of(st.none(), LOOKS), st.floats(0, 100)), max_size=60), BOUNDS, st.integers(0, 2000))
def test_the_number_never_leaves_its_bounds_and_steps_are_bounded(looks, bounds, start) -> None:
    state, now_s = begin(start), 0.0
    state, before, _ = scale(state, None, bounds, now_s)
    assert bounds.min <= before <= bounds.max
    for look, gap_s in looks:
        now_s += gap_s
        seen = replace(look, replicas=state.replicas) if look is not None else None
        state, wanted, reason = scale(state, seen, bounds, now_s)
        assert bounds.min <= wanted <= bounds.max
        assert before - 1 <= wanted <= max(before + 1, PACE.growth * before)
        assert wanted == state.replicas
        assert reason or wanted == before
        before = wanted


@given(st.lists(st.tuples(LOOKS, st.integers(-1, 1)), max_size=60), BOUNDS, st.integers(1, 40))
def test_it_never_goes_up_past_cores_memory_or_connections(looks, bounds, start) -> None:
    state, now_s = begin(max(bounds.min, min(bounds.max, start))), 0.0
    for look, off in looks:
        now_s += 1.0
        before = state.replicas
        seen = replace(look, replicas=max(0, before + off))
        state, wanted, _ = scale(state, seen, bounds, now_s)
        if wanted <= before:
            continue
        assert off == 0, "what the last step brought has not been seen yet"
        assert wanted <= max(bounds.min, 2 * bounds.cores)
        if look.rss_bytes and look.available_bytes:
            assert (wanted - before) * look.rss_bytes <= look.available_bytes
        if look.connections is not None:
            held = look.connections
            assert held.open + (wanted - before) * max(1.0, held.each) <= held.most


@given(LOOKS, BOUNDS, st.integers(1, 80), st.floats(0.05, 1.0))
def test_a_constant_input_moves_the_number_in_one_direction_and_ends(look, bounds, start, every_s) -> None:
    state, now_s = begin(max(bounds.min, min(bounds.max, start))), 0.0
    each = look.cpu_cores / 40 if look.cpu_cores is not None else None
    directions, last_s = set(), 0.0
    while now_s < 60 * PACE.down_again_s + 2 * PACE.down_after_s:
        count = state.replicas
        seen = replace(look, replicas=count, cpu_cores=each * count if each is not None else None)
        state, wanted, _ = scale(state, seen, bounds, now_s)
        if wanted != count:
            directions.add(wanted > count)
            last_s = now_s
        now_s += max(every_s, 0.5)
    assert len(directions) <= 1
    assert last_s < now_s - PACE.down_again_s
