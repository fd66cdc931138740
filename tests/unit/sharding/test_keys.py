"""Keys find their shard as PostgreSQL itself would have it; what is no key is refused."""

from __future__ import annotations

import enum
import math
import uuid

import pytest

from headway.sharding.keys import VECTOR_SHARDS, VECTORS, WrongKey, self_test, shard_of


@pytest.mark.parametrize(("kind", "key", "shard"), VECTORS)
def test_vectors(kind, key, shard):
    assert shard_of(key, VECTOR_SHARDS, kind) == shard


def test_self_test_refuses_another_algorithm():
    self_test()
    with pytest.raises(RuntimeError, match="crc32"):
        self_test("crc32")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (None, "int"),
        (None, "text"),
        (None, "uuid"),
        (True, "int"),
        (1.0, "int"),
        (math.nan, "int"),
        ("1", "int"),
        (1, "text"),
        (b"alice", "text"),
        (1 << 63, "int"),
        (-(1 << 63) - 1, "int"),
        ("a\0b", "text"),
        ("\ud800", "text"),
        ("no uuid", "uuid"),
        (7, "uuid"),
    ],
)
def test_what_is_no_key_is_refused(key, kind):
    with pytest.raises(WrongKey):
        shard_of(key, 64, kind)


def test_a_number_and_its_text_are_two_keys():
    assert shard_of(1, VECTOR_SHARDS, "int") != shard_of("1", VECTOR_SHARDS, "text")


def test_enum_and_text_of_a_uuid_are_taken():
    class Shop(enum.IntEnum):
        BERN = 42

    assert shard_of(Shop.BERN, VECTOR_SHARDS, "int") == shard_of(42, VECTOR_SHARDS, "int")
    key = uuid.uuid4()
    assert shard_of(str(key), 64, "uuid") == shard_of(key, 64, "uuid")


def test_doubling_splits_a_shard_in_two():
    for key in range(1000):
        before, after = shard_of(key, 64, "int"), shard_of(key, 128, "int")
        assert after in (before, before + 64)
