"""The nouns of a split: its stages, its bounds, what it tells on the way. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from headway.model.sharding import TableKey, half_schema, schema_name
from headway.sharding.stages import Staged

# Of the whole database. A stage is recorded when it begins, and every step of it can be done twice.
SplitStage = Literal[
    "filling",  # second halves are made, filled and compared; the map is as it was
    "switched",  # the map has twice the shards: the commit point. Both places of a row are kept in step
    "swept",  # every row is in one place alone; what helped is dropped
    "done",
    "aborting",
    "aborted",
]
FORWARD: tuple[SplitStage, ...] = ("filling", "switched", "swept", "done")
COMMITTED: frozenset[SplitStage] = frozenset(FORWARD[FORWARD.index("switched") :])
ENDED: frozenset[SplitStage] = frozenset({"done", "aborted"})

# Of one shard, in their order: what has been done.
ShardStage = Literal["begun", "made", "filled", "verified", "closed", "purged", "done"]
SHARD_STAGES: tuple[ShardStage, ...] = ("begun", "made", "filled", "verified", "closed", "purged", "done")


@dataclass(frozen=True, slots=True)
class Split(Staged):
    """A doubling as the catalog has it."""

    forward: ClassVar[tuple[str, ...]] = FORWARD
    committed: ClassVar[frozenset[str]] = COMMITTED
    ended: ClassVar[frozenset[str]] = ENDED

    stage: SplitStage
    shards: int  # before


@dataclass(frozen=True, slots=True)
class SplitTable:
    """A table of a shard as a split has to know it."""

    name: str
    key: TableKey
    primary: tuple[tuple[str, str], ...]  # columns of the primary key with their types
    columns: tuple[str, ...]  # that are given values: not generated
    fixed: frozenset[str] = frozenset()  # identities that no UPDATE may set


@dataclass(frozen=True, slots=True)
class Halves:
    """The two places of one shard's rows."""

    database: str
    shard: int
    shards: int  # before

    @property
    def other(self) -> int:
        """The number of the second half."""
        return self.shard + self.shards

    @property
    def old(self) -> str:
        """The schema of the first half, which had both."""
        return schema_name(self.database, self.shard)

    @property
    def new(self) -> str:
        """The schema of the second half."""
        return schema_name(self.database, self.other)

    @property
    def beside(self) -> str:
        """Where our functions are, and the views that show the first half alone."""
        return half_schema(self.database, self.shard)


@dataclass(frozen=True, slots=True)
class SplitBounds:
    """What a split may cost."""

    # Rows that are locked together while they are copied, and for so long writers of them wait.
    chunk_rows: int = 1000
    # Of the time, how much is left to the app while rows are copied or deleted.
    rest: float = 0.5
    # While a lock is waited for, new writers wait behind it: give up soon and come again.
    lock_timeout_ms: int = 40
    # A transaction that never ends keeps a lock away: tell, and give up after this.
    stuck_max_s: float = 600.0
    # Clients hear of the new map at once; one whose listening connection has died looks every two seconds.
    grace_s: float = 10.0
    # After that, how long transactions that began with the old map are waited for before rows are deleted.
    readers_max_s: float = 30.0
    # A server that does not answer: the caller comes again.
    away_max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class SplitProgress:
    """How far a split is."""

    split_id: int
    shards: int
    stage: SplitStage
    done: int  # shards that have come through this stage
    rows: int = 0
    waiting: str = ""

    @property
    def line(self) -> str:
        """For people."""
        line = f"{self.shards} → {2 * self.shards} shards: {self.stage}, {self.done} of {self.shards}"
        line += f", {self.rows:,} rows" if self.rows else ""
        return line + (f"; {self.waiting}" if self.waiting else "")


@dataclass(frozen=True, slots=True)
class SplitResult:
    """How a split ended, or the stage it was stopped at."""

    split_id: int
    shards: int  # after
    stage: SplitStage
    rows: int
    epoch: int
