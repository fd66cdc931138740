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
from typing import TYPE_CHECKING, Any

from headway.control import wanting
from headway.control.controller import Controller
from headway.control.exporting import check_exporting
from headway.control.status import start_failure
from headway.control.stored import Applied, Override, ServersByHand, in_force, servers_in_force
from headway.declaration.calls import at_edge
from headway.declaration.changes import changes, check_shards
from headway.errors import AppError, Conflict, HeadwayError
from headway.model.declared import System
from headway.model.replica import Phase, Replica
from headway.process.listeners import check_address
from headway.runtimes.local.edge_plan import addresses

if TYPE_CHECKING:
    from headway.runtimes.local.caches import WantedCache
    from headway.runtimes.local.databases import WantedDatabase
    from headway.runtimes.local.sharded import WantedSharded

_POLL_S = 0.05
_RELOAD_AGAIN_S = 1.0
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
        check_exporting(system)
        self._check_servers(replace(before, system=system, root=root, source=source))
        fresh = {name: value for name, value in environ.items() if os.environ.get(name) != value}
        found = [change.sentence for change in changes(before.system, system)]
        found += [f"environment variable {name}: another value" for name in sorted(fresh)]
        found = found or controller.call(self._other_values)
        if not found:
            return {"changes": [], "reloaded": False}
        former = {name: os.environ[name] for name in fresh if name in os.environ}
        kept, servers = dict(controller.overrides), dict(controller.servers_by_hand)
        reloads = controller.edge.reloads
        try:
            if staged := _staged(before.system, system, wanting.replicas_declared(system, controller.machine)):
                beside = frozenset(staged.services.keys() - before.system.services.keys())
                stage = replace(before, system=staged, staged=beside)
                controller.call(lambda: self._stage(before.system, system, stage, fresh))
                self._await_ready(staged)
            controller.call(lambda: self._switch(after, fresh))
            self._await_ready(system)
        except HeadwayError as error:
            controller.call(lambda: self._put_back(before, former, kept, servers))
            controller.journal.write("controller", "apply failed", f"{error.message}; all is as it was", "warning")
            raise
        controller.journal.write("controller", "apply", "; ".join(found))
        return {"changes": found, "reloaded": controller.edge.reloads > reloads}

    def set_servers(self, name: str, servers: int | dict[str, str], environ: dict[str, str]) -> None:
        """Give a sharded database other servers than are declared, until the declaration says something else, and wait
        until it has them. Conflict while an apply is in progress, or where a server would go that holds shards; what
        else keeps it from being done is raised, with everything as it was."""
        if not self._busy.acquire(blocking=False):
            raise Conflict("another apply is in progress", hint="wait for it: headway status --watch")
        try:
            self._set_servers(name, servers, environ)
        finally:
            self._busy.release()

    def _set_servers(self, name: str, servers: int | dict[str, str], environ: dict[str, str]) -> None:
        controller = self._controller
        applied = controller.applied
        declared = applied.system.databases[name].servers
        before = dict(controller.servers_by_hand)
        after = {other: entry for other, entry in before.items() if other != name}
        if servers != (declared or 1):
            after[name] = ServersByHand(servers, declared)
        fresh = {variable: value for variable, value in environ.items() if os.environ.get(variable) != value}
        former = {variable: os.environ[variable] for variable in fresh if variable in os.environ}
        os.environ.update(fresh)  # what the new servers' URLs refer to
        try:
            self._check_servers(applied, after)
            controller.call(lambda: self._put_servers(applied, after, fresh))
            self._await_database(name)
            controller.call(controller.refresh)
            self._await_ready(applied.system)
        except HeadwayError as error:
            for variable in fresh.keys() - former.keys():
                os.environ.pop(variable, None)
            controller.call(lambda: self._put_servers(applied, before, former))
            about = f"database.{name}"
            controller.journal.write(about, "servers failed", f"{error.message}; all is as it was", "warning")
            raise

    def _put_servers(self, applied: Applied, by_hand: dict[str, ServersByHand], environ: dict[str, str]) -> None:
        controller = self._controller
        controller.servers_by_hand = by_hand
        databases, _ = self._take_environ(applied, environ)
        controller.store.save_servers(by_hand)
        controller.databases.want(databases)
        controller.refresh()

    def _await_database(self, name: str) -> None:
        """Until its shards are laid out on all servers of a database, without those that were away before."""
        from headway.runtimes.local.sharded import ShardedDatabase

        until_s = time.monotonic() + _MARGIN_S * 2
        while time.monotonic() < until_s:
            held = self._controller.databases.held[name]
            if held.error is not None and not held.ready_once:
                raise held.error
            if isinstance(held, ShardedDatabase) and (held.has_begun or held.lost is not None):
                if held.lost is not None:
                    raise held.lost
                return
            if self._controller.loop.wanted.stopping:
                raise Conflict("the system is stopping", hint="headway up")
            time.sleep(_POLL_S)
        raise HeadwayError(f"database {name} is not ready after {_MARGIN_S * 2:.0f} s", hint="headway explain")

    def _shards_now(self) -> dict[str, int]:
        """By database, how many shards there are: a split has doubled them."""
        if not (held := self._controller.databases.held.items()):
            return {}
        from headway.runtimes.local.sharded import ShardedDatabase

        return {
            name: one.map_now().shards for name, one in held if isinstance(one, ShardedDatabase) and one.map is not None
        }

    def _check_servers(self, after: Applied, by_hand: Mapping[str, ServersByHand] | None = None) -> None:
        """Conflict where a server would go that holds shards."""
        if not self._controller.databases.held:
            return
        from headway.runtimes.local.sharded import ShardedDatabase, WantedSharded

        for name, database in self._controller.databases.held.items():
            if not isinstance(database, ShardedDatabase) or database.map is None:
                continue
            wanted = self._controller.wanted_databases(after, by_hand).get(name)
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
        now = controller.launches(controller.applied, controller.fields())
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
        databases, caches = self._take_environ(staged, environ)
        controller.applied = staged
        controller.databases.want(databases)
        controller.caches.want(caches)
        controller.refresh()

    def _switch(self, after: Applied, environ: dict[str, str]) -> None:
        """Put a declaration in force. Raises with nothing changed but the environment."""
        controller = self._controller
        databases, caches = self._take_environ(after, environ)
        controller.apply_edge(after, controller.wanted(after, {}))
        controller.applied = after
        controller.overrides = in_force(controller.overrides, wanting.declared_as(after.system, controller.machine))
        controller.servers_by_hand = servers_in_force(controller.servers_by_hand, after.system)
        controller.store.save_applied(after)
        controller.store.save_overrides(controller.overrides)
        controller.store.save_servers(controller.servers_by_hand)
        controller.databases.want(databases)
        controller.caches.want(caches)
        controller.refresh()  # who asks from now on whether it is in force must not be told of the former one

    def _put_back(
        self,
        before: Applied,
        environ: dict[str, str],
        overrides: dict[str, Override],
        servers: dict[str, ServersByHand],
    ) -> None:
        """Everything as it was, as far as it can be: what cannot is told, and does not keep the rest from it."""
        controller = self._controller
        controller.servers_by_hand = servers
        databases, caches = self._take_environ(before, environ)
        try:
            controller.apply_edge(before, controller.wanted(before, {}))
        except HeadwayError as error:
            controller.journal.write("edge", "failed", error.message, "warning")
        controller.applied = before
        controller.overrides = overrides | controller.overrides  # a `scale` meanwhile stays
        controller.store.save_applied(before)
        controller.store.save_overrides(controller.overrides)
        controller.store.save_servers(servers)
        controller.databases.want(databases)
        controller.caches.want(caches)
        controller.refresh()

    def _take_environ(
        self, applied: Applied, environ: dict[str, str]
    ) -> tuple[dict[str, WantedDatabase | WantedSharded], dict[str, WantedCache]]:
        controller = self._controller
        if environ:
            os.environ.update(environ)
            controller.supervisor.set_environ(environ)
        return controller.wanted_databases(applied), controller.wanted_caches(applied)

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
            for engine in (*controller.databases.held.values(), *controller.caches.held.values()):
                if engine.error is not None and not engine.ready_once:
                    raise engine.error
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
    """What runs, and beside it, unknown to the edge, services that `after` brings to it; None when there are none."""
    knows = at_edge(after)
    fresh = {
        name: service.model_copy(update={"routes": (), "replicas": replicas[name]})
        for name, service in after.services.items()
        if name in knows and name not in before.services
    }
    if not fresh or not at_edge(before):
        return None
    return before.model_copy(
        update={
            "services": {**before.services, **fresh},
            "databases": {**after.databases, **before.databases},
            "caches": {**after.caches, **before.caches},
        }
    )


def _reload(controller: Controller, why: str, stop: threading.Event) -> None:
    """Whatever stands in the way of it for now: nobody else would tell of this change again."""
    while not stop.is_set():
        try:
            controller.call(lambda: controller.reload_source(why))
            return
        except HeadwayError as error:
            controller.journal.write("controller", "reload failed", f"{error.message}; tried again", "warning")
            stop.wait(_RELOAD_AGAIN_S)


def on_change(controller: Controller, folders: list[str], stop: threading.Event) -> Callable[[], None]:
    """A function that watches source folders and reloads replicas when a file changes; for development."""

    def watch() -> None:
        from watchfiles import PythonFilter
        from watchfiles import watch as changed

        for found in changed(*folders, watch_filter=PythonFilter(extra_extensions=(".html", ".toml")), stop_event=stop):
            names = sorted({path.rpartition("/")[2] for _kind, path in found})
            why = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''} changed"
            _reload(controller, why, stop)

    return watch
