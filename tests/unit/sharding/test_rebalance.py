"""Plans of moves: few, towards balance, and never in circles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headway.sharding.rebalance import GAIN_MIN, plan
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
