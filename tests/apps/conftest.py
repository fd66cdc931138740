"""Apps as their users meet them: served from a declaration, reached through a base URL and nothing else.

`serve` is the one seam. It takes what a user has (folder, declaration, environment) and gives a base URL, so that the
tests do not know what stands between them and the app: here it is the whole of Headway, started as a user starts it.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import HEADWAY, Running

COMMAND_S = 180.0
REQUEST_S = 60.0
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@dataclass(frozen=True, slots=True)
class Served:
    """A running app: where it answers and how to run a command in its folder and environment."""

    base_url: str
    system: Running
    verify: ssl.SSLContext | bool = True

    @property
    def folder(self) -> Path:
        """The folder of the declaration."""
        return self.system.folder

    @property
    def ws_url(self) -> str:
        """The base URL for WebSockets."""
        return "ws" + self.base_url.removeprefix("http")

    def client(self, **options: Any) -> httpx.Client:
        """One user: a client with its own cookies. The machine's proxy settings are none of its business."""
        options = {"timeout": REQUEST_S, "verify": self.verify, "trust_env": False} | options
        return httpx.Client(base_url=self.base_url, **options)

    def run(self, *argv: str, env: dict[str, str] | None = None) -> str:
        """Run a command as the app's owner would (`headway run web -- …`); returns what it printed."""
        done = subprocess.run(
            [*HEADWAY, "run", "web", "--", *argv],
            cwd=self.folder,
            env=self.system.environ() | (env or {}),
            timeout=COMMAND_S,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """`serve(folder, declaration, env)` -> Served; everything it started ends with the module's last test."""
    with ExitStack() as stack:

        def start(folder: Path, declaration: str, env: dict[str, str] | None = None) -> Served:
            if "[edge]" in declaration:
                declaration = declaration.replace("127.0.0.1:8000", "127.0.0.1:$PORT")
            else:
                declaration = '[edge]\nbind = ["127.0.0.1:$PORT"]\n' + declaration
            system = stack.enter_context(Running(folder, declaration, env=env or {}))
            return Served(system.url, system)

        yield start


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`example(name, *beside)` -> a fresh copy of examples/NAME and of those that it needs beside it."""

    def copy(name: str, *beside: str) -> Path:
        place = tmp_path_factory.mktemp("apps")
        leftovers = shutil.ignore_patterns("__pycache__", "*.sqlite3*", "media", ".headway")
        for each in (name, *beside):
            shutil.copytree(EXAMPLES / each, place / each, ignore=leftovers)
        return place / name

    return copy
