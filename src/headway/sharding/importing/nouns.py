"""The nouns of an import: its stages, its bounds, what it copies, what it tells on the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from headway.model.sharding import Join, KeyKind
from headway.sharding.stages import Staged

# What has been done. A stage is recorded after its step, and every step can be done twice.
Stage = Literal[
    "begun",  # checked and recorded
    "prepared",  # the shards are fenced, the tables to copy into stand on every server
    "replicating",  # publications, slots and subscriptions exist
    "copied",  # every row has arrived on the servers; changes wait for a moment
    "filled",  # the shards have their rows, and changes are carried into them
    "verified",  # source and shards were the same, row by row; now it follows until it is told to switch
    "switching",  # the source takes no writes, or is about to
    "switched",  # the shards are the truth: the commit point
    "opened",  # the shards take writes
    "done",
    "aborting",
    "aborted",
]
FORWARD: tuple[Stage, ...] = (
    "begun",
    "prepared",
    "replicating",
    "copied",
    "filled",
    "verified",
    "switching",
    "switched",
    "opened",
    "done",
)
COMMITTED: frozenset[Stage] = frozenset({"switched", "opened", "done"})
ENDED: frozenset[Stage] = frozenset({"done", "aborted"})


@dataclass(frozen=True, slots=True)
class Source:
    """The database that is imported, as Headway and the servers reach it."""

    shown: str  # what people are told: a declared name, or the URL without its password
    admin: str = field(repr=False)
    replication: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportServer:
    """A server of the shards, as an import reaches it."""

    name: str
    admin: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportBounds:
    """What an import may cost the source, and how long it waits before it gives up."""

    # The log that slots keep back fills the source's disk.
    wal_max_bytes: int = 8 * 2**30
    # Without a row or a byte of progress: a server is gone, full or refuses.
    stuck_max_s: float = 600.0
    # A server that does not answer after the commit point: the caller comes again.
    away_max_s: float = 60.0
    # While a lock is waited for, new writers wait behind it: give up soon and come again, each time with more patience.
    lock_timeout_ms: int = 40
    lock_timeout_max_ms: int = 1000
    # How long the last writes may take to arrive before writes go on at the source.
    drain_max_ms: int = 1000
    # How long a switch tries before it is told that now is not the moment.
    switch_max_s: float = 45.0
    # Changed rows that are compared behind the fence, at most.
    compared_max: int = 2000


@dataclass(frozen=True, slots=True)
class Column:
    """A column as a server describes it."""

    name: str
    type: str  # with its schema where that is not pg_catalog
    is_plain: bool  # a type of PostgreSQL itself
    is_required: bool = False
    has_default: bool = False  # or is generated, or an identity
    is_generated: bool = False


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a table, of whatever level, as it was found."""

    name: str  # with its schema where that is not the table's
    kind: str = "r"  # `p`: has partitions itself; `f`: is on another server
    is_logged: bool = True
    identity: str = "d"  # of replicas
    has_key: bool = True  # a primary key
    is_owned: bool = True
    rows: int = 0  # as estimated


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table as it was found."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]  # what tells its rows apart
    by_index: str = ""  # the index of a replica identity that is not the primary key
    unique: frozenset[str] = frozenset()  # columns that are unique by themselves
    kind: str = "r"  # as PostgreSQL has it; `i`: inherits, or is inherited from, and is no partition
    is_logged: bool = True
    identity: str = "d"  # of replicas
    rows: int = 0  # as estimated
    refers: frozenset[str] = frozenset()  # tables that its foreign keys name
    partition_of: str = ""  # the table that it is a partition of, over all levels
    partitions: tuple[Partition, ...] = ()

    def column(self, name: str) -> Column | None:
        """One of its columns."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A table that is imported, and where its rows go."""

    name: str
    columns: tuple[Column, ...]  # that are copied: of the source, without generated ones
    key: tuple[str, ...]  # what tells its rows apart
    types: Mapping[str, str]  # what a value is cast to in the shard; `@@` stands for the shard's schema
    shard_key: str = ""  # the column by which it is sharded; empty: a reference table
    join: Join | None = None  # None: the source has the key itself
    by_index: bool = False
    is_partitioned: bool = False  # at the source
    identity: str = "d"  # of replicas, at the source

    @property
    def is_reference(self) -> bool:
        """Whether it is whole on every server."""
        return not self.shard_key

    @property
    def can_filter(self) -> bool:
        """Whether the source can send each server its own rows: the key is in what tells rows apart."""
        return not self.is_reference and self.join is None and self.shard_key in self.key

    @property
    def key_column(self) -> Column:
        """The column of the source that holds the key."""
        return next(column for column in self.columns if column.name == self.shard_key)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is imported, parents before their children."""

    schema: str  # of the source
    database: str
    shards: int
    kind: KeyKind
    tables: tuple[TablePlan, ...]

    @property
    def space(self) -> str:
        """The schema of ours, on both sides."""
        return space_of(self.database)

    def table(self, name: str) -> TablePlan:
        """One of its tables."""
        return next(table for table in self.tables if table.name == name)

    def children(self, name: str) -> tuple[TablePlan, ...]:
        """The tables whose key is found in this one."""
        return tuple(table for table in self.tables if table.join is not None and table.join.parent == name)


def space_of(database: str) -> str:
    """The schema of ours for a database's import."""
    return f"headway_import_{database}"


@dataclass(frozen=True, slots=True)
class Import(Staged):
    """An import as the catalog has it."""

    forward: ClassVar[tuple[str, ...]] = FORWARD
    committed: ClassVar[frozenset[str]] = COMMITTED
    ended: ClassVar[frozenset[str]] = ENDED

    stage: Stage
    source: str

    @property
    def switch_wanted(self) -> int:
        """The number of the request to switch that has not been answered; 0: none."""
        asked = int(self.number("switch"))
        return asked if asked > self.number("switch_answered") else 0


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """Where an import is. `waiting` says for what it waits, in a sentence, and `hint` what would help."""

    import_id: int
    source: str
    stage: Stage
    rows: int = 0
    rows_total: int = 0  # estimated until all are there
    rows_per_s: float = 0.0
    left_s: float | None = None
    kept_bytes: int = 0  # of log on the source
    waiting: str = ""
    hint: str = ""
