"""A part that hangs: the process and all below it stopped, and told to go on whatever becomes of us.

A server answers by processes of its own for each client; with its first process alone stopped they would go on
answering. Nobody but a watchdog can end a hang whose maker was killed by SIGKILL, so it is there before anything stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

import psutil

from headway.errors import MachineError
from headway.process.linux import send_signal, start_ticks

# The watchdog lets the one who stopped the part be the first.
_LATER_S = 1.0
_ENDS_S = 5.0
_POLL_S = 0.005
# Processes may be born while their parents are being stopped; each look finds the children of the last.
_LOOKS_MAX = 50


class Hang:
    """One process with its descendants, for `for_s` at most. MachineError when no watchdog can be started."""

    def __init__(self, pid: int, ticks: int, for_s: float) -> None:
        self._pid, self._ticks = pid, ticks
        self._stopped: dict[int, int] = {}  # ticks by pid
        self._over = False
        read_fd, self._told_fd = os.pipe()
        argv = [sys.executable, "-P", "-m", "headway.lab.go_on", f"{for_s + _LATER_S:g}"]
        nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        try:
            self._watchdog = os.posix_spawn(
                argv[0], argv, os.environ, setsid=True, file_actions=[(os.POSIX_SPAWN_DUP2, read_fd, 0), *nowhere]
            )
        except OSError as error:
            os.close(self._told_fd)
            raise MachineError(
                f"nothing is stopped without a watchdog, which cannot be started: {error.strerror}", hint="try again"
            ) from error
        finally:
            os.close(read_fd)

    def begin(self) -> bool:
        """Stop it all; False when the process is gone or another user's."""
        if not self._stop(self._pid, self._ticks):
            return False
        for _ in range(_LOOKS_MAX):
            found = [process.pid for process in _below(self._pid) if process.pid not in self._stopped]
            if not found:
                break
            for pid in found:
                ticks = start_ticks(pid)
                if ticks is not None:
                    self._stop(pid, ticks)
        return True

    @property
    def is_pointless(self) -> bool:
        """The process itself is gone: what it left behind must see that to end."""
        return start_ticks(self._pid) != self._ticks

    def end(self) -> bool:
        """Tell all of it to go on, once; whether the process itself was there to be told."""
        if self._over:
            return False
        self._over = True
        told = {pid: send_signal(pid, ticks, signal.SIGCONT) for pid, ticks in self._stopped.items()}
        os.close(self._told_fd)  # the watchdog says the same once more, and ends
        self._reap()
        return told.get(self._pid, False)

    def _stop(self, pid: int, ticks: int) -> bool:
        # Named first: should we be killed in between, one that was not stopped is told to go on, which harms nobody.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._told_fd, f"{pid} {ticks}\n".encode())
        self._stopped[pid] = ticks
        return send_signal(pid, ticks, signal.SIGSTOP)

    def _reap(self) -> None:
        until_s = time.monotonic() + _ENDS_S
        while os.waitpid(self._watchdog, os.WNOHANG)[0] == 0:
            if time.monotonic() > until_s:
                os.kill(self._watchdog, signal.SIGKILL)
                os.waitpid(self._watchdog, 0)
                return
            time.sleep(_POLL_S)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
