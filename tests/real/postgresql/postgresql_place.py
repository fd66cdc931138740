"""A project's folders with real PostgreSQL servers in them, which are gone after the test."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headway.errors import EngineError
from headway.process.identity import Identity
from headway.sharding.failures import PORT_TAKEN, explain_failure
from headway.sharding.orphans import clear_stale_number, end_orphans
from headway.sharding.postgresql import (
    Server,
    ensure_database,
    prepare,
    remove_socket_folder,
    spawn_arguments,
    wait_until_ready,
)

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent(signal_number: int = signal.SIGQUIT) -> Callable[[], None]:
    """For `preexec_fn`: nothing that a killed test run started survives it."""

    def set_signal() -> None:
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)

    return set_signal


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Poll until the condition holds; fail with `what` when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"timed out: {what}"
        time.sleep(0.01)


@dataclass
class Place:
    """A project's folders, and the servers started in them."""

    folder: Path
    shared_folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)

    @property
    def state_folder(self) -> Path:
        return self.folder / ".headway"

    @property
    def log(self) -> Path:
        return self.folder / "postgresql.log"

    def prepare(self, name: str = "main") -> Server:
        run_folder = self.folder / "run"
        run_folder.mkdir(exist_ok=True)
        server = prepare(self.state_folder, run_folder, system="shop", name=name, shared_folder=self.shared_folder)
        self.servers.append(server)
        return server

    def spawn(self, server: Server) -> subprocess.Popen[bytes]:
        """Start the process as a supervisor would."""
        arguments = spawn_arguments(server)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                arguments.argv,
                env=arguments.env,
                cwd=arguments.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
                **as_user(arguments.identity),
            )
        self.processes.append(process)
        return process

    def start(self, name: str = "main") -> tuple[Server, subprocess.Popen[bytes]]:
        """Prepare, spawn, wait, create. Where another one has taken its port in between, with another port."""
        for last in (False, False, True):
            server = self.prepare(name)
            process = self.spawn(server)
            try:
                wait_until_ready(server, timeout_s=60, is_alive=lambda process=process: process.poll() is None)  # type: ignore[misc]
                break
            except EngineError:
                taken = process.poll() is not None and explain_failure(self.log.read_text())[0] == PORT_TAKEN
                if last or not taken:
                    raise
        ensure_database(server)
        return server, process

    def start_again(self, server: Server) -> subprocess.Popen[bytes]:
        """After a kill, whose children may still be ending."""
        deadline_s = time.monotonic() + 90
        process = self.spawn(server)
        while True:
            try:
                wait_until_ready(server, timeout_s=30, is_alive=lambda process=process: process.poll() is None)  # type: ignore[misc]
                return process
            except EngineError:
                assert time.monotonic() < deadline_s, self.log.read_text()[-2000:]
            if process.poll() is not None:
                clear_stale_number(server.data_folder)  # as the one does who watches it in a system
                end_orphans(server.data_folder)
                time.sleep(0.05)
                process = self.spawn(server)

    def schema(self, text: str) -> Path:
        path = self.folder / "schema.sql"
        path.write_text(text)
        return path

    def clear(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGQUIT)
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
        for server in self.servers:
            remove_socket_folder(server)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def in_memory() -> Iterator[Place]:
    """A place whose servers are gone afterwards, with their data in memory where that is possible."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) and os.statvfs("/dev/shm").f_bavail * 4096 > 2**30 else None
    folder = Path(tempfile.mkdtemp(prefix="headway-pg-", dir=parent)).resolve()
    folder.chmod(0o755)  # the engine's user must be able to enter it
    place = Place(folder, folder / "shared")
    try:
        yield place
    finally:
        place.clear()


def as_user(identity: Identity | None) -> dict[str, object]:
    """Arguments of Popen that start a process as that user."""
    if identity is None:
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []}


def stop(process: subprocess.Popen[bytes]) -> None:
    """The clean stop of a supervisor."""
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
