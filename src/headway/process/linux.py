"""The few Linux calls the standard library lacks: death signals, pid identities, descriptors of others."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SYS_PIDFD_GETFD = 438  # the same number on x86_64 and aarch64

_libc = ctypes.CDLL(None, use_errno=True)


def set_death_signal(number: int) -> None:
    """Ask the kernel to send `number` to this process when the *thread* that spawned it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def become_subreaper() -> None:
    """Orphans below this process become its children, so that they can be reaped and found."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it identifies a process for good.

    None when there is no such process, or only its zombie.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def is_same(pid: int, ticks: int) -> bool:
    """Whether the process `pid` is still the one that started at `ticks`."""
    return start_ticks(pid) == ticks


def open_pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None when it is gone already."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def send_signal(pid: int, ticks: int, number: int) -> bool:
    """Signal exactly that process, never another one that got its pid since; False when it is gone."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return False
    try:
        if not is_same(pid, ticks):
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)


def duplicate_descriptors(pid: int, numbers: Iterable[int]) -> list[int] | None:
    """Duplicates of another process's descriptors (pidfd_getfd); None where the kernel or its policy forbids it."""
    pidfd = open_pidfd(pid)
    if pidfd is None:
        return None
    taken: list[int] = []
    try:
        for number in numbers:
            fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
            if fd < 0:
                for other in taken:
                    os.close(other)
                return None
            os.set_inheritable(fd, False)
            taken.append(fd)
        return taken
    finally:
        os.close(pidfd)
