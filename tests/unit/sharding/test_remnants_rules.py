"""What splits and imports have left: mended where they have ended, decided where rows depend on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.sharding.mends import Decision, Mend
from headway.sharding.remnants import (
    SOURCE,
    AtSource,
    Corner,
    Half,
    Operations,
    free_name,
    of_corner,
    of_half,
    of_source,
)
from headway.sharding.repair import Copy, Record, Seen, propose

CATALOG = "c0ffee00-0000"
SPLIT = f"headway: half of a shard ({CATALOG} 4)"
IMPORT = f"headway: being imported ({CATALOG} 7)"
WHOLE = Copy("shape", tables=frozenset({"orders"}), constrained=frozenset({"orders"}))
RECORD = Record(
    "orders", CATALOG, 2, {0: "s1", 1: "s1"}, keyed=frozenset({"orders"}), corner="headway_import_orders"
)  # fmt: skip


def known(split: str = "aborted", imported: str = "aborted") -> Operations:
    return Operations(CATALOG, {4: split}, {7: imported})


def planned(seen: Seen, source: AtSource | None = None, **changes):
    return propose(replace(RECORD, **changes), {"s1": seen}, (), {}, None, source)


def test_triggers_of_a_split_go_when_it_has_ended_and_each_row_is_in_one_place():
    (mend,) = of_half(known(), "s1", 0, Half(SPLIT))
    assert isinstance(mend, Mend)
    assert (mend.kind, mend.server, mend.shard) == ("half", "s1", 0)
    assert list(of_half(known("filling"), "s1", 0, Half(SPLIT))) == []
    (stray,) = of_half(known("done"), "s1", 0, Half(SPLIT, strays=("lines", "orders")))
    assert isinstance(stray, Decision)
    assert "lines, orders still hold rows" in stray.why
    (stranger,) = of_half(known(), "s1", 0, Half("headway: half of a shard (deadbeef 4)"))
    assert isinstance(stranger, Decision)


def test_triggers_go_before_the_half_that_they_write_to_gets_another_name():
    seen = Seen({0: WHOLE, 1: WHOLE, 2: WHOLE}, halves={0: Half(SPLIT)})
    plan = planned(seen, splits={4: "aborted"})
    assert [(one.kind, one.shard) for one in plan.mends] == [("half", 0), ("aside", 2)]
    assert planned(seen, splits={4: "filling"}).complete


def test_an_import_that_was_given_up_leaves_its_shards_empty_and_open():
    corner = Corner(IMPORT, is_closed=True, filled=frozenset({1}), copies=("public.orders",))
    seen = Seen({0: WHOLE, 1: WHOLE}, corner=corner, kept=("headway_import_orders_lost_1", "orders_0001_lost_1"))
    plan = planned(seen, imports={7: "aborted"})
    assert [(one.kind, one.shard, one.name) for one in plan.mends] == [
        ("aside", 1, "orders_0001_imported_1"),
        ("lay_out", 1, ""),
        ("corner", None, "headway_import_orders_lost_2"),
    ]
    # After a switch the shards are the truth.
    plan = planned(seen, imports={7: "done"})
    assert [one.kind for one in plan.mends] == ["corner"]
    assert planned(seen, imports={7: "filled"}).complete
    unknown = planned(seen)
    assert unknown.mends == ()
    assert "does not know import 7" in unknown.decisions[0].why


def test_a_shard_whose_imported_rows_were_set_aside_is_made_even_when_that_was_cut_off():
    seen = Seen({0: WHOLE}, kept=("orders_0001_imported_1",))
    assert [one.kind for one in planned(seen).mends] == ["lay_out"]


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [("aborted", ["slot", "publication", "corner"]), ("done", ["slot", "publication"]), ("verified", [])],
)
def test_the_fence_at_a_source_stays_after_a_switch(stage, kinds):
    links = (("slot pg_1_sync_2_3", 7), ("publication headway_import_c0ffee00_7_s1", 7))
    found = list(of_source(known(imported=stage), AtSource("main", links, Corner(IMPORT, is_closed=True))))
    assert [one.kind for one in found if isinstance(one, Mend)] == kinds
    assert all(isinstance(one, Mend) and one.server == SOURCE for one in found)


def test_what_another_database_has_at_the_same_source_is_its_own():
    corner = Corner("headway: being imported (deadbeef 7)", is_closed=True)
    assert list(of_source(known(), AtSource("main", (), corner))) == []
    assert isinstance(next(of_corner(known(), "s1", corner, "kept")), Decision)


def test_a_name_is_free_and_not_cut_off():
    assert free_name("orders_0001", "lost", ("orders_0001_lost_1",)) == "orders_0001_lost_2"
    assert len(free_name("x" * 63, "imported", ())) == 63
