"""Runs a whole system the way a user does, by the `headway` command, and leaves nothing behind whatever happens.

In the foreground everything hangs on one child, which gets SIGTERM when the test process dies. A detached system has a
guard process that takes it down when the test process is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.control.client import ControlClient
from headway.errors import HeadwayError
from headway.process.folders import Folders, folders_for, remove_run
from headway.process.linux import is_same, send_signal, start_ticks

HEADWAY = (sys.executable, "-m", "headway.cli.main")
# Of what takes a second or two: a busy machine may need many times that, and nothing is judged by it.
READY_S = 120.0
STOP_S = 120.0
_libc = ctypes.CDLL(None)
_ticks: dict[int, int] = {}  # by pid of a system's process that a test was told of, when that process started

_GUARD = """
import subprocess, sys
if not sys.stdin.read():
    subprocess.run([*sys.argv[2:], "down", "--state", sys.argv[1]], capture_output=True)
"""


def _own_ports() -> Iterator[int]:
    """Below those that the kernel gives to who asks for any, and for each process that runs tests others: a port that
    is free now must still be when the system that was given it has started."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    begin, first = 12_000 + _PORTS * worker, random.Random(os.getpid()).randrange(_PORTS)
    return itertools.cycle(begin + (first + number) % _PORTS for number in range(_PORTS))


_PORTS = 500  # of sixteen processes: from 20,000 on PostgreSQL has its own
_ports = _own_ports()
_ports_lock = threading.Lock()


