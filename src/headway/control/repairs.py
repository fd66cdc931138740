"""`headway db repair` as the controller carries it out: one plan, mend after mend, and then a look at what is left."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from headway.control.importing import Imports
from headway.control.splitting import Splits
from headway.errors import Conflict, EngineError, HeadwayError
from headway.runtimes.local.sharded import ShardedDatabase
from headway.sharding.repair import Plan
from headway.sharding.repairing import Repairer

Say = Callable[[str], None]
Tell = Callable[[str, str, str, str], None]


class Repairs:
    """Of one database, one at a time."""

    def __init__(self, database: ShardedDatabase, tell: Tell, splits: Splits, imports: Imports) -> None:
        self._database = database
        self._name = database.wanted.name
        self._tell = tell
        self._splits = splits
        self._imports = imports
        self._busy = threading.Lock()

    def repair(
        self, keep: Mapping[int | str, str], say: Say, stop: threading.Event, *, apply: bool = False
    ) -> dict[str, Any]:
        """What is wrong and what would be done about it; with `apply` it is done, and what is left is told."""
        self._imports.refuse_others("the repair")
        if self._splits.now() is not None:
            raise Conflict(
                f"the shards of database {self._name} are being split",
                hint=f"Wait until that has ended, or undo it: headway db status {self._name}",
            )
        if not self._busy.acquire(blocking=False):
            raise Conflict(f"database {self._name} is being repaired already", hint="Wait until that has ended.")
        try:
            return self._repair(keep, say, stop, apply=apply)
        finally:
            self._busy.release()

    def _repair(self, keep: Mapping[int | str, str], say: Say, stop: threading.Event, *, apply: bool) -> dict[str, Any]:
        repairer = self._repairer(say, stop)
        found = repairer.find(keep)
        done: list[str] = []
        failed: list[str] = []
        for number, one in enumerate(found.plan.mends if apply else (), 1):
            if stop.is_set():
                break
            say(f"{number} of {len(found.plan.mends)}: {one.line}")
            try:
                repairer.mend(found, one)
            except HeadwayError as error:
                say(f"failed: {error.message}")
                failed.append(error.message)
                self._tell(self._database.process, "repair failed", error.message, "warning")
                continue
            done.append(one.line)
            self._tell(self._database.process, "repaired", one.line, "note")
        left = repairer.find() if apply else found
        return {"applied": done, "failed": failed, **_document(left.plan)}

    def _repairer(self, say: Say, stop: threading.Event) -> Repairer:
        reached = []
        for name in self._database.servers:
            with contextlib.suppress(EngineError):  # never reached since the start: it is told as away
                reached.append(self._database.admin_of(name))
        if not reached or reached[0].name != self._database.first.name:
            raise EngineError(f"the catalog of database {self._name} has not been reached yet", hint="headway status")
        logins = {name: server.fields["url"] for name, server in self._database.servers.items() if server.fields}
        wanted = self._database.layout()
        names, tables_by = tuple(self._database.servers), self._database.tables_by()
        source = self._imports.last_source()
        return Repairer(wanted, reached, names, logins, say, stop.is_set, tables_by, source)


def _document(plan: Plan) -> dict[str, Any]:
    def told(one: Any) -> dict[str, str]:
        return {"what": one.what, "why": one.why, "how": one.how}

    return {
        "complete": plan.complete,
        "mends": [told(one) for one in plan.mends],
        "decisions": [told(one) for one in plan.decisions],
        "away": list(plan.away),
        "kept": list(plan.kept),
    }
