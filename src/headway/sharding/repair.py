"""What to do about a sharded database whose servers are not as the map and the declaration have them. Pure.

From what every server holds to mends, in the order to carry them out, and to decisions that only a person can take,
such as two copies of a shard with different rows. No mend drops or overwrites a row: what is in the way gets another
name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from headway.errors import HeadwayError
from headway.model.sharding import schema_name
from headway.sharding.mends import ORDER, Decision, Kind, Mend
from headway.sharding.remnants import (
    ENDED,
    AtSource,
    Corner,
    Half,
    Operations,
    free_name,
    of_corner,
    of_half,
    of_source,
)

HALF_MADE = "headway: being moved here"  # how the comment begins of what a move has not finished


@dataclass(frozen=True, slots=True)
class Copy:
    """A shard's schema on a server."""

    shape: str
    comment: str = ""
    is_fenced: bool = False  # by a move: it takes no writes
    tables: frozenset[str] = frozenset()
    constrained: frozenset[str] = frozenset()  # tables that refuse rows of other shards
    triggers: frozenset[tuple[str, str]] = frozenset()  # of ours: table, name
    has_rights: bool = True  # the app's

    @property
    def is_half_made(self) -> bool:
        """Whether a move has left it unfinished."""
        return self.comment.startswith(HALF_MADE)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server holds."""

    shards: Mapping[int, Copy]
    reference: Mapping[str, str] = field(default_factory=dict)  # table -> digest of its rows
    without_rows: frozenset[str] = frozenset()  # reference tables
    leftovers: tuple[str, ...] = ()  # "slot NAME", "prepared transaction NAME", …
    kept: tuple[str, ...] = ()  # schemas that were shards, under other names
    lacks_rights: tuple[str, ...] = ()  # "reference tables", "the catalog"
    halves: Mapping[int, Half] = field(default_factory=dict)  # what splits have made, by shard
    corner: Corner | None = None  # what an import has made


@dataclass(frozen=True, slots=True)
class Record:
    """What the catalog and the declaration say."""

    database: str
    catalog_id: str
    shards: int
    owners: Mapping[int, str]
    fenced: frozenset[int] = frozenset()
    moving: Mapping[int, int] = field(default_factory=dict)  # move -> shard, of those under way
    copies: Mapping[tuple[str, str], int] = field(default_factory=dict)  # subscription, its cluster -> move
    keyed: frozenset[str] = frozenset()  # tables with a sharding key
    triggers: frozenset[tuple[str, str]] = frozenset()  # that every shard is to have
    reference: tuple[str, ...] = ()
    splits: Mapping[int, str] = field(default_factory=dict)  # stages, by number
    imports: Mapping[int, str] = field(default_factory=dict)
    corner: str = ""  # the schema that an import makes

    @property
    def operations(self) -> Operations:
        """What is known of splits and imports."""
        return Operations(self.catalog_id, self.splits, self.imports)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that was found. `kept` is only told: rows that somebody may want to look at before they are dropped."""

    mends: tuple[Mend, ...]
    decisions: tuple[Decision, ...]
    away: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.mends or self.decisions or self.away)


Pair = tuple[int | str, str, str]  # a shard or a reference table, and two servers that have it


def copies(record: Record, seen: Mapping[str, Seen], shard: int) -> list[str]:
    """The servers that have a whole shard, the one of the map first."""
    found = [name for name, one in sorted(seen.items()) if shard in one.shards and not one.shards[shard].is_half_made]
    return sorted(found, key=lambda name: name != record.owners.get(shard))


def to_compare(record: Record, seen: Mapping[str, Seen]) -> list[Pair]:
    """What has to be compared row by row before anything can be said."""
    pairs: list[Pair] = []
    for shard in range(record.shards):
        if shard not in record.moving.values():
            found = copies(record, seen, shard)
            pairs += [(shard, found[0], other) for other in found[1:]]
    for table in sorted({table for one in seen.values() for table in one.reference}):
        full = [name for name, one in sorted(seen.items()) if table in one.reference and table not in one.without_rows]
        for one, other in pairwise(full):
            if seen[one].reference[table] != seen[other].reference[table]:
                pairs.append((table, one, other))
    return pairs


