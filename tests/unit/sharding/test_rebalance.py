"""Plans of moves: few, towards balance, and never in circles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.sharding.rebalance import APART_MIN, GAIN_MIN, LOAD_MIN_PER_S, WORSE_MAX, plan, plan_by
from headway.sharding.verify import Held, compare


def loads(owners, weights, servers):
    return {server: sum(weights[shard] for shard, owner in enumerate(owners) if owner == server) for server in servers}


def after(owners, moves):
    owners = list(owners)
    for move in moves:
        assert owners[move.shard] == move.source
        owners[move.shard] = move.target
    return owners


def test_a_new_server_gets_its_share():
    owners = ["s1"] * 8 + ["s2"] * 8
    moves = plan(owners, dict.fromkeys(range(16), 100.0), ["s1", "s2", "s3"])
    counts = loads(after(owners, moves), dict.fromkeys(range(16), 1), ["s1", "s2", "s3"])
    assert sorted(counts.values()) == [5, 5, 6]
    assert len(moves) == 5


def test_what_is_balanced_stays():
    assert plan(["s1", "s2"] * 8, dict.fromkeys(range(16), 100.0), ["s1", "s2"]) == ()


def test_a_server_that_leaves_is_emptied():
    owners = ["s1", "s2", "s3"] * 4
    moves = plan(owners, dict.fromkeys(range(12), 1.0), ["s1", "s2", "s3"], empty=["s2"])
    assert "s2" not in after(owners, moves)


@pytest.mark.parametrize("by", ["rows", "load", "both"])
def test_shards_of_a_server_that_is_not_among_them_stay_there(by):
    owners = ["s1"] * 8 + ["s2"] * 4 + ["s3"] * 4
    known = {shard: 100.0 for shard, owner in enumerate(owners) if owner != "s2"}
    moves = plan_by(by, owners, known, dict.fromkeys(known, 1000.0), ["s1", "s3"])
    assert {(move.source, move.target) for move in moves} == {("s1", "s3")}
    assert after(owners, moves).count("s1") == 6
    moves = plan_by(by, owners, known, {}, ["s1", "s3"], empty=["s3"])
    assert after(owners, moves) == ["s1"] * 8 + ["s2"] * 4 + ["s1"] * 4


def test_a_shard_that_is_most_of_all_does_not_wander():
    assert len(plan(["s1", "s1"], {0: 1000.0, 1: 500.0}, ["s1", "s2"])) == 1
    assert plan(["s1", "s2"], {0: 1000.0, 1: 1.0}, ["s1", "s2"]) == ()


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e9)), min_size=1, max_size=60))
def test_a_plan_never_makes_it_worse(shards):
    servers = ["s0", "s1", "s2", "s3"]
    owners = [f"s{server}" for server, _ in shards]
    weights = {shard: weight for shard, (_, weight) in enumerate(shards)}
    moves = plan(owners, weights, servers)
    assert len({move.shard for move in moves}) <= len(shards)
    before, later = loads(owners, weights, servers), loads(after(owners, moves), weights, servers)
    mean = sum(before.values()) / 4
    assert max(later.values()) <= max(before.values()) + GAIN_MIN * mean + 1e-3


def test_verify_names_what_is_missing_extra_and_different():
    held = {
        "s1": Held({0: "a", 1: "a", 5: "a"}, {"countries": "1"}),
        "s2": Held({2: "a", 3: "b"}, {"countries": "2"}, leftovers=("slot headway_1",)),
    }
    found = compare(["s1", "s1", "s2", "s2", "s2", "s3"], held)
    assert not found.complete
    assert found.missing == ("shard 4 is not on server s2", "server s3 does not answer")
    assert found.extra == ("shard 5 is on server s1 as well", "server s2 has slot headway_1")
    assert found.different == (
        "the tables of shard 3 differ from those of most others",
        "reference table countries is not the same on all servers",
    )


def test_verify_finds_nothing_wrong_where_nothing_is():
    held = {"s1": Held({0: "a"}), "s2": Held({0: "a", 1: "a"})}
    assert compare(["s1", "s2"], held, moving=frozenset({0})).complete
    assert not compare(["s1", "s2"], held).complete


HALVES = ["s1"] * 8 + ["s2"] * 8
ALIKE = dict.fromkeys(range(16), 100.0)
BUSY = {shard: 1000.0 if shard < 8 else 0.0 for shard in range(16)}


def test_load_is_spread_where_sizes_are_even():
    assert plan_by("rows", HALVES, ALIKE, BUSY, ["s1", "s2"]) == ()
    owners = after(HALVES, plan_by("load", HALVES, ALIKE, BUSY, ["s1", "s2"]))
    # Not four of eight: s2 would hold half as much again as s1.
    assert loads(owners, BUSY, ["s1", "s2"]) == {"s1": 6000.0, "s2": 2000.0}
    assert loads(owners, ALIKE, ["s1", "s2"])["s2"] == 800 * (1 + WORSE_MAX)


def test_both_are_looked_at():
    sizes = {shard: 400.0 if shard < 4 else 100.0 for shard in range(16)}
    busy = {shard: 100.0 if shard in (4, 5, 6, 7) else 1.0 for shard in range(16)}
    owners = after(HALVES, plan_by("both", HALVES, sizes, busy, ["s1", "s2"]))
    for weights in (sizes, busy):
        found = loads(owners, weights, ["s1", "s2"])
        assert max(found.values()) < max(loads(HALVES, weights, ["s1", "s2"]).values())
        assert max(found.values()) <= (1 + WORSE_MAX) * sum(found.values()) / 2


def test_without_load_worth_the_name_sizes_decide():
    quiet = {shard: 1.0 if shard < 3 else 0.0 for shard in range(16)}
    found = plan_by("both", HALVES, ALIKE, quiet, ["s1", "s2", "s3"])
    assert found == plan(HALVES, ALIKE, ["s1", "s2", "s3"])


@pytest.mark.parametrize("by", ["load", "both"])
def test_load_that_goes_up_and_down_moves_nothing(by):
    up = {shard: 100.0 * (1 + APART_MIN / 4 if shard % 2 else 1 - APART_MIN / 4) for shard in range(16)}
    assert plan_by(by, ["s1", "s2"] * 8, ALIKE, up, ["s1", "s2"]) == ()


def test_a_server_that_leaves_is_emptied_whatever_counts():
    owners = ["s1", "s2", "s3"] * 4
    sizes, busy = dict.fromkeys(range(12), 1.0), {shard: float(shard) for shard in range(12)}
    for by in ("rows", "load", "both"):
        moves = plan_by(by, owners, sizes, busy, ["s1", "s2", "s3"], empty=["s2"])
        assert "s2" not in after(owners, moves)
        assert len({move.shard for move in moves}) == len(moves)


shards_of_all = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=40
)


@given(shards_of_all, st.sampled_from(["load", "both"]))
def test_neither_gets_worse_than_allowed_and_a_plan_carried_out_leads_to_no_other(shards, by):
    servers = ["s0", "s1", "s2", "s3"]
    owners = [f"s{server}" for server, _, _ in shards]
    sizes = {shard: float(size) for shard, (_, size, _) in enumerate(shards)}
    busy = {shard: float(load) for shard, (_, _, load) in enumerate(shards)}
    moves = plan_by(by, owners, sizes, busy, servers)
    assert len({move.shard for move in moves}) == len(moves)
    later = after(owners, moves)
    if sum(busy.values()) >= LOAD_MIN_PER_S:
        for weights in (sizes, busy):
            before, now = (loads(each, weights, servers) for each in (owners, later))
            allowed = max(*before.values(), (1 + WORSE_MAX) * sum(before.values()) / 4)
            assert max(now.values()) <= allowed * (1 + 1e-6) + 1e-6
    assert plan_by(by, later, sizes, busy, servers) == ()
