"""Applies another declaration to a running system: whole or not at all.

Everything that can fail early fails before anything changes: ports are bound, HAProxy itself checks the new file.
Then replicas are replaced one by one; when a new one cannot start, the former declaration is put back, and what ran
before has kept running all the while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headway.control.controller import Controller
from headway.control.status import start_failure
from headway.control.stored import Applied, Override
from headway.declaration.changes import Change, changes
from headway.errors import AppError, Conflict, HeadwayError
from headway.model.declared import System
from headway.model.replica import Phase

_POLL_S = 0.05
_MARGIN_S = 30.0  # beyond the start-ups and drains that the declaration itself allows


class Applying:
    """One apply at a time for one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._busy = threading.Lock()

    def apply(self, system: System, root: str, source: str, environ: dict[str, str]) -> dict[str, Any]:
        """Apply and wait until it holds; {"changes": […], "reloaded": bool}.

        Conflict while another apply is in progress; AppError, MachineError or EngineError when it cannot be done, with
        everything as it was.
        """
        if not self._busy.acquire(blocking=False):
            raise Conflict("another apply is in progress", hint="wait for it: headway status --watch")
        try:
            return self._apply(system, root, source, environ)
        finally:
            self._busy.release()

    def _apply(self, system: System, root: str, source: str, environ: dict[str, str]) -> dict[str, Any]:
        controller = self._controller
        before = controller.applied
        found = changes(before.system, system)
        after = replace(before, system=system, root=root, source=source)
        if not found and controller.loop.wanted.stopping is False and not environ:
            return {"changes": [], "reloaded": False}
        kept = dict(controller.overrides)
        reloads = controller.edge.reloads
        controller.call(lambda: self._switch(after, found, environ))
        try:
            self._await_ready(after)
        except HeadwayError as error:
            controller.call(lambda: self._switch(before, (), {}, kept))
            controller.journal.write(
                "controller", "apply failed", f"{error.message}; the former one is back", "warning"
            )
            raise
        controller.journal.write("controller", "apply", "; ".join(change.sentence for change in found) or "no change")
        return {
            "changes": [change.sentence for change in found],
            "reloaded": controller.edge.reloads > reloads,
        }

    def _switch(
        self,
        after: Applied,
        found: tuple[Change, ...],
        environ: dict[str, str],
        overrides: dict[str, Override] | None = None,
    ) -> None:
        """In the ticking thread: put a declaration in force. Raises with nothing changed."""
        controller = self._controller
        controller.apply_edge(after, controller.wanted(after, {}))
        if environ:
            os.environ.update(environ)
            controller.supervisor.set_environ(environ)
        controller.applied = after
        declared = controller.declared_replicas
        # A declaration that says another number than when the override was made has the last word.
        controller.overrides = (
            overrides
            if overrides is not None
            else {
                name: entry
                for name, entry in controller.overrides.items()
                if name in declared and declared[name] == entry.declared
            }
        )
        controller.store.save_applied(after)
        controller.store.save_overrides(controller.overrides)
        controller.databases.want(controller.wanted_databases(after))

    def _await_ready(self, after: Applied) -> None:
        controller = self._controller
        patience_s = _MARGIN_S + sum(
            (service.start_timeout_s + service.drain_timeout_s)
            * max(1, service.replicas or int(controller.machine.cores))
            for service in after.system.services.values()
        )
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if self._settled():
                return
            failure = start_failure(controller.loop.replicas)
            if failure:
                raise AppError(failure["message"], hint=failure["hint"], detail=failure["detail"])
            for database in controller.databases.held.values():
                if database.error is not None and not database.ready_once:
                    raise database.error
            if controller.loop.wanted.stopping:
                raise Conflict("the system is stopping", hint="headway up")
            time.sleep(_POLL_S)
        raise HeadwayError(f"not in force after {patience_s:.0f} s", hint="headway explain")

    def _settled(self) -> bool:
        """Whether the loop has taken the target in and every service runs as declared."""
        loop = self._controller.loop
        wanted = loop.wanted
        if any(not service.key for service in wanted.services):
            return False
        replicas = list(loop.replicas.values())
        current = [r for r in replicas if (service := wanted.service(r.service)) and r.key == service.key]
        for service in wanted.services:
            mine = [r for r in current if r.service == service.name and r.phase is Phase.READY]
            if len(mine) < service.replicas:
                return False
        return all(replica in current for replica in replicas)


def on_change(controller: Controller, folders: list[str], stop: threading.Event) -> Callable[[], None]:
    """A function that watches source folders and reloads replicas when a file changes; for development."""

    def watch() -> None:
        from watchfiles import PythonFilter
        from watchfiles import watch as changed

        for found in changed(*folders, watch_filter=PythonFilter(extra_extensions=(".html", ".toml")), stop_event=stop):
            names = sorted({path.rpartition("/")[2] for _kind, path in found})
            why = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed"
            controller.call(lambda why=why: controller.reload_source(why))  # type: ignore[misc]

    return watch
