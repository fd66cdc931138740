"""The nouns of a sharded database. Standard library only: the app imports them too.

A key belongs to a shard, until the shards are doubled; a shard lies on a server for now. The shard map says which, and
its epoch grows by one with every change, so that of two maps the newer is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

KeyKind = Literal["int", "text", "uuid"]
KEY_KINDS: tuple[KeyKind, ...] = ("int", "text", "uuid")
# How a key finds its shard; kept in the catalog, so that a later algorithm cannot be taken for this one.
ALGORITHM = "postgresql-hash"
SHARDS_MAX = 4096
# Tables of ours that travel with a shard: what was migrated, and what a move writes to see that all has arrived.
LEDGER_TABLE = "headway_ledger"
MARKER_TABLE = "headway_marker"
# Tables in which other tools keep what they have migrated, in each shard; they travel with it.
VERSION_TABLES = ("alembic_version", "django_migrations")
# The channel on which the catalog tells that the map has changed; the payload is the new epoch.
MAP_CHANNEL = "headway_map"
# How a process of the app is told of its databases: a JSON object by name, and a folder for what processes share.
DATABASES_VARIABLE = "HEADWAY_DATABASES"
RUN_VARIABLE = "HEADWAY_RUN"
# What an app calls the database that its rows are imported from, as long as they are there.
SOURCE_SERVER = "(source)"
# What a write to a shard that is being handed over fails with.
FENCED = "HW001"
# The function of a shard that raises it, from the moment of the hand-over.
FENCE = "headway_fence"


@dataclass(frozen=True, slots=True)
class TableKey:
    """The sharding key of a table."""

    column: str
    kind: KeyKind


@dataclass(frozen=True, slots=True)
class Join:
    """How a row without a key of its own finds it: `column` has the value of its parent's `parent_column`."""

    column: str
    parent: str
    parent_column: str


_JOIN = re.compile(r"\s*([a-z_][a-z0-9_$]*)\s*=\s*([a-z_][a-z0-9_$]*)\s*\.\s*([a-z_][a-z0-9_$]*)\s*")


def parse_join(text: str) -> Join | None:
    """`order_id = orders.id`; None when it is not of that form."""
    found = _JOIN.fullmatch(text)
    return Join(found[1], found[2], found[3]) if found else None


@dataclass(frozen=True, slots=True)
class ShardServer:
    """One PostgreSQL that holds shards. `url` is the app's way in, without a password."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which server holds which shard, as of an epoch."""

    database: str
    epoch: int
    owners: tuple[str, ...]  # by shard: the name of its server
    servers: Mapping[str, ShardServer]
    keys: Mapping[str, TableKey] = field(default_factory=dict)  # by table
    fenced: frozenset[int] = frozenset()  # shards that a move is about to hand over: new transactions wait
    algorithm: str = ALGORITHM
    at_source: bool = False  # the rows are where they are to be imported from, and the shards are empty or being filled
    split: str = ""  # while the shards are doubled: filling, then switched
    restoring: str = ""  # the backup that they are being filled from: until all are whole nobody is let in

    @property
    def is_parting(self) -> bool:
        """Whether the first halves of split shards may still hold the rows of the second as well."""
        return self.split == "switched"

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.owners)

    @property
    def kind(self) -> KeyKind:
        """The type of the keys; of all tables the same."""
        return next(iter(self.keys.values())).kind if self.keys else "int"

    def from_source(self) -> ShardMap:
        """The map by which an app works on the source: every shard is there."""
        servers = {**self.servers, SOURCE_SERVER: ShardServer(SOURCE_SERVER, "")}
        return replace(self, owners=(SOURCE_SERVER,) * self.shards, servers=servers)

    def on(self, server: str) -> tuple[int, ...]:
        """The shards of a server."""
        return tuple(shard for shard, owner in enumerate(self.owners) if owner == server)


def schema_name(database: str, shard: int) -> str:
    """The PostgreSQL schema that is this shard: `orders_0007`."""
    return f"{database}_{shard:04d}"


def half_schema(database: str, shard: int) -> str:
    """The schema in which a shard's tables are views, without rows that are in its second half as well."""
    return f"{schema_name(database, shard)[:58]}_half"


def read_schema(map_: ShardMap, shard: int) -> str:
    """Where to read a shard from beside all others, so that no row is seen twice while shards are split."""
    if map_.is_parting and shard < map_.shards // 2:
        return half_schema(map_.database, shard)
    return schema_name(map_.database, shard)


def spread(shards: int, servers: tuple[str, ...]) -> tuple[str, ...]:
    """A first map: every server gets a run of neighbouring shards, and as many as the others, or one more."""
    return tuple(servers[shard * len(servers) // shards] for shard in range(shards))
