"""Ids say when and where they were made, and never go back."""

from __future__ import annotations

import datetime
import itertools
import random

import pytest

from headway.sharding.ids import (
    EPOCH_MS,
    Uuid7,
    compose_id,
    create_next_id,
    shard_of_id,
    slot_of_id,
    slot_of_key,
    time_of_id,
    uuid7,
)
from headway.sharding.keys import shard_of

NOW_MS = 1_800_000_000_123


def test_an_id_holds_its_time_and_the_shard_of_its_key():
    for key in range(200):
        number = compose_id(NOW_MS, slot_of_key(key, "int"), key)
        assert 0 < number < 1 << 63
        for shards in (1, 16, 64, 4096):
            assert shard_of_id(number, shards) == shard_of(key, shards, "int")
        assert time_of_id(number) == datetime.datetime.fromtimestamp(NOW_MS / 1000, datetime.UTC)
    assert slot_of_id(compose_id(NOW_MS, 4095, 1023)) == 4095


@pytest.mark.parametrize("parts", [(EPOCH_MS - 1, 0, 0), (NOW_MS, 4096, 0), (NOW_MS, -1, 0), (1 << 50, 0, 0)])
def test_what_does_not_fit_is_refused(parts):
    with pytest.raises(ValueError):
        compose_id(*parts)


def test_a_number_of_shards_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        shard_of_id(compose_id(NOW_MS, 1, 1), 12)


def test_ids_sort_by_time():
    numbers = [compose_id(NOW_MS + ms, slot, 0) for ms in range(5) for slot in (4095, 0)]
    assert sorted(n >> 22 for n in numbers) == [n >> 22 for n in numbers]


def test_uuid7_has_the_form_of_the_standard():
    # The example of RFC 9562, appendix A.6.
    found = uuid7(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F)
    assert str(found) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert found.version == 7


def test_uuids_only_grow_also_when_the_clock_goes_back():
    chance = random.Random(5)
    clock = itertools.chain([NOW_MS] * 3000, [NOW_MS - 60_000] * 3000, [NOW_MS + 1] * 10)
    made = [make() for make in [Uuid7(lambda: next(clock), chance.getrandbits)] for _ in range(6010)]
    assert made == sorted(set(made))
    assert len(made) == 6010


def test_the_sql_names_the_schema_safely():
    assert '"o""x".headway_ids' in create_next_id('o"x', "text")
