"""What the steps of a split share: one shard's connection, when to stop, and how often to try for a lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from headway.model.sharding import TableKey
from headway.sharding.admin import AdminServer
from headway.sharding.carrying import GivenUp, Stopped
from headway.sharding.engine import Engine
from headway.sharding.move.sessions import Connection
from headway.sharding.split.nouns import Halves, SplitBounds, SplitTable
from headway.sharding.split.statements import comment

_NOT_GIVEN = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled, psycopg.errors.DeadlockDetected)
_PAUSE_S, _PAUSE_MAX_S = 0.02, 1.0
Result = TypeVar("Result")


@dataclass
class ShardWork:
    """One shard on its server."""

    halves: Halves
    server: AdminServer
    connection: Connection
    keys: Mapping[str, TableKey]
    catalog_id: str
    split_id: int
    bounds: SplitBounds
    programs: Sequence[Engine]
    stop: threading.Event
    unwanted: Callable[[], str]  # why it is to be undone; empty: it is not
    tell: Callable[[str], None]
    tables: tuple[SplitTable, ...] = ()

    @property
    def comment(self) -> str:
        return comment(self.catalog_id, self.split_id)

    def wait(self, seconds: float) -> None:
        """Sleep; Stopped when told to, GivenUp when somebody wants the split undone."""
        if self.stop.wait(seconds):
            raise Stopped
        if why := self.unwanted():
            raise GivenUp(why)

    def rest(self, busy_s: float) -> None:
        """Leave the app its part of the time."""
        share = self.bounds.rest
        self.wait(min(1.0, busy_s * share / max(0.05, 1 - share)))

    def locked(self, what: str, statements: str) -> None:
        """Statements as one transaction that takes locks; again and again until it gets them, each time briefly."""
        since_s = time.monotonic()
        pause_s = _PAUSE_S
        while True:
            try:
                with self.connection.transaction():
                    self.connection.execute(f"SET LOCAL lock_timeout = {self.bounds.lock_timeout_ms};\n{statements}")
                return
            except _NOT_GIVEN as error:
                if time.monotonic() - since_s > self.bounds.stuck_max_s:
                    raise GivenUp(
                        f"shard {self.halves.shard}: {what} is kept locked by another transaction",
                        "pg_stat_activity on that server shows which; end it.",
                    ) from error
                self.tell(f"waiting for a transaction on {what} of shard {self.halves.shard}")
                self.wait(pause_s)
                pause_s = min(_PAUSE_MAX_S, pause_s * 1.6)

    def one_row(self, query: str) -> tuple[object, ...] | None:
        """The first row."""
        return self.connection.execute(query).fetchone()
