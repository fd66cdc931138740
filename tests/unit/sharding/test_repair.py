"""What is proposed for what was found: mends that take nothing away, and decisions where two copies differ."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import HeadwayError
from headway.sharding.mends import Decision, Mend
from headway.sharding.repair import HALF_MADE, Copy, Plan, Record, Seen, parse_keep, propose, to_compare

WHOLE = Copy("shape", tables=frozenset({"orders"}), constrained=frozenset({"orders"}))
RECORD = Record(
    "orders", "c0ffee00-0000", 4, {0: "s1", 1: "s1", 2: "s2", 3: "s2"}, keyed=frozenset({"orders"}), moving={9: 3}
)
SEEN = {
    "s1": Seen({0: WHOLE, 1: WHOLE}, {"countries": "a"}),
    "s2": Seen({2: WHOLE, 3: WHOLE}, {"countries": "a"}),
}


def found(record=RECORD, seen=SEEN, away=(), differences=None, keep=None) -> Plan:
    return propose(record, seen, away, differences or {}, keep)


def at(server, **changes):
    return {**SEEN, server: replace(SEEN[server], **changes)}


def mends(plan: Plan) -> list[tuple[str, str, int | None]]:
    return [(one.kind, one.server, one.shard) for one in plan.mends]


def test_nothing_is_wrong_where_nothing_is():
    assert found().complete


def test_a_shard_that_is_elsewhere_alone_is_where_the_map_points_to():
    seen = {
        "s1": replace(SEEN["s1"], shards={0: WHOLE}),
        "s2": replace(SEEN["s2"], shards={**SEEN["s2"].shards, 1: WHOLE}),
    }
    plan = found(seen=seen)
    assert mends(plan) == [("point", "s2", 1)]
    assert plan.mends[0].line == (
        "shard 1 is on server s2, and the map has it on s1; there is no other copy: the map names s2"
    )
    # Not while a server is away that may have another one.
    waits = found(seen=seen, away=("s3",))
    assert waits.mends == ()
    assert "s3 does not answer and may have it too" in waits.decisions[0].why


def test_a_shard_that_is_nowhere_is_made_only_where_no_rows_are_kept():
    seen = at("s1", shards={0: WHOLE})
    assert mends(found(seen=seen)) == [("lay_out", "s1", 1)]
    kept = at("s1", shards={0: WHOLE}, kept=("orders_0001_lost_1",))
    plan = found(seen=kept)
    assert plan.mends == ()
    assert "ALTER SCHEMA orders_0001_lost_1 RENAME TO orders_0001 on server s1" in plan.decisions[0].how
    assert plan.kept == ("server s1 keeps schema orders_0001_lost_1",)
    assert found(seen=seen, away=("s3",)).mends == ()


def test_a_second_copy_with_the_same_rows_gets_another_name():
    seen = at("s2", shards={**SEEN["s2"].shards, 0: WHOLE}, kept=("orders_0000_lost_1",))
    assert to_compare(RECORD, seen) == [(0, "s1", "s2")]
    plan = found(seen=seen, differences={(0, "s1", "s2"): ()})
    assert mends(plan) == [("aside", "s2", 0)]
    assert plan.mends[0].name == "orders_0000_lost_2"


def test_two_copies_with_different_rows_are_for_a_person():
    seen = at("s2", shards={**SEEN["s2"].shards, 0: WHOLE})
    unlike = {(0, "s1", "s2"): ("table orders: 2 missing (keys (1), (2))",)}
    plan = found(seen=seen, differences=unlike)
    assert plan.mends == ()
    (decision,) = plan.decisions
    assert "table orders: 2 missing (keys (1), (2))" in decision.why
    assert "--keep 0=s1 or --keep 0=s2" in decision.how
    # What was not compared counts as different.
    assert found(seen=seen).mends == ()
    assert mends(found(seen=seen, differences=unlike, keep={0: "s1"})) == [("aside", "s2", 0)]
    assert mends(found(seen=seen, differences=unlike, keep={0: "s2"})) == [("point", "s2", 0), ("aside", "s1", 0)]


def test_what_a_move_left_half_made_is_never_taken_for_a_copy():
    half = replace(WHOLE, comment=f"{HALF_MADE} (c0ffee00-0000 7)", is_fenced=True)
    seen = {
        "s1": replace(SEEN["s1"], shards={0: WHOLE}),
        "s2": replace(SEEN["s2"], shards={**SEEN["s2"].shards, 1: half}),
    }
    assert mends(found(seen=seen)) == [("aside", "s2", 1), ("lay_out", "s1", 1)]


def test_a_shard_that_moves_is_left_alone():
    fenced = replace(WHOLE, is_fenced=True, has_rights=False)
    seen = {
        "s1": replace(SEEN["s1"], shards={**SEEN["s1"].shards, 3: fenced}),
        "s2": replace(SEEN["s2"], shards={2: WHOLE}),
    }
    assert found(seen=seen, record=replace(RECORD, fenced=frozenset({3}))).complete


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (replace(WHOLE, is_fenced=True), "open"),
        (replace(WHOLE, constrained=frozenset(), shape="other"), "constrain"),
        (replace(WHOLE, has_rights=False), "rights"),
    ],
)
def test_what_a_shard_lacks_is_given_to_it(copy, kind):
    assert mends(found(seen=at("s1", shards={0: WHOLE, 1: copy}))) == [(kind, "s1", 1)]


def test_triggers_are_missed_only_on_tables_that_are_there():
    record = replace(RECORD, triggers=frozenset({("orders", "headway_next_id"), ("later", "headway_key")}))
    with_trigger = replace(WHOLE, triggers=frozenset({("orders", "headway_next_id")}))
    seen = {name: Seen(dict.fromkeys(one.shards, with_trigger), one.reference) for name, one in SEEN.items()}
    assert found(record=record, seen=seen).complete
    seen["s1"] = replace(seen["s1"], shards={0: with_trigger, 1: WHOLE})
    assert mends(found(record=record, seen=seen)) == [("triggers", "s1", 1)]


def test_tables_that_differ_are_for_a_migration():
    plan = found(seen=at("s1", shards={0: WHOLE, 1: replace(WHOLE, shape="other")}))
    assert plan.mends == ()
    assert "headway db migrate orders" in plan.decisions[0].how


def test_links_are_dropped_where_their_move_has_ended_and_left_where_it_is_not_ours():
    leftovers = (
        "slot headway_move_c0ffee00_7",
        "slot headway_move_c0ffee00_9",  # under way
        "publication headway_move_c0ffee00_7",
        "subscription headway_move_c0ffee00_8",
        "slot pg_16400_sync_16390_7000",
        "slot pg_16401_sync_16390_7000",
        "slot headway_move_deadbeef_7",
        "subscription headway_import_c0ffee00_1_s1",
        "prepared transaction headway:orders:t1:0",
        "prepared transaction somebody",
    )
    record = replace(RECORD, copies={("16400", "7000"): 5})
    plan = found(record=record, seen=at("s1", leftovers=leftovers))
    assert [(one.kind, one.name) for one in plan.mends] == [
        ("subscription", "headway_move_c0ffee00_8"),
        ("subscription", "headway_import_c0ffee00_1_s1"),
        ("slot", "headway_move_c0ffee00_7"),
        ("slot", "pg_16400_sync_16390_7000"),
        ("publication", "headway_move_c0ffee00_7"),
        ("doubt", "headway:orders:t1:0"),
    ]
    assert [one.what for one in plan.decisions] == [
        "server s1 has slot pg_16401_sync_16390_7000",
        "server s1 has slot headway_move_deadbeef_7",
        "server s1 has prepared transaction somebody",
    ]


def test_a_reference_table_without_rows_is_filled_and_one_with_others_decided():
    empty = at("s2", reference={"countries": "none"}, without_rows=frozenset({"countries"}))
    plan = found(seen=empty)
    assert [(one.kind, one.server, one.name) for one in plan.mends] == [("fill", "s2", "countries=s1")]
    other = at("s2", reference={"countries": "b"})
    assert to_compare(RECORD, other) == [("countries", "s1", "s2")]
    assert "--keep countries=s1" in found(seen=other).decisions[0].how
    kept = found(seen=other, keep={"countries": "s2"})
    assert [(one.kind, one.server, one.name) for one in kept.mends] == [("fill", "s1", "countries=s2")]
    assert kept.decisions == ()


def test_a_server_that_is_away_is_named_and_the_others_looked_at():
    seen = {"s1": replace(SEEN["s1"], shards={0: WHOLE, 1: replace(WHOLE, has_rights=False)})}
    plan = found(seen=seen, away=("s2",))
    assert plan.away == ("s2",)
    assert mends(plan) == [("rights", "s1", 1)]
    assert not plan.complete


copies = st.builds(
    Copy,
    shape=st.sampled_from(["a", "b"]),
    comment=st.sampled_from(["", f"{HALF_MADE} (x 1)"]),
    is_fenced=st.booleans(),
    tables=st.just(frozenset({"orders"})),
    constrained=st.sampled_from([frozenset(), frozenset({"orders"})]),
    has_rights=st.booleans(),
)
servers = st.dictionaries(
    st.sampled_from(["s1", "s2", "s3"]),
    st.builds(Seen, st.dictionaries(st.integers(0, 5), copies, max_size=6)),
    min_size=1,
)


@given(servers, st.sets(st.sampled_from(["s4"])), st.booleans())
def test_no_shard_loses_its_only_copy_and_none_gets_two_names(seen, away, same):
    pairs = to_compare(RECORD, seen)
    plan = propose(RECORD, seen, away, dict.fromkeys(pairs, () if same else ("differs",)))
    aside = [(one.shard, one.server) for one in plan.mends if one.kind == "aside"]
    assert len(set(aside)) == len(aside)
    for shard in range(RECORD.shards):
        whole = [name for name, one in seen.items() if shard in one.shards and not one.shards[shard].is_half_made]
        left = [name for name in whole if (shard, name) not in aside]
        assert bool(left) == bool(whole)
        if not same and len(whole) > 1:
            assert left == whole
    for one in (*plan.mends, *plan.decisions):
        assert isinstance(one, Mend | Decision)
        assert one.what
        assert one.why
        assert one.how


@pytest.mark.parametrize("word", ["3", "=s1", "3=", "3=s 1"])
def test_keep_is_read_or_refused(word):
    assert parse_keep(["3=s1", "countries=a"]) == {3: "s1", "countries": "a"}
    with pytest.raises(HeadwayError):
        parse_keep([word])
