"""Spawns the supervisor: in a session of its own, so that Ctrl-C reaches only the command that watches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from headway.process.linux import set_death_signal


@dataclass(slots=True)
class Started:
    """The supervisor's process, as its parent sees it."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Ask it for an orderly stop; a second time it hurries."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)  # a stopped one cannot end


def spawn_supervisor(settings: str, log: str, *, detached: bool) -> Started:
    """Start it; in the foreground it ends in order when this process dies, whatever it dies of."""
    parent = os.getpid()

    def between_fork_and_exec() -> None:
        if not detached:
            set_death_signal(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    with open("/dev/null", "rb") as nothing, open(log, "ab", buffering=0) as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "headway.process.supervisor", settings],
            stdin=nothing,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=between_fork_and_exec,
        )
    return Started(process)
