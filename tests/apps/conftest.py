"""Apps as their users meet them: served from a declaration, reached through a base URL and nothing else.

`serve` is the one seam. It takes what a user has (folder, declaration, environment) and gives a base URL, so that
the tests do not know what stands between them and the app. Here that is a bare granian, with the app's environment and
static mounts taken from the declaration.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

READY_S = 30.0
STOP_S = 5.0
COMMAND_S = 60.0
REQUEST_S = 20.0
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

# Finds out whether the target is ASGI or WSGI, then becomes granian: the declaration does not say, and need not.
_LAUNCH = """
import importlib, inspect, os, sys
target, *options = sys.argv[1:]
sys.path.insert(0, os.getcwd())
module, _, attribute = target.partition(":")
app = getattr(importlib.import_module(module), attribute)
asgi = inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))
interface = ["--interface", "asgi" if asgi else "wsgi"] + ([] if asgi else ["--blocking-threads", "8"])
os.execv(sys.executable, [sys.executable, "-m", "granian", *interface, *options, target])
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A running app: where it answers and how to run a command in its folder and environment."""

    base_url: str
    folder: Path
    env: dict[str, str] = field(repr=False)
    verify: ssl.SSLContext | bool = True

    @property
    def ws_url(self) -> str:
        """The base URL for WebSockets."""
        return "ws" + self.base_url.removeprefix("http")

    def client(self, **options: Any) -> httpx.Client:
        """One user: a client with its own cookies. The machine's proxy settings are none of its business."""
        options = {"timeout": REQUEST_S, "verify": self.verify, "trust_env": False} | options
        return httpx.Client(base_url=self.base_url, **options)

    def run(self, *argv: str, env: dict[str, str] | None = None) -> str:
        """Run a command as the app's owner would (its folder, its environment); returns what it printed."""
        done = subprocess.run(
            argv, cwd=self.folder, env=self.env | (env or {}), timeout=COMMAND_S, text=True, capture_output=True
        )
        assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """`serve(folder, declaration, env)` -> Served; everything it started ends with the module's last test."""
    with ExitStack() as stack:

        def start(folder: Path, declaration: str, env: dict[str, str] | None = None) -> Served:
            return stack.enter_context(_Granian(folder, declaration, env or {}))

        yield start


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`example(name)` -> a fresh copy of examples/NAME, without what earlier runs left in it."""

    def copy(name: str) -> Path:
        folder = tmp_path_factory.mktemp("apps") / name
        leftovers = shutil.ignore_patterns("__pycache__", "*.sqlite3*", "media", ".headway")
        shutil.copytree(EXAMPLES / name, folder, ignore=leftovers)
        return folder

    return copy


class _Granian:
    """One granian in a process group of its own, which ends with the test process, whatever happens to it."""

    def __init__(self, folder: Path, declaration: str, env: dict[str, str]) -> None:
        declared = tomllib.loads(declaration)
        (service,) = declared["services"].values()
        self._folder = folder
        self._stack = ExitStack()
        self._databases = declared.get("databases", {})
        self._env = os.environ | env | service.get("env", {})
        self._target = service["app"]
        self._health = service.get("health", "/")
        self._static = service.get("static", {})

    def __enter__(self) -> Served:
        for name, database in self._databases.items():
            url = self._stack.enter_context(_database(self._folder, name, database.get("schema")))
            self._env = {key: value.replace(f"{{{name}.url}}", url) for key, value in self._env.items()}
        port = _free_port()
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--workers-kill-timeout", "1"]
        for route, mount in self._static.items():
            options += ["--static-path-route", route, "--static-path-mount", str(self._folder / mount)]
        self._log = (self._folder / "granian.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, self._target, *options],
            cwd=self._folder,
            env=self._env,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
        served = Served(f"http://127.0.0.1:{port}", self._folder, self._env)
        try:
            self._wait_until_ready(served)
        except BaseException:
            self.__exit__()
            raise
        return served

    def _wait_until_ready(self, served: Served) -> None:
        deadline = time.monotonic() + READY_S
        with served.client(timeout=READY_S) as client:
            while True:
                try:
                    client.get(self._health)
                    return
                except httpx.TransportError:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        self._log.seek(0)
                        pytest.fail(f"{self._target} does not answer:\n{self._log.read()[-5000:]}")
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):  # a worker with open streams does not end by itself
            self._process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)
        self._log.close()
        self._stack.close()


@contextmanager
def _database(folder: Path, name: str, schema: str | None) -> Iterator[str]:
    """The URL of an empty database: a SQLite file, or one of its own on the server that TEST_POSTGRESQL names."""
    server = os.environ.get("TEST_POSTGRESQL")
    if server is None:
        yield f"sqlite:///{folder / name}.sqlite3"
        return
    unique = f"apps_{name}_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {unique}")
        url = make_url(server).set(database=unique).render_as_string(hide_password=False)
        try:
            if schema is not None:
                with psycopg.connect(url) as connection:
                    connection.execute((folder / schema).read_text())
            yield url
        finally:
            admin.execute(f"drop database {unique} with (force)")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
