"""Starts a system: spawns the supervisor with what it and the controller need, and waits until all is ready."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.control.client import ControlClient
from headway.control.stored import Applied, Store
from headway.errors import AppError, Conflict, EngineError, HeadwayError, MachineError, NotRunning
from headway.process.detach import Started, spawn_supervisor
from headway.process.folders import Folders, create, folders_for
from headway.process.linux import send_signal
from headway.process.record import read_record, supervisor_runs
from headway.process.spec import ProcessSpec

if TYPE_CHECKING:
    from headway.declaration.load import Loaded

_POLL_S = 0.05
_SUPERVISOR_S = 60.0  # of a controller that never answers; it takes a second, on a busy machine ten
_CONTROLLER_S = 60.0
_STOP_ANSWER_S = 15.0  # on a busy machine a turn of the loop takes seconds; who is passed over, drains nobody
_LOCKED_STATUS = 3  # the supervisor's, when another one holds the state folder


@dataclass(frozen=True, slots=True)
class System:
    """A system on this machine as a command sees it."""

    folders: Folders
    client: ControlClient


def system_of(state: str | None, root: Path) -> System:
    """The system whose state is in `state`, by default beside the declaration."""
    folders = folders_for(Path(state) if state else root / ".headway")
    return System(folders, ControlClient(folders))


@contextlib.contextmanager
def only_start(system: System) -> Iterator[None]:
    """One `headway up` at a time starts the system of a state folder; Conflict for the second.

    Without it the second would write its own declaration and settings below the supervisor of the first.
    """
    create(system.folders)
    path = system.folders.state / "start.lock"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(f"{path} cannot be written: {error.strerror}", hint="headway doctor") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(
                "another headway up is starting this system", hint="wait for it: headway status --watch"
            ) from error
        yield
    finally:
        os.close(fd)


def start(system: System, loaded: Loaded, *, detached: bool, reload: bool, keep_applied: bool) -> Started:
    """Spawn the supervisor, which starts everything else. MachineError when the folders cannot be made.

    `keep_applied`: processes of an earlier one are adopted as they are; a new declaration is applied after that.
    """
    folders = system.folders
    create(folders)
    store = Store(folders.state, folders.run)
    former = store.load_applied()
    if former is None or not keep_applied:
        generation = former.generation if former else 0
        store.save_applied(Applied(loaded.system, str(loaded.root), loaded.source, generation))
    if store.load_applied() is None:
        raise MachineError(
            f"the state folder {folders.state} cannot be written", hint="headway doctor; or another: --state DIR"
        )
    return _spawn(folders, detached=detached, reload=reload)


def adopt(system: System) -> Started:
    """Spawn a supervisor for what a detached system's dead one left running, and wait until it has adopted it."""
    create(system.folders)
    started = _spawn(system.folders, detached=True, reload=False)
    await_controller(system, started)
    return started


def _spawn(folders: Folders, *, detached: bool, reload: bool) -> Started:
    common = {"state": str(folders.state), "run": str(folders.run), "detached": detached}
    control = folders.run / "control.json"
    _write(control, {**common, "reload": reload})
    controller = ProcessSpec(
        name="controller",
        argv=(sys.executable, "-m", "headway.control", str(control)),
        stdout=str(folders.logs / "controller.log"),
        stderr=str(folders.logs / "controller.log"),
        cwd="/",
        restart=True,
    )
    settings = folders.run / "supervisor.json"
    _write(settings, {**common, "controller": controller.to_json()})
    return spawn_supervisor(str(settings), str(folders.logs / "supervisor.log"), detached=detached)


def watches_source(system: System) -> bool:
    """Whether what runs was started with `--reload`."""
    try:
        return bool(json.loads((system.folders.run / "control.json").read_text())["reload"])
    except (OSError, ValueError, KeyError):
        return False


