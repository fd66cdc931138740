"""Replicas as processes of this machine: starts them through the supervisor and reads what they tell of themselves."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.model.launch import Launch
from headway.model.observed import Failure, ReplicaObserved
from headway.model.overload import Counts
from headway.model.replica import Replica
from headway.process import linux
from headway.process.folders import Folders
from headway.process.identity import Identity
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient, SupervisorGone, SupervisorSilent
from headway.process.unix_http import UnixConnection
from headway.runtimes.local.counts import read_counts
from headway.worker import telemetry
from headway.worker.telemetry import Slot, Stage

ALIVE_ROUTE = "/-headway"
_OOM_SCORE_ADJ = 500  # a replica dies before an engine does
_STATIC_EXPIRES_S = 3600
_RSS_EVERY_S = 1.0
_RSS_EVERY_BUSY_S = 0.05  # limits follow what requests take: every tick
_BUSY_REQUESTS = 4
_SILENT_S = 1.0  # without a beat for so long: is it stopped by a signal?
_RECONNECT_EVERY_S = 0.25
_PROBE_S = 1.0
_COUNTS_KEPT_S = 1.0  # a worker that lost the processor in the middle of writing is not one that tells nothing
STOP_PATIENCE_S = 6.0
_GAP_S = 1.0
_REPLICA = re.compile(r"(?!database\.|edge\.)[a-z][a-z0-9_-]*\.[0-9]+")
_BOOT = str(Path(telemetry.__file__).with_name("boot.py"))
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FAMILY_MAX = 256  # processes of one command that are looked at
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

Spawn = Callable[[ProcessSpec], ProcessState]
Tell = Callable[[str, str, str, str], None]  # about, what, reason, level: a line for the journal


@dataclass(slots=True)
class _Seen:
    slots: memoryview | None = None
    counts: Counts | None = None
    rss_bytes: int = 0
    rss_at_s: float = 0.0
    is_busy: bool = False
    cpu_s: float = 0.0
    completed: int = -1
    answers: bool = False
    probe: Future[bool] | None = None
    probe_at_s: float = 0.0


@dataclass(slots=True)
class Processes:
    """All processes of one system, engines included, as the supervisor tells of them."""

    folders: Folders
    supervisor: SupervisorClient
    engine: Identity | None
    launches: Mapping[str, Launch] = field(default_factory=dict)
    table: dict[str, ProcessState] = field(default_factory=dict)
    unstartable: dict[str, Failure] = field(default_factory=dict)
    stop_asked: bool = False
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _caps: dict[str, int] = field(default_factory=dict)
    _probes: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "probe"))
    _reconnect_at_s: float = 0.0
    _observed_at_s: float = 0.0
    _looking_since_s: float = 0.0

    # -- the supervisor ---------------------------------------------------------------------------------------------

    @property
    def can_start(self) -> bool:
        """Whether somebody is there who can start processes."""
        return self.supervisor.connected and not self.supervisor.is_silent

    def refresh(self) -> None:
        """Take in what happened since the last tick; without a supervisor, look for ourselves and try to reconnect."""
        if self.supervisor.connected:
            try:
                for event in self.supervisor.poll():
                    self._take(event)
                return
            except SupervisorGone:
                pass
        for name, state in list(self.table.items()):  # threads that bring up databases add theirs
            if state.alive and not linux.is_same(state.pid, state.ticks):
                self.table[name] = ProcessState(name, state.pid, state.ticks, False, None, state.restarts)
        now_s = time.monotonic()
        if now_s >= self._reconnect_at_s:
            self._reconnect_at_s = now_s + _RECONNECT_EVERY_S
            with contextlib.suppress(SupervisorGone):
                self.supervisor.connect()
                self.table = self.supervisor.processes()

    def spawn(self, spec: ProcessSpec) -> ProcessState:
        """Start an engine; any thread may. Raises what the supervisor says."""
        state = self.supervisor.spawn(spec)
        self.table[spec.name] = state
        return state

    def table_entry(self, name: str) -> ProcessState | None:
        """What is known of one process; any thread may ask."""
        return self.table.get(name)

    def _take(self, event: dict[str, Any]) -> None:
        if event.get("event") == "stop":
            self.stop_asked = True
        elif "process" in event:
            state = ProcessState(**event["process"])
            known = self.table.get(state.name)
            if known is None or known.pid == state.pid or state.alive:
                self.table[state.name] = state

    # -- starting and ending ----------------------------------------------------------------------------------------

    def start(self, replica: Replica) -> str:
        """Start a replica's process; the text of an error when it cannot be."""
        launch = self.launches[replica.service]
        name = replica.name
        self._clear(name)
        try:
            spec = self._command(launch, name) if launch.kind == "command" else self._worker(launch, name)
            self.spawn(spec)
        except (SupervisorGone, SupervisorSilent) as error:
            return error.message  # no fault of the replica's, which may even run: the table will tell
        except HeadwayError as error:
            self.unstartable[name] = Failure("spawn", error.message, error.hint)
            return error.message
        except OSError as error:
            self.unstartable[name] = Failure("spawn", f"{error.filename}: {error.strerror}", "headway doctor")
            return str(error)
        return ""

    def end(self, name: str, how: str, patience_s: float = STOP_PATIENCE_S) -> str:
        """Ask a process to end and kill it after `patience_s`, or kill it at once."""
        try:
            if how == "kill":
                self.supervisor.stop(name, signal.SIGKILL, patience_s)
            else:
                self.supervisor.stop(name, signal.SIGTERM, patience_s)
                self.supervisor.signal(name, signal.SIGCONT)  # a stopped one cannot end
        except HeadwayError as error:
            return error.message
        return ""

    def forget(self, name: str) -> str:
        """Remove what an ended replica left."""
        self._clear(name)
        self._caps.pop(name, None)
        self.table.pop(name, None)
        with contextlib.suppress(HeadwayError):
            self.supervisor.forget(name)
        return ""

    def cap(self, name: str, cap: int) -> str:
        """Tell a worker how many requests it may hold, streams not counted; 0 = as many as come.

        It holds for the replica, whatever process it has: one that is started again is told before it serves. A worker
        from before an upgrade knows no cap, and goes at the next deploy.
        """
        self._caps[name] = max(0, cap)
        slots = self._slots(name)
        if slots is not None and telemetry.has_page(slots):
            slots[Slot.CAP] = self._caps[name]
        return ""

    def socket(self, name: str) -> str:
        """Path of a replica's socket."""
        return str(self.folders.replicas / f"{name}.sock")

    def log(self, name: str) -> str:
        """Path of a process's output."""
        return str(self.folders.logs / f"{name}.log")

    def _clear(self, name: str) -> None:
        self._seen.pop(name, None)
        self.unstartable.pop(name, None)
        for ending in ("sock", "tele", "json", "failure"):
            with contextlib.suppress(OSError):
                os.unlink(self.folders.replicas / f"{name}.{ending}")

    def _worker(self, launch: Launch, name: str) -> ProcessSpec:
        base = self.folders.replicas
        settings = {
            "target": launch.target,
            "folder": launch.folder,
            "interface": launch.interface,
            "threads": launch.threads,
            "socket": self.socket(name),
            "telemetry": str(base / f"{name}.tele"),
            "failure": str(base / f"{name}.failure"),
            "oom_score_adj": _OOM_SCORE_ADJ,
            "alive_route": ALIVE_ROUTE,
            "alive_folder": str(self.folders.alive),
            "static": launch.static,
            "static_expires_s": _STATIC_EXPIRES_S,
            "backlog": launch.backlog,
            # granian counts idle connections of the edge's pool as well: leave room for those
            "connections_max": launch.limit + launch.streams_max + 1024,
            "socket_uid": self.engine.uid if self.engine else None,
            "socket_gid": self.engine.gid if self.engine else None,
            "responses": launch.responses,
            "body_max_bytes": launch.body_max_bytes,
            "streams_max": launch.streams_max,
            "cancels": launch.cancels,
        }
        path = base / f"{name}.json"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(settings, file)
        return self._spec(launch, name, (launch.python, _BOOT, str(path)))

    def _command(self, launch: Launch, name: str) -> ProcessSpec:
        return self._spec(launch, name, launch.command)

    def _spec(self, launch: Launch, name: str, argv: tuple[str, ...]) -> ProcessSpec:
        env = (
            {"PYTHONUNBUFFERED": "1"}
            | dict(os.environ)
            | launch.env
            | {"HEADWAY_REPLICA": name, "HEADWAY_SERVICE": launch.service}
        )
        if launch.python:
            # `python`, `celery` and the like are the service's own, whether or not its environment is activated.
            env["PATH"] = f"{Path(launch.python).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        return ProcessSpec(
            name=name,
            argv=argv,
            env=env,
            cwd=launch.folder,
            stdout=self.log(name),
            stderr=self.log(name),
            death_signal=signal.SIGKILL if launch.kind == "app" else signal.SIGTERM,
        )

    # -- observing --------------------------------------------------------------------------------------------------

    def observe(self, replicas: Mapping[str, Replica]) -> dict[str, ReplicaObserved]:
        """What is seen of every replica that has or had a process."""
        found = {}
        now_s = time.monotonic()
        if now_s - self._observed_at_s > _GAP_S:
            # Nobody looked for a while (a new controller, a machine that paused): silence before now says nothing.
            self._looking_since_s = now_s
        self._observed_at_s = now_s
        # Processes of replicas that nobody remembers are shown as well: the loop adopts them.
        # A copy is looked through: threads that bring up databases add theirs.
        strays = {name for name in tuple(self.table) if name not in replicas and _REPLICA.fullmatch(name)}
        for name in (*replicas, *strays):
            state = self.table.get(name)
            # What a supervisor began that answered too late for us lives, though its start is taken for failed.
            if name in self.unstartable and not (state is not None and state.alive):
                found[name] = ReplicaObserved(0, False, None, failure=self.unstartable[name])
            elif state is not None:
                found[name] = self._observe(name, now_s)
        return found

    def _observe(self, name: str, now_s: float) -> ReplicaObserved:
        state = self.table[name]
        if not state.alive:
            return ReplicaObserved(state.pid, False, state.status, failure=self._failure(name))
        slots = self._slots(name)
        seen = self._seen[name]
        if now_s - seen.rss_at_s > (_RSS_EVERY_BUSY_S if seen.is_busy else _RSS_EVERY_S):
            seen.rss_at_s, seen.rss_bytes = now_s, _rss_bytes(state.pid)
            # A command may have its work done by children (Celery's prefork); of an app its own process is what counts.
            seen.cpu_s = _cpu_s(state.pid) if slots is not None else _family_cpu_s(state.pid)
        if slots is None:
            return ReplicaObserved(state.pid, True, rss_bytes=seen.rss_bytes, cpu_s=seen.cpu_s, cpu_at_s=seen.rss_at_s)
        seen.is_busy = slots[Slot.IN_FLIGHT] >= _BUSY_REQUESTS
        # At rest nothing changes, and reading it is the dearer half of looking at a replica.
        is_idle = seen.counts is not None and slots[Slot.IN_FLIGHT] == 0 and slots[Slot.COMPLETED] == seen.completed
        seen.completed = slots[Slot.COMPLETED]
        counts = seen.counts if is_idle else read_counts(slots)
        if counts is not None or (seen.counts is not None and now_s - seen.counts.at_s > _COUNTS_KEPT_S):
            seen.counts = counts
        now_ns = time.monotonic_ns()
        beat_age_s = (now_ns - slots[Slot.BEAT_NS]) / 1e9
        looking_s = now_s - self._looking_since_s
        stage = slots[Slot.STAGE]
        return ReplicaObserved(
            pid=state.pid,
            alive=True,
            serving=stage in (Stage.SERVING, Stage.STOPPING) and self._answers(name, seen, now_s),
            beat_age_s=min(looking_s, max(0.0, beat_age_s)),
            stopped=beat_age_s > _SILENT_S and _is_stopped(state.pid),
            loop_beat_age_s=min(looking_s, max(0.0, (now_ns - slots[Slot.LOOP_BEAT_NS]) / 1e9)),
            is_wsgi=bool(slots[Slot.IS_WSGI]),
            in_flight=slots[Slot.IN_FLIGHT],
            streams=slots[Slot.STREAMS],
            completed=slots[Slot.COMPLETED],
            rss_bytes=seen.rss_bytes,
            counts=seen.counts,
            cpu_s=seen.cpu_s,
            cpu_at_s=seen.rss_at_s,
        )

    def _slots(self, name: str) -> memoryview | None:
        seen = self._seen.setdefault(name, _Seen())
        if seen.slots is None:
            seen.slots = telemetry.attach(str(self.folders.replicas / f"{name}.tele"))
            if name in self._caps and seen.slots is not None and telemetry.has_page(seen.slots):
                seen.slots[Slot.CAP] = self._caps[name]
        return seen.slots

    def _failure(self, name: str) -> Failure | None:
        try:
            with open(self.folders.replicas / f"{name}.failure") as file:
                return Failure(**json.load(file))
        except (OSError, ValueError, TypeError):
            return None

    def _answers(self, name: str, seen: _Seen, now_s: float) -> bool:
        """Whether the worker's server (and the app's health path, if declared) has answered once since it started."""
        if seen.answers:
            return True
        if seen.probe is None:
            if now_s >= seen.probe_at_s:
                launch = self.launches.get(name.rpartition(".")[0])
                paths = [f"{ALIVE_ROUTE}/alive"] + ([launch.health] if launch and launch.health else [])
                seen.probe = self._probes.submit(_probe, self.socket(name), paths)
        elif seen.probe.done():
            seen.answers = seen.probe.result()
            seen.probe, seen.probe_at_s = None, now_s + 0.2
        return seen.answers

    def close(self) -> None:
        """Stop the threads that probe."""
        self._probes.shutdown(wait=False, cancel_futures=True)


def _probe(path: str, urls: list[str]) -> bool:
    for url in urls:
        connection = UnixConnection(path, _PROBE_S)
        try:
            connection.request("GET", url, headers={"Host": "headway", "Connection": "close"})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if not 200 <= status < 400:
            return False
    return True


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _cpu_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    except (OSError, IndexError):
        return 0.0


def _family_cpu_s(pid: int) -> float:
    """Processor time of a process and all that descend from it, those that have ended included."""
    total_s, left, known = 0.0, [pid], 0
    while left and known < _FAMILY_MAX:
        known += 1
        pid = left.pop()
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            total_s += sum(map(int, fields[11:15])) / _TICKS_PER_S
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    left += map(int, file.read().split())
        except (OSError, IndexError, ValueError):
            continue  # it has just ended; or the kernel does not tell of children
    return total_s


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
