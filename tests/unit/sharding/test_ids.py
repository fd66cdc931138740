"""Ids tell their time and their shard, before and after a doubling; UUIDs grow."""

from __future__ import annotations

import random
import threading
import uuid
from contextlib import nullcontext

import pytest

from headway.sharding.ids import (
    EPOCH_MS,
    Uuid7s,
    id_function_sql,
    id_trigger_sql,
    shard_of_id,
    slot_of_id,
    slots,
    time_of_id,
    time_of_uuid7,
    uuid7,
)
from headway.sharding.keys import shard_of


def _id(ms: int, slot: int, sequence: int = 0) -> int:
    return ms << 22 | slot << 10 | sequence


@pytest.mark.parametrize(("shards", "expected"), [(1, 4096), (64, 4096), (4096, 4096), (3, 3072), (6, 3072), (5, 2560)])
def test_slots_are_those_of_the_last_doubling(shards, expected):
    assert slots(shards) == expected


def test_an_id_is_taken_apart():
    number = _id(123_456, 4095, 1023)
    assert time_of_id(number) == EPOCH_MS + 123_456
    assert slot_of_id(number) == 4095
    assert number.bit_length() <= 63


@pytest.mark.parametrize("first", [1, 3, 16, 64])
def test_an_id_finds_its_row_after_every_doubling(first):
    for key in range(-50, 200, 7):
        number = _id(1, shard_of(key, slots(first), "int"))
        shards = first
        while shards <= 4096:
            assert shard_of_id(number, shards) == shard_of(key, shards, "int")
            shards *= 2


@pytest.mark.parametrize("wrong", [-1, 1 << 63])
def test_what_is_no_id_is_refused(wrong):
    for ask in (time_of_id, slot_of_id, lambda number: shard_of_id(number, 16)):
        with pytest.raises(ValueError, match="is no id"):
            ask(wrong)


def test_a_slot_that_there_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no id of a database with 3 shards"):
        shard_of_id(_id(1, 3072), 3)
    with pytest.raises(ValueError, match="0 shards"):
        slots(0)


def test_names_are_quoted():
    sql = id_function_sql('it\'s "1"', 0, 4, "text") + id_trigger_sql('it\'s "1"', "Order", "Id", "Key")
    assert '"it\'s ""1""".headway_ids MAXVALUE' in sql
    assert '\'"it\'\'s ""1""".headway_ids\'::regclass' in sql
    assert 'NEW."Id" := "it\'s ""1""".headway_next_id(NEW."Key")' in sql


def test_a_uuid_is_of_version_7():
    # The example of RFC 9562, appendix A.6.
    found = uuid7(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F)
    assert found == uuid.UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert time_of_uuid7(found) == 0x017F22E279B0
    with pytest.raises(ValueError, match="version 7"):
        time_of_uuid7(uuid.UUID(int=0))


@pytest.mark.parametrize(("ms", "bits"), [(-1, 0), (1 << 48, 0), (0, 1 << 74), (0, -1)])
def test_what_does_not_fit_a_uuid_is_refused(ms, bits):
    with pytest.raises(ValueError, match="UUID"):
        uuid7(ms, bits)


def test_uuids_grow_also_when_the_clock_goes_back():
    chance = random.Random(1)
    clock = iter([5, 5, 5, 4, 1, 6, 6, 2, 7])
    made = Uuid7s(lambda: next(clock), chance.getrandbits, nullcontext())
    found = [made.next() for _ in range(9)]
    assert found == sorted(set(found))
    assert [time_of_uuid7(one) for one in found] == [5, 5, 5, 5, 5, 6, 6, 6, 7]


def test_a_millisecond_without_room_borrows_from_the_next():
    made = Uuid7s(lambda: 9, lambda bits: (1 << bits) - 1, nullcontext())
    first = made.next()
    made._last_bits = (1 << 74) - 2
    second = made.next()
    assert first < second
    assert time_of_uuid7(second) == 10


def test_threads_share_a_generator():
    chance = random.SystemRandom()
    made = Uuid7s(lambda: 1, chance.getrandbits, threading.Lock())
    found: list[uuid.UUID] = []

    def draw() -> None:
        mine = [made.next() for _ in range(2000)]
        assert mine == sorted(mine)
        found.extend(mine)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8000
