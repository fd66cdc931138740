"""The supervisor: spawns, reaps, holds the listening sockets, restarts what died. It decides nothing else.

It is small so that it does not fail: standard library only, one thread, no timers while nothing is under way but the
one that watches the controller. That asks it over a unix socket (JSON lines, see `headway.process.supervisor_client`)
and may die and come back: its processes go on. One that stands still is killed, for nobody else would notice. In the
foreground everything ends with the supervisor; detached, everything outlives it, and the next supervisor adopts what
runs: processes by pid and start time, listening sockets from the controller, which keeps duplicates, else from the
edge itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.errors import HeadwayError
from headway.process import linux
from headway.process.adoption import Left, end_left, find_left, take_listeners
from headway.process.leftovers import Leftovers
from headway.process.listeners import close_listener, open_listener
from headway.process.record import write_record
from headway.process.silence import Silence
from headway.process.spec import FIRST_LISTENER_FD, FORMER_CONTROLLER, ProcessSpec
from headway.process.wire import Wire, WireClosed, serve

_RESTART_FIRST_S = 0.05  # an engine's own start is longer; doubles up to _RESTART_MAX_S while it keeps dying young
_RESTART_MAX_S = 5.0
_YOUNG_S = 10.0
_HANDOVER_S = 2.0  # how long an adopted controller may take to hand its listening sockets over
_FINISH_S = 3.0  # after SIGTERM to everything left, SIGKILL
_LEFTOVERS_S = 1.0  # for killed processes to be gone
_SILENT_MAX_S = 30.0  # a controller tells every few seconds that it turns; a turn may have to wait for an engine
_LAST_WORDS_S = 2.0  # for one that stands still to write down where, on a busy machine too


@dataclass(slots=True)
class _Child:
    name: str
    pid: int
    ticks: int
    spec: ProcessSpec | None
    pidfd: int | None  # watched for adopted processes only: our own are reaped
    started_s: float
    restart: bool
    restarts: int = 0
    status: int | None = None
    alive: bool = True
    stop_at_s: float | None = None  # SIGKILL then


@dataclass(slots=True)
class _Restart:
    spec: ProcessSpec
    at_s: float
    restarts: int


@dataclass(slots=True)
class Supervisor:
    """One system's supervisor; `run()` returns the exit status when everything has ended."""

    run_folder: Path
    controller: ProcessSpec
    detached: bool
    children: dict[str, _Child] = field(default_factory=dict)
    listeners: dict[str, socket.socket] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    restarts: dict[str, _Restart] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    leftovers: Leftovers = field(default_factory=Leftovers)
    silence: Silence = field(default_factory=lambda: Silence(_SILENT_MAX_S))
    stopping: bool = False
    finish_at_s: float | None = None
    _finished: bool = False
    _was_silent: bool = False
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    # -- life -------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until asked to finish; 0 after a clean end."""
        linux.become_subreaper()
        self._raise_descriptor_limit()
        self._watch_signals()
        listening = serve(str(self.run_folder / "supervisor.sock"))
        self._selector.register(listening, selectors.EVENT_READ, self._accept)
        self._adopt()
        self.environ = dict(os.environ)
        self._spawn(self.controller)
        while not self._finished:
            for key, _mask in self._selector.select(self._wait_s()):
                key.data(key.fileobj)
            self._timers()
        self.leftovers.kill_all(_LEFTOVERS_S)
        for wire in self.wires:
            wire.close()
        for sock in self.listeners.values():
            sock.close()
        listening.close()
        return 0

    def _raise_descriptor_limit(self) -> None:
        import resource

        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if os.geteuid() == 0:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 65536), max(hard, 65536)))
                return
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def _watch_signals(self) -> None:
        receive, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        self._selector.register(receive, selectors.EVENT_READ, self._signals)

    def _signals(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(fd, 4096)
            for number in numbers:
                if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    self._asked_to_stop()
        self._reap()

    def _asked_to_stop(self) -> None:
        if self.stopping:
            self._finish()  # asked twice: no more patience
            return
        self.stopping = True
        if self.wires:
            self._tell({"event": "stop"})
        else:
            self._finish()

    # -- processes --------------------------------------------------------------------------------------------------

    def _spawn(self, spec: ProcessSpec, restarts: int = 0, replaces: int | None = None) -> _Child:
        env = self._controller_environ(spec) if spec.name == "controller" else spec.env
        parent = os.getpid()
        detached = self.detached
        sources = [self.listeners[address].fileno() for address in spec.listeners]

        def between_fork_and_exec() -> None:
            if not detached:
                linux.set_death_signal(spec.death_signal)
                if os.getppid() != parent:
                    os._exit(1)

        for index, source in enumerate(sources):
            os.dup2(source, FIRST_LISTENER_FD + index, inheritable=False)
        handed_on = tuple(range(FIRST_LISTENER_FD, FIRST_LISTENER_FD + len(sources)))
        with (
            contextlib.ExitStack() as after,
            open("/dev/null", "rb") as nothing,
            open(spec.stdout, "ab", buffering=0) as out,
            open(spec.stderr, "ab", buffering=0) as err,
        ):
            for fd in handed_on:
                after.callback(os.close, fd)
            started = subprocess.Popen(
                [*spec.argv, *(() if replaces is None else (*spec.replace_argv, str(replaces)))],
                stdin=nothing,
                stdout=out,
                stderr=err,
                env=env,
                cwd=spec.cwd,
                user=spec.uid,
                group=spec.gid,
                extra_groups=[] if spec.uid is not None else None,
                start_new_session=True,
                pass_fds=handed_on,
                preexec_fn=between_fork_and_exec,
            )
        started.returncode = 0  # we reap ourselves: Popen must not
        child = _Child(
            spec.name,
            started.pid,
            linux.start_ticks(started.pid) or 0,
            spec,
            None,
            time.monotonic(),
            spec.restart,
            restarts,
        )
        self.children[spec.name] = child
        self._save()
        return child

    def _controller_environ(self, spec: ProcessSpec) -> dict[str, str]:
        self.silence.end(time.monotonic() + self.silence.limit_s)  # what it does first takes longer than any turn
        former = {FORMER_CONTROLLER: f"did nothing for {self.silence.limit_s:g} s"} if self._was_silent else {}
        self._was_silent = False
        return self.environ | spec.env | former

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self.children.values():
                if child.pid == pid and child.alive:
                    self._ended(child, os.waitstatus_to_exitcode(status))
                    break

    def _ended(self, child: _Child, status: int | None) -> None:
        child.alive, child.status, child.stop_at_s = False, status, None
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
            os.close(child.pidfd)
            child.pidfd = None
        # Of adopted processes only engines have a spec; an engine's own processes end by themselves.
        if child.spec is None or "HEADWAY_REPLICA" in child.spec.env:
            known = {other.pid for other in self.children.values() if other.alive}
            self.leftovers.end_of(child.name, child.pid, known)
        if child.restart and child.spec and not self.finish_at_s and not (self.stopping and child.name != "controller"):
            lived_s = time.monotonic() - child.started_s
            again = child.restarts + 1 if lived_s < _YOUNG_S else 1
            wait_s = min(_RESTART_FIRST_S * 2 ** (again - 1), _RESTART_MAX_S)
            self.restarts[child.name] = _Restart(child.spec, time.monotonic() + wait_s, again)
        self._save()
        self._tell({"event": "exit", "process": _state(child)})
        if self.finish_at_s and not any(other.alive for other in self.children.values()):
            self._finished = True
        elif child.name == "controller" and self.stopping:
            self._finish()

    def _signal(self, child: _Child, number: int) -> bool:
        return child.alive and linux.send_signal(child.pid, child.ticks, number)

    # -- time -------------------------------------------------------------------------------------------------------

    def _wait_s(self) -> float | None:
        moments = [restart.at_s for restart in self.restarts.values()]
        moments += [child.stop_at_s for child in self.children.values() if child.stop_at_s and child.alive]
        moments += self.leftovers.next_s()
        if self.finish_at_s:
            moments.append(self.finish_at_s)
        if self._watches_controller():
            moments.append(self.silence.next_s)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _watches_controller(self) -> bool:
        controller = self.children.get("controller")
        return controller is not None and controller.alive and controller.stop_at_s is None

    def _timers(self) -> None:
        now_s = time.monotonic()
        self.leftovers.kill_due(now_s)
        if self._watches_controller() and self.silence.is_too_long(now_s):
            self._replace_controller(now_s)
        for name, restart in list(self.restarts.items()):
            if restart.at_s <= now_s:
                del self.restarts[name]
                if self.finish_at_s:
                    continue
                try:
                    child = self._spawn(restart.spec, restart.restarts)
                except (OSError, KeyError) as error:
                    print(f"supervisor: {name} cannot be started again: {error}", file=sys.stderr, flush=True)
                    wait_s = min(_RESTART_FIRST_S * 2**restart.restarts, _RESTART_MAX_S)
                    self.restarts[name] = _Restart(restart.spec, now_s + wait_s, restart.restarts + 1)
                else:
                    self._tell({"event": "start", "process": _state(child)})
        for child in self.children.values():
            if child.alive and child.stop_at_s and child.stop_at_s <= now_s:
                child.stop_at_s = None
                self._signal(child, signal.SIGKILL)
        if self.finish_at_s and self.finish_at_s <= now_s:
            for child in self.children.values():
                self._signal(child, signal.SIGKILL)
            self.finish_at_s = now_s + _FINISH_S
            if not any(child.alive for child in self.children.values()):
                self._finished = True

    def _replace_controller(self, now_s: float) -> None:
        """It stands still: have it write down where, and kill it; another one is started as after any death."""
        print(f"supervisor: the controller did nothing for {self.silence.limit_s:g} s", file=sys.stderr, flush=True)
        controller = self.children["controller"]
        self._was_silent = True
        self.silence.end(now_s)
        self._signal(controller, signal.SIGUSR1)
        controller.stop_at_s = now_s + _LAST_WORDS_S

    def _finish(self) -> None:
        """End everything that is left, then ourselves."""
        if self.finish_at_s:
            for child in self.children.values():
                self._signal(child, signal.SIGKILL)
            return
        self.restarts.clear()
        patience_s = [child.spec.stop_timeout_s for child in self.children.values() if child.alive and child.spec]
        self.finish_at_s = time.monotonic() + max([_FINISH_S, *patience_s])
        for child in self.children.values():
            self._signal(child, child.spec.stop_signal if child.spec else signal.SIGTERM)
            self._signal(child, signal.SIGCONT)
        if not any(child.alive for child in self.children.values()):
            self._finished = True

    # -- adoption ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        living = [child for child in self.children.values() if child.alive]
        write_record(self.run_folder, self.detached, [(_state(child), child.spec) for child in living])

    def _adopt(self) -> None:
        """Take over what an earlier supervisor left running; without listening sockets it is of no use and ends."""
        found, was_detached = find_left(self.run_folder)
        if not found:
            return
        controller = next((process for process in found if process.name == "controller"), None)
        if not was_detached or not self._take_listeners(found, controller):
            end_left(found, _FINISH_S)
            return
        if controller:
            end_left([controller], _FINISH_S)  # the new one adopts; the old one may be of an older version
        for process in found:
            if process.name != "controller":
                self._adopt_process(process)

    def _adopt_process(self, left: Left) -> None:
        pidfd = linux.open_pidfd(left.pid)
        if pidfd is None:
            return
        spec = left.spec
        child = _Child(left.name, left.pid, left.ticks, spec, pidfd, time.monotonic(), bool(spec and spec.restart))
        self.children[child.name] = child
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _fd, gone=child: self._ended(gone, None))

    def _take_listeners(self, found: list[Left], controller: Left | None) -> bool:
        if controller and self._await_handover():
            return True
        taken = take_listeners(found)
        self.listeners |= taken
        return bool(taken) or not any(process.addresses for process in found)

    def _await_handover(self) -> bool:
        until_s = time.monotonic() + _HANDOVER_S
        while time.monotonic() < until_s and not self.listeners:
            for key, _mask in self._selector.select(0.1):
                key.data(key.fileobj)
        return bool(self.listeners)

    # -- conversation -----------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        sock, _address = listening.accept()
        sock.settimeout(2.0)
        wire = Wire(sock)
        self.wires.append(wire)
        self._selector.register(wire, selectors.EVENT_READ, self._converse)

    def _hang_up(self, wire: Wire) -> None:
        if wire in self.wires:
            self.wires.remove(wire)
            self._selector.unregister(wire)
            wire.close()

    def _tell(self, event: dict[str, Any]) -> None:
        for wire in list(self.wires):
            try:
                wire.send(event)
            except WireClosed:
                self._hang_up(wire)

    def _converse(self, wire: Wire) -> None:
        try:
            for message, fds in wire.receive():
                if message["do"] == "turn":  # each hears from the other that it is there, and neither waits for it
                    self.silence.end(time.monotonic())
                    wire.send({"event": "turn"})
                    continue
                reply, gives = self._answer(message, fds)
                wire.send({"reply": message.get("id"), **reply}, gives)
        except (WireClosed, ValueError):
            self._hang_up(wire)

    def _answer(self, message: dict[str, Any], fds: list[int]) -> tuple[dict[str, Any], list[int]]:
        try:
            match message["do"]:
                case "spawn":
                    return self._answer_spawn(message), []
                case "signal" | "stop":
                    return self._answer_signal(message), []
                case "processes":
                    return {"processes": [_state(child) for child in self.children.values()]}, []
                case "forget":
                    child = self.children.get(message["name"])
                    if child and not child.alive:
                        del self.children[message["name"]]
                    return {}, []
                case "listen":
                    address = message["address"]
                    if address not in self.listeners:
                        self.listeners[address] = open_listener(address)
                    return {"addresses": [address]}, [self.listeners[address].fileno()]
                case "unlisten":
                    sock = self.listeners.pop(message["address"], None)
                    if sock:
                        close_listener(message["address"], sock)
                    return {}, []
                case "hand over":  # a controller that outlived our predecessor gives the sockets back
                    for address, fd in zip(message["addresses"], fds, strict=True):
                        if address in self.listeners:
                            os.close(fd)
                        else:
                            self.listeners[address] = socket.socket(fileno=fd)
                    return {}, []
                case "environ":
                    self.environ |= message["set"]
                    return {}, []
                case "append":
                    child = self.children.get(message["name"])
                    for fd in (linux.duplicate_descriptors(child.pid, [1]) if child and child.alive else None) or ():
                        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
                        os.close(fd)
                    return {}, []
                case "finish":
                    self.stopping = True
                    self._finish()
                    return {}, []
                case other:
                    return {"error": f"unknown request {other!r}", "hint": ""}, []
        except HeadwayError as error:
            return {"error": error.message, "hint": error.hint}, []
        except OSError as error:
            return {"error": f"{error.filename or message.get('do')}: {error.strerror}", "hint": ""}, []
        except subprocess.SubprocessError as error:
            return {"error": str(error), "hint": ""}, []

    def _answer_spawn(self, message: dict[str, Any]) -> dict[str, Any]:
        spec = ProcessSpec.from_json(message["spec"])
        old, replaces = self.children.get(spec.name), None
        if old and old.alive:
            if not message.get("replaces"):
                return {"error": f"{spec.name} runs already", "hint": ""}
            # A hitless replacement: the old one ends by itself when the new one tells it to.
            old.restart = False
            replaces = old.pid
            old.name = f"{spec.name}.{old.pid}"
            self.children[old.name] = old
        self.restarts.pop(spec.name, None)
        return {"process": _state(self._spawn(spec, replaces=replaces))}

    def _answer_signal(self, message: dict[str, Any]) -> dict[str, Any]:
        self.restarts.pop(message["name"], None) if message["do"] == "stop" else None
        child = self.children.get(message["name"])
        if child is None or not child.alive:
            return {"sent": False}
        if message["do"] == "stop":
            child.restart = False
            child.stop_at_s = time.monotonic() + message["timeout_s"]
        return {"sent": self._signal(child, message["signal"])}


def _state(child: _Child) -> dict[str, Any]:
    return {
        "name": child.name,
        "pid": child.pid,
        "ticks": child.ticks,
        "alive": child.alive,
        "status": child.status,
        "restarts": child.restarts,
    }


def main() -> int:
    """`python -m headway.process.supervisor SETTINGS.json`: hold the lock, supervise, tidy up."""
    from headway.process.folders import Folders, remove_run

    settings = json.loads(Path(sys.argv[1]).read_text())
    folders = Folders(Path(settings["state"]), Path(settings["run"]))
    lock = open(folders.state / "lock", "w")  # noqa: SIM115  held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("supervisor: another one holds this state folder", file=sys.stderr)
        return 3
    if not settings["detached"]:
        linux.set_death_signal(signal.SIGTERM)
    status = Supervisor(folders.run, ProcessSpec.from_json(settings["controller"]), settings["detached"]).run()
    remove_run(folders)
    return status


if __name__ == "__main__":
    sys.exit(main())
