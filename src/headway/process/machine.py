"""What this machine leaves us: what affinity and control groups allow, not what the hardware has."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NO_LIMIT = 1 << 60
_CAP_SYS_RESOURCE = 24
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
    for folder in _cgroups("cpu"):
        try:
            quota_us, period_us = (folder / "cpu.max").read_text().split()[:2]
            if quota_us != "max":
                cores = min(cores, int(quota_us) / int(period_us))
        except (OSError, ValueError):
            quota, period = _read_int(folder / "cpu.cfs_quota_us"), _read_int(folder / "cpu.cfs_period_us")
            if quota and period and quota > 0:
                cores = min(cores, quota / period)
    return cores


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
