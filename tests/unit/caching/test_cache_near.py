"""The tier in the process: what may come in, what is known of tags, and what its values are taken to weigh."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from headway.caching.blob import HEADER, Blob, pack, unpack
from headway.caching.client import near as tier
from headway.caching.client.near import Entry, Near
from headway.caching.weight import Scale, weigh

SOON = 1e12


def entry(key: bytes, size_bytes: int = 100, tags: tuple[bytes, ...] = ()) -> Entry:
    return Entry(key, size_bytes, key, None, SOON, SOON, SOON, 0.0, tags, b"")


def trusted(bytes_max: int = 100_000) -> Near:
    near = Near(bytes_max)
    near.trust()
    return near


def test_generations_of_tags_are_known_until_one_changes() -> None:
    near = trusted()
    near.learn((b"a", b"b"), [b"1" * 8, b"2" * 8], near.changes)
    assert near.generations_known((b"b", b"a")) == [b"2" * 8, b"1" * 8]
    assert near.generations_known((b"a", b"c")) is None
    near.drop([b"t:a"])
    assert near.generations_known((b"a",)) is None
    assert near.generations_known((b"b",)) == [b"2" * 8]


@pytest.mark.parametrize("happens", ["drop", "clear", "distrust", "cut and back"])
def test_what_changed_while_it_was_asked_for_is_not_learnt(happens: str) -> None:
    near = trusted()
    near.learn((b"b",), [b"2" * 8], near.changes)
    since = near.changes
    if happens == "drop":
        near.drop([b"t:a"])
    elif happens == "clear":
        near.clear()
    else:
        near.distrust()
        if happens == "cut and back":
            near.trust()
    near.learn((b"a",), [b"1" * 8], since)
    assert near.generations_known((b"a",)) is None
    assert (near.generations_known((b"b",)) is None) is (happens != "drop")


def test_a_tag_is_asked_for_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would take it for unused, and let go of it first when it is full."""
    clock = [1000.0]
    monkeypatch.setattr(tier, "now", lambda: clock[0])
    near = trusted()
    near.learn((b"a",), [b"1" * 8], near.changes)
    clock[0] += 9.9
    assert near.generations_known((b"a",)) == [b"1" * 8]
    clock[0] += 0.2
    assert near.generations_known((b"a",)) is None


def test_known_tags_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier, "_TAGS_KNOWN_MAX", 10)
    near = trusted()
    for number in range(100):
        near.learn((b"%d" % number,), [b"1" * 8], near.changes)
    assert near.generations_known((b"99",)) is not None
    assert near.generations_known((b"0",)) is None
    assert len(near._tags_known) <= 10


def test_a_successor_takes_the_place_of_a_value_and_of_its_tags() -> None:
    near = trusted()
    first, second = entry(b"k", tags=(b"a",)), entry(b"k", tags=(b"b",))
    assert near.put(first, near.changes, None, None, local=False)
    assert near.put(second, near.changes, None, None, local=False)
    assert (near.look(b"k"), near.count, near.evicted) == (second, 1, 0)
    near.drop([b"t:a"])
    assert near.look(b"k") is second
    near.drop([b"t:b"])
    assert near.look(b"k") is None
    too_large = entry(b"k", 90_000)
    near.put(entry(b"k"), near.changes, None, None, local=False)
    assert not near.put(too_large, near.changes, None, None, local=False)
    assert (near.look(b"k"), near.evicted) == (None, 0)


def values(kind: str, count: int) -> list[Any]:
    pick = random.Random(7)
    makes: dict[str, Any] = {
        "records": lambda: {"id": pick.randrange(10**6), "name": "x" * pick.randrange(60), "price": pick.random()},
        "nothing or much": lambda: [] if pick.random() < 0.7 else ["word " * pick.randrange(20)] * pick.randrange(9),
        "numbers": lambda: pick.randrange(10**9),
        "lists": lambda: list(range(pick.randrange(300, 340))),
    }
    return [makes[kind]() for _ in range(count)]


@pytest.mark.parametrize("kind", ["records", "nothing or much", "numbers", "lists"])
def test_values_of_a_function_weigh_in_sum_what_they_weigh_one_by_one(kind: str) -> None:
    scale, taken, true = Scale(), 0, 0
    for value in values(kind, 4000):
        taken += scale.weigh(value, len(msgspec.msgpack.encode(value)))
        true += weigh(value)
    assert taken == pytest.approx(true, rel=0.1)


def test_a_large_value_is_weighed_itself() -> None:
    scale = Scale()
    for value in values("numbers", 500):
        scale.weigh(value, 5)
    large = "x" * 100_000
    assert scale.weigh(large, 100_005) == weigh(large)


def test_values_that_turn_heavier_are_seen_to() -> None:
    scale = Scale()
    for _ in range(20_000):
        scale.weigh("x" * 900, 903)
    heavy = list(range(300, 1200))
    took = [scale.weigh(heavy, 2703) for _ in range(20_000)]
    assert sum(took[-1000:]) / 1000 == pytest.approx(weigh(heavy), rel=0.25)


@pytest.mark.parametrize("tags", [(), (b"a" * 8,), (b"a" * 8, b"b" * 8)])
def test_a_blob_comes_back_and_what_is_none_is_refused(tags: tuple[bytes, ...]) -> None:
    data = pack(Blob(1, 2, 3, b"g" * 8, tags, b"payload", True))
    assert unpack(data) == (1, 2, 3, b"g" * 8, list(tags), b"payload", 1)
    for broken in (b"", data[: HEADER.size - 1], b"\x09" + data[1:]):
        with pytest.raises(ValueError):
            unpack(broken)
    if tags:
        with pytest.raises(ValueError):
            unpack(data[: HEADER.size + 4])
