"""What a split or an import that has ended can leave behind, and what is done about it. Pure.

Both undo what they made before they record their end, so this is what a server has that was restored, or away, or whose
operation somebody ended in the catalog by hand. It is not harmless: triggers of a split write to a half that is no
shard, and an import's fence refuses every write. Nothing is touched while its operation is under way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from headway.sharding.mends import Decision, Mend

HALF = "headway: half of a shard"  # how the comments begin on what was made
IMPORTED = "headway: being imported"
SOURCE = "the source"  # in a mend: instead of a server's name
ENDED = frozenset({"done", "aborted"})


@dataclass(frozen=True, slots=True)
class Half:
    """The schema beside a shard in which a split has its functions and views."""

    comment: str
    tables: tuple[str, ...] = ()  # that its triggers are on
    strays: tuple[str, ...] = ()  # tables of the shard with rows that are another shard's by now


@dataclass(frozen=True, slots=True)
class Corner:
    """The schema of an import, on a server or at its source."""

    comment: str
    is_closed: bool = False  # it refuses what the app writes
    filled: frozenset[int] = frozenset()  # closed shards that hold rows
    copies: tuple[str, ...] = ()  # tables that replication wrote into


@dataclass(frozen=True, slots=True)
class AtSource:
    """What is to be found at the source of the last import."""

    name: str
    links: tuple[tuple[str, int], ...] = ()  # "slot NAME" or "publication NAME", and the import that it is of
    corner: Corner | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """What the catalog says of splits and imports, by their number: the stage of each."""

    catalog_id: str
    splits: Mapping[int, str] = field(default_factory=dict)
    imports: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_splitting(self) -> bool:
        """Whether shards are being doubled now."""
        return any(stage not in ENDED for stage in self.splits.values())

    def made_by(self, comment: str) -> int:
        """The number of the operation that made what bears this comment; 0: none of this database's."""
        found = re.fullmatch(r"headway: [a-z ]+ \((\S+) (\d+)\)", comment)
        return int(found[2]) if found and found[1] == self.catalog_id else 0

    def stage_of_import(self, comment: str) -> str:
        """Of the one that made what bears this comment; empty where the catalog does not know it."""
        return self.imports.get(self.made_by(comment), "")


def of_half(known: Operations, server: str, shard: int, half: Half) -> Iterator[Mend | Decision]:
    """What to do about a schema beside a shard."""
    number = known.made_by(half.comment)
    if known.splits.get(number, "done") not in ENDED:
        return
    what = f"shard {shard} on server {server} has triggers and views of a split"
    if not number:
        yield Decision(what, "it was not a split of this database", "who made it drops them")
    elif half.strays:
        why = f"split {number} has ended, and {', '.join(half.strays)} still hold rows that are another shard's now"
        how = (
            "compare them with those of that shard and delete what is not needed, with session_replication_role = "
            "replica, for the triggers would delete it in both places; then this command again"
        )
        yield Decision(what, why, how)
    else:
        yield Mend("half", what, f"split {number} has ended", "they are dropped", server, shard)


def of_corner(known: Operations, server: str, corner: Corner, kept: str) -> Iterator[Mend | Decision]:
    """What to do about an import's schema on a server. `kept`: where copies that hold rows go."""
    number, stage = known.made_by(corner.comment), known.stage_of_import(corner.comment)
    what = f"server {server} has fences, triggers and copies of an import"
    if not number:
        yield Decision(what, "it was not an import of this database", "who made it drops them")
    elif stage in ENDED:
        how = "writes pass and all of it is dropped"
        how += f"; copies that hold rows are kept in schema {kept}" if corner.copies else ""
        yield Mend("corner", what, f"import {number} has ended", how, server, name=kept)
    elif not stage:
        why = f"the catalog does not know import {number}, and so not whether what is in the shards is whole"
        how = "headway db restore, or look into the shards; then drop its schema on that server with CASCADE"
        yield Decision(what, why, how)


def of_source(known: Operations, at: AtSource) -> Iterator[Mend | Decision]:
    """What to do about what is left at an import's source. After a switch its fence is there to stay."""
    for link, number in at.links:
        kind, _, name = link.partition(" ")
        if known.imports.get(number, "done") in ENDED:
            what, why = f"the source, {at.name}, has {link}", f"it is of import {number}, which has ended"
            yield Mend("slot" if kind == "slot" else "publication", what, why, "it is dropped", SOURCE, name=name)
    if at.corner is None or not (number := known.made_by(at.corner.comment)):
        return
    what = f"the source, {at.name}, has a fence of an import"
    stage = known.stage_of_import(at.corner.comment)
    if stage == "aborted":
        how = "writes pass and it is dropped"
        yield Mend("corner", what, f"import {number} was given up", how, SOURCE)
    elif not stage:
        why = f"the catalog does not know import {number}, and so not where the rows belong"
        yield Decision(what, why, "the guide on imports says how to open it, where its rows are the right ones")


def free_name(schema: str, word: str, taken: tuple[str, ...]) -> str:
    """A name for a schema that is kept, of those that PostgreSQL does not cut off."""
    number = 1
    while (name := f"{schema[: 63 - len(f'_{word}_{number}')]}_{word}_{number}") in taken:
        number += 1
    return name
