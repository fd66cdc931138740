"""The `headway` command as a process, in a folder of its own: what it says, how it ends, and what it leaves."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import HEADWAY, descendants_of_session

import headway
from headway.process.folders import Folders, folders_for

COMMAND_S = 120.0
GOOD = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""
_PR_CAPBSET_DROP = 24
_CAPABILITIES = (
    1,
    2,
    24,
)  # DAC_OVERRIDE, DAC_READ_SEARCH, SYS_RESOURCE: what makes modes and limits mean nothing to root
_libc = ctypes.CDLL(None)


def bound_by_modes_and_limits() -> None:
    """For `preexec_fn`: also root's next program meets file modes and descriptor limits as anybody does."""
    if os.geteuid() == 0:
        for number in _CAPABILITIES:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def few_descriptors() -> None:
    """For `preexec_fn`: a limit of 256 that cannot be raised."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    bound_by_modes_and_limits()


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that ended with status 1: what it said on standard error, taken apart."""

    error: str
    hint: str
    before: str  # what stands before `error:`, an app's own traceback for a start
    problems: str  # what stands between error and hint, the list of a declaration's problems
    stdout: str


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with an app, and the command run in it."""

    folder: Path
    port: int

    @property
    def folders(self) -> Folders:
        return folders_for(self.folder / ".headway")

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text.replace("$PORT", str(self.port)))

    def declare(self, service: str, head: str = 'bind = ["127.0.0.1:$PORT"]') -> None:
        """A declaration with this [edge] and this one service `web`."""
        self.write({"headway.toml": f"[edge]\n{head}\n[services.web]\nreplicas = 1\n{service}\n"})

    def headway(
        self, *arguments: str, env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HEADWAY, *arguments],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            preexec_fn=before,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def refused(
        self, *arguments: str, env: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> Refused:
        """A command that must end with status 1 and an error as it should be; it changes no file and leaves nothing."""
        files = self.files()
        done = self.headway(*arguments, env=env, before=before)
        assert done.returncode == 1, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        assert self.files() == files
        return take_apart(done)

    def files(self) -> dict[str, str]:
        """Every file but the state's, with a digest of its content."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not name.startswith(".headway/") and "__pycache__" not in name:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def assert_nothing_left(self) -> None:
        assert descendants_of_session(self.folders.run) == []
        assert not self.folders.run.exists()

    def assert_nothing_made(self) -> None:
        self.assert_nothing_left()
        assert not self.folders.state.exists()


def take_apart(done: subprocess.CompletedProcess[str]) -> Refused:
    """Standard error must be: an app's traceback or nothing, one `error:` line and its list, at most one hint."""
    lines = done.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    hints = [number for number, line in enumerate(lines) if line.startswith("hint: ")]
    assert len(errors) == 1, done.stderr
    assert len(hints) <= 1, done.stderr
    at, end = errors[0], hints[0] if hints else len(lines)
    assert not hints or end == len(lines) - 1, done.stderr
    before = "\n".join(lines[:at])
    for ours in (str(Path(headway.__file__).parent), "importlib", "runpy"):
        assert ours not in before, done.stderr
    return Refused(
        lines[at].removeprefix("error: "),
        lines[end].removeprefix("hint: ") if hints else "",
        before,
        "\n".join(lines[at + 1 : end]),
        done.stdout,
    )
