"""Whether servers hold what the map says, and what they hold besides: the facts of `headway db verify`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Held:
    """What one server holds: shards by number, with the columns of their tables as one text; reference tables by
    name, with a digest of their rows."""

    shards: Mapping[int, str]
    reference: Mapping[str, str] = field(default_factory=dict)
    leftovers: tuple[str, ...] = ()  # of moves: schemas, slots, publications, subscriptions


@dataclass(frozen=True, slots=True)
class Verified:
    """`complete`: every shard is where the map has it, alike, and nowhere else."""

    complete: bool
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    different: tuple[str, ...]


def compare(owners: Sequence[str], held: Mapping[str, Held], moving: frozenset[int] = frozenset()) -> Verified:
    """Hold the servers against the map. Shards that are moving may be in two places."""
    missing = [
        f"shard {shard} is not on server {owner}"
        for shard, owner in enumerate(owners)
        if owner in held and shard not in held[owner].shards
    ]
    missing += [f"server {owner} does not answer" for owner in sorted(set(owners) - set(held))]
    extra = [
        f"shard {shard} is on server {name} as well"
        for name, one in sorted(held.items())
        for shard in sorted(one.shards)
        if shard not in moving and (shard >= len(owners) or owners[shard] != name)
    ]
    extra += [f"server {name} has {what}" for name, one in sorted(held.items()) for what in one.leftovers]
    different = [*_shapes(owners, held), *_reference(held)]
    return Verified(not (missing or extra or different), tuple(missing), tuple(extra), tuple(different))


def _shapes(owners: Sequence[str], held: Mapping[str, Held]) -> list[str]:
    """Shards whose tables are not those of most others: a migration that reached some."""
    shapes: dict[str, list[int]] = {}
    for shard, owner in enumerate(owners):
        shape = held[owner].shards.get(shard) if owner in held else None
        if shape is not None:
            shapes.setdefault(shape, []).append(shard)
    usual = max(shapes, key=lambda shape: len(shapes[shape]), default="")
    return [
        f"the tables of shard {shard} differ from those of most others"
        for shape, shards in shapes.items()
        if shape != usual
        for shard in shards
    ]


def _reference(held: Mapping[str, Held]) -> list[str]:
    names = sorted({name for one in held.values() for name in one.reference})
    return [
        f"reference table {name} is not the same on all servers"
        for name in names
        if len({one.reference.get(name) for one in held.values()}) > 1
    ]
