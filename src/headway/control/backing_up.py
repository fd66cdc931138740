"""Backups of one database, taken for those who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headway.control.tasks import Say, Work
from headway.errors import HeadwayError
from headway.runtimes.local.all_databases import Databases
from headway.runtimes.local.databases import Database
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.backup.folder import sweep
from headway.sharding.backup.manifest import Manifest, document
from headway.sharding.backup.restore_plain import restore_plain
from headway.sharding.backup.take import take, take_plain

Tell = Callable[[str, str, str, str], None]


class Backups:
    """The backups of one sharded database."""

    def __init__(self, database: ShardedDatabase, tell: Tell) -> None:
        self._database = database
        self._tell = tell

    def take(self, folder: Path, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Take one, and wait for its end."""
        wanted = self._database.wanted
        _sweep(folder, self._database.folders.state, wanted.name)
        manifest = take(wanted.system, wanted.name, self._database.admin(), folder, say=say, stop=stop)
        return _taken(self._tell, self._database.process, manifest, folder)


class PlainDatabases:
    """What can be asked of databases that are not sharded: by name, verb and request; None where one is."""

    def __init__(self, databases: Databases, tell: Tell) -> None:
        self._databases = databases
        self._tell = tell

    def __call__(self, name: str, verb: str, data: Mapping[str, Any]) -> Work | None:
        found = self._databases.held.get(name)
        if not isinstance(found, Database) or verb not in ("backup", "restore"):
            return None
        way = self._databases.plain_source(name).admin
        if verb == "restore":
            return self._restore(found, data)
        folder = Path(str(data["folder"]))

        def take_it(say: Say, stop: threading.Event) -> dict[str, Any]:
            wanted = found.wanted
            _sweep(folder, found.folders.state, name)
            manifest = take_plain(wanted.system, name, way, folder, say=say, stop=stop)
            return _taken(self._tell, found.process, manifest, folder)

        return take_it

    def _restore(self, found: Database, data: Mapping[str, Any]) -> Work:
        if data.get("abort"):
            raise HeadwayError(
                f"{found.wanted.name} is not sharded: a restore of it is one transaction, and nothing is left to undo",
                hint="headway status",
            )
        folder, is_replacing = Path(str(data["folder"])), bool(data.get("replace"))

        def restore(say: Say, stop: threading.Event) -> dict[str, Any]:
            # As the app: the tables are to be its own.
            way, name = found.fields["url"], found.wanted.name
            manifest = restore_plain(name, way, folder, replace=is_replacing, say=say, stop=stop)
            self._tell(found.process, "restored", f"from {folder}", "note")
            return {"database": name, "folder": str(folder), "shards": 0, "rows": None, "bytes": manifest.bytes}

        return restore


def _sweep(folder: Path, state: Path, name: str) -> None:
    if folder.parent == state / "backups":
        sweep(folder.parent, name)


def _taken(tell: Tell, about: str, manifest: Manifest, folder: Path) -> dict[str, Any]:
    tell(about, "backed up", f"{manifest.bytes:,} bytes in {folder}", "note")
    return document(manifest, str(folder))
