"""Applies another declaration to a running system: whole or not at all.

Everything that can fail early fails before anything changes: ports are tried, HAProxy itself checks the new file.
Services that are new to the public start first, while the edge still goes by the former routes: a request is sent to
them once they answer, and never to one that cannot start. Then the declaration is in force, and replicas are replaced
one by one; when a new one cannot start, the former declaration is put back, and what ran before has kept running all
the while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from headway.control import wanting
from headway.control.controller import Controller
from headway.control.status import start_failure
from headway.control.stored import Applied, Override, in_force
from headway.declaration.changes import changes, check_shards
from headway.errors import AppError, Conflict, HeadwayError
from headway.model.declared import System
from headway.model.replica import Phase, Replica
from headway.process.listeners import check_address
from headway.runtimes.local.databases import WantedDatabase
from headway.runtimes.local.edge_plan import addresses
from headway.runtimes.local.sharded import ShardedDatabase, WantedSharded

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
        if controller.loop.wanted.stopping:
            raise Conflict("the system is stopping", hint="headway up, when it has stopped")
        before = controller.applied
        after = replace(before, system=system, root=root, source=source)
        check_shards(before.system, system, self._shards_now())
        self._check_servers(replace(before, system=system, root=root, source=source))
        fresh = {name: value for name, value in environ.items() if os.environ.get(name) != value}
        found = [change.sentence for change in changes(before.system, system)]
        found += [f"environment variable {name}: another value" for name in sorted(fresh)]
        found = found or controller.call(self._other_values)
        if not found:
            return {"changes": [], "reloaded": False}
        former = {name: os.environ[name] for name in fresh if name in os.environ}
        kept = dict(controller.overrides)
        reloads = controller.edge.reloads
        try:
            if staged := _staged(before.system, system, wanting.replicas_declared(system, controller.machine)):
                controller.call(lambda: self._stage(before.system, system, replace(before, system=staged), fresh))
                self._await_ready(staged)
            controller.call(lambda: self._switch(after, fresh))
            self._await_ready(system)
        except HeadwayError as error:
            controller.call(lambda: self._put_back(before, former, kept))
            controller.journal.write("controller", "apply failed", f"{error.message}; all is as it was", "warning")
            raise
        controller.journal.write("controller", "apply", "; ".join(found))
        return {"changes": found, "reloaded": controller.edge.reloads > reloads}

    def _shards_now(self) -> dict[str, int]:
        """By database, how many shards there are: a split has doubled them."""
        held = self._controller.databases.held.items()
        return {
            name: one.map_now().shards for name, one in held if isinstance(one, ShardedDatabase) and one.map is not None
        }

    def _check_servers(self, after: Applied) -> None:
        """Conflict where a server would go that holds shards."""
        for name, database in self._controller.databases.held.items():
            if not isinstance(database, ShardedDatabase) or database.map is None:
                continue
            wanted = self._controller.wanted_databases(after).get(name)
            kept = dict(wanted.servers) if isinstance(wanted, WantedSharded) else {}
            for server in database.servers:
                count = len(database.map_now().on(server))
                if wanted is not None and server not in kept and count:
                    raise Conflict(
                        f"databases.{name}.servers: {server} holds {count} shards",
                        hint=f"Empty it first: headway db rebalance {name} --empty {server} --yes",
                    )

    # -- in the ticking thread --------------------------------------------------------------------------------------

    def _other_values(self) -> list[str]:
        """Services whose environment would be another one now, though the declaration is the same: a secret's file."""
        controller = self._controller
        now = controller.launches(controller.applied, controller.databases.fields())
        return [
            f"services.{name}.env: a value it refers to changed; its replicas are replaced one by one"
            for name, launch in now.items()
            if (service := controller.loop.wanted.service(name)) and service.key not in ("", launch.key)
        ]

    def _stage(self, before: System, after: System, staged: Applied, environ: dict[str, str]) -> None:
        """Have new services start beside what runs. Not stored: a controller that dies now has changed nothing."""
        controller = self._controller
        for address in set(addresses(after)) - set(addresses(before)):
            check_address(address)
        databases = self._take_environ(staged, environ)
        controller.applied = staged
        controller.databases.want(databases)
        controller.refresh()

    def _switch(self, after: Applied, environ: dict[str, str]) -> None:
        """Put a declaration in force. Raises with nothing changed but the environment."""
        controller = self._controller
        databases = self._take_environ(after, environ)
        controller.apply_edge(after, controller.wanted(after, {}))
        controller.applied = after
        controller.overrides = in_force(controller.overrides, wanting.declared_as(after.system, controller.machine))
        controller.store.save_applied(after)
        controller.store.save_overrides(controller.overrides)
        controller.databases.want(databases)
        controller.refresh()  # who asks from now on whether it is in force must not be told of the former one

    def _put_back(self, before: Applied, environ: dict[str, str], overrides: dict[str, Override]) -> None:
        """Everything as it was, as far as it can be: what cannot is told, and does not keep the rest from it."""
        controller = self._controller
        databases = self._take_environ(before, environ)
        try:
            controller.apply_edge(before, controller.wanted(before, {}))
        except HeadwayError as error:
            controller.journal.write("edge", "failed", error.message, "warning")
        controller.applied = before
        controller.overrides = overrides | controller.overrides  # a `scale` meanwhile stays
        controller.store.save_applied(before)
        controller.store.save_overrides(controller.overrides)
        controller.databases.want(databases)
        controller.refresh()

    def _take_environ(self, applied: Applied, environ: dict[str, str]) -> dict[str, WantedDatabase | WantedSharded]:
        controller = self._controller
        if environ:
            os.environ.update(environ)
            controller.supervisor.set_environ(environ)
        return controller.wanted_databases(applied)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def _await_ready(self, system: System) -> None:
        controller = self._controller
        replicas = controller.replicas_of(system)
        patience_s = _MARGIN_S + sum(
            (service.start_timeout_s + service.drain_timeout_s) * max(1, replicas[name])
            for name, service in system.services.items()
        )
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            if self._settled():
                return
            failure = start_failure(self._current())
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
        edge = self._controller.processes.table.get("edge")
        if edge is not None and edge.alive and loop.observed.edge.pid != edge.pid:
            return False  # it has reloaded, and the loop has not looked since: who asks would be told of the former
        current = self._current()
        for service in wanted.services:
            mine = [r for r in current.values() if r.service == service.name and r.phase is Phase.READY]
            if len(mine) < service.replicas:
                return False
        return all(name in current for name in list(loop.replicas))

    def _current(self) -> dict[str, Replica]:
        """Replicas started as the target wants them; what an earlier attempt left is none of this one's."""
        loop = self._controller.loop
        wanted = loop.wanted
        return {
            name: replica
            for name, replica in list(loop.replicas.items())
            if (service := wanted.service(replica.service)) and replica.key == service.key
        }


def _staged(before: System, after: System, replicas: Mapping[str, int]) -> System | None:
    """What runs, and beside it, privately, the services that `after` makes public; None when there are none."""
    public = {name for name, service in before.services.items() if service.routes}
    fresh = {
        name: service.model_copy(update={"routes": (), "replicas": replicas[name]})
        for name, service in after.services.items()
        if service.routes and name not in before.services
    }
    if not fresh or not public:
        return None
    return before.model_copy(
        update={"services": {**before.services, **fresh}, "databases": {**after.databases, **before.databases}}
    )


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
