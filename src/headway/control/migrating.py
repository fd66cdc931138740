"""Migrations of a database, sharded or plain, for those who ask: by a folder of SQL files, or by the app's own tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.control.tasks import Say
from headway.errors import HeadwayError
from headway.sharding.admin import AdminServer
from headway.sharding.app_tool import AppTool
from headway.sharding.app_tools import migrate_by
from headway.sharding.migrating import Migrated, migrate, read_folder


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of a database's migrations, and of what they make."""

    database: str
    folder: str | None  # of SQL files
    tool: AppTool | None
    keys: Mapping[str, str] = field(default_factory=dict)
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks for."""

    folder: Path | None  # instead of what is declared
    dry_run: bool
    stamp: str | None = None  # only record that all is applied up to this

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Asked:
        """As a request says it."""
        folder = data.get("folder")
        stamp = data.get("stamp")
        return cls(Path(str(folder)) if folder else None, bool(data.get("dry_run")), str(stamp) if stamp else None)

    @property
    def done(self) -> str:
        """What the journal calls it."""
        return "migrated" if self.stamp is None else "stamped"


def refuse_none(declared: Declared, asked: Asked) -> None:
    """HeadwayError where nothing is declared, and no folder is given."""
    name = declared.database
    if asked.folder is None and declared.folder is None and declared.tool is None:
        raise HeadwayError(
            f"database {name} declares no migrations",
            hint='Write migrations = { sql = "migrations/" }, { alembic = "alembic.ini" } or '
            f'{{ django = "manage.py" }} in [databases.{name}], or give --folder DIR.',
        )


def bring_up(declared: Declared, servers: Sequence[AdminServer], asked: Asked, say: Say) -> Migrated:
    """Apply what is lacking, or record it, or say it."""
    name, tool = declared.database, declared.tool
    stamp, dry_run = asked.stamp, asked.dry_run
    if tool is not None and asked.folder is None:
        keys, reference = declared.keys, declared.reference
        return migrate_by(name, tool, servers, keys=keys, reference=reference, stamp=stamp, dry_run=dry_run, say=say)
    wanted = read_folder(asked.folder or Path(str(declared.folder)), f"databases.{name}.migrations.sql")
    return migrate(name, wanted, servers, stamp=stamp, dry_run=dry_run, say=say)


def document(done: Migrated, asked: Asked) -> dict[str, Any]:
    """What was done, for programs."""
    what = "applied" if asked.stamp is None else "stamped"
    return {what: dict(done.applied), "files": done.files, "shards": done.shards, "dry_run": asked.dry_run}
