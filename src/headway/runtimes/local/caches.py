"""The caches of a system: embedded servers brought up through the supervisor, others reached by their URL.

A cache may be away at any time, and apps go on without it; so services wait for one only until it is known how it is:
it answers, or it is elsewhere and does not. One that cannot be a cache is refused, as any mistake in the declaration.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headway.caching.asking import Asking, Refused, Unanswered, check_server
from headway.caching.contents import server_told
from headway.caching.place import Place, access, prefix_of
from headway.caching.settings import MEMORY_BYTES
from headway.caching.valkey import STOP_SIGNAL, STOP_TIMEOUT_S, Server, place_in, prepare, set_memory_max
from headway.errors import EngineError, HeadwayError, MachineError
from headway.model.units import format_bytes
from headway.process.folders import Folders
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.engine_process import as_told, engine_spec, log_tail, pid_of, watched
from headway.runtimes.local.processes import Spawn, Tell

_LOOK_EVERY_S = 1.0
_WATCH_EVERY_S = 0.1  # is its process the same: costs next to nothing, and a quick restart is not overlooked
_ASK_TIMEOUT_S = 1.0
# Silence for so long is no burst any more: no command of ours takes the server longer than a few milliseconds.
_HANGS_AFTER_S = 3.0
_RETRY_EVERY_S = 2.0
_START_S = 10.0
_STARTS_MAX = 3
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WantedCache:
    """A cache as declared, its references resolved. Holds the password."""

    name: str
    system: str
    place: Place | None  # None: an embedded server
    memory_max_bytes: int = MEMORY_BYTES
    near_max_bytes: int = 32 * 2**20
    timeout_s: float = 0.1

    @property
    def prefix(self) -> str:
        return prefix_of(self.system, self.name)


@dataclass(slots=True)
class Cache:
    """One cache on its way up, and its health after that. Read by the loop's thread, written by its own."""

    wanted: WantedCache
    folders: Folders
    supervisor: SupervisorClient
    spawn: Spawn
    tell: Tell
    is_alive: Callable[[str], ProcessState | None]
    state: Literal["starting", "ready", "down", "failed", "stopping"] = "starting"
    ready_once: bool = False
    is_settled: bool = False  # whether services that use it may start
    error: HeadwayError | None = None
    server: Server | None = None
    told: Mapping[str, Any] = field(default_factory=dict)  # what the server said of itself at the last look
    _memory_bytes: int = 0  # the bound in force
    _full_pid: int | None = None  # the process that was told to be full
    _stop: threading.Event = field(default_factory=threading.Event)
    _spawning: threading.Lock = field(default_factory=threading.Lock)

    @property
    def process(self) -> str:
        """Its process's name at the supervisor."""
        return f"cache.{self.wanted.name}"

    @property
    def place(self) -> Place:
        """Where its server is, whether it runs or not."""
        return self.wanted.place or place_in(self.folders.caches, self.wanted.name)

    def access(self) -> dict[str, object]:
        """What the app is told of it. Holds the password."""
        wanted = self.wanted
        return access(self.place, wanted.prefix, wanted.near_max_bytes, wanted.timeout_s)

    def start(self) -> None:
        """Begin bringing it up, in its own thread."""
        threading.Thread(target=self._live, name=self.process, daemon=True).start()

    def adapt(self, wanted: WantedCache) -> bool:
        """Go on as another declaration has it; False where that is another server."""
        if wanted.place != self.wanted.place:
            return False
        self.wanted = wanted  # the watching thread sees to the memory
        return True

    def stop(self) -> None:
        """End the server; what it held is forgotten."""
        with self._spawning:  # what is just being started is stopped, and nothing is started after it
            self._stop.set()
            self.state = "stopping"
        if self.wanted.place is None:
            with contextlib.suppress(HeadwayError):
                self.supervisor.stop(self.process, STOP_SIGNAL, STOP_TIMEOUT_S)

    def leave(self) -> None:
        """Stop looking; the server goes on."""
        self._stop.set()

    # -- its thread ---------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        while not self._stop.is_set():
            try:
                self._bring_up()
                break
            except Unanswered as error:
                self._away(error)
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

    def _away(self, error: HeadwayError) -> None:
        """Not there, or not any more: nobody waits for it."""
        if self.state == "stopping":
            return
        if self.state != "down":
            self.tell(self.process, "down", f"{error.message}; apps go on without it", "warning")
        self.error, self.state, self.is_settled = None, "down", True

    def _bring_up(self) -> None:
        wanted = self.wanted
        if wanted.place is not None:
            try:
                check_server(wanted.place, wanted.prefix)
            except Unanswered:
                raise
            except EngineError as error:
                raise EngineError(f"caches.{wanted.name}: {error.message}", hint=error.hint) from error
        else:
            self._bring_up_embedded()
        self._look()
        if self.state != "ready":
            raise Unanswered(f"{self.place.shown} does not answer")

    def _bring_up_embedded(self) -> None:
        wanted = self.wanted
        try:
            server = prepare(self.folders.caches, wanted.name, wanted.memory_max_bytes)
        except EngineError as error:
            raise EngineError(f"caches.{wanted.name}: {error.message}", hint=error.hint) from error
        with self._spawning:
            known = self.is_alive(self.process)
            adopted = known is not None and known.alive
            if self._stop.is_set():
                return  # no longer declared meanwhile: nobody would end it
            if not adopted:
                self.spawn(self._spec(server))
            self.server = server
        # One that is adopted may have been started with another bound.
        self._memory_bytes = 0 if adopted else wanted.memory_max_bytes
        until_s = time.monotonic() + _START_S
        while not self._stop.is_set():
            try:
                with Asking(server.place, _ASK_TIMEOUT_S):
                    return
            except Unanswered:
                state = self.is_alive(self.process)
                is_gone = state is not None and not state.alive
                if is_gone and adopted:  # it was ending already, for a declaration before this one
                    with self._spawning:
                        if self._stop.is_set():
                            return
                        self.spawn(self._spec(server))
                    adopted, self._memory_bytes = False, wanted.memory_max_bytes
                elif is_gone and state is not None and state.restarts >= _STARTS_MAX:
                    raise self._ended() from None
                elif time.monotonic() >= until_s or adopted:
                    return  # it runs and is silent: the watch deals with that
            self._stop.wait(0.01)

    def _ended(self) -> EngineError:
        with contextlib.suppress(HeadwayError):
            self.supervisor.stop(self.process, STOP_SIGNAL, STOP_TIMEOUT_S)
        lines = log_tail(self.folders.logs, self.process, _TAIL_BYTES).strip().splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return EngineError(
            f"caches.{self.wanted.name}: Valkey ended at its start: {said.strip()}", hint=f"headway logs {self.process}"
        )

    def _watch(self) -> None:
        """Look at it now and then, and at once when its process has changed or while it is away."""
        pid, look_at_s = self._pid(), 0.0
        # Counted from the first look without an answer, so that a controller that stood still itself kills nobody.
        silent_since_s: float | None = None
        while not self._stop.wait(_WATCH_EVERY_S):
            before, pid = pid, self._pid()
            if pid != before:
                silent_since_s = None
            elif self.state == "ready" and self._is_bounded and time.monotonic() < look_at_s:
                continue
            was_ready, began_s = self.state == "ready", time.monotonic()
            self._look()
            look_at_s = time.monotonic() + _LOOK_EVERY_S
            if self.state == "ready":
                silent_since_s = None
                if was_ready and pid != before:
                    told = "its process had ended; another one answers already, empty"
                    self.tell(self.process, "restarted", told, "warning")
                continue
            silent_since_s = began_s if silent_since_s is None else silent_since_s
            if pid is not None and time.monotonic() - silent_since_s >= _HANGS_AFTER_S:
                self._replace()
                silent_since_s = None

    def _replace(self) -> None:
        """Kill one that hangs; the supervisor starts it again at once."""
        self.tell(self.process, "replaced", f"silent for {_HANGS_AFTER_S:g} s: killed and started anew", "warning")
        with contextlib.suppress(HeadwayError):
            self.supervisor.signal(self.process, signal.SIGKILL)

    def _look(self) -> None:
        try:
            self._bound()
            with Asking(self.place, _ASK_TIMEOUT_S) as asking:
                self.told = server_told(asking.info())
        except HeadwayError as error:
            self._away(error)
            return
        if self.state == "stopping":
            return
        if self.state != "ready":
            told = f"answers at {self.place.shown}" if not self.ready_once else "answers again"
            self.tell(self.process, "ready", told, "note")
        self.error, self.state, self.ready_once, self.is_settled = None, "ready", True, True
        self._tell_full()

    @property
    def _is_bounded(self) -> bool:
        """Whether the declared bound of memory is in force."""
        return self.server is None or self._memory_bytes == self.wanted.memory_max_bytes

    def _bound(self) -> None:
        """Put the declared bound of memory in force, where it is another one."""
        wanted_bytes = self.wanted.memory_max_bytes
        if self.server is not None and not self._is_bounded:
            try:
                set_memory_max(self.server, wanted_bytes)
                if self._memory_bytes:
                    self.tell(self.process, "memory", f"{format_bytes(wanted_bytes)} at most from now on", "note")
            except (MachineError, Refused) as error:  # no silence, and no use in trying again ten times a second
                self.tell(self.process, "memory not changed", error.message, "warning")
            self._memory_bytes = wanted_bytes

    def _tell_full(self) -> None:
        """Once for each process: it began to evict."""
        pid = self._pid()
        if self.told.get("evicted") and pid != self._full_pid:
            self._full_pid = pid
            told = f"full at {format_bytes(self._memory_bytes)}: what was used least lately goes"
            self.tell(self.process, "full", told if self.server else "full: keys are evicted", "note")

    def _pid(self) -> int | None:
        return pid_of(self.is_alive(self.process))

    def _spec(self, server: Server) -> ProcessSpec:
        return engine_spec(
            self.process,
            self.folders.logs,
            argv=server.argv,
            env=server.env,
            identity=server.identity,
            stop_signal=STOP_SIGNAL,
            stop_timeout_s=STOP_TIMEOUT_S,
        )


