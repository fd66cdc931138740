"""Whatever is measured: the number stays within its bounds, in steps of bounded size, and constant input ends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from headway.overload.scaling import (
    CONNECTIONS_SHARE,
    CPU_FULL,
    MEMORY_SHARE,
    PACE,
    Bounds,
    Connections,
    Seen,
    begin,
    most_for,
    scale,
)

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
    uncounted=st.sampled_from(["", "", "", "database main is full"]),
    busy_cores=st.one_of(st.none(), st.floats(0, 64)),
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


SCARCE = ["nothing", "memory", "connections", "count", "replicas' cores", "all cores", "number of cores"]


@st.composite
def pressed(draw) -> tuple[Seen, Bounds, int]:
    """A load that asks for more, and one thing of which there is a little, or none, left."""
    scarce, start = draw(st.sampled_from(SCARCE)), draw(st.integers(1, 40))
    cores = max(0.5, start / 2 + draw(st.floats(-1, 3))) if scarce == "number of cores" else 1000.0
    seen = Seen(0, queued=draw(st.integers(1, 100)))
    little = draw(st.floats(-1, 8))
    if scarce == "memory":
        size_bytes = draw(st.integers(1, 2**33))
        seen = replace(seen, rss_bytes=size_bytes, available_bytes=max(1, round(little * size_bytes)))
    elif scarce == "connections":
        open_now, each = draw(st.integers(0, 100)), draw(st.floats(0, 60))
        most = max(1, round(open_now + little * max(1.0, each)))
        seen = replace(seen, connections=Connections("main", open_now, most, each))
    elif scarce == "count":
        seen = replace(seen, uncounted="database main is full")
    elif scarce == "replicas' cores":
        seen = replace(seen, cpu_cores=draw(st.floats(0, start)), others_cores=draw(st.floats(800, 1000)))
    elif scarce == "all cores":
        seen = replace(seen, busy_cores=draw(st.floats(800, 1000)))
    return seen, Bounds(1, 100, cores), start


def goes_up_rightly(seen: Seen, bounds: Bounds, before: int, wanted: int) -> None:
    """What must hold whenever replicas are added."""
    more = wanted - before
    each = seen.cpu_cores / seen.replicas if seen.cpu_cores is not None else None
    assert seen.replicas == before, "what the last step brings has not been seen yet"
    assert wanted <= max(bounds.min, most_for(bounds.cores, each))
    if seen.cpu_cores is not None:
        assert seen.cpu_cores + seen.others_cores < CPU_FULL * bounds.cores
    if seen.rss_bytes and seen.available_bytes:
        assert more * seen.rss_bytes <= MEMORY_SHARE * seen.available_bytes
    if seen.connections is not None:
        held = seen.connections
        assert held.open + more * max(1.0, held.each) <= CONNECTIONS_SHARE * held.most + 1e-6
    assert not seen.uncounted


@given(st.lists(st.tuples(LOOKS, st.integers(-2, 2)), max_size=60), BOUNDS, st.integers(1, 40))
def test_it_never_goes_up_past_cores_memory_or_connections(looks, bounds, start) -> None:
    state, now_s = begin(max(bounds.min, min(bounds.max, start))), 1000.0
    for look, off in looks:
        now_s += 1.0
        before = state.replicas
        seen = replace(look, replicas=max(0, before + off))
        state, wanted, _ = scale(state, seen, bounds, now_s)
        if wanted > before:
            goes_up_rightly(seen, bounds, before, wanted)


@given(pressed(), st.lists(st.integers(-1, 1), min_size=8, max_size=8))
def test_pressure_adds_what_there_is_room_for_and_no_more(case, offs) -> None:
    look, bounds, start = case
    state, now_s = begin(start), 1000.0
    for off in [0] * 8 + offs:  # at first all serve that are wanted
        now_s += 0.5
        before = state.replicas
        seen = replace(look, replicas=max(0, before + off))
        state, wanted, reason = scale(state, seen, bounds, now_s)
        if wanted > before:
            goes_up_rightly(seen, bounds, before, wanted)
            if look.busy_cores is not None:
                assert look.busy_cores < CPU_FULL * bounds.cores + 1e-6
        assert wanted >= before
        assert wanted != before or "→" not in reason


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
