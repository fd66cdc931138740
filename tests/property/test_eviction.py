"""S3-FIFO by bytes, held against a plain simulator of the published algorithm, and against bounds whatever happens.

The simulator keeps its queues as lists, oldest first, and follows the paper step by step; it shares nothing with ours.
"""

from __future__ import annotations

import bisect
import gc
import itertools
import random
import weakref
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.caching.eviction import Held, S3Fifo


class Reference:
    """Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, for values of one size."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.main_max = capacity - int(capacity * 0.1)
        self.ghost_max = int(capacity * 0.9)
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghost: list[int] = []
        self.freq: dict[int, int] = {}

    def ask(self, key: int) -> bool:
        if key in self.freq:
            self.freq[key] = min(self.freq[key] + 1, 3)
            return True
        was_there = key in self.ghost
        if was_there:
            self.ghost.remove(key)
        while len(self.small) + len(self.main) >= self.capacity:
            if len(self.main) > self.main_max or not self.small:
                self.evict_main()
            else:
                self.evict_small()
        self.freq[key] = 0
        (self.main if was_there else self.small).append(key)
        return False

    def evict_small(self) -> None:
        while self.small:
            key = self.small.pop(0)
            if self.freq[key] > 1:
                self.freq[key] = 0
                self.main.append(key)
            else:
                del self.freq[key]
                self.ghost.append(key)
                if len(self.ghost) > self.ghost_max:
                    self.ghost.pop(0)
                return

    def evict_main(self) -> None:
        while self.main:
            key = self.main.pop(0)
            if self.freq[key] > 0:
                self.freq[key] -= 1
                self.main.append(key)
            else:
                del self.freq[key]
                return


class Lru:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: dict[int, None] = {}

    def ask(self, key: int) -> bool:
        was_there = key in self.held
        if was_there:
            del self.held[key]
        elif len(self.held) >= self.capacity:
            del self.held[next(iter(self.held))]
        self.held[key] = None
        return was_there


class Ours:
    """Our tier, asked as the client asks it; each value is of so many bytes."""

    def __init__(self, capacity: int, size_bytes: int = 1) -> None:
        self.tier: S3Fifo[Held] = S3Fifo(capacity * size_bytes)
        self.size_bytes = size_bytes

    def ask(self, key: int) -> bool:
        name = b"%d" % key
        entry = self.tier.entries.get(name)
        if entry is not None:
            if entry.freq < 3:
                entry.freq += 1
            return True
        self.tier.insert(Held(name, self.size_bytes))
        return False


def zipf(count: int, keys: int, skew: float, chance: random.Random) -> list[int]:
    weights = list(itertools.accumulate(1 / rank**skew for rank in range(1, keys + 1)))
    return [bisect.bisect(weights, chance.random() * weights[-1]) for _ in range(count)]


def with_scans(trace: list[int], share: float, chance: random.Random) -> list[int]:
    """Scans of 200 keys that are asked for once, until they are so large a share of it."""
    fresh = itertools.count(10_000_000)
    found: list[int] = []
    start = 0
    while start < len(trace):
        stretch = int(200 * (1 - share) / share)
        found += trace[start : start + stretch] + [next(fresh) for _ in range(200)]
        start += stretch
    return found


def hits(cache: Reference | Ours | Lru, trace: Iterable[int]) -> int:
    return sum(cache.ask(key) for key in trace)


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(8, 25))
def test_hits_are_those_of_the_published_algorithm_on_any_trace(trace: list[int], capacity: int) -> None:
    reference, ours = Reference(capacity), Ours(capacity)
    for key in trace:
        assert ours.ask(key) is reference.ask(key)
    assert {int(name) for name in ours.tier.entries} == set(reference.freq)


@pytest.mark.parametrize("size_bytes", [1, 400])
def test_hits_are_those_of_the_published_algorithm_on_skewed_traces_with_scans(size_bytes: int) -> None:
    """At room for 1 % of the keys, where it has to choose well; LRU shows that this trace tells good from bad."""
    chance = random.Random(7)
    trace = with_scans(zipf(60_000, 20_000, 1.0, chance), 0.2, chance)
    capacity = len(set(trace)) // 1000 * 10
    ours, reference, lru = Ours(capacity, size_bytes), Reference(capacity), Lru(capacity)
    found = hits(ours, trace)
    assert found == hits(reference, trace)
    assert found > hits(lru, trace) * 1.15


def test_a_scan_leaves_what_is_asked_for_often() -> None:
    ours = Ours(100)
    for _ in range(4):
        hits(ours, range(50))
    hits(ours, range(1000, 11_000))
    assert hits(ours, range(50)) == 50


# --- bounds, whatever happens -----------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 40), st.integers(1, 400)),
        st.tuples(st.just("hit"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 40), st.just(0)),
    ),
    max_size=200,
)


@settings(max_examples=200)
@given(steps, st.sampled_from([1, 100, 1000, 2000]))
def test_the_bound_holds_and_everything_is_accounted_for(taken: list[tuple[str, int, int]], bytes_max: int) -> None:
    """Every entry is held or was told to have left, once; sizes add up; names are bounded."""
    tier: S3Fifo[Held] = S3Fifo(bytes_max, ghosts_max=10)
    held: dict[bytes, Held] = {}
    for what, number, size in taken:
        name = b"%d" % number
        if what == "put":
            entry = Held(name, size)
            gone = tier.insert(entry)
            assert len({id(each) for each in gone}) == len(gone)
            before = {**held, name + b" new": entry}
            assert all(each in before.values() for each in gone)
            assert (entry in gone) is (size > tier.largest_bytes)
            held = {each.key: each for each in before.values() if each not in gone}
        elif what == "hit" and name in held:
            held[name].freq = min(held[name].freq + 1, 3)
        elif name in held:
            entry = held.pop(name)
            tier.remove(entry)
            tier.remove(entry)
        assert tier.entries == held
        assert tier.bytes_held == sum(each.size_bytes for each in held.values()) <= bytes_max
        assert len(tier._ghosts) <= 10
        assert tier._ghosts_bytes == sum(tier._ghosts.values())


def test_an_entry_over_an_eighth_of_the_room_is_refused_and_its_predecessor_goes() -> None:
    tier: S3Fifo[Held] = S3Fifo(800)
    older, larger = Held(b"a", 100), Held(b"a", 101)
    assert tier.insert(older) == []
    assert tier.insert(larger) == [older, larger]
    assert not tier.entries
    assert tier.bytes_held == 0


def test_an_entry_is_inserted_once_and_again_only_after_it_left() -> None:
    tier: S3Fifo[Held] = S3Fifo(800)
    entry = Held(b"a", 100)
    tier.insert(entry)
    with pytest.raises(ValueError, match="once"):
        tier.insert(entry)
    tier.remove(entry)
    assert tier.insert(entry) == []
    with pytest.raises(ValueError, match="size"):
        tier.insert(Held(b"b", 0))


def test_nothing_holds_on_to_what_has_left() -> None:
    """A value that was invalidated or evicted gives its memory back at once, without the garbage collector."""

    class Watched(Held):
        __slots__ = ("__weakref__",)

    tier: S3Fifo[Watched] = S3Fifo(1000)
    gc.disable()
    try:
        removed, evicted = Watched(b"removed", 10), Watched(b"evicted", 10)
        watching = [weakref.ref(removed), weakref.ref(evicted)]
        tier.insert(removed)
        tier.insert(evicted)
        tier.remove(removed)
        del removed, evicted
        for number in range(1000):
            tier.insert(Watched(b"%d" % number, 10))
        assert [each() for each in watching] == [None, None]
    finally:
        gc.enable()
