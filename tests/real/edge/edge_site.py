"""A real HAProxy with real replicas for the tests in this folder; everything it started ends with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headway.edge.errors import EdgeRefused, EdgeUnreachable
from headway.edge.haproxy import argv, find_haproxy, validate
from headway.edge.render import render
from headway.edge.runtime_api import RuntimeApi
from headway.edge.servers import CHECK_TIMEOUT_MS, draining_file, learned_file
from headway.model.edge import EdgePlan, EdgeReplica, EdgeService, Listener

# A HAProxy that lives answers within a millisecond, and on a busy machine when it is given a core.
PATIENCE_S = 30.0


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """The first true value of `condition`, asked for until then."""
    give_up = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < give_up, f"waited {timeout_s} s in vain until {what}"
        time.sleep(0.01)
    return value


class Site:
    """One edge: its listening socket, its replicas and its HAProxy process. Used as a context manager.

    A replica that is not given a core for a second would be taken for one that hangs: `patient` waits longer.
    """

    def __init__(self, *, patient: bool = True) -> None:
        self._patient = patient
        self.folder = Path(tempfile.mkdtemp(prefix="hw-", dir="/tmp"))
        self.config = str(self.folder / "haproxy.cfg")
        self.record = self.folder / "record.jsonl"
        self.access_log = self.folder / "access.log"
        self.messages = self.folder / "messages.log"
        self.api = RuntimeApi(str(self.folder / "edge.sock"), PATIENCE_S)
        self.sockets: list[socket.socket] = []
        self.origins: dict[str, subprocess.Popen[bytes]] = {}  # the latest of each name
        self._started: list[subprocess.Popen[bytes]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.binary = find_haproxy().path
        self.record.touch()
        self.log_fd = os.open(self.access_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for origin in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(origin.pid, signal.SIGKILL)  # each leads a group of its own
        for process in [*self.processes, *self._started]:
            process.wait(60)
        for listening in self.sockets:
            listening.close()
        os.close(self.log_fd)
        shutil.rmtree(self.folder)

    # -- parts -----------------------------------------------------------------------------------------------------

    def listener(self, *, tls: bool = False, redirect_to_port: int | None = None) -> Listener:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(4096)
        self.sockets.append(listening)
        port = listening.getsockname()[1]
        return Listener(f"127.0.0.1:{port}", listening.fileno(), tls=tls, redirect_to_port=redirect_to_port)

    def again(self) -> Listener:
        """The listener that is open already, for a HAProxy that takes the place of another."""
        return Listener(f"127.0.0.1:{self.port}", self.sockets[0].fileno())

    def replica(self, name: str, *, limit: int = 100, enabled: bool = True) -> EdgeReplica:
        """A replica whose process runs and accepts connections."""
        path = self.folder / f"{name}.sock"
        script = Path(__file__).with_name("origin.py")
        command = [sys.executable, str(script), str(path), name, str(self.record)]
        return self._serving(command, EdgeReplica(name, str(path), limit, enabled))

    def granian(self, name: str, *, limit: int) -> EdgeReplica:
        """A replica of `slow_app` as it is in earnest: its native server answers checks while Python is busy."""
        path, alive = self.folder / f"{name}.sock", self.folder / "static"
        alive.mkdir()
        (alive / "alive").touch()
        command = [sys.executable, "-m", "granian", "slow_app:app", "--interface", "asgi", "--uds", str(path)]
        command += [
            "--backlog",
            "4096",
            "--backpressure",
            "16384",
            "--no-log",
            "--working-dir",
            str(Path(__file__).parent),
        ]
        command += ["--static-path-route", "/-headway", "--static-path-mount", str(alive)]
        return self._serving(command, EdgeReplica(name, str(path), limit, True))

    def _serving(self, command: list[str], replica: EdgeReplica) -> EdgeReplica:
        name, path = replica.name, replica.address
        self.origins[name] = subprocess.Popen(command, start_new_session=True)
        self._started.append(self.origins[name])

        def answers() -> bool:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(path) == 0

        until(answers, f"{name} listens")
        return replica

    def service(self, name: str = "web", count: int = 1, *, limit: int = 100, **settings: Any) -> EdgeService:
        replicas = tuple(self.replica(f"{name}.{number}", limit=limit) for number in range(1, count + 1))
        default = {"routes": ("/",), "deadline_s": 10.0, "body_max_bytes": 2**20}
        return EdgeService(name=name, replicas=replicas, **{**default, **settings})

    def plan(self, *services: EdgeService, **settings: Any) -> EdgePlan:
        default = {
            "system": "test",
            "run_folder": str(self.folder),
            "connections_max": 2000,
            "descriptors_max": 4200,
            "listeners": (),
        }
        plan = EdgePlan(services=services, **{**default, **settings})
        return plan if plan.listeners else dataclasses.replace(plan, listeners=(self.listener(),))

    # -- the process -----------------------------------------------------------------------------------------------

    def start(self, plan: EdgePlan, *, replaces_pid: int | None = None) -> subprocess.Popen[bytes]:
        """Start HAProxy on the plan, or replace the one that runs, and wait until it answers."""
        text = render(plan)
        if self._patient:
            text = text.replace(f"timeout check {CHECK_TIMEOUT_MS}ms", f"timeout check {PATIENCE_S:.0f}s")
        Path(self.config).write_text(text)
        Path(draining_file(str(self.folder))).touch()
        for service in plan.services:
            Path(learned_file(str(self.folder), service.name)).touch()
        validate(self.binary, self.config)
        return self.spawn(replaces_pid)

    def spawn(self, replaces_pid: int | None = None) -> subprocess.Popen[bytes]:
        with open(self.messages, "ab") as messages:
            process = subprocess.Popen(
                argv(self.binary, self.config, replaces_pid),
                stdout=self.log_fd,
                stderr=messages,
                pass_fds=[listening.fileno() for listening in self.sockets],
            )
        self.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, self.messages.read_text()
            try:
                return self.api.process().pid == process.pid
            except (EdgeUnreachable, EdgeRefused):  # or the one before closes without an answer
                return False

        until(answers, "HAProxy answers")
        return process

    # -- what is seen from outside ---------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, data: bytes, *, timeout_s: float = 30.0) -> bytes:
        """What comes back for exactly these bytes, until the edge closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(data)
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except (TimeoutError, ConnectionResetError):
                pass
            return received

    def release(self) -> None:
        """Let replicas answer what they hold."""
        Path(f"{self.record}.release").touch()

    def recorded(self) -> list[dict[str, Any]]:
        """Every request that reached a replica, in order."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def log_lines(self) -> list[bytes]:
        return self.access_log.read_bytes().splitlines()
