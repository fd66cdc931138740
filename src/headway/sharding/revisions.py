"""Alembic's revisions over shards: which of them a shard still needs. Pure.

Each shard's own table of Alembic says at which revision it is. So a run that was cut off goes on where every shard is,
and a shard that was moved or split took its place in the history along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headway.errors import Problem
from headway.model.sharding import VERSION_TABLES


@dataclass(frozen=True, slots=True)
class Revision:
    """One file of Alembic's: its identifier, those that come before it, and its title."""

    id: str
    after: tuple[str, ...] = ()
    title: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.id} ({self.title})" if self.title else self.id


@dataclass(frozen=True, slots=True)
class VersionTable:
    """Where Alembic notes at which revision a database is. A shard's is in the shard; that of a plain database is in
    `schema`, else where new tables of its login go."""

    name: str = VERSION_TABLES[0]
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Revisions:
    """All revisions of an app, the oldest first, and those that none comes after."""

    all: tuple[Revision, ...]
    heads: tuple[str, ...]
    table: VersionTable | None = VersionTable()  # None: only env.py tells, when it runs


def find(wanted: Revisions, name: str) -> Revision | None:
    """The revision of this identifier, or of its beginning where no other one begins so, or `head`."""
    if name == "head" and wanted.heads:
        name = wanted.heads[0]
    exact = [revision for revision in wanted.all if revision.id == name]
    found = exact or [revision for revision in wanted.all if name and revision.id.startswith(name)]
    return found[0] if len(found) == 1 else None


def with_those_before(wanted: Revisions, name: str) -> frozenset[str]:
    """A revision and all that come before it."""
    return _with_those_before(frozenset((name,)), {revision.id: revision for revision in wanted.all})


def problem(wanted: Revisions) -> Problem | None:
    """Why shards cannot be brought to one state by them."""
    if len(wanted.heads) > 1:
        hint = "Put them together: alembic merge heads"
        return Problem("", f"the revisions have {len(wanted.heads)} heads: {', '.join(wanted.heads)}", hint)
    return None


def pending(
    wanted: Revisions, versions: Mapping[int, frozenset[str]], name: Callable[[int], str] = "shard {}".format
) -> tuple[dict[int, tuple[Revision, ...]], tuple[Problem, ...]]:
    """What each shard still needs (`versions`: shard → where it is), and why its history does not fit the files.
    `name`: what a shard is called."""
    known = {revision.id: revision for revision in wanted.all}
    done: dict[frozenset[str], frozenset[str]] = {}
    needed: dict[int, tuple[Revision, ...]] = {}
    problems: dict[str, Problem] = {}
    for shard, at in sorted(versions.items()):
        for lost in sorted(at - known.keys()):
            told = f"{name(shard)} is at revision {lost}, which is not among the {len(known)} that there are"
            problems.setdefault(lost, Problem("", told, "Put its file back; a new revision undoes what it did."))
        if at not in done:
            done[at] = _with_those_before(at, known)
        needed[shard] = tuple(revision for revision in wanted.all if revision.id not in done[at])
    return needed, tuple(problems.values())


def _with_those_before(at: frozenset[str], known: Mapping[str, Revision]) -> frozenset[str]:
    found: set[str] = set()
    left = [name for name in at if name in known]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [before for before in known[name].after if before in known]
    return frozenset(found)
