"""A process that ends with this one, whatever this one dies of."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headway.process.identity import Identity
from headway.process.linux import set_death_signal


@dataclass(slots=True)
class Companion:
    """It, as its parent sees it."""

    process: subprocess.Popen[bytes]

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def stop(self, number: int, timeout_s: float) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.lives:
            self.process.send_signal(number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_companion(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    identity: Identity | None,
    log: Path,
    death_signal: int = signal.SIGKILL,
) -> Companion:
    """Start it. It gets `death_signal` when the thread that calls this ends: call it from the main thread."""
    parent = os.getpid()

    def between_fork_and_exec() -> None:
        set_death_signal(death_signal)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("ab") as out:
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Ctrl-C is for the tests
            preexec_fn=between_fork_and_exec,
        )
    return Companion(process)
