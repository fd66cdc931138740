"""What a replica leaves behind when its process ends: children that the app started and nobody looks after any more.

A helper that lives on holds ports, locks and memory of an app that is gone, and the next start meets it. Every replica
leads a session of its own, which its children are in unless they left it; those who did are known by the environment
they inherited, once their parent is gone and they have fallen to the supervisor.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from headway.process.linux import is_same, send_signal

_PATIENCE_S = 2.0  # from being asked to end until SIGKILL


@dataclass(slots=True)
class Leftovers:
    """Ends what replicas leave: SIGTERM at once, SIGKILL for what is still there after that. Owned by one thread."""

    _kill_at_s: dict[tuple[int, int], float] = field(default_factory=dict)  # by pid and start ticks

    def end_of(self, replica: str, pid: int, spared: Collection[int]) -> None:
        """Ask everything to end that the ended process `pid` of `replica` has left; `spared` belong here."""
        for left, ticks, session, parent in _processes():
            is_adrift = parent == os.getpid() and left not in spared and _is_of(left, replica)
            if session == pid or is_adrift:
                send_signal(left, ticks, signal.SIGTERM)
                send_signal(left, ticks, signal.SIGCONT)  # a stopped one cannot end
                self._kill_at_s[left, ticks] = time.monotonic() + _PATIENCE_S

    def next_s(self) -> list[float]:
        """The moments at which `kill_due` has something to do."""
        return list(self._kill_at_s.values())

    def kill_due(self, now_s: float) -> None:
        """Kill what had its time."""
        for (pid, ticks), at_s in list(self._kill_at_s.items()):
            if at_s <= now_s:
                send_signal(pid, ticks, signal.SIGKILL)
                del self._kill_at_s[pid, ticks]

    def kill_all(self, timeout_s: float) -> None:
        """Kill the rest at once, and wait until it is gone: for the end of the supervisor itself."""
        held, self._kill_at_s = list(self._kill_at_s), {}
        for pid, ticks in held:
            send_signal(pid, ticks, signal.SIGKILL)
        until_s = time.monotonic() + timeout_s
        while any(is_same(pid, ticks) for pid, ticks in held) and time.monotonic() < until_s:
            time.sleep(0.005)


def _processes() -> Iterator[tuple[int, int, int, int]]:
    """Pid, start ticks, session and parent of every process that is no zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it has just ended
            if fields[0] not in (b"Z", b"X"):
                yield int(entry), int(fields[19]), int(fields[3]), int(fields[1])


def _is_of(pid: int, replica: str) -> bool:
    """Whether a process has inherited the environment of that replica."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"HEADWAY_REPLICA={replica}".encode() in file.read().split(b"\0")
    except OSError:
        return False