def free_port() -> int:
    """A TCP port that nobody listens on right now, and that nobody else is given for a while."""
    for _ in range(_PORTS):
        with _ports_lock:
            port = next(_ports)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def on_a_terminal() -> None:
    """For `preexec_fn`: signals end it, whatever the one who started the tests ignores (nohup, a job of a shell)."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.02) -> Any:
    """The first true value of `condition`; AssertionError naming `what` when it does not come in time.

    What a system cannot be asked right now, as while its controller is started again, is not so yet.
    """
    until_s = time.monotonic() + timeout_s
    while True:
        why = ""
        try:
            if found := condition():
                return found
        except HeadwayError as error:
            why = f" ({error.message})"
        if time.monotonic() > until_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}{why}")
        time.sleep(every_s)


def whole_lines(path: Path) -> list[str]:
    """Of a file that is being written: without what is there of a line that has not ended."""
    return path.read_bytes().rpartition(b"\n")[0].decode().splitlines()


def die_with_parent() -> None:
    """For `preexec_fn`: SIGTERM when the test process dies."""
    _libc.prctl(1, signal.SIGTERM)


@dataclass
class Running:
    """A system under test in `folder`; a context manager."""

    folder: Path
    declaration: str
    detached: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    guard: subprocess.Popen[bytes] | None = None
    _known: set[int] = field(default_factory=set)

    def __enter__(self) -> Running:
        self.port = self.port or free_port()
        (self.folder / "headway.toml").write_text(self.declaration.replace("$PORT", str(self.port)))
        if self.detached:
            # Of a session of its own: what ends all of the test's process group must not end what cleans up after it.
            argv = [sys.executable, "-c", _GUARD, str(self.state), *HEADWAY]
            self.guard = subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=self.folder, start_new_session=True)
            self.up("--detach")
        else:
            self.start()
            try:
                self.wait_ready()
            except BaseException:
                self.__exit__()  # nobody else does where the block is not entered
                raise
        return self

    def __exit__(self, *_exc: object) -> None:
        try:
            self.stop()
            if self.guard is not None and self.guard.stdin is not None and not self.processes():
                self.guard.stdin.write(b"nothing runs any more")
        finally:
            if self.guard is not None and self.guard.stdin is not None:
                self.guard.stdin.close()
                self.guard.wait(STOP_S)
            self.kill_leftovers()
            remove_run(self.folders)  # where the supervisor was killed, nobody else does
            for pid in self._known:
                _ticks.pop(pid, None)  # it may be anybody's from now on

    # -- the command ------------------------------------------------------------------------------------------------

    @property
    def state(self) -> Path:
        return self.folder / ".headway"

    @property
    def folders(self) -> Folders:
        return folders_for(self.state)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environ(self) -> dict[str, str]:
        return {**os.environ, **self.env}

    def run(self, *arguments: str, timeout_s: float = READY_S) -> subprocess.CompletedProcess[str]:
        """One `headway` command in the system's folder."""
        return subprocess.run(
            [*HEADWAY, *arguments],
            cwd=self.folder,
            env=self.environ(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ok(self, *arguments: str, timeout_s: float = READY_S) -> str:
        """One command that must succeed; what it printed."""
        done = self.run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"headway {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *arguments: str) -> dict[str, Any]:
        """`headway up … --json`; the document it ends with."""
        document: dict[str, Any] = json.loads(self.ok("up", *self.arguments, *arguments, "--json").splitlines()[-1])
        return document

    def start(self) -> None:
        """`headway up` in the foreground, not awaited."""
        with open(self.folder / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [*HEADWAY, "up", *self.arguments],
                cwd=self.folder,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def output(self) -> str:
        return (self.folder / "up.log").read_text()

    def stop(self) -> None:
        """Stop it as its user would: Ctrl-C in the foreground, `down` when detached."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGINT)
                try:
                    self.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    raise
            self.process = None
        elif self.detached and self.processes():
            self.run("down")

    # -- looking ----------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The status document, as `headway status --json` prints it, straight from the control API: many ask again
        and again, and a command is a process. NotRunning when nobody answers."""
        document: dict[str, Any] = ControlClient(self.folders).ask("GET", "/status", timeout_s=60.0)
        return document

    def quick_status(self) -> dict[str, Any] | None:
        """The status document; None while nobody answers."""
        try:
            return self.status()
        except HeadwayError:
            return None

    def wait_ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """Wait until everything is ready; the document."""

        def ready() -> dict[str, Any] | None:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"headway up ended with {self.process.returncode}:\n{self.output()}")
            document = self.quick_status()
            return document if document and document["state"] == "ready" else None

        try:
            document: dict[str, Any] = wait_for(ready, timeout_s, "ready", every_s=0.05)
        except AssertionError as error:
            told = self.output() if self.process is not None else ""
            raise AssertionError(f"{error}; {self.quick_status()}\n{told}\n{self._where_it_stands()}") from None
        return document

    def _where_it_stands(self) -> str:
        """What the threads of the controller are at."""
        with contextlib.suppress(KeyError, OSError):
            os.kill(self.processes()["controller"], signal.SIGUSR1)
            time.sleep(0.5)
            return (self.folders.logs / "controller.log").read_text()[-8000:]
        return "no controller"

    def processes(self) -> dict[str, int]:
        """Names and pids of everything the supervisor started and that still lives, and its own."""
        try:
            stored = json.loads((self.folders.run / "processes.json").read_text())
        except (OSError, ValueError):
            return {}
        entries = [*stored["processes"], {"name": "supervisor", **stored["supervisor"]}]
        living = [entry for entry in entries if is_same(entry["pid"], entry["ticks"])]
        _ticks.update((entry["pid"], entry["ticks"]) for entry in living)
        self._known.update(entry["pid"] for entry in living)
        return {entry["name"]: entry["pid"] for entry in living}

    def pid(self, name: str) -> int:
        """Of a process that runs; one that is being started again is waited for."""
        pid: int = wait_for(lambda: self.processes().get(name), 60, f"{name} runs")
        return pid

    def kill_controller(self) -> None:
        """By SIGKILL; another one has everything in hand when this returns."""
        before = self.status()["controller"]["pid"]
        os.kill(before, signal.SIGKILL)

        def another() -> bool:
            document = self.quick_status()
            return document is not None and document["controller"]["pid"] != before and document["state"] == "ready"

        wait_for(another, 60, "another controller")

    def replicas(self, service: str = "web") -> list[dict[str, Any]]:
        document = wait_for(self.quick_status, 60, "the controller answers")
        replicas: list[dict[str, Any]] = document["services"][service]["replicas"]
        return replicas

    def journal(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in whole_lines(self.state / "journal.jsonl")]
        except OSError:
            return []

    def kill_leftovers(self) -> None:
        """End by force what is left; its absence is asserted by `assert_gone`."""
        for pid in self.processes().values():
            send_signal(pid, _ticks[pid], signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not). One of a system's is known by its start as well: its number may be
    another process's by now, or a thread's."""
    now = start_ticks(pid)
    return now is not None and _ticks.get(pid, now) == now


def descendants_of_session(run_folder: Path) -> list[str]:
    """Command lines of processes that mention a run folder: what a system left behind."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(run_folder) in line:
                found.append(f"{entry} {line}")
    return found


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def file_modes_bind() -> Iterator[None]:
    """Within it file modes hold for root too: this thread gives up the right to override them, and takes it back."""
    header, data = _CapHeader(0x20080522, 0), (_CapData * 2)()
    if _libc.capget(ctypes.byref(header), data) != 0:
        raise OSError("capget")
    before = data[0].effective
    data[0].effective &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if _libc.capset(ctypes.byref(header), data) != 0:
        raise OSError("capset")
    try:
        yield
    finally:
        data[0].effective = before
        _libc.capset(ctypes.byref(header), data)