@dataclass(slots=True)
class Caches:
    """All caches of a system."""

    folders: Folders
    supervisor: SupervisorClient
    spawn: Spawn
    tell: Tell
    is_alive: Callable[[str], ProcessState | None]
    held: dict[str, Cache] = field(default_factory=dict)

    def want(self, wanted: Mapping[str, WantedCache]) -> None:
        """Bring up what is new, stop what is no longer declared; another bound is no new cache, another server is."""
        for name in list(self.held):
            declared = wanted.get(name)
            if declared is None or not self.held[name].adapt(declared):
                self.held.pop(name).stop()
        for name, declared in wanted.items():
            if name not in self.held:
                self.held[name] = Cache(declared, self.folders, self.supervisor, self.spawn, self.tell, self.is_alive)
                self.held[name].start()

    @property
    def settled(self) -> frozenset[str]:
        """Those of which it is known how they are: who waited for them may start."""
        return frozenset(name for name, cache in self.held.items() if cache.is_settled)

    def fields(self) -> dict[str, dict[str, str]]:
        """What references can name, by cache. Holds passwords."""
        return {name: {"url": cache.place.url} for name, cache in list(self.held.items()) if not cache.place.sentinels}

    def access(self) -> dict[str, dict[str, object]]:
        """What apps are told, by cache. Holds passwords."""
        return {name: cache.access() for name, cache in list(self.held.items())}

    def find(self, name: str) -> Cache:
        """A cache by its name; HeadwayError with those that there are."""
        cache = self.held.get(name)
        if cache is None:
            known = ", ".join(self.held)
            hint = f"There is: {known}." if known else "Declare one: [caches.hot]"
            raise HeadwayError(f"there is no cache {name!r}", hint=hint)
        return cache

    def stop(self) -> None:
        """End all embedded servers."""
        for cache in self.held.values():
            cache.stop()

    @property
    def stopped(self) -> bool:
        """Whether no embedded server runs any more."""
        states = (self.is_alive(cache.process) for cache in self.held.values())
        return not any(state is not None and state.alive for state in states)