def propose(
    record: Record,
    seen: Mapping[str, Seen],
    away: Collection[str],
    differences: Mapping[Pair, Sequence[str]],
    keep: Mapping[int | str, str] | None = None,
    source: AtSource | None = None,
) -> Plan:
    """What to do. `differences`: of each pair of `to_compare`, in sentences, none where both are the same; `keep`: by
    shard or reference table the server whose rows are to stay, as a person has decided; `source`: that of the last
    import, where it could be looked at."""
    finding = _Finding(record, seen, tuple(sorted(away)), differences, keep or {}, source)
    found = list(finding.all())
    mends = [one for one in found if isinstance(one, Mend)]
    mends.sort(key=lambda mend: ORDER.index(mend.kind))
    decisions = [one for one in found if isinstance(one, Decision)]
    kept = [f"server {name} keeps schema {schema}" for name, one in sorted(seen.items()) for schema in one.kept]
    return Plan(tuple(mends), tuple(decisions), finding.away, tuple(kept))


@dataclass(frozen=True, slots=True)
class _Finding:
    record: Record
    seen: Mapping[str, Seen]
    away: tuple[str, ...]
    differences: Mapping[Pair, Sequence[str]]
    keep: Mapping[int | str, str]
    source: AtSource | None = None

    def all(self) -> Iterator[Mend | Decision]:
        for name, one in sorted(self.seen.items()):
            for leftover in one.leftovers:
                yield from self._leftover(name, leftover)
            for shard, half in sorted(one.halves.items()):
                yield from of_half(self.record.operations, name, shard, half)
            if one.corner is not None:
                kept = free_name(self.record.corner, "lost", one.kept)
                yield from of_corner(self.record.operations, name, one.corner, kept)
            for what in one.lacks_rights:
                yield Mend(
                    "rights",
                    f"the app has not all its rights on {what} of server {name}",
                    "it is to read and write there",
                    "they are granted",
                    name,
                    name=what,
                )
        if self.source is not None:
            yield from of_source(self.record.operations, self.source)
        usual = self._usual_shape()
        for shard in range(self.record.shards):
            if shard not in self.record.moving.values():
                yield from self._shard(shard, usual)
        for name, one in sorted(self.seen.items()) if not self.record.operations.is_splitting else ():
            for shard in sorted(shard for shard in one.shards if shard >= self.record.shards):
                yield self._aside(shard, name, f"there are {self.record.shards} shards")
        yield from self._reference()

    # -- what moves and transactions leave ----------------------------------------------------------------------------

    def _leftover(self, server: str, leftover: str) -> Iterator[Mend | Decision]:
        kind, _, name = leftover.rpartition(" ")
        if kind == "schema":
            return  # told with what it is of
        what = f"server {server} has {kind} {name}"
        if kind == "prepared transaction":
            if name.startswith(f"headway:{self.record.database}:"):
                why = "its client is gone"
                yield Mend(
                    "doubt", what, why, "it is ended as the catalog has decided, or else undone", server, name=name
                )
            else:
                how = f"COMMIT PREPARED '{name}' or ROLLBACK PREPARED '{name}' on that server"
                yield Decision(what, "it was prepared by somebody else, who knows how it is to end", how)
            return
        whose = self._whose(name)
        if whose == "under way":
            return
        if whose:
            link: Kind = "slot" if kind == "slot" else "publication" if kind == "publication" else "subscription"
            yield Mend(link, what, f"it is of {whose}, which has ended", "it is dropped", server, name=name)
        else:
            why = "Headway did not make it for this database"
            yield Decision(what, why, f"who made it drops it; a {kind} that nobody needs can fill the disk")

    def _whose(self, name: str) -> str:
        """The move or import that a link is of; empty where it is not ours."""
        ours = self.record.catalog_id[:8]
        if found := re.fullmatch(rf"headway_move_{ours}_(\d+)", name):
            move = int(found[1])
        elif found := re.fullmatch(r"pg_(\d+)_sync_\d+_(\d+)", name):
            move = self.record.copies.get((found[1], found[2]), 0)
        elif found := re.match(rf"headway_import_{ours}_(\d+)", name):
            number = int(found[1])
            return f"import {number}" if self.record.imports.get(number, "done") in ENDED else "under way"
        else:
            move = 0
        return "" if not move else "under way" if move in self.record.moving else f"move {move}"

    # -- where shards are ---------------------------------------------------------------------------------------------

    def _shard(self, shard: int, usual: str) -> Iterator[Mend | Decision]:
        record, seen = self.record, self.seen
        owner = record.owners.get(shard, "")
        for name, one in sorted(seen.items()):
            if shard in one.shards and one.shards[shard].is_half_made:
                yield self._aside(shard, name, "a move that has ended left it unfinished")
        if owner in self.away:
            return  # what it holds is not known
        found = copies(record, seen, shard)
        if not found:
            yield from self._nowhere(shard, owner)
            return
        first, others = found[0], found[1:]
        unlike = [other for other in others if self.differences.get((shard, first, other), ("not compared",))]
        if unlike and shard not in self.keep:
            for other in unlike:
                yield self._two_copies(shard, first, other)
            return
        if not others and shard in self._brought(first):
            yield from self._emptied(shard, first)
            return
        chosen = self.keep.get(shard, first)
        if chosen != owner and self.away:
            why = f"{', '.join(self.away)} does not answer and may have it too"
            yield Decision(f"shard {shard} is not on server {owner or '?'}", why, "look again when all servers answer")
            return
        if chosen != owner:
            said = f"the map has it on {owner}" if owner else "the map does not say where it is"
            what = f"shard {shard} is on server {chosen}, and {said}"
            why = "that is what was decided" if shard in self.keep else "there is no other copy"
            if others and shard not in self.keep:
                why = "all copies are the same, row by row"
            yield Mend("point", what, why, f"the map names {chosen}", chosen, shard, name=owner)
        for other in found:
            if other != chosen:
                same = f"row by row the same as on {first}"
                yield self._aside(shard, other, "that is what was decided" if shard in self.keep else same)
        yield from self._inside(shard, chosen, usual)

    def _brought(self, server: str) -> frozenset[int]:
        """The shards whose rows an import has brought that was given up before it could take them away."""
        corner = self.seen[server].corner
        is_ours = corner is not None and self.record.operations.stage_of_import(corner.comment) == "aborted"
        return corner.filled if corner is not None and is_ours else frozenset()

    def _emptied(self, shard: int, server: str) -> Iterator[Mend]:
        schema = schema_name(self.record.database, shard)
        name = free_name(schema, "imported", self.seen[server].kept)
        what = f"shard {shard} on server {server} holds rows of an import"
        why = "it was given up, and the shard was empty before"
        yield Mend("aside", what, why, f"its schema gets the name {name}", server, shard, name=name)
        yield Mend(
            "lay_out", f"shard {shard} has no schema then", "it is to be there", "it is made, empty", server, shard
        )

    def _nowhere(self, shard: int, owner: str) -> Iterator[Mend | Decision]:
        what = f"shard {shard} is not on server {owner or '?'}"
        if self.away:
            why = f"{', '.join(self.away)} does not answer and may have it"
            yield Decision(what, why, "look again when all servers answer")
            return
        schema = schema_name(self.record.database, shard)
        for name, one in sorted(self.seen.items()):
            if kept := [each for each in one.kept if re.fullmatch(rf"{re.escape(schema)}_(moved|lost)_\d+", each)]:
                how = f"ALTER SCHEMA {kept[-1]} RENAME TO {schema} on server {name}, then this command again"
                yield Decision(what, f"server {name} keeps rows of it in schema {', '.join(kept)}", how)
                return
        if not owner:
            yield Decision(what, "the map does not say where it is, and no server has it", "restore a backup")
            return
        why = "no server has it: rows that it held are in a backup, if anywhere"
        yield Mend("lay_out", what, why, "it is made, empty", owner, shard)

    def _two_copies(self, shard: int, first: str, other: str) -> Decision:
        told = "; ".join(self.differences.get((shard, first, other), ("they were not compared",)))
        why = f"against the copy on {first} the one on {other} differs: {told}"
        how = f"--keep {shard}={first} or --keep {shard}={other} says which rows stay; the others get another name"
        return Decision(f"shard {shard} is on servers {first} and {other}", why, how)

    def _aside(self, shard: int, server: str, why: str) -> Mend:
        name = free_name(schema_name(self.record.database, shard), "lost", self.seen[server].kept)
        what = f"shard {shard} is on server {server} as well"
        return Mend("aside", what, why, f"its schema there gets the name {name}", server, shard, name=name)

    # -- what is in a shard -------------------------------------------------------------------------------------------

    def _usual_shape(self) -> str:
        counts: dict[str, int] = {}
        for shard, owner in self.record.owners.items():
            if owner in self.seen and (copy := self.seen[owner].shards.get(shard)) is not None:
                counts[copy.shape] = counts.get(copy.shape, 0) + 1
        return max(counts, key=lambda shape: counts[shape], default="")

    def _inside(self, shard: int, server: str, usual: str) -> Iterator[Mend | Decision]:
        record, copy, where = self.record, self.seen[server].shards[shard], f"shard {shard} on server {server}"
        if shard in record.fenced:
            why = "no move of it is under way"
            yield Mend("release", f"the map has shard {shard} about to move", why, "writers need not wait", "", shard)
        if copy.is_fenced:
            yield Mend(
                "open", f"{where} takes no writes", "a move that has ended closed it", "it is opened", server, shard
            )
        if lacking := sorted((record.keyed & copy.tables) - copy.constrained):
            what = f"{where} takes rows of other shards in {', '.join(lacking)}"
            yield Mend("constrain", what, "its constraint is gone", "it is added", server, shard)
        wanted = {(table, name) for table, name in record.triggers if table in copy.tables}
        if lacking := sorted({table for table, _ in wanted - copy.triggers}):
            what = f"{where} does not fill in the key or id of {', '.join(lacking)}"
            yield Mend("triggers", what, "its triggers are gone", "they are created", server, shard)
        if not copy.has_rights:
            what = f"the app has not all its rights in {where}"
            yield Mend("rights", what, "it is to read and write there", "they are granted", server, shard)
        if copy.shape != usual and not record.keyed & copy.tables - copy.constrained:
            how = f"headway db migrate {record.database} applies what it lacks"
            yield Decision(f"the tables of shard {shard} differ from those of most others", f"on server {server}", how)

    # -- reference tables ---------------------------------------------------------------------------------------------

    def _reference(self) -> Iterator[Mend | Decision]:
        names = {table for one in self.seen.values() for table in one.reference}
        for table in sorted(names | set(self.record.reference)):
            held = {name: one.reference[table] for name, one in sorted(self.seen.items()) if table in one.reference}
            full = [name for name in held if table not in self.seen[name].without_rows]
            if table in self.keep:
                for name in [name for name in held if held[name] != held[self.keep[table]]]:
                    why = "that is what was decided"
                    yield self._fill(table, name, self.keep[table], f"differs from that on {self.keep[table]}", why)
                continue
            if len({held[name] for name in full}) > 1:
                for one, other in pairwise(full):
                    if held[one] != held[other]:
                        yield self._two_references(table, one, other)
                continue
            for name in held:
                if full and name not in full:
                    yield self._fill(table, name, full[0], "has no rows", f"all others have those of {full[0]}")
            lacking = sorted(self.seen.keys() - held.keys()) if table in self.record.reference else []
            if lacking and not self.away:
                what = f"reference table {table} is not on server {', '.join(lacking)}"
                yield Mend("lay_out", what, "it is declared", "it is made there, with its rows", lacking[0], name=table)

    def _fill(self, table: str, server: str, source: str, wrong: str, why: str) -> Mend:
        what = f"reference table {table} on server {server} {wrong}"
        return Mend("fill", what, why, f"it gets the rows of {source}", server, name=f"{table}={source}")

    def _two_references(self, table: str, one: str, other: str) -> Decision:
        told = "; ".join(self.differences.get((table, one, other), ("they were not compared",)))
        why = f"against {one} it differs on {other}: {told}"
        how = f"--keep {table}={one} or --keep {table}={other} says which rows all servers get"
        return Decision(f"reference table {table} is not the same on all servers", why, how)


def parse_keep(words: Sequence[str]) -> dict[int | str, str]:
    """`3=s1` and `countries=s1`: a shard or reference table, and the server whose rows stay."""
    found: dict[int | str, str] = {}
    for word in words:
        what, separator, server = word.partition("=")
        if not separator or not what or not re.fullmatch(r"[A-Za-z0-9_-]+", server):
            raise HeadwayError(
                f"--keep: {word!r} says nothing", hint="write it like --keep 3=s1 or --keep countries=s1"
            )
        found[int(what) if what.isdecimal() else what] = server
    return found
