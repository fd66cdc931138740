"""The durable record of restores, in `headway.restores` of the catalog, with the mark that keeps the app out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import psycopg

from headway.errors import Conflict, HeadwayError
from headway.sharding.catalog import raise_epoch
from headway.sharding.move.sessions import Connection
from headway.sharding.records import Records
from headway.sharding.stages import Staged

# What has been done. A stage is recorded after its step, and every step can be done twice.
Stage = Literal[
    "begun",  # checked and recorded: the app is kept out
    "aside",  # what the shards held has other names
    "filled",  # every shard is as it was backed up
    "opened",  # the app is let in: the commit point
    "done",  # what the shards held before is gone
    "undoing",
    "undone",  # all is as before
]
FORWARD: tuple[Stage, ...] = ("begun", "aside", "filled", "opened", "done")
COMMITTED: frozenset[Stage] = frozenset(FORWARD[FORWARD.index("opened") :])
ENDED: frozenset[Stage] = frozenset({"done", "undone"})


@dataclass(frozen=True, slots=True)
class Restore(Staged):
    """A restore as the catalog has it."""

    forward: ClassVar[tuple[str, ...]] = FORWARD
    committed: ClassVar[frozenset[str]] = COMMITTED
    ended: ClassVar[frozenset[str]] = ENDED

    stage: Stage
    backup: str
    folder: str


_RESTORES = Records("headway.restores", Restore, ("backup", "folder"))
advance = _RESTORES.advance


def insert_restore(catalog: Connection, backup: str, folder: str, **facts: object) -> int:
    """Record a new one, and keep the app out from here on."""
    with catalog.transaction():
        row = catalog.execute(
            "INSERT INTO headway.restores (backup, folder, stage, facts) "
            "VALUES (%s, %s, 'begun', %s::jsonb) RETURNING id",
            (backup, folder, json.dumps(facts)),
        ).fetchone()
        catalog.execute("UPDATE headway.catalog SET restoring = %s", (folder,))
        catalog.execute("UPDATE headway.shard_map SET fenced = true")
        raise_epoch(catalog)
    assert row is not None
    return int(cast(int, row[0]))


def open_restore(catalog: Connection) -> Restore | None:
    """The one that has not ended. What the controller resumes."""
    try:
        return next(iter(_RESTORES.under_way(catalog)), None)
    except psycopg.errors.UndefinedTable:  # a catalog of an earlier version
        return None


def read_restore(catalog: Connection, restore_id: int) -> Restore:
    """One of them as it is recorded now."""
    restore = _RESTORES.find(catalog, restore_id)
    if restore is None:
        raise HeadwayError(f"there is no restore {restore_id}", hint="headway db status")
    return restore


def let_in(catalog: Connection, restore: Restore, stage: Stage, **facts: object) -> Restore:
    """Leave for `stage`, and let the app in again, as one."""
    with catalog.transaction():
        changed = advance(catalog, restore, stage, **facts)
        catalog.execute("UPDATE headway.catalog SET restoring = ''")
        catalog.execute("UPDATE headway.shard_map SET fenced = false")
        raise_epoch(catalog)
    return changed


def want_abort(catalog: Connection, restore: Restore, reason: str, hint: str = "") -> Restore:
    """Tell whoever works on it that it is to be given up. Conflict past the commit point."""
    if wanted := _RESTORES.want_abort(catalog, restore.id, reason, hint):
        return wanted
    restore = read_restore(catalog, restore.id)
    if restore.stage in COMMITTED:
        raise Conflict(
            "the restore cannot be undone: the shards have the backup's rows, and the app has them",
            hint="Restore another backup: headway db restore DATABASE FOLDER --replace",
        )
    return restore
