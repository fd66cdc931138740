"""The stacks that are put under overload, started by their own usual means, and the cores they get.

The app's worker has the first core to itself. Everything else (balancer, controller, this generator) is on the second
one; or, in the arrangement "shared", on the worker's core as well, with the generator alone on the second.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.stacks import BIN, HERE, await_answer, behind_nginx, family, free_port, headway, spawn
from headway.lab.drill.cores import own_cores, pin

APP = "overload_app"
SLO_S, DEADLINE_S = 0.25, 1.0
DECLARATION = 'slo = "250ms"\n'
NORMAL = {"cpu": 0.002, "wait": 0.010}
_RAY_END_S = 15.0


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that runs, with its worker on the first core and everything else on the second."""

    url: str
    cores: tuple[int, ...]
    worker_pid: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "worker_pid", int(self._get("pid")))
        self.place(shared=False)

    def place(self, *, shared: bool) -> None:
        """Give the processes their cores; all of them are children of this one."""
        first, second = self.cores[:2]
        for pid in family(os.getpid())[1:]:
            pin(pid, (first if shared or pid == self.worker_pid else second,))

    def pace(self, *, after_s: float = 0.0, **change: float) -> None:
        """Change what the app does for a request, at once or after some seconds."""
        query = "&".join(f"{name}={value}" for name, value in {**NORMAL, **change, "after": after_s}.items())
        self._get(f"set?{query}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return str(answer.read().decode())


@contextmanager
def _uvicorn() -> Iterator[str]:
    port = free_port()
    with spawn(str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", f"{APP}:app"):
        yield _url(port)


@contextmanager
def _granian() -> Iterator[str]:
    port = free_port()
    with spawn(str(BIN / "granian"), "--interface", "asgi", "--port", str(port), "--workers", "1", f"{APP}:app"):
        yield _url(port)


@contextmanager
def _gunicorn() -> Iterator[str]:
    port = free_port()
    worker = "uvicorn_worker.UvicornWorker"
    with spawn(str(BIN / "gunicorn"), "-k", worker, "-w", "1", "-b", f"127.0.0.1:{port}", f"{APP}:app"):
        yield _url(port)


@contextmanager
def _nginx_uvicorn() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        path = Path(name) / "worker.sock"
        worker = stack.enter_context(spawn(str(BIN / "uvicorn"), "--uds", str(path), "--no-access-log", f"{APP}:app"))
        yield stack.enter_context(behind_nginx(Path(name), f"unix:{path}", worker)).url


@contextmanager
def _headway() -> Iterator[str]:
    with headway(APP, DECLARATION) as stack:
        yield stack.url


@contextmanager
def _ray_serve() -> Iterator[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        port, started = free_port(), list[int]()
        try:
            with spawn(sys.executable, str(HERE / "overload_ray.py"), str(port), name) as process:
                try:
                    await_answer(f"{_url(port)}pid")
                    yield _url(port)
                finally:
                    started = family(process.pid)
                    process.send_signal(signal.SIGTERM)
                    with suppress(TimeoutError):
                        _await_end(process.poll)
        finally:
            _end_rest(started, name)


def _await_end(poll: Callable[[], int | None]) -> None:
    until_s = time.monotonic() + _RAY_END_S
    while poll() is None:
        if time.monotonic() > until_s:
            raise TimeoutError
        time.sleep(0.05)


def _end_rest(pids: list[int], folder: str) -> None:
    """What Ray left of its processes; by its folder in their command line or their parent, for ids are used again."""
    for pid in pids:
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if folder.encode() in line or line.startswith(b"ray::"):
                os.kill(pid, signal.SIGKILL)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"


@dataclass(frozen=True, slots=True)
class Peer:
    """One stack of the table."""

    start: Callable[[], AbstractContextManager[str]]
    balancer: bool  # something that can share the worker's core, or not
    abrupt: bool = True  # ended by SIGKILL of its worker, which full as it is would take long to end
    calm_timeout_s: float = 1.0  # to get over a load; else it is started again. 0: always, for it takes many seconds
    slow_start: bool = False  # measured in fewer rounds
    lacks: Callable[[], str | None] = lambda: None  # why it cannot run here


def _lacks_nginx() -> str | None:
    return None if shutil.which("nginx") else "nginx is not installed (`apt install nginx-light`)"


def _lacks_gunicorn() -> str | None:
    found = (BIN / "gunicorn").exists() and importlib.util.find_spec("uvicorn_worker")
    return None if found else "gunicorn or uvicorn-worker is not installed (`pip install 'headway[bench]'`)"


def _lacks_ray() -> str | None:
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed (`pip install 'headway[bench]'`)"
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        return f"Ray Serve cannot be imported ({error})"
    return None


PEERS = {
    "uvicorn": Peer(_uvicorn, False, calm_timeout_s=0.0),
    "granian": Peer(_granian, False, calm_timeout_s=0.0),
    "gunicorn + uvicorn": Peer(_gunicorn, False, calm_timeout_s=0.0, lacks=_lacks_gunicorn),
    "nginx → uvicorn": Peer(_nginx_uvicorn, True, lacks=_lacks_nginx),
    "Ray Serve, HAProxy mode": Peer(_ray_serve, True, False, 8.0, True, _lacks_ray),
    "Headway": Peer(_headway, True, False),
}


@contextmanager
def running(cores: tuple[int, ...], peer: Peer = PEERS["Headway"]) -> Iterator[Running]:
    """A stack on its cores. RuntimeError or OSError when it does not come up."""
    with peer.start() as url:
        await_answer(f"{url}pid")
        stack = Running(url, cores)
        try:
            yield stack
        finally:
            if peer.abrupt:
                with suppress(ProcessLookupError):
                    os.kill(stack.worker_pid, signal.SIGKILL)


@contextmanager
def generator_core() -> Iterator[tuple[int, ...]]:
    """This process, and what it starts, on the second core; yields all that there are."""
    cores = own_cores()
    os.sched_setaffinity(0, {cores[1]})
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, cores)
