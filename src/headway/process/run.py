"""Runs a short-lived program to its end, bounded in time; the long-lived ones are the supervisor's.

`subprocess` is imported in this package alone, so that every child has a bound, closed descriptors and a known user.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headway.errors import EngineError
from headway.process.identity import Identity


@dataclass(frozen=True, slots=True)
class Completed:
    """How a program ended: exit status (negative = signal number) and what it printed, decoded."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    identity: Identity | None = None,
    stdin: str | bytes | None = None,
    cwd: str | None = None,
) -> Completed:
    """Run `argv` and wait for it. EngineError when it cannot be started or does not end within `timeout_s`."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(
            list(argv),
            input=data if data is not None else b"",
            capture_output=True,
            timeout=timeout_s,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{os.path.basename(argv[0])} did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise EngineError(f"{argv[0]} cannot be started: {error.strerror or error}") from error
    return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
