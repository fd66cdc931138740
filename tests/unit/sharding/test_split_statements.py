"""The text of a split: which rows leave, and what is never touched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headway.model.sharding import ShardMap, ShardServer, TableKey, half_schema, read_schema, schema_name
from headway.sharding.keys import shard_of
from headway.sharding.split import statements as sql
from headway.sharding.split.nouns import Halves, SplitTable

HALVES = Halves("orders", 3, 16)
TABLE = SplitTable(
    "Odd; --",
    TableKey("who", "int"),
    (("who", "bigint"), ("id", "text")),
    ("who", "id", "serial"),
    frozenset({"serial"}),
)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 2048))
def test_a_shard_splits_in_two_alone(key: int, shards: int) -> None:
    before, after = shard_of(key, shards, "int"), shard_of(key, 2 * shards, "int")
    assert after in (before, Halves("orders", before, shards).other)


def test_the_halves_have_names_of_their_own() -> None:
    assert (HALVES.old, HALVES.new, HALVES.beside) == ("orders_0003", "orders_0019", "orders_0003_half")
    longest = half_schema("d" * 58, 4095)
    assert len(longest) <= 63
    assert longest != schema_name("d" * 58, 4095)


def test_whoever_reads_all_shards_sees_no_row_twice() -> None:
    server = ShardServer("s1", "postgresql://s1/orders")
    for split, place in (("", "orders_0000"), ("filling", "orders_0000"), ("switched", "orders_0000_half")):
        map_ = ShardMap("orders", 2, ("s1",) * 4, {"s1": server}, split=split)
        assert read_schema(map_, 0) == place
        assert read_schema(map_, 2) == "orders_0002"


def test_runs_of_the_primary_key_join_without_a_gap() -> None:
    assert sql.in_run(TABLE, None, ["1", "it's"]) == """true AND ("who", "id") <= ('1'::bigint, 'it''s'::text)"""
    assert sql.in_run(TABLE, ["1", "it's"], None) == """("who", "id") > ('1'::bigint, 'it''s'::text)"""


def test_an_identity_is_never_updated_but_copied() -> None:
    text = sql.mirror(HALVES, TABLE, sql.FORWARD)
    assert 'SET "who" = NEW."who", "id" = NEW."id" WHERE' in text
    assert '("who", "id", "serial") OVERRIDING SYSTEM VALUE' in text
    assert '"orders_0019"."Odd; --"' in text
    assert "session_replication_role = replica" in text


def test_long_names_of_tables_stay_apart() -> None:
    names = [sql.function_name(HALVES, sql.FORWARD, "t" * 60 + end) for end in ("a", "b")]
    assert len(set(names)) == 2
    assert all(len(name.split(".")[1].strip('"')) <= 63 for name in names)
