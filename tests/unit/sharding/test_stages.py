"""What a record says of work by stages: whether it has ended, can be undone, and which steps an abort forbids."""

from __future__ import annotations

from dataclasses import fields

import pytest

from headway.sharding.backup.record import Restore
from headway.sharding.importing.nouns import Import
from headway.sharding.move.nouns import Move
from headway.sharding.split.nouns import Split
from headway.sharding.stages import Staged


def move(stage: str, **facts: object) -> Move:
    return Move(1, stage, facts, 0, "a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "to", "is_forbidden"),
    [
        ("begun", "schema", True),
        ("verified", "verified", True),
        ("fencing", "switched", True),
        ("fencing", "verified", False),  # back, before it is tried again
        ("copied", "aborting", False),
        ("switched", "opened", False),  # past the commit point it goes on, whatever is wanted
        ("aborting", "aborted", False),
        ("aborting", "begun", False),
    ],
)
def test_an_abort_forbids_what_goes_on_to_the_commit_point(at: str, to: str, is_forbidden: bool) -> None:
    assert move(at).goes_on_to(to) is is_forbidden


@pytest.mark.parametrize(
    ("kind", "last", "undoing"),
    [
        (Move, "fencing", "aborting"),
        (Import, "switching", "aborting"),
        (Split, "filling", "aborting"),
        (Restore, "filled", "undoing"),
    ],
)
def test_each_kind_can_be_undone_up_to_its_commit_point(kind: type[Staged], last: str, undoing: str) -> None:
    before = kind.forward[: kind.forward.index(last) + 1]
    for stage in (*kind.forward, undoing, *kind.ended):
        one = kind(1, stage, {}, *([""] * (len(fields(kind)) - 3)))
        assert one.can_be_undone is (stage in before)
        assert one.has_ended is (stage in kind.ended)
    assert kind.committed == set(kind.forward) - set(before)
    assert kind.forward[-1] in kind.ended


def test_facts() -> None:
    assert (move("begun").abort_wanted, move("begun").number("rows")) == ("", 0.0)
    assert move("begun", abort="enough", rows=7).number("rows") == 7.0
    assert move("begun", abort="enough", rows="many").abort_wanted == "enough"
    assert move("begun", rows="many").number("rows") == 0.0
