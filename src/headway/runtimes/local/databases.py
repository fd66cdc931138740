"""The databases of a system: embedded servers brought up through the supervisor, others reached by their URL.

Each has a thread that brings it up step by step and then looks at its health; a step that is killed is done again by
the next controller. Services that need a database wait until it is ready once; later outages are PostgreSQL's own
errors in the app, for stopping the app would help nobody.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headway.errors import EngineError, HeadwayError
from headway.process.folders import Folders
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.engine_process import as_told, engine_spec, log_tail, pid_of, watched
from headway.runtimes.local.processes import Spawn, Tell
from headway.sharding.app_role import AppRole, ensure_app_role
from headway.sharding.connection import RoleConnections, Uncounted, check_url_reachable, health, role_connections
from headway.sharding.engine import find_postgresql
from headway.sharding.failures import explain_failure
from headway.sharding.orphans import clear_stale_number, end_orphans
from headway.sharding.postgresql import (
    HOST,
    Server,
    ensure_database,
    prepare,
    server_health,
    spawn_arguments,
    wait_until_ready,
)
from headway.sharding.schema import apply_schema_once
from headway.sharding.url import url_fields, without_password

_HEALTH_EVERY_S = 1.0
_WATCH_EVERY_S = 0.2  # is its process the same: costs next to nothing, and a quick restart is not overlooked
_ORPHANS_EVERY_S = 1.0  # goes through the machine's processes
_COUNT_EVERY_S = 5.0  # each look is a login, which costs the server a process
_RETRY_EVERY_S = 2.0
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class WantedDatabase:
    """A database as declared, its references resolved."""

    name: str
    system: str
    url: str | None
    schema_file: str | None
    memory_bytes: int
    server_of: str | None = None  # the sharded database whose server this is
    app: AppRole | None = None  # who the app is to be on a server by URL
    active_max: int = 4

    @property
    def path(self) -> str:
        """Its place in the declaration."""
        if self.server_of is None:
            return f"databases.{self.name}"
        return f"databases.{self.server_of}.servers.{self.name.rpartition('.')[2]}"


@dataclass(slots=True)
class Database:
    """One database on its way up, and its health after that. Read by the loop's thread, written by its own."""

    wanted: WantedDatabase
    folders: Folders
    supervisor: SupervisorClient
    spawn: Spawn
    tell: Tell
    is_alive: Callable[[str], ProcessState | None]
    state: Literal["starting", "ready", "down", "failed", "stopping"] = "starting"
    fields: dict[str, str] = field(default_factory=dict)
    ready_once: bool = False
    error: HeadwayError | None = None
    server: Server | None = None
    is_counted: bool = False  # somebody wants to know its connections
    connections: RoleConnections | Uncounted = Uncounted.SOON  # at the last look
    _counted_at_s: float = 0.0
    _orphans_at_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _spawning: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    @property
    def process(self) -> str:
        """Its process's name at the supervisor."""
        return f"database.{self.wanted.name}"

    @property
    def shown_url(self) -> str:
        """Its URL without the password; empty while it is not known."""
        return without_password(self.fields["url"]) if self.fields else ""

    @property
    def counted(self) -> RoleConnections | Uncounted:
        """The connections that are open, or why they are not known."""
        return self.connections if self.state == "ready" else Uncounted.AWAY

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of its processes at the supervisor."""
        return (self.process,)

    def access(self) -> dict[str, object] | None:
        """What the app is told of it; None while it is not known. Holds the password."""
        if not self.fields:
            return None
        return {"kind": "plain", "url": self.fields["url"], "active_max": self.wanted.active_max}

    @property
    def served(self) -> tuple[tuple[str, str, str], ...]:
        """Name, state and URL without the password of its servers."""
        return ((self.wanted.name, self.state, self.shown_url),)

    def give_way(self, other: object) -> None:
        """Let another declaration take over: an embedded server goes on where only its schema file or bounds differ."""
        if isinstance(other, WantedDatabase) and self.wanted.url is None and other.url is None:
            self.leave()
        else:
            self.stop()

    def start(self) -> None:
        """Begin bringing it up, in its own thread."""
        self._thread = threading.Thread(target=self._live, name=self.process, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the server, cleanly; the data stays."""
        with self._spawning:  # what is just being started is stopped, and nothing is started after it
            self._stop.set()
            self.state = "stopping"
        if self.server is not None:
            arguments = spawn_arguments(self.server)
            with contextlib.suppress(HeadwayError):
                self.supervisor.stop(self.process, arguments.stop_signal, arguments.stop_timeout_s)

    def leave(self) -> None:
        """Stop looking; the server goes on."""
        self._stop.set()

    def _live(self) -> None:
        while not self._stop.is_set():
            try:
                self._bring_up()
                break
            except Exception as raised:
                if self._stop.is_set():
                    break
                found = as_told(raised)
                if self.error is None or self.error.message != found.message:
                    self.tell(self.process, "failed", found.message, "warning")
                self.error, self.state = found, "failed"
            self._stop.wait(_RETRY_EVERY_S)
        watched(self._watch, self._stop, _RETRY_EVERY_S, self._not_watched)

    def _not_watched(self, error: HeadwayError) -> None:
        self.tell(self.process, "look failed", error.message, "warning")

    def _watch(self) -> None:
        """Look at its health now and then, and at once when its process has changed or while it is away."""
        pid, look_at_s = self._pid(), 0.0
        while not self._stop.wait(_WATCH_EVERY_S):
            before, pid = pid, self._pid()
            if pid == before and self.state == "ready" and time.monotonic() < look_at_s:
                continue
            was_ready = self.state == "ready"
            self._end_orphans()
            self._look()
            self._count()
            look_at_s = time.monotonic() + _HEALTH_EVERY_S
            if was_ready and self.state == "ready" and pid != before:
                self.tell(self.process, "restarted", "its process had ended; another one answers already", "warning")

    def _end_orphans(self) -> None:
        """After a kill: what has lost its server keeps the next one from starting."""
        now_s = time.monotonic()
        if self.server is None or (self.state == "ready" and self._pid() is not None):
            return
        if now_s - self._orphans_at_s >= _ORPHANS_EVERY_S:
            self._orphans_at_s = now_s
            clear_stale_number(self.server.data_folder)
            if ended := end_orphans(self.server.data_folder):
                told = f"{len(ended)} of the killed server's processes did not end by themselves, and were killed"
                self.tell(self.process, "orphans", told, "note")

    def _count(self) -> None:
        """How many connections the app holds, where that matters: a number of replicas must not use them up."""
        now_s = time.monotonic()
        if not self.is_counted or self.state != "ready":
            self.connections, self._counted_at_s = Uncounted.SOON, 0.0  # back again it is counted at once
        elif now_s - self._counted_at_s >= _COUNT_EVERY_S:
            self._counted_at_s = now_s
            self.connections = role_connections(self.fields["url"])

    def _pid(self) -> int | None:
        return pid_of(self.is_alive(self.process))

    def _bring_up(self) -> None:
        wanted = self.wanted
        if wanted.url is not None:
            check_url_reachable(wanted.url, path=wanted.path if wanted.server_of else f"{wanted.path}.url")
            self.fields = url_fields(self._app_url(wanted.url) if wanted.server_of else wanted.url)
            url = wanted.url
        else:
            embedded = self._bring_up_embedded()
            if embedded is None:
                return
            url = embedded
        if wanted.schema_file is not None:
            engine = self.server.engine if self.server else find_postgresql()
            outcome = apply_schema_once(url, Path(wanted.schema_file), engine, path=wanted.path)
            if outcome.state == "applied":
                self.tell(self.process, "schema", f"applied {wanted.schema_file} {outcome.note}".strip(), "note")
            elif outcome.state == "changed":
                self.tell(self.process, "schema", outcome.note, "warning")
        if self.state == "stopping":
            return
        self.error, self.state, self.ready_once = None, "ready", True
        self.tell(self.process, "ready", f"answers at {self.shown_url}", "note")

    def _app_url(self, url: str) -> str:
        """By which the app gets to a server of shards."""
        way = ensure_app_role(url, self.wanted.app, self.wanted.path)
        if way.why:
            told = f"the app logs in as the owner of the tables, who may change them: {way.why}"
            self.tell(self.process, "app's login", told, "warning")
        return way.url

    def _bring_up_embedded(self) -> str | None:
        """Its URL; None where it is not wanted any more before it was started."""
        wanted = self.wanted
        server = prepare(
            self.folders.state,
            self.folders.databases,
            system=wanted.system,
            name=wanted.name,
            database=wanted.server_of,
            memory_bytes=wanted.memory_bytes,
        )
        with self._spawning:
            if self._stop.is_set():
                return None
            known = self.is_alive(self.process)
            if server.running_pid is None and (known is None or not known.alive):
                self.spawn(self._spec(server))
            self.server = server
        try:
            wait_until_ready(server, is_alive=self._process_alive)
        except EngineError as error:
            if self._process_alive():
                raise
            with contextlib.suppress(HeadwayError):
                self.supervisor.stop(self.process, spawn_arguments(server).stop_signal, 5.0)
            message, hint = explain_failure(log_tail(self.folders.logs, self.process, _TAIL_BYTES))
            raise EngineError(f"{wanted.path}: {message}", hint=hint) from error
        ensure_database(server)
        self.fields = url_fields(server.url)
        return server.url

    def _process_alive(self) -> bool:
        state = self.is_alive(self.process)
        # A fresh spawn may not have reached the table yet; the supervisor restarts it, so few restarts are patience.
        return state is None or state.alive or state.restarts < 3

    def _spec(self, server: Server) -> ProcessSpec:
        arguments = spawn_arguments(server)
        return engine_spec(
            self.process,
            self.folders.logs,
            argv=arguments.argv,
            env=arguments.env,
            identity=arguments.identity,
            stop_signal=arguments.stop_signal,
            stop_timeout_s=arguments.stop_timeout_s,
            death_signal=arguments.stop_signal,
            cwd=arguments.cwd,
        )

    def _look(self) -> None:
        if self.server is not None:
            answer = server_health(self.server)
        else:
            answer = health(self.fields["host"] or HOST, int(self.fields["port"]), timeout_s=1.0)
        state: Literal["ready", "down"] = "ready" if answer.alive else "down"
        if state != self.state and self.state in ("ready", "down"):
            level = "note" if answer.alive else "warning"
            self.tell(self.process, state, answer.reason if not answer.alive else "answers again", level)
            self.state = state
