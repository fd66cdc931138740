"""What can be asked of databases that are not sharded: backups, restores, migrations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headway.control.app_tools import tool_of
from headway.control.backing_up import sweep_default, taken
from headway.control.migrating import Asked, Declared, bring_up, document, refuse_none
from headway.control.stored import Applied
from headway.control.tasks import Say, Work
from headway.control.tender import Tender
from headway.errors import Conflict, HeadwayError
from headway.runtimes.local.all_databases import Databases
from headway.runtimes.local.databases import Database
from headway.sharding.backup.restore_plain import restore_plain
from headway.sharding.backup.take import take_plain

Tell = Callable[[str, str, str, str], None]


class PlainDatabases:
    """Work on them, by name, verb and request; None where a database is sharded, or the verb is for those."""

    def __init__(
        self,
        databases: Databases,
        tell: Tell,
        applied: Callable[[], Applied],
        tenders: Callable[[], Mapping[str, Tender]],
    ) -> None:
        self._databases = databases
        self._tell = tell
        self._applied = applied
        self._tenders = tenders

    def __call__(self, name: str, verb: str, data: Mapping[str, Any]) -> Work | None:
        found = self._databases.held.get(name)
        if not isinstance(found, Database):
            return None
        if verb == "backup":
            return self._backup(found, data)
        if verb == "restore":
            return self._restore(found, data)
        return self._migrate(found, Asked.of(data)) if verb == "migrate" else None

    def names(self) -> tuple[str, ...]:
        """Those that are not sharded."""
        return tuple(name for name, one in self._databases.held.items() if isinstance(one, Database))

    def _backup(self, found: Database, data: Mapping[str, Any]) -> Work:
        name, folder = found.wanted.name, Path(str(data["folder"]))
        way = self._databases.plain_source(name).admin

        def take_it(say: Say, stop: threading.Event) -> dict[str, Any]:
            sweep_default(folder, found.folders.state, name)
            manifest = take_plain(found.wanted.system, name, way, folder, say=say, stop=stop)
            return taken(self._tell, found.process, manifest, folder)

        return take_it

    def _restore(self, found: Database, data: Mapping[str, Any]) -> Work:
        if data.get("abort"):
            raise HeadwayError(
                f"{found.wanted.name} is not sharded: a restore of it is one transaction, and nothing is left to undo",
                hint="headway status",
            )
        self._databases.plain_source(found.wanted.name)
        folder, is_replacing = Path(str(data["folder"])), bool(data.get("replace"))

        def restore(say: Say, stop: threading.Event) -> dict[str, Any]:
            # As the app: the tables are to be its own.
            way, name = found.fields["url"], found.wanted.name
            manifest = restore_plain(name, way, folder, replace=is_replacing, say=say, stop=stop)
            self._tell(found.process, "restored", f"from {folder}", "note")
            return {"database": name, "folder": str(folder), "shards": 0, "rows": None, "bytes": manifest.bytes}

        return restore

    def _migrate(self, found: Database, asked: Asked) -> Work:
        name, applied = found.wanted.name, self._applied()
        migrations, tool = applied.system.databases[name].migrations, tool_of(applied, name)
        declared = Declared(name, migrations.sql if migrations else None, tool)
        refuse_none(declared, asked)
        server = self._databases.plain_server(name)

        def migrate(say: Say, _stop: threading.Event) -> dict[str, Any]:
            if not asked.dry_run:
                self._refuse_while_imported(name)
            told = Declared(name, declared.folder, self._databases.equipped(tool) if tool else None)
            done = bring_up(told, (server,), asked, say)
            if done.applied and not asked.dry_run:
                self._tell(found.process, asked.done, ", ".join(done.applied), "note")
            return document(done, asked)

        return migrate

    def _refuse_while_imported(self, name: str) -> None:
        """An import follows its source's tables as they were when it began, and ends where one is changed."""
        for tender in self._tenders().values():
            under_way = tender.imports.now()
            if under_way is not None and under_way.source == name:
                raise Conflict(
                    f"the migration has to wait: {tender.name} is being imported from {name}",
                    hint=f"headway db import {tender.name} --switch ends it, --abort undoes it.",
                )
