"""The controller: puts the loop, the runtime and the declaration together, and keeps them in step.

One thread ticks and owns everything the loop touches; other threads (the control API, a file watcher) hand it calls and
wait. It may die at any moment: the next one reads the applied declaration, the overrides and the replicas, finds the
processes at the supervisor, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.caching.place import Place, place_of_url
from headway.caching.settings import MEMORY_BYTES
from headway.control import wanting
from headway.control.calls import BEGUN_WITHIN_S, Calls
from headway.control.exporting import Exporting, Sent
from headway.control.journal import Journal
from headway.control.loop import TICK_S, Loop
from headway.control.scaling import Scaler
from headway.control.status import CacheStatus, DatabaseStatus, Facts, document, servers_line, start_failure, state_of
from headway.control.stored import (
    Applied,
    Departure,
    Override,
    ServersByHand,
    Store,
    in_force,
    servers_in_force,
    with_servers,
)
from headway.control.tasks import Tasks
from headway.declaration.caches import parse_host
from headway.declaration.calls import at_edge, callers
from headway.declaration.references import resolve_cache, resolve_env, resolve_servers, resolve_url
from headway.errors import DeclarationError, HeadwayError
from headway.model.declared import ReplicaRange, System
from headway.model.hold import Hold, ended
from headway.model.launch import Launch
from headway.model.traffic import Traffic
from headway.model.wanted import Wanted
from headway.process import machine as machines
from headway.process.folders import Folders
from headway.process.identity import engine_identity
from headway.process.spec import FORMER_CONTROLLER
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.all_databases import Databases
from headway.runtimes.local.caches import Caches, WantedCache
from headway.runtimes.local.call_counts import CallCounts
from headway.runtimes.local.edge import ACCESS_LOG, Edge
from headway.runtimes.local.logs import drop_oldest, rotate
from headway.runtimes.local.processes import Processes
from headway.runtimes.local.runtime import LocalRuntime

if TYPE_CHECKING:  # what takes long to import, and a system without databases does without
    from headway.control.tender import Tender
    from headway.runtimes.local.databases import WantedDatabase
    from headway.runtimes.local.sharded import WantedSharded

_SLOW_EVERY_S = 1.0
_ROTATE_EVERY_S = 5.0
_TELL_EVERY_S = 5.0  # the supervisor has patience for several of it
_EDGE_END_S = 2.0
# While a start or an end is waited for, each step of which is seen a tick later. A long start goes at the usual pace.
_HURRIED_TICK_S = 0.02
_HURRIED_START_S = 10.0


class Controller:
    """One system's controller. `run()` ticks until the system has stopped."""

    def __init__(self, folders: Folders, *, detached: bool) -> None:
        self.folders = folders
        self.detached = detached
        self.machine = machines.look()
        self.store = Store(folders.state, folders.run)
        self.journal = Journal(folders.journal)
        applied = self.store.load_applied()
        if applied is None:
            raise HeadwayError("there is no applied declaration", hint="headway up")
        self.applied: Applied = applied
        self.overrides: dict[str, Override] = in_force(
            self.store.load_overrides(), wanting.declared_as(applied.system, self.machine)
        )
        self.servers_by_hand: dict[str, ServersByHand] = servers_in_force(self.store.load_servers(), applied.system)
        self.holds: dict[str, Hold] = self.store.load_holds()
        self.departures: dict[str, Departure] = self.store.load_departures()
        self.supervisor = SupervisorClient(str(folders.supervisor_socket))
        self.processes = Processes(folders, self.supervisor, engine_identity())
        self.databases = Databases(
            folders, self.supervisor, self.processes.spawn, self.journal.write, self.processes.table_entry
        )
        self.caches = Caches(
            folders, self.supervisor, self.processes.spawn, self.journal.write, self.processes.table_entry
        )
        self.exporting = Exporting(folders, self.journal.write)
        self.edge = Edge(folders, self.supervisor, self.machine, exports=Sent())
        self.calls = CallCounts(folders.app / "calls")
        self.runtime = LocalRuntime(self.processes, self.edge, self.databases, self.caches, self.store.save_replicas)
        self.loop = Loop(self.runtime, self.journal, Wanted(), self.store.load_replicas())
        self.loop.adapted = self.store.load_overload()
        self.scaler = Scaler(self.machine.cores, self.journal.write, machines.busy_core_seconds)
        # What follows the load goes on from where it was. What runs tells it as well, but one too many in the middle of
        # a roll; it counts only where nothing is stored.
        stored = self.store.load_scaled()
        running = Counter(replica.service for replica in self.loop.replicas.values() if not replica.leave)
        known = {name: stored.get(name) or running[name] for name in self.ranges}
        self.scaled: dict[str, int] = {name: count for name, count in known.items() if count}
        self.tenders: dict[str, Tender] = {}
        self.tasks = Tasks()
        self.was_ready = any(replica.ready_once for replica in self.loop.replicas.values())
        self.failure: dict[str, str] | None = None
        self.traffic = Traffic()
        self.finished = threading.Event()
        self.started_s = time.monotonic()
        self._calls = Calls()
        self._slow_at_s = self._rotate_at_s = self._told_at_s = 0.0
        self._supervisor = "ready"
        self._resolved: tuple[Any, ...] = ()
        self._stopping = False
        self._edge_ends_at_s = 0.0

    # -- start ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect to the supervisor, adopt what runs, open the listeners, start the edge and the databases."""
        self.supervisor.connect()
        self.processes.table = self.supervisor.processes()
        adopted = sum(state.alive for name, state in self.processes.table.items() if name != "controller")
        began = f"adopts {adopted} processes" if adopted else "a fresh start"
        if former := os.environ.pop(FORMER_CONTROLLER, ""):
            self.journal.write("controller", "replaced", f"the one before {former}: headway logs controller", "warning")
        self.journal.write("controller", "start", began)
        self.databases.want(self.wanted_databases(self.applied))
        self.caches.want(self.wanted_caches(self.applied))
        self.end_holds()
        self.resolve()
        try:
            edge = self.processes.table.get("edge")
            runs = edge is not None and edge.alive
            if runs:
                self.edge.adopt(self.applied.system)
            self.apply_edge(self.applied, self.loop.wanted)
        except HeadwayError as error:
            self.failure = {"message": error.message, "hint": error.hint, "detail": ""}
            self.journal.write("edge", "failed", error.message, "warning")

    def apply_edge(self, applied: Applied, wanted: Wanted) -> None:
        """Put a declaration in force at the edge; raises with nothing changed."""
        edge = self.processes.table.get("edge")
        runs = edge is not None and edge.alive
        if self.edge.apply(applied.system, wanted, self.loop.replicas, self.processes.socket, running=runs):
            self.journal.write("edge", "reload", "routes, addresses or settings changed")
            self.processes.table["edge"] = self.supervisor.processes()["edge"]  # another process from now on
        elif not runs and self.edge.is_needed:
            self.processes.table["edge"] = self.edge.start()

    def wanted_databases(
        self, applied: Applied, by_hand: Mapping[str, ServersByHand] | None = None
    ) -> dict[str, WantedDatabase | WantedSharded]:
        """The databases of a declaration with their servers by hand, their references resolved."""
        known = self.servers_by_hand if by_hand is None else by_hand
        held = servers_in_force(known, applied.system)
        return {name: self._wanted_database(applied, name, held.get(name)) for name in applied.system.databases}

    def _wanted_database(
        self, applied: Applied, name: str, by_hand: ServersByHand | None
    ) -> WantedDatabase | WantedSharded:
        from headway.control.app_tools import tool_of
        from headway.runtimes.local.databases import WantedDatabase
        from headway.runtimes.local.sharded import WantedSharded

        database, root = with_servers(applied.system.databases[name], by_hand), Path(applied.root)
        active_max = database.active_max or wanting.active_max(self.machine)
        if database.shards is None:
            return WantedDatabase(
                name=name,
                system=applied.system.name,
                url=resolve_url(database, environment=os.environ, root=root),
                schema_file=database.schema_file,
                memory_bytes=self.machine.memory_bytes,
                active_max=active_max,
            )
        return WantedSharded(
            name=name,
            system=applied.system.name,
            shards=database.shards,
            servers=tuple(resolve_servers(database, environment=os.environ, root=root).items()),
            keys=tuple(database.keys.items()),
            joins=tuple(database.joins.items()),
            import_from=database.import_from,
            ids=tuple(database.ids.items()),
            reference=database.reference,
            schema_file=database.schema_file,
            memory_bytes=self.machine.memory_bytes,
            active_max=active_max,
            idle_max=database.idle_max,
            migrations=database.migrations.sql if database.migrations else None,
            tool=tool_of(applied, name),
        )

    def wanted_caches(self, applied: Applied) -> dict[str, WantedCache]:
        """The caches of a declaration, their references resolved."""
        found = {}
        for name, declared in applied.system.caches.items():
            cache = resolve_cache(declared, environment=os.environ, root=Path(applied.root))
            place: Place | None = None
            if cache.url is not None:
                place = place_of_url(cache.url)
            elif cache.sentinel is not None:
                told = cache.sentinel
                place = Place(
                    host=told.master,
                    user=told.user or "",
                    password=told.password or "",
                    master=told.master,
                    sentinels=tuple(parse_host(text) for text in told.hosts),
                )
            found[name] = WantedCache(
                name=name,
                system=applied.system.name,
                place=place,
                memory_max_bytes=cache.memory_max_bytes or MEMORY_BYTES,
                near_max_bytes=cache.near_max_bytes,
                timeout_s=cache.timeout_s,
            )
        return found

    # -- the thread that ticks --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Tick until the system has stopped. Errors of one tick are journalled, and the next one tries again."""
        next_s = time.monotonic()
        failed = ""
        while not self.finished.is_set():
            self._tell_that_it_turns()
            try:
                self._turn()
                failed = ""
            except HeadwayError as error:
                if error.message != failed:  # the same one ten times a second is told once
                    self.journal.write("controller", "tick failed", error.message, "warning")
                failed = error.message
            next_s += _HURRIED_TICK_S if self._is_waited_for() else TICK_S
            wait_s = next_s - time.monotonic()
            if wait_s < 0:  # stopped, or starved of processor time: do not catch up with a burst of ticks
                next_s, wait_s = time.monotonic(), 0.0
            self._calls.serve(wait_s)
        self.processes.close()

    def _tell_that_it_turns(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._told_at_s:
            self._told_at_s = now_s + _TELL_EVERY_S
            self.supervisor.turn()
            self._tell_of_the_supervisor()

    def _tell_of_the_supervisor(self) -> None:
        before, self._supervisor = self._supervisor, self.supervisor.state
        if self._supervisor == "silent" != before:
            reason = "it does not answer: traffic goes on, nothing can be started; headway up --detach replaces it"
            self.journal.write("supervisor", "silent", reason, "warning")
        elif before == "silent" and self._supervisor == "ready":
            self.journal.write("supervisor", "ready", "it answers again")

    def _is_waited_for(self) -> bool:
        is_starting = not self.was_ready and time.monotonic() - self.started_s < _HURRIED_START_S
        return self._stopping or is_starting

    def call(self, function: Callable[[], Any], begun_within_s: float = BEGUN_WITHIN_S) -> Any:
        """Run `function` in the ticking thread and give its result; HeadwayError when that thread is stuck."""
        return self._calls.ask(function, begun_within_s)

    def _turn(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._slow_at_s:
            self._slow_at_s = now_s + _SLOW_EVERY_S
            self._slow(now_s)
        if self.processes.stop_asked and not self._stopping:
            self.stop("asked by the supervisor")
        self.resolve()
        self.loop.tick()
        self._follow_the_load(now_s)
        if not self.was_ready:
            self.was_ready = self.state in ("ready", "degraded")
            if not self.was_ready and self.failure is None:
                self.failure = start_failure(self.loop.replicas) or self._engine_failure()
        if self._stopping:
            self._end_engines()

    def _slow(self, now_s: float) -> None:
        """What needs no hundred milliseconds: traffic, certificate, logs."""
        self.traffic = self.edge.traffic(now_s)
        self._tend()
        self.exporting.look(self.applied.system, now_s)
        self.end_holds()
        self.store.save_overload(self.loop.adapted)
        try:
            if told := self.edge.refresh_certificate():
                self.journal.write("edge", "certificate", told)
        except HeadwayError as error:  # told once for each change of the file; the former certificate stays
            self.journal.write("edge", "certificate refused", f"{error.message}; the former one stays", "warning")
        if now_s >= self._rotate_at_s:
            self._rotate_at_s = now_s + _ROTATE_EVERY_S
            drop_oldest(self.folders.traces)
            rotate(self.folders.logs, lambda name: self.edge.keep_appending() if name == ACCESS_LOG else None)

    def _tend(self) -> None:
        """Somebody looks after every sharded database that is up."""
        if not self.databases.held and not self.tenders:
            return
        from headway.control.tender import Tender
        from headway.runtimes.local.sharded import ShardedDatabase

        held = {
            name: database
            for name, database in self.databases.held.items()
            if isinstance(database, ShardedDatabase) and database.map is not None and not self._stopping
        }
        for name in [name for name, tender in self.tenders.items() if held.get(name) is not tender.database]:
            self.tenders.pop(name).stop()
        for name in held.keys() - self.tenders.keys():
            self.tenders[name] = Tender(held[name], self.journal.write, self.databases.plain_source)

    def tended(self) -> dict[str, Tender]:
        """Who looks after which sharded database; also of one that has come up a moment ago. For other threads."""
        up = [name for name, held in list(self.databases.held.items()) if getattr(held, "map", None) is not None]
        if any(name not in self.tenders for name in up) and not self._stopping:
            self.call(self._tend)
        return dict(self.tenders)

    def not_up(self) -> dict[str, str]:
        """The states of sharded databases that have no map yet. For other threads."""
        held = list(self.databases.held.items())
        return {name: one.state for name, one in held if getattr(one, "map", one) is None}

    def _engine_failure(self) -> dict[str, str] | None:
        for engine in (*self.databases.held.values(), *self.caches.held.values()):
            if engine.error is not None and not engine.ready_once:
                return {"message": engine.error.message, "hint": engine.error.hint, "detail": ""}
        return None

    # -- what is wanted ---------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Bring the loop's target up to date when the declaration, an override or a database's address changed."""
        fields, logins = self.fields(), self.databases.logins()
        by_hand = (dict(self.overrides), dict(self.holds), dict(self.scaled))
        inputs = (self.applied, *by_hand, fields, logins, self._stopping)
        if inputs == self._resolved:
            return
        self._resolved = inputs
        launches = self.launches(self.applied, fields)
        # Without a value yet, a service keeps the launch its replicas were started with.
        self.processes.launches = {**self.processes.launches, **launches}
        self.loop.wanted = self.wanted(self.applied, launches)

    def fields(self) -> dict[str, dict[str, str]]:
        """What references in an environment can name. Holds passwords."""
        return self.databases.fields() | self.caches.fields() | self.edge.places.fields(self.applied.system)

    def refresh(self) -> None:
        """Resolve everything anew: a secret may have another value though the declaration is the same."""
        self._resolved = ()
        self.resolve()

    def launches(self, applied: Applied, fields: Mapping[str, Mapping[str, str]]) -> dict[str, Launch]:
        """How each service starts; those whose references have no value yet are left out."""
        found = {}
        for name, service in applied.system.services.items():
            try:
                env = resolve_env(service, databases=fields, environment=os.environ, root=Path(applied.root))
            except DeclarationError:
                continue
            access = self.databases.access()
            used = wanting.needs(service, applied.system.databases)
            if not access.keys() >= set(used):
                continue  # one is not up yet, and its address not known
            env |= wanting.told(service, {name: access[name] for name in used}, str(self.folders.app))
            caches = self.caches.access()
            of_service = wanting.caches_of(service, applied.system.caches)
            if not caches.keys() >= set(of_service):
                continue
            env |= wanting.told_of_caches({name: caches[name] for name in of_service})
            env |= wanting.told_of_traces(applied.system, service, str(self.folders.traces))
            env |= wanting.told_of_services(self.edge.places.told(applied.system, name), str(self.folders.app))
            launch = wanting.launch_of(name, service, env, self.machine)
            found[name] = replace(launch, generation=applied.generation)
        return found

    def wanted(self, applied: Applied, launches: Mapping[str, Launch]) -> Wanted:
        """The target for a declaration with what follows the load and what was set by hand."""
        replicas = self.replicas_of(applied.system)
        total = sum(replicas.values())
        limits = {
            name: wanting.request_limit(service, total, self.machine)
            for name, service in applied.system.services.items()
        }
        keys = {name: launch.key for name, launch in launches.items()}
        return wanting.want(
            applied.system,
            replicas=replicas,
            keys=keys,
            limits=limits,
            machine=self.machine,
            at_edge=at_edge(applied.system) - applied.staged,
            stopping=self._stopping,
            holds=self.holds,
        )

    def replicas_of(self, system: System) -> dict[str, int]:
        """Replicas of each service: as declared, as the load has it within a range, as set or held by hand."""
        replicas = wanting.replicas_declared(system, self.machine)
        for name, service in system.services.items():
            if isinstance(service.replicas, ReplicaRange):
                known = self.loop.wanted.service(name)  # a number that begins to follow the load begins where it is
                replicas[name] = service.replicas.clamp(self.scaled.get(name) or (known.replicas if known else 0))
        replicas |= {name: entry.replicas for name, entry in self.overrides.items() if name in replicas}
        held = {name: hold.replicas for name, hold in self.holds.items() if name in replicas}
        return replicas | {name: count for name, count in held.items() if count is not None}

    @property
    def replicas(self) -> dict[str, int]:
        """Replicas of each service as they are wanted now."""
        return self.replicas_of(self.applied.system)

    @property
    def ranges(self) -> dict[str, ReplicaRange]:
        """Services whose number of replicas follows the load."""
        services = self.applied.system.services.items()
        return {name: service.replicas for name, service in services if isinstance(service.replicas, ReplicaRange)}

    def _follow_the_load(self, now_s: float) -> None:
        databases = self.databases.held
        users = [service for service in self.loop.wanted.services if service.name in self.ranges]
        for name, database in databases.items():
            database.is_counted = any(name in service.waits_for for service in users)
        self.scaled = self.scaler.look(
            self.applied.system,
            self.loop.wanted,
            self.loop.replicas,
            self.loop.observed,
            {name: database.counted for name, database in databases.items()},
            now_s,
            by_hand={*self.overrides, *self.holds},
        )
        self.store.save_scaled(self.scaled)

    def end_holds(self) -> None:
        """Drop the holds that are over or whose service is gone."""
        if over := ended(self.holds, self.applied.system.services.keys(), time.time()):
            for name, reason in over.items():
                hold = self.holds.pop(name)
                self.journal.write(name, "release", f"{reason}: {hold.what}, by {hold.by}")
            self.store.save_holds(self.holds)

    @property
    def declared_replicas(self) -> dict[str, int]:
        """Replicas of each service as the declaration has it."""
        return wanting.replicas_declared(self.applied.system, self.machine)

    def reload_source(self, why: str) -> None:
        """Replace every replica, because the source changed."""
        self.applied = replace(self.applied, generation=self.applied.generation + 1)
        self.store.save_applied(self.applied)
        self.journal.write("controller", "reload", why)

    # -- stop -------------------------------------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Begin the orderly end: replicas drain and end, then the edge, caches and databases, then the supervisor."""
        if not self._stopping:
            self._stopping = True
            self.tasks.stop()
            self._tend()
            self.journal.write("controller", "stop", why)

    def _end_engines(self) -> None:
        if self.loop.replicas:
            return
        now_s = time.monotonic()
        edge = self.processes.table.get("edge")
        if edge is not None and edge.alive:
            if not self._edge_ends_at_s:
                self._edge_ends_at_s = now_s + _EDGE_END_S
                self.edge.stop(_EDGE_END_S)
            return
        if not all(one.state == "stopping" for one in (*self.databases.held.values(), *self.caches.held.values())):
            self.caches.stop()
            self.databases.stop()
        if self.databases.stopped and self.caches.stopped:
            self.exporting.stop()
            self.journal.write("controller", "stopped", "everything has ended")
            with contextlib.suppress(HeadwayError):
                self.supervisor.finish()
            self.finished.set()

    # -- telling ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """The word for the whole system."""
        return state_of(self.loop.wanted, self.loop.replicas, self.loop.observed, self.facts())

    def facts(self) -> Facts:
        """What the status document tells beside the loop's memory. Any thread may ask, so all that changes is copied
        before it is looked through."""
        system: System = self.applied.system
        departures = dict(self.departures)
        return Facts(
            system=system.name,
            source=self.applied.source,
            controller_pid=os.getpid(),
            supervisor=self.supervisor.state,
            edge_urls=self.edge.urls,
            edge_reloads=self.edge.reloads,
            detached=self.detached,
            was_ready=self.was_ready,
            declared=self.declared_replicas,
            overrides={name: entry.replicas for name, entry in dict(self.overrides).items()},
            ranges=self.ranges,
            holds=dict(self.holds),
            routes={name: service.routes for name, service in system.services.items()},
            calls_from=callers(system),
            addresses={
                name: self.processes.socket(name)
                for name, replica in dict(self.loop.replicas).items()
                if not (service := system.services.get(replica.service)) or service.app
            },
            logs=str(self.folders.logs),
            databases=tuple(
                DatabaseStatus(
                    name,
                    held.state,
                    held.served,
                    held.error.message if held.error else "",
                    getattr(held, "map", None),
                    servers_line(self.servers_by_hand.get(name)),
                    departures[name].server if name in departures else "",
                )
                for name, held in dict(self.databases.held).items()
            ),
            caches=tuple(
                CacheStatus(
                    name, cache.state, cache.place.shown, cache.told, cache.error.message if cache.error else ""
                )
                for name, cache in dict(self.caches.held).items()
            ),
            traffic=self.traffic,
            adapted=self.loop.adapted,
            failure=self.failure if not self.was_ready else None,
        )

    def status(self) -> dict[str, Any]:
        """The status document. Any thread may ask."""
        # The target first: a service that another declaration has taken away meanwhile is told as one, and of one that
        # it has brought everything is known.
        wanted = self.loop.wanted
        facts = replace(self.facts(), calls=self.calls.now())
        return document(wanted, dict(self.loop.replicas), self.loop.observed, facts)
