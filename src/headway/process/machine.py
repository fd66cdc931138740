"""What this machine leaves us: what affinity and control groups allow, not what the hardware has."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60
_CAP_SYS_RESOURCE = 24
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DESCRIPTORS_RAISED = 65536  # what the supervisor raises the limit to where it may


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the machine; sizes in bytes, `cores` may be a fraction under a CPU quota."""

    cores: float
    memory_bytes: int
    descriptors_max: int
    somaxconn: int


def _read_int(path: Path) -> int | None:
    try:
        text = path.read_text().split()[0]
    except (OSError, IndexError):
        return None
    return int(text) if text.lstrip("-").isdigit() else None


def _cgroups(controller: str) -> Iterator[Path]:
    """The folders of our control groups, innermost first: version 2, then version 1's hierarchy of `controller`."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if names == "":
            roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
        elif controller in names.split(","):
            roots = [Path("/sys/fs/cgroup") / controller]
        else:
            continue
        for root in roots:
            folder = root / path.lstrip("/")
            while folder != root.parent and root in (folder, *folder.parents):
                yield folder
                folder = folder.parent


def available_cores() -> float:
    """Cores by affinity, bounded by the CPU quota of our control groups."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = _tightest_quota()
    return min(cores, quota[0]) if quota is not None else cores


def _tightest_quota() -> tuple[float, Path] | None:
    """The least of the CPU quotas of our control groups, in cores, and the group that has it."""
    found = []
    for folder in _cgroups("cpu"):
        try:
            quota_us, period_us = (folder / "cpu.max").read_text().split()[:2]
            if quota_us != "max":
                found.append((int(quota_us) / int(period_us), folder))
        except (OSError, ValueError):
            quota, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
            if quota and period and quota > 0:
                found.append((quota / period, folder))
    return min(found, default=None)


def busy_core_seconds() -> float | None:
    """Seconds that the cores which are ours have worked, for whomever: only what it grows by says something.

    Those of our affinity; where a CPU quota leaves us less, what all processes under that quota have used of it.
    None where the kernel does not tell.
    """
    ours = os.sched_getaffinity(0)
    quota = _tightest_quota()
    if quota is not None and quota[0] < len(ours):
        return _group_core_seconds(quota[1])
    names = {f"cpu{number}" for number in ours}
    ticks = 0
    try:
        with open("/proc/stat", "rb") as file:
            for line in file:
                name, *counts = line.decode("ascii", "replace").split()
                if name in names:
                    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
                    ticks += user + nice + system + irq + softirq + steal
    except (OSError, ValueError):
        return None
    return ticks / _TICKS_PER_S if ticks else None


def _group_core_seconds(folder: Path) -> float | None:
    """Processor time of all processes of a control group: of version 2, or of version 1 where both are one mount."""
    try:
        found = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
        if "usage_usec" in found:
            return int(found["usage_usec"]) / 1e6
    except (OSError, ValueError):
        return None
    used_ns = _read_int(folder / "cpuacct.usage")
    return used_ns / 1e9 if used_ns is not None else None


def available_memory_bytes() -> int:
    """Memory of the machine, bounded by our control groups."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _cgroups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read_int(folder / name)
            if limit is not None and 0 < limit < _NO_LIMIT:
                total = min(total, limit)
    return total


def descriptors_allowed() -> int:
    """How many descriptors a process of a system can have: the hard limit, or more where the supervisor may raise it.

    Being root is not enough for that: containers take the right away.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return DESCRIPTORS_RAISED
    return max(hard, DESCRIPTORS_RAISED) if os.geteuid() == 0 and _may_raise() else hard


def _may_raise() -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_SYS_RESOURCE & 1)


def look() -> Machine:
    """This machine, now."""
    return Machine(
        cores=available_cores(),
        memory_bytes=available_memory_bytes(),
        descriptors_max=descriptors_allowed(),
        somaxconn=_read_int(Path("/proc/sys/net/core/somaxconn")) or 4096,
    )


def memory_now() -> tuple[int, int, float]:
    """Total and available bytes, by the machine or by the control group that has least left; and PSI's share of stalls.

    The share is of the last 10 s in which some work waited for memory; 0 where the kernel does not tell.
    """
    total = available = 0
    try:
        found = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):
        pass
    stalled = _stalled_share(Path("/proc/pressure/memory"))
    for folder in _cgroups("memory"):
        limit = _read_int(folder / "memory.max") or _read_int(folder / "memory.limit_in_bytes")
        used = _read_int(folder / "memory.current") or _read_int(folder / "memory.usage_in_bytes")
        if limit is None or used is None or not 0 < limit < _NO_LIMIT:
            continue
        # Pages of files can be given back at any moment: they count as available.
        left = max(0, limit - max(0, used - _file_bytes(folder)))
        if not total or left < available:
            total, available = limit, left
            stalled = max(stalled, _stalled_share(folder / "memory.pressure"))
    return total, available, stalled


def _file_bytes(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(found.get("inactive_file", found.get("total_inactive_file", 0)))


def _stalled_share(path: Path) -> float:
    try:
        line = next(line for line in path.read_text().splitlines() if line.startswith("some"))
        return float(line.split("avg10=")[1].split()[0]) / 100
    except (OSError, StopIteration, IndexError, ValueError):
        return 0.0
