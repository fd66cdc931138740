"""Backups of one database, taken for those who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.control.tasks import Say
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.backup.folder import sweep
from headway.sharding.backup.manifest import Manifest, document
from headway.sharding.backup.take import take

Tell = Callable[[str, str, str, str], None]


class Backups:
    """The backups of one sharded database."""

    def __init__(self, database: ShardedDatabase, tell: Tell) -> None:
        self._database = database
        self._tell = tell

    def take(self, folder: Path, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Take one, and wait for its end."""
        wanted = self._database.wanted
        sweep_default(folder, self._database.folders.state, wanted.name)
        manifest = take(wanted.system, wanted.name, self._database.admin(), folder, say=say, stop=stop)
        return taken(self._tell, self._database.process, manifest, folder)


def sweep_default(folder: Path, state: Path, name: str) -> None:
    """Take away what backups that were killed have left where they go by default."""
    if folder.parent == state / "backups":
        sweep(folder.parent, name)


def taken(tell: Tell, about: str, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """Tell the journal of a backup; what it is, for programs."""
    tell(about, "backed up", f"{manifest.bytes:,} bytes in {folder}", "note")
    return document(manifest, str(folder))
