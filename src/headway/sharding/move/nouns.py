"""The nouns of a move: its stages, its bounds, what it tells on the way and in the end. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from headway.sharding.stages import Staged

# What has been done. A stage is recorded after its step, and every step can be done twice.
Stage = Literal[
    "begun",  # checked and recorded
    "schema",  # the empty tables stand on the target, fenced
    "replicating",  # publication, slot and subscription exist
    "copied",  # every row has arrived and changes follow at once
    "verified",  # both sides were the same, row by row, at one moment
    "fencing",  # the source takes no writes, or is about to
    "switched",  # the map names the target: the commit point
    "opened",  # the target takes writes; the source shows nothing any more
    "unlinked",  # subscription, slots and publication are gone, the source's schema has another name
    "checked",  # compared once more, as of the moment of the switch
    "done",
    "aborting",
    "aborted",
]
FORWARD: tuple[Stage, ...] = (
    "begun",
    "schema",
    "replicating",
    "copied",
    "verified",
    "fencing",
    "switched",
    "opened",
    "unlinked",
    "checked",
    "done",
)
COMMITTED: frozenset[Stage] = frozenset(FORWARD[FORWARD.index("switched") :])
ENDED: frozenset[Stage] = frozenset({"done", "aborted"})


@dataclass(frozen=True, slots=True)
class MoveServer:
    """One server as a move reaches it."""

    name: str
    admin: str = field(repr=False)  # connection string or URL of the administrator, in the database that holds shards
    replication: str = field(repr=False)  # by which the other server's subscription reaches this one
    app_role: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a move may cost, and how long it waits before it is given up."""

    # The log that a slot keeps back fills the source's disk, with all its other shards.
    wal_max_bytes: int = 2 * 2**30
    # Without a row or a byte of progress: the target is gone, full or refuses.
    stuck_max_s: float = 600.0
    # A server that does not answer after the commit point: the caller comes again.
    away_max_s: float = 60.0
    # While a lock is waited for, new writers wait behind it: give up soon and come again.
    lock_timeout_ms: int = 40
    # All locks together; and how long the last writes may take to arrive before writes go on at the source.
    fence_max_ms: int = 60
    drain_max_ms: int = 250
    # The shard is handed over when changes arrive this fast.
    lag_max_ms: int = 100


@dataclass(frozen=True, slots=True)
class MoveProgress:
    """Where a move is. `waiting` says for what it waits, in a sentence, and `hint` what would help."""

    move_id: int
    shard: int
    source: str
    target: str
    stage: Stage
    rows: int = 0
    rows_total: int = 0  # estimated until all are there
    rows_per_s: float = 0.0
    left_s: float | None = None
    waiting: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class MoveResult:
    """How a move stands: `stage` is `done`, or the one it was stopped at."""

    move_id: int
    shard: int
    source: str
    target: str
    stage: Stage
    rows: int
    copy_s: float
    write_pause_ms: float
    verified: bool
    epoch: int
    note: str = ""  # what a person should know besides

    @property
    def rows_per_s(self) -> float:
        """How fast the rows were copied."""
        return self.rows / self.copy_s if self.copy_s else 0.0


@dataclass(frozen=True, slots=True)
class Move(Staged):
    """A move as the catalog has it."""

    forward: ClassVar[tuple[str, ...]] = FORWARD
    committed: ClassVar[frozenset[str]] = COMMITTED
    ended: ClassVar[frozenset[str]] = ENDED

    stage: Stage
    shard: int
    source: str
    target: str

    def result(self) -> MoveResult:
        """What the caller gets."""
        return MoveResult(
            move_id=self.id,
            shard=self.shard,
            source=self.source,
            target=self.target,
            stage=self.stage,
            rows=int(self.number("rows")),
            copy_s=self.number("copy_s"),
            write_pause_ms=self.number("write_pause_ms"),
            verified=bool(self.facts.get("verified", False)),
            epoch=int(self.number("epoch")),
            note=str(self.facts.get("note", "")),
        )


@dataclass(frozen=True, slots=True)
class Table:
    """A table: what tells its rows apart, whether it holds rows itself (a partitioned one does not), and whether it is
    the app's: ours and those of migration tools travel with them, and nobody counts their rows."""

    name: str
    key: tuple[str, ...]  # columns; empty: the whole row
    holds_rows: bool = True
    is_apps: bool = True
