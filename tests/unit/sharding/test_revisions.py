"""Which of Alembic's revisions a shard needs, and which histories are refused."""

from __future__ import annotations

from headway.sharding.revisions import Revision, Revisions, find, pending, problem, with_those_before

LINE = Revisions((Revision("a"), Revision("b", ("a",), "lines"), Revision("c", ("b",))), ("c",))
# b and x come after a, and d puts them together.
DIAMOND = Revisions(
    (Revision("a"), Revision("b", ("a",)), Revision("x", ("a",)), Revision("d", ("b", "x"))),
    ("d",),
)


def needed(wanted: Revisions, *at: str) -> list[str]:
    found, problems = pending(wanted, {0: frozenset(at)})
    assert problems == ()
    return [revision.id for revision in found[0]]


def test_a_shard_needs_what_comes_after_its_revision():
    assert needed(LINE) == ["a", "b", "c"]
    assert needed(LINE, "b") == ["c"]
    assert needed(LINE, "c") == []
    assert needed(DIAMOND, "b") == ["x", "d"]
    assert needed(DIAMOND, "b", "x") == ["d"]
    assert needed(DIAMOND, "d") == []


def test_every_shard_is_asked_by_itself():
    found, problems = pending(LINE, {0: frozenset("a"), 1: frozenset("c"), 2: frozenset("a")})
    assert problems == ()
    assert {shard: len(lacking) for shard, lacking in found.items()} == {0: 2, 1: 0, 2: 2}


def test_a_revision_whose_file_is_gone_is_told_once():
    _, problems = pending(LINE, {0: frozenset("a"), 3: frozenset("z"), 4: frozenset("z")})
    assert [(each.message, each.hint) for each in problems] == [
        (
            "shard 3 is at revision z, which is not among the 3 that there are",
            "Put its file back; a new revision undoes what it did.",
        )
    ]


def test_two_heads_are_two_states():
    forked = Revisions((Revision("a"), Revision("b", ("a",)), Revision("x", ("a",))), ("b", "x"))
    found = problem(forked)
    assert found is not None
    assert found.message == "the revisions have 2 heads: b, x"
    assert "alembic merge" in found.hint
    assert problem(LINE) is None
    assert problem(Revisions((), ())) is None


def test_a_revision_is_told_with_its_title():
    assert [revision.name for revision in LINE.all] == ["a", "b (lines)", "c"]


def test_a_revision_is_found_by_its_identifier_its_beginning_or_as_the_head():
    wanted = Revisions((Revision("a1"), Revision("a1f", ("a1",)), Revision("b2", ("a1f",))), ("b2",))
    named = {name: found.id if (found := find(wanted, name)) else None for name in ("a1", "a", "b", "head", "nix", "")}
    assert named == {"a1": "a1", "a": None, "b": "b2", "head": "b2", "nix": None, "": None}
    assert with_those_before(wanted, "a1f") == {"a1", "a1f"}
    assert find(Revisions((), ()), "head") is None
