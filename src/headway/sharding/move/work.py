"""What the steps of a move share: its record, its connections, when to stop, and how they tell where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headway.sharding.carrying import GivenUp, Stopped
from headway.sharding.engine import Engine
from headway.sharding.move.nouns import COMMITTED, Bounds, Move, MoveProgress, Stage
from headway.sharding.move.record import advance, read_move
from headway.sharding.move.sessions import Connection, Sessions
from headway.sharding.move.statements import link_name, moved_name, ours_comment

_TOLD_S = 0.2  # between two words of progress
_LOOKED_S = 0.5  # between two looks whether an abort is wanted


@dataclass
class Work:
    """One move at work."""

    sessions: Sessions
    schema: str
    catalog_id: str
    move: Move
    bounds: Bounds
    programs: Callable[[], Sequence[Engine]]
    progress: Callable[[MoveProgress], None]
    stop: threading.Event
    held: Connection | None = None  # its snapshot is the target as of the switch
    seen: MoveProgress | None = None
    _told_s: float = field(default=0.0)
    _looked_s: float = field(default=0.0)
    _unwanted: str = ""

    @property
    def link(self) -> str:
        return link_name(self.catalog_id, self.move.id)

    @property
    def comment(self) -> str:
        return ours_comment(self.catalog_id, self.move.id)

    @property
    def moved_schema(self) -> str:
        return moved_name(self.schema, self.move.id)

    @property
    def copy_slots(self) -> str:
        """A pattern (of LIKE) for the slots of the copies; empty: none was begun.

        The target's server names them after the subscription's number and itself.
        """
        subid, system = int(self.move.number("subid")), self.move.facts.get("target_system", "")
        return rf"pg\_{subid}\_sync\_%\_{system}" if subid else ""

    def advance(self, stage: Stage, **facts: object) -> None:
        """Record that a step is done."""
        self.move = advance(self.sessions.catalog, self.move, stage, **facts)
        self.tell(force=True)

    def wait(self, seconds: float) -> None:
        """Sleep; Stopped when told to, GivenUp when somebody wants the move aborted."""
        self.rest(seconds)
        if self._is_unwanted():
            raise GivenUp(self._unwanted)

    def interrupted(self) -> bool:
        """Whether something long is to end here: `wait` says then why."""
        return self.stop.is_set() or self._is_unwanted()

    def _is_unwanted(self) -> bool:
        now_s = time.monotonic()
        if not self._unwanted and self.move.stage not in COMMITTED and now_s - self._looked_s >= _LOOKED_S:
            self._looked_s = now_s
            self._unwanted = read_move(self.sessions.catalog, self.move.id).abort_wanted
        return bool(self._unwanted)

    def rest(self, seconds: float) -> None:
        """Sleep; Stopped when told to."""
        if self.stop.wait(seconds):
            raise Stopped

    def tell(self, waiting: str = "", hint: str = "", force: bool = False, **numbers: float) -> None:
        """Say where the move is, not more often than somebody reads."""
        now_s = time.monotonic()
        if not force and now_s - self._told_s < _TOLD_S:
            return
        self._told_s = now_s
        rows = int(numbers.get("rows", self.move.number("rows")))
        total = int(numbers.get("rows_total", max(rows, self.move.number("rows_total"))))
        rate = numbers.get("rows_per_s", 0.0)
        self.seen = MoveProgress(
            move_id=self.move.id,
            shard=self.move.shard,
            source=self.move.source,
            target=self.move.target,
            stage=self.move.stage,
            rows=rows,
            rows_total=total,
            rows_per_s=rate,
            left_s=max(0, total - rows) / rate if rate > 0 else None,
            waiting=waiting,
            hint=hint,
        )
        self.progress(self.seen)