def _write(path: Path, data: dict[str, Any]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(data, file)


def await_ready(
    system: System,
    started: Started,
    *,
    on_status: Callable[[dict[str, Any]], None],
    patience_s: float,
    is_interrupted: Callable[[], bool],
) -> dict[str, Any]:
    """Wait until everything is ready; the status document. Raises what went wrong, after everything was stopped.

    When the user interrupts, the last document is given as it is.
    """
    until_s = time.monotonic() + patience_s
    answered = False
    while time.monotonic() < until_s:
        status = started.poll()
        if status is not None:
            if is_interrupted():
                raise HeadwayError("interrupted before it was ready", hint="headway up")
            if answered and status == 0:
                raise HeadwayError("stopped before it was ready, from elsewhere", hint="headway up")
            raise _ended(system, status)
        try:
            document = system.client.status()
        except NotRunning:
            if not answered and time.monotonic() > until_s - patience_s + _SUPERVISOR_S:
                patience_s = _SUPERVISOR_S
                break
            time.sleep(_POLL_S)
            continue
        except HeadwayError:
            answered = True  # it is there, and has more to do than to answer
            time.sleep(_POLL_S)
            continue
        answered = True
        on_status(document)
        if document["state"] == "ready" or _serves(document) or is_interrupted():
            return document
        if document["failure"]:
            stop_and_wait(system, started, 20.0)
            failure = document["failure"]
            raise AppError(failure["message"], hint=failure["hint"], detail=failure["detail"])
        time.sleep(_POLL_S)
    stop_and_wait(system, started, 20.0)
    raise HeadwayError(
        f"not ready after {patience_s:.0f} s", hint=f"look into the logs in {system.folders.logs}, or: headway explain"
    )


def _serves(document: dict[str, Any]) -> bool:
    """Whether all is up except servers of a database of several: who waits for those waits in vain."""
    states = {database["state"] for database in document["databases"].values()}
    services = document["services"].values()
    return (
        document["state"] == "degraded"
        and document["edge"]["state"] == "ready"
        and states <= {"ready", "degraded"}
        and all(service["ready"] >= service["wanted"] for service in services)
    )


def _ended(system: System, status: int) -> HeadwayError:
    tail = ""
    for name in ("supervisor.log", "controller.log"):
        try:
            tail += (system.folders.logs / name).read_text(errors="replace")[-2000:]
        except OSError:
            continue
    if status == _LOCKED_STATUS:
        return Conflict(
            f"another supervisor holds the state folder {system.folders.state}",
            hint="headway status; or start beside it: headway up --state DIR",
        )
    lines = [line for line in tail.splitlines() if line.startswith(("error:", "supervisor:"))]
    what = lines[-1].removeprefix("error: ") if lines else f"status {status}"
    return EngineError(f"the supervisor ended: {what}", hint=f"its log is {system.folders.logs / 'supervisor.log'}")


def await_controller(system: System, started: Started) -> None:
    """Wait until the controller of a supervisor just spawned answers. Conflict or EngineError when it does not come."""
    until_s = time.monotonic() + _CONTROLLER_S
    while time.monotonic() < until_s:
        status = started.poll()
        if status is not None:
            raise _ended(system, status)
        with contextlib.suppress(HeadwayError):
            document = system.client.status()
            if document["supervisor"] == "ready" and _is_controller_of(system, started, document):
                return
        time.sleep(_POLL_S)
    raise EngineError("the controller did not start", hint="headway logs controller")


def _is_controller_of(system: System, started: Started, document: dict[str, Any]) -> bool:
    """Whether the new supervisor's own controller has answered: a former one hands over to it, and ends."""
    record = read_record(system.folders)
    if record is None or record["supervisor"]["pid"] != started.pid:
        return False
    return any(
        entry["name"] == "controller" and entry["pid"] == document["controller"]["pid"] for entry in record["processes"]
    )


def stop_and_wait(system: System, started: Started | None, patience_s: float) -> bool:
    """Ask for an orderly stop and wait for its end; False when it takes longer than `patience_s`.

    A controller that does not answer is passed over: its supervisor ends everything that it started.
    """
    record = read_record(system.folders)
    try:
        system.client.ask("POST", "/stop", {}, timeout_s=_STOP_ANSWER_S)
    except HeadwayError:
        if started is not None:
            started.terminate()
        elif record is not None and supervisor_runs(record):
            supervisor = record["supervisor"]
            send_signal(supervisor["pid"], supervisor["ticks"], signal.SIGTERM)
            time.sleep(_POLL_S)
            # Another one: of the same, a supervisor that stands still for that moment would see one alone.
            send_signal(supervisor["pid"], supervisor["ticks"], signal.SIGINT)
        else:
            raise
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        if started.poll() is not None if started is not None else not supervisor_runs(record):
            return True
        time.sleep(_POLL_S)
    return False
