"""Where the catalog keeps work by stages: a table for each kind, alike but for what the work is about.

A change of stage names the stage it leaves, so that of two carriers, or a carrier and one who aborts, one finds out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from headway.sharding.carrying import StageChanged
from headway.sharding.move.sessions import Connection
from headway.sharding.stages import Staged

Work = TypeVar("Work", bound=Staged)


@dataclass(frozen=True, slots=True)
class Records(Generic[Work]):
    """The table of one kind of work."""

    table: str
    kind: type[Work]
    about: tuple[str, ...]  # columns that only this kind has, in the order of its fields

    @property
    def columns(self) -> str:
        """What `read` reads."""
        return ", ".join(("id", "stage", "facts::text", *self.about))

    def read(self, row: Sequence[object]) -> Work:
        """The work of a row."""
        kind: Callable[..., Work] = self.kind
        return kind(int(cast(int, row[0])), str(row[1]), json.loads(str(row[2])), *row[3:])

    def find(self, catalog: Connection, number: int) -> Work | None:
        """One by its number, as it is recorded now."""
        row = catalog.execute(f"SELECT {self.columns} FROM {self.table} WHERE id = %s", (number,)).fetchone()
        return self.read(row) if row is not None else None

    def under_way(self, catalog: Connection) -> list[Work]:
        """Those that have not ended, oldest first."""
        rows = catalog.execute(f"SELECT {self.columns} FROM {self.table} WHERE ended_at IS NULL ORDER BY id").fetchall()
        return [self.read(row) for row in rows]

    def advance(self, catalog: Connection, work: Work, stage: str, **facts: object) -> Work:
        """Leave `work.stage` for `stage`, in the caller's transaction if there is one.

        StageChanged when the record is at another stage, or when it is to be aborted and this step goes on to the
        commit point or towards it.
        """
        row = catalog.execute(
            f"UPDATE {self.table} SET stage = %s, facts = facts || %s::jsonb, changed_at = clock_timestamp(), "
            "ended_at = CASE WHEN %s THEN clock_timestamp() END "
            f"WHERE id = %s AND stage = %s AND NOT (%s AND facts ? 'abort') RETURNING {self.columns}",
            (stage, json.dumps(facts), stage in work.ended, work.id, work.stage, work.goes_on_to(stage)),
        ).fetchone()
        if row is None:
            raise StageChanged
        return self.read(row)

    def add_facts(self, catalog: Connection, work: Work, **facts: object) -> Work:
        """Keep facts at the stage the work is at, also when an abort is wanted."""
        row = catalog.execute(
            f"UPDATE {self.table} SET facts = facts || %s::jsonb, changed_at = clock_timestamp() "
            f"WHERE id = %s AND stage = %s RETURNING {self.columns}",
            (json.dumps(facts), work.id, work.stage),
        ).fetchone()
        if row is None:
            raise StageChanged
        return self.read(row)

    def want_abort(self, catalog: Connection, number: int, reason: str, hint: str = "") -> Work | None:
        """Tell whoever works on it that it is to be given up. None where it has ended or is past its commit point."""
        row = catalog.execute(
            f"UPDATE {self.table} SET facts = %s::jsonb || facts "  # the first reason stays
            f"WHERE id = %s AND NOT stage = ANY(%s) AND ended_at IS NULL RETURNING {self.columns}",
            (json.dumps({"abort": reason, "hint": hint}), number, sorted(self.kind.committed)),
        ).fetchone()
        return self.read(row) if row is not None else None
