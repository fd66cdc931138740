"""What the steps of an import share: its record, its connections, when to stop, and how they tell where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, cast

from headway.model.sharding import ShardMap, schema_name
from headway.sharding.carrying import GivenUp, Stopped
from headway.sharding.importing import statements
from headway.sharding.importing.nouns import (
    COMMITTED,
    Import,
    ImportBounds,
    ImportProgress,
    ImportServer,
    Plan,
    Source,
    Stage,
)
from headway.sharding.importing.record import add_facts, advance, read_import
from headway.sharding.move.sessions import Connection, connect, end_sessions
from headway.sharding.move.statements import PRINTING

Result = TypeVar("Result")
_TOLD_S = 0.2  # between two words of progress
_LOOKED_S = 0.5  # between two looks whether an abort or the switch is wanted
CATALOG, SOURCE = "", "the source"


@dataclass
class Connections:
    """Of one import: to the catalog, the source and every server; opened when needed, closed together."""

    ways: Mapping[str, str]  # by name: a connection string
    name: str  # of the carrier, for those who look at pg_stat_activity
    _open: dict[str, Connection] = field(default_factory=dict)

    def at(self, name: str) -> Connection:
        """The working connection."""
        return self._get(name, name)

    def second(self, name: str) -> Connection:
        """Another one, that holds a snapshot."""
        return self._get(f"{name} snapshot", name)

    def drop_second(self) -> None:
        for key in [key for key in self._open if key.endswith(" snapshot")]:
            self._open.pop(key).close()

    def _get(self, key: str, name: str) -> Connection:
        connection = self._open.get(key)
        if connection is None or connection.closed or connection.broken:
            connection = self._open[key] = connect(self.ways[name], self.name)
            connection.execute(PRINTING)
        return connection

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def end_orphans(self, name: str) -> None:
        """End what a killed carrier's connections still do there."""
        end_sessions(self.at(name), self.name, [opened.info.backend_pid for opened in self._open.values()])


@dataclass
class Work:
    """One import at work."""

    connections: Connections
    catalog_id: str
    record: Import
    map: ShardMap
    source: Source
    servers: Mapping[str, ImportServer]
    plan: Plan
    bounds: ImportBounds
    progress: Callable[[ImportProgress], None]
    stop: threading.Event
    kept_bytes: int = 0
    _told_s: float = 0.0
    _looked_s: float = 0.0
    _unwanted: str = ""

    @property
    def catalog(self) -> Connection:
        return self.connections.at(CATALOG)

    @property
    def at_source(self) -> Connection:
        return self.connections.at(SOURCE)

    def on(self, server: str) -> Connection:
        return self.connections.at(server)

    def link(self, server: str) -> str:
        """The publication, slot and subscription of a server."""
        return statements.link_name(self.catalog_id, self.record.id, server)

    @property
    def slots(self) -> str:
        """A pattern (of LIKE) for all of the import's slots but those of copies."""
        return statements.link_name(self.catalog_id, self.record.id, "").replace("_", r"\_") + "%"

    @property
    def mark(self) -> str:
        return statements.ours_comment(self.catalog_id, self.record.id)

    def schemas(self, server: str) -> dict[int, str]:
        """The shards of a server, by their number: their schemas."""
        return {shard: schema_name(self.plan.database, shard) for shard in self.map.on(server)}

    def each(self, work: Callable[[str], Result]) -> dict[str, Result]:
        """Do the same for all servers at once; the first error, when all have ended."""
        with ThreadPoolExecutor(max(1, len(self.servers)), "headway-import") as pool:
            started = {name: pool.submit(work, name) for name in self.servers}
        return {name: future.result() for name, future in started.items()}

    def advance(self, stage: Stage, **facts: object) -> None:
        """Record that a step is done."""
        self.record = advance(self.catalog, self.record, stage, **facts)
        self.tell(force=True)

    def note(self, **facts: object) -> None:
        """Keep facts."""
        self.record = add_facts(self.catalog, self.record, **facts)

    def wait(self, seconds: float) -> None:
        """Sleep; Stopped when told to, GivenUp when somebody wants the import aborted."""
        if self.stop.wait(seconds):
            raise Stopped
        self.look()
        if self._unwanted:
            raise GivenUp(self._unwanted)

    def interrupted(self) -> bool:
        """Whether something long is to end here: `wait` says then why. For other threads than the catalog's."""
        return self.stop.is_set()

    def look(self) -> None:
        """Read the record again, now and then: an abort or the switch may be wanted."""
        now_s = time.monotonic()
        if self.record.stage not in COMMITTED and now_s - self._looked_s >= _LOOKED_S:
            self._looked_s = now_s
            found = read_import(self.catalog, self.record.id)
            self._unwanted = found.abort_wanted
            if found.stage == self.record.stage:
                self.record = found

    def tell(self, waiting: str = "", hint: str = "", force: bool = False, **numbers: float) -> None:
        """Say where the import is, not more often than somebody reads."""
        now_s = time.monotonic()
        if not force and now_s - self._told_s < _TOLD_S:
            return
        self._told_s = now_s
        rows = int(numbers.get("rows", self.record.number("rows")))
        total = int(numbers.get("rows_total", max(rows, self.record.number("rows_total"))))
        rate = numbers.get("rows_per_s", 0.0)
        self.progress(
            ImportProgress(
                import_id=self.record.id,
                source=self.record.source,
                stage=self.record.stage,
                rows=rows,
                rows_total=total,
                rows_per_s=rate,
                left_s=max(0, total - rows) / rate if rate > 0 else None,
                kept_bytes=self.kept_bytes,
                waiting=waiting,
                hint=hint,
            )
        )


def run(connection: Connection, statement: str) -> None:
    """Carry out text of ours, which may be several statements: one transaction then."""
    connection.execute(statement.encode())


def rows(connection: Connection, statement: str) -> Sequence[tuple[object, ...]]:
    """The rows of a statement of ours."""
    return connection.execute(statement.encode()).fetchall()


def ask(connection: Connection, statement: str) -> object:
    """The first column of the first row; None when there is none."""
    row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def ask_number(connection: Connection, statement: str) -> int:
    """As `ask`, a whole number; 0 for NULL or no row."""
    return int(cast(int, ask(connection, statement)) or 0)
