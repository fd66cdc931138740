"""Gives processes fewer cores than the machine has: whole ones by affinity, a part of one by a control group's quota.

Affinity is a thread's own: every thread that runs is moved, and those it starts later inherit it. A quota needs a
control group of our own, which only some may make; where that fails, parts of a core are not measured.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

_PERIOD_US = 20_000  # short: with the usual 100 ms a throttled worker sleeps longer than an SLO allows


def own_cores() -> tuple[int, ...]:
    """The cores this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(pid: int, cores: Iterable[int]) -> None:
    """Move every thread of a process; one that ends meanwhile is no error."""
    chosen = set(cores)
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(entry), chosen)


@dataclass(frozen=True, slots=True)
class Used:
    """Processor time of this process, which makes the load, and of the edge; differences count."""

    at_s: float
    own_s: float
    edge_s: float
    edge_threads: int

    @classmethod
    def now(cls, edge_pid: int | None) -> Self:
        """Read both; an edge that cannot be read counts as idle."""
        edge_s, edge_threads = 0.0, 1
        if edge_pid is not None:
            with contextlib.suppress(psutil.Error):
                edge = psutil.Process(edge_pid)
                times, edge_threads = edge.cpu_times(), edge.num_threads()
                edge_s = times.user + times.system
        return cls(time.monotonic(), time.process_time(), edge_s, edge_threads)

    def cores_since(self, earlier: Used) -> tuple[float, float]:
        """Cores that this process and the edge used on average since then."""
        span_s = max(1e-3, self.at_s - earlier.at_s)
        return (self.own_s - earlier.own_s) / span_s, max(0.0, self.edge_s - earlier.edge_s) / span_s


@contextlib.contextmanager
def confined(pids: Sequence[int], size: float) -> Iterator[None]:
    """The processes on `size` cores together, one core each as far as they go round. OSError when that may not be."""
    everywhere = own_cores()
    chosen = everywhere[: max(1, round(size))]
    with contextlib.ExitStack() as undo:
        if size < 1:
            undo.enter_context(_quota(pids, size))
        for number, pid in enumerate(pids):
            undo.callback(pin, pid, everywhere)
            pin(pid, [chosen[number % len(chosen)]])
        yield


def can_quota() -> bool:
    """Whether this user may make a control group with a quota here."""
    try:
        with _quota((), 0.5):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _quota(pids: Sequence[int], size: float) -> Iterator[None]:
    parent = _own_group()
    group = parent / f"headway-drill-{os.getpid()}"
    group.mkdir()
    try:
        quota_us = max(1_000, int(size * _PERIOD_US))
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:  # written into existing files only: a group without this controller raises
            _write(group / "cpu.cfs_period_us", str(_PERIOD_US))
            _write(group / "cpu.cfs_quota_us", str(quota_us))
        for pid in pids:
            _write(group / "cgroup.procs", str(pid))
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(OSError):
                _write(parent / "cgroup.procs", str(pid))
        with contextlib.suppress(OSError):
            group.rmdir()


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _own_group() -> Path:
    """The folder of the control group that bounds our processor time; FileNotFoundError when there is none."""
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if "cpu" in names.split(",") and (root / "cpu").is_dir():
            return root / "cpu" / path.lstrip("/")
        if names == "" and (root / "cgroup.controllers").exists():
            return root / path.lstrip("/")
    raise FileNotFoundError("no control group for processor time")
