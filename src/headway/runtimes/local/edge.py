"""The edge of this machine: one HAProxy process, kept in step through its run-time API.

Its file is rewritten whenever the replicas change, so that a HAProxy that is started again finds the present. Only what
the run-time API cannot change (routes, addresses, new services) costs a reload, which is hitless and counted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from headway.edge.certificate import load_certificate
from headway.edge.errors import EdgeRefused, EdgeUnreachable
from headway.edge.haproxy import argv, find_haproxy, validate
from headway.edge.observed import EdgeServerState, EdgeTotals
from headway.edge.render import render
from headway.edge.routes import learned_key
from headway.edge.runtime_api import RuntimeApi
from headway.edge.servers import draining_file, learned_file
from headway.edge.unrefused import Unrefused, look
from headway.errors import HeadwayError, MachineError
from headway.model.declared import System
from headway.model.edge import EdgePlan, EdgeReplica, EdgeService
from headway.model.observed import EdgeObserved, EdgeServer
from headway.model.overload import MAIN, SLOW, QueueBound, class_name
from headway.model.replica import Phase, Replica
from headway.model.traffic import Traffic
from headway.model.wanted import Wanted
from headway.process.folders import Folders
from headway.process.identity import engine_identity
from headway.process.machine import Machine
from headway.process.reachable import reachable
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.call_places import CallPlaces
from headway.runtimes.local.edge_plan import UNBOUND, addresses, class_numbers, edge_plan, edge_replicas, urls
from headway.runtimes.local.edge_told import LEARNED_MAX, Told
from headway.runtimes.local.meter import Meter

_ANSWER_S = 0.25  # a live HAProxy answers in well under a millisecond
_STOP_S = 5.0
_CHOICES = 10  # of a port for calls by URL, before somebody takes each of them away
ACCESS_LOG = "access.log"

SocketOf = Callable[[str], str]


class Edge:
    """One system's edge. Owned by the loop's thread."""

    def __init__(
        self,
        folders: Folders,
        supervisor: SupervisorClient,
        machine: Machine,
        exports: Callable[[System], bool] = lambda _system: False,
    ) -> None:
        """`exports`: whether spans of a system are sent to a collector."""
        self._exports = exports
        self._folders = folders
        self._supervisor = supervisor
        self._machine = machine
        self._identity = engine_identity()
        self._api = RuntimeApi(str(folders.edge / "edge.sock"), _ANSWER_S)
        self._config = folders.edge / "haproxy.cfg"
        self._certificate = folders.edge / "certificate.pem"
        self._meter = Meter(folders.logs / ACCESS_LOG)
        self.places = CallPlaces(folders)
        self._system: System | None = None
        self._wanted = Wanted()
        self._told = Told()
        self._plan_stored: EdgePlan | None = None
        self._text = ""
        self._learned_texts: dict[str, str] = {}
        self._shape = ""
        self._certificate_seen: tuple[float, ...] = ()
        self._totals: EdgeTotals | None = None
        self._unrefused: dict[tuple[str, int], Unrefused] = {}
        self._unreachable_since_s: float | None = None
        self._unreachable_pid: int | None = None
        self._answered_pid: int | None = None
        self._told_pid: int | None = None  # the process that was told what is in force
        self.reloads = 0
        self.urls: tuple[str, ...] = ()

    # -- the declaration --------------------------------------------------------------------------------------------

    def apply(
        self, system: System, wanted: Wanted, replicas: Mapping[str, Replica], socket: SocketOf, *, running: bool
    ) -> str:
        """Put a declaration in force at the edge; what was done, or empty.

        Raises with nothing changed: a port that is taken, a certificate that does not fit, a file HAProxy refuses.
        """
        before = set(self._supervisor.listeners)
        certificate = self._load_certificate(system)
        opened = []
        self._folders.calls.mkdir(mode=0o700, exist_ok=True)  # what an earlier version started has none
        try:
            for address in self._addresses(system):
                if address not in before:
                    opened.append(self._listen(address))
            self._expect(system, wanted, replicas)
            plan = self._plan(system, wanted, replicas, socket)
            self._check(plan, certificate)
        except HeadwayError:
            for address in opened:
                self._supervisor.unlisten(address)
            raise
        if certificate is not None:
            self._write(self._certificate, certificate)
        shape = self._shape_of(plan)
        must_reload = running and shape != self._shape
        self._system, self._wanted, self.urls, self._shape = system, wanted, urls(system), shape
        self._told.keep(system.services)
        self._store(plan)
        if running and not self.is_needed:
            self.stop(_STOP_S)
            must_reload = False
        if must_reload:
            self._supervisor.spawn(self._spec(), replaces=True)
            self.reloads += 1
        elif running and certificate is not None:
            self._api.swap_certificate(str(self._certificate), certificate)
        for address in before - set(self._addresses(system)):
            self._supervisor.unlisten(address)
        return "reloaded" if must_reload else ""

    @property
    def is_needed(self) -> bool:
        """Whether the declaration in force has something for it to listen on."""
        return self._system is not None and bool(self._addresses(self._system))

    def _addresses(self, system: System) -> tuple[str, ...]:
        """All of them: for clients, then for calls, in the order of their descriptors."""
        ways = self.places.addresses(system).values()
        return (*addresses(system), *(address for places in ways for address in places))

    def _listen(self, address: str) -> str:
        """Listen there, or where our own choice of a port was taken meanwhile, on another; gives the address."""
        for _ in range(_CHOICES):
            try:
                self._supervisor.listen(address)
                return address
            except MachineError:
                other = self.places.choose_again(address)
                if other is None:
                    raise
                address = other
        self._supervisor.listen(address)
        return address

    def adopt(self, system: System) -> None:
        """A HAProxy that runs already serves this declaration: remember so, without touching it."""
        self._shape = _text_of(self._folders.run / "edge.shape")
        self._told.recall(
            _text_of(self._config),
            system.services,
            lambda name: _text_of(Path(learned_file(str(self._folders.edge), name))),
        )
        self.urls = urls(system)

    def _load_certificate(self, system: System) -> str | None:
        tls = system.edge.tls
        if tls is None:
            return None
        paths = [Path(tls.certificate), *([Path(tls.key)] if tls.key else [])]
        pem = load_certificate(paths[0], paths[1] if tls.key else None)
        self._certificate_seen = _changed_at(paths)
        return pem

    def refresh_certificate(self) -> str:
        """Serve a certificate whose file changed; what was done, or empty. Raises when the new file does not fit."""
        tls = self._system.edge.tls if self._system else None
        if tls is None or self._system is None:
            return ""
        paths = [Path(tls.certificate), *([Path(tls.key)] if tls.key else [])]
        seen = _changed_at(paths)
        if seen == self._certificate_seen:
            return ""
        self._certificate_seen = seen  # a bad file is told once, and looked at again when it changes again
        pem = load_certificate(paths[0], paths[1] if tls.key else None)
        self._api.swap_certificate(str(self._certificate), pem)
        self._write(self._certificate, pem)
        return f"{tls.certificate} changed: served from now on, without a reload"

    # -- the process ------------------------------------------------------------------------------------------------

    def start(self) -> ProcessState:
        """Start HAProxy with the file as it is."""
        return self._supervisor.spawn(self._spec())

    def stop(self, patience_s: float) -> None:
        """End HAProxy; connections that are left are cut."""
        self._supervisor.stop("edge", signal.SIGTERM, patience_s)

    def replace(self) -> str:
        """Kill a HAProxy that hangs; the supervisor starts it again at once."""
        try:
            self._supervisor.signal("edge", signal.SIGKILL)
        except HeadwayError as error:
            return error.message
        return ""

    def _binary(self) -> Path:
        found = find_haproxy()
        return reachable(Path(found.path), self._identity, f"haproxy-{found.version}")

    def _spec(self) -> ProcessSpec:
        assert self._system is not None
        identity = self._identity
        return ProcessSpec(
            name="edge",
            argv=tuple(argv(str(self._binary()), str(self._config))),
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            uid=identity.uid if identity else None,
            gid=identity.gid if identity else None,
            stdout=str(self._folders.logs / ACCESS_LOG),
            stderr=str(self._folders.logs / "edge.log"),
            listeners=self._addresses(self._system),
            restart=True,
            replace_argv=("-sf",),
            stop_timeout_s=_STOP_S,
            keep=True,
        )

    # -- the file ---------------------------------------------------------------------------------------------------

    def _expect(self, system: System, wanted: Wanted, replicas: Mapping[str, Replica]) -> None:
        """Replicas that serve before the edge knows their service are in its file from the first moment."""
        for name, replica in replicas.items():
            service, declared = wanted.service(replica.service), system.services.get(replica.service)
            if replica.phase is not Phase.READY or service is None or declared is None or not service.is_at_edge:
                continue
            for number in (MAIN, *class_numbers(declared)):
                if number != SLOW or self._told.learned.get(replica.service):
                    self._told.limits.setdefault((name, number), service.limit)

    def _plan(self, system: System, wanted: Wanted, replicas: Mapping[str, Replica], socket: SocketOf) -> EdgePlan:
        return edge_plan(
            system,
            folder=str(self._folders.edge),
            machine=self._machine,
            certificate=str(self._certificate) if system.edge.tls else None,
            at_replicas=sum(service.limit * service.replicas for service in wanted.services if service.is_at_edge),
            replicas={
                (name, number): edge_replicas(replicas, name, self._told.limits_of(number), socket)
                for name, service in system.services.items()
                for number in (MAIN, *class_numbers(service))
            },
            bounds=self._told.bounds,
            learned=self._told.learned,
            called_at=self.places.addresses(system),
            exports=self._exports(system),
        )

    def _shape_of(self, plan: EdgePlan) -> str:
        """The part of the file that only a reload can change: without replicas, bounds and what follows from them."""
        bare = tuple(
            replace(
                service,
                replicas=(),
                bound=UNBOUND,
                classes=tuple(replace(cls, replicas=(), bound=UNBOUND) for cls in service.classes),
            )
            for service in plan.services
        )
        return render(replace(plan, services=bare, connections_max=1))

    def store(self, replicas: Mapping[str, Replica], wanted: Wanted, socket: SocketOf) -> str:
        """Rewrite the files for what is in force now; the text of an error when they cannot be written."""
        system = self._system
        return _told(lambda: self._store(self._plan(system, wanted, replicas, socket))) if system is not None else ""

    def _store(self, plan: EdgePlan) -> None:
        self._plan_stored = plan
        self._write_learned(plan)
        text = render(plan)
        if text != self._text:
            self._write(self._config, text)
            self._write(Path(draining_file(str(self._folders.edge))), "")
            self._write(self._folders.run / "edge.shape", self._shape)
            self._text = text

    def _write_learned(self, plan: EdgePlan) -> None:
        for service in plan.services:
            text = self._told.learned_text(service.name)
            if text != self._learned_texts.get(service.name):
                self._write(Path(learned_file(str(self._folders.edge), service.name)), text)
                self._learned_texts[service.name] = text

    def _check(self, plan: EdgePlan, certificate: str | None) -> None:
        """Let HAProxy itself judge a new file, beside the one in force."""
        text = render(plan)
        trial = self._folders.edge / "trial.cfg"
        trial_certificate = self._folders.edge / "trial.pem"
        if certificate is not None:
            self._write(trial_certificate, certificate)
            text = text.replace(str(self._certificate), str(trial_certificate))
        folder = str(self._folders.edge)
        for path in (draining_file(folder), *(learned_file(folder, service.name) for service in plan.services)):
            if not Path(path).exists():
                self._write(Path(path), "")
        self._write(trial, text)
        try:
            validate(find_haproxy().path, str(trial))
        finally:
            trial.unlink(missing_ok=True)
            trial_certificate.unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        fresh = path.with_name(path.name + ".new")
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
                file.write(text)
            if self._identity:
                os.chown(fresh, self._identity.uid, self._identity.gid)
            os.replace(fresh, path)
        except OSError as error:
            raise MachineError(f"{path} cannot be written: {error.strerror}", hint="headway doctor") from error

    # -- observing and acting ---------------------------------------------------------------------------------------

    def observe(self, pid: int) -> EdgeObserved:
        """What HAProxy says of its servers now; never waits longer than a fraction of a second.

        After a reload the process before it answers until the next one has taken over. It still gets the requests, and
        routes them as before: nothing that is decided for the new routes may be done to it.
        """
        try:
            if self._answered_pid != pid and (other := self._api.process().pid) != pid:
                raise EdgeUnreachable(f"the process before the reload ({other}) answers")
            seen = self._api.observe()
        except EdgeRefused:
            return EdgeObserved(pid=pid, answered=True)  # alive, but nothing is known of its servers
        except EdgeUnreachable:
            now_s = time.monotonic()
            if self._unreachable_since_s is None or self._unreachable_pid != pid:
                self._unreachable_since_s, self._unreachable_pid = now_s, pid
            return EdgeObserved(
                pid=pid,
                unreachable_s=now_s - self._unreachable_since_s,
                answered=self._answered_pid == pid,
            )
        self._unreachable_since_s, self._answered_pid, self._totals = None, pid, seen.totals
        if self._told_pid is None or (self._told_pid != pid and not _told(self._tell_again)):
            self._told_pid = pid
        queues = seen.queues()
        self._unrefused = look(self._unrefused, self._in_force(), seen)
        for key, unrefused in self._unrefused.items():
            queues[key] = replace(queues[key], refused=unrefused.refused)
        return EdgeObserved(
            pid=pid,
            reachable=True,
            servers={state.name: _server(state) for state in seen.replicas if state.number == MAIN},
            classes={(state.name, state.number): _server(state) for state in seen.replicas if state.number != MAIN},
            queues=queues,
            learned=dict(self._told.learned),
        )

    def _in_force(self) -> tuple[EdgeService, ...]:
        """The services with the bounds that were told last: the file is written a little later."""
        bounds = self._told.bounds
        return tuple(
            replace(
                service,
                bound=bounds.get((service.name, MAIN), service.bound),
                classes=tuple(
                    replace(cls, bound=bounds.get((service.name, cls.number), cls.bound)) for cls in service.classes
                ),
            )
            for service in (self._plan_stored.services if self._plan_stored else ())
            if not service.refuses
        )

    def _tell_again(self) -> None:
        """Another process began with its file, which may be older than what its predecessor was told."""
        for (service, number), bound in self._told.bounds.items():
            self._api.bound(service, number, bound)
        for service, keys in self._told.learned.items():
            if keys:
                self._open_slow(service)
            self._api.assign_only(service, keys)

    def admit(self, service: str, name: str, address: str, limit: int, number: int = MAIN) -> str:
        """Add a replica to a class, or set one that is known there ready again."""
        self._told.limits[name, number] = limit
        return _told(lambda: self._admit(service, number, EdgeReplica(name, address, limit, enabled=True)))

    def _admit(self, service: str, number: int, replica: EdgeReplica) -> None:
        backend = class_name(service, number)
        declared = self._system.services.get(service) if self._system else None
        if any(state.name == replica.name for state in self._api.replicas(backend)):
            self._api.set_limit(backend, replica.name, replica.limit)
            self._api.enable(backend, replica.name)
        else:
            self._api.add(backend, replica, sticky=bool(declared and declared.sticky))

    def drain(self, service: str, name: str) -> str:
        """Send it nothing new, of no class."""
        return _told(lambda: self._api.drain(service, name, self._classes(service)))

    def suspend(self, service: str, name: str) -> str:
        """Take it out at once."""
        return _told(lambda: self._api.maint(service, name, self._classes(service)))

    def limit(self, service: str, name: str, limit: int, number: int = MAIN) -> str:
        """Set how many requests of a class it may have at once."""
        self._told.limits[name, number] = limit
        return _told(lambda: self._api.set_limit(class_name(service, number), name, limit))

    def bound(self, service: str, number: int, bound: QueueBound) -> str:
        """Set what is done with the queue of a class."""
        self._told.bounds[service, number] = bound
        return _told(lambda: self._api.bound(service, number, bound))

    def assign(self, service: str, prefix: str, number: int) -> str:
        """Let requests below `prefix` queue as slow ones, or (MAIN) with all others again."""
        key, keys = learned_key(prefix), self._told.learned.get(service, ())
        if number == SLOW and key not in keys and len(keys) >= LEARNED_MAX:
            return f"{service} has {LEARNED_MAX} slow routes already"
        others = tuple(known for known in keys if known != key)

        def do() -> None:
            if number == SLOW:
                self._open_slow(service)
                self._api.assign(service, prefix)
            else:
                self._api.unassign(service, prefix)
            self._told.learned[service] = (*others, key) if number == SLOW else others

        return _told(do)

    def _open_slow(self, service: str) -> None:
        """The class of slow routes gets its replicas before its first route: nobody is sent where nobody answers."""
        stored = self._plan_stored.services if self._plan_stored else ()
        there = {state.name for state in self._api.replicas(class_name(service, SLOW))}
        for replica in (replica for known in stored if known.name == service for replica in known.replicas):
            if replica.enabled and replica.name not in there:
                limit = self._told.limits.setdefault((replica.name, SLOW), replica.limit)
                self._admit(service, SLOW, replace(replica, limit=limit))

    def _classes(self, service: str) -> tuple[str, ...]:
        declared = self._system.services.get(service) if self._system else None
        return tuple(class_name(service, number) for number in class_numbers(declared)) if declared else ()

    def remove(self, service: str, name: str) -> str:
        """Forget it; "busy" while its last connections close."""
        answer = ""

        def do() -> None:
            nonlocal answer
            answer = self._api.remove(service, name, self._classes(service))

        error = _told(do)
        if not error and answer != "busy":
            self._told.forget(name)
        return error or ("busy" if answer == "busy" else "")

    def keep_appending(self) -> None:
        """To be called before the access log is cut: HAProxy has dropped the flag that sends it to the new end."""
        with contextlib.suppress(HeadwayError):
            self._supervisor.keep_appending("edge")

    def traffic(self, now_s: float) -> Traffic:
        """What passed since the last call."""
        return self._meter.read(self._totals, now_s)


def _server(state: EdgeServerState) -> EdgeServer:
    return EdgeServer(admin=state.admin, is_up=state.operational == "up", sessions=state.in_flight, limit=state.limit)


def _told(do: Callable[[], None]) -> str:
    """Do it; the text of what went wrong, for the journal: the loop decides anew in the next tick."""
    try:
        do()
    except HeadwayError as error:
        return error.message
    return ""


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _changed_at(paths: list[Path]) -> tuple[float, ...]:
    found = []
    for path in paths:
        try:
            found.append(path.stat().st_mtime)
        except OSError:
            found.append(0.0)
    return tuple(found)
