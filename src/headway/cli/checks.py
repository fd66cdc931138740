"""Judges what was found on a machine: good, worth knowing, or in the way, and what to do about it. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headway.cli.preflight import DESCRIPTORS_MIN
from headway.model.units import format_bytes
from headway.process.machine import DESCRIPTORS_RAISED
from headway.runtimes.local.edge_plan import CONNECTIONS_MIN, connections

CheckState = Literal["good", "warning", "bad"]

GRANIAN_MIN, GRANIAN_BELOW = (2, 7), (3,)
GRANIAN_INSTALL = 'pip install "granian>=2.7,<3"'
CONNECTIONS_GOOD = 10_000
SOMAXCONN_GOOD = 4096  # a burst of 3,000 new connections on a worker filled a backlog of 1,024
MEMORY_BAD_BYTES, MEMORY_LOW_BYTES = 128 << 20, 512 << 20
DISK_BAD_BYTES, DISK_LOW_BYTES = 100 << 20, 1 << 30
OPEN_FILES_HIGH = 0.8  # of a process's limit


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `hint` says what to do where it is not good."""

    name: str
    state: CheckState
    value: str
    hint: str = ""


def overall(checks: Sequence[Check]) -> CheckState:
    """The worst of them."""
    states = {check.state for check in checks}
    return "bad" if "bad" in states else "warning" if "warning" in states else "good"


def granian(name: str, python: str, version: str | None, error: str = "") -> Check:
    """granian in one interpreter; `version` None = it cannot be imported there."""
    install = f"{shlex.quote(python)} -m {GRANIAN_INSTALL}"
    if version is None:
        return Check(name, "bad", f"{python} cannot import it: {error}", install)
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not GRANIAN_MIN <= found < GRANIAN_BELOW:
        return Check(name, "bad", f"{version} in {python}; 2.7 or newer, below 3, is needed", install)
    return Check(name, "good", f"{version} in {python}")


def descriptors(soft: int, allowed: int, clients: int | None = None) -> Check:
    """Files and sockets a process may open, and the connections of clients that leaves the edge.

    `clients`: what the declared system's edge gets; None without one.
    """
    if clients is None:
        clients, _calls = connections(allowed, CONNECTIONS_MIN, has_calls=False)
    raise_it = f"ulimit -n {DESCRIPTORS_RAISED}, or LimitNOFILE={DESCRIPTORS_RAISED} in the systemd unit"
    value = f"{allowed:,} a process (soft limit {soft:,}): {clients:,} connections of clients at once"
    if allowed < DESCRIPTORS_MIN:
        value = f"{allowed:,} a process; {DESCRIPTORS_MIN:,} is the least to start with"
        return Check("descriptors", "bad", value, raise_it)
    if clients < CONNECTIONS_GOOD:
        return Check("descriptors", "warning", value, raise_it)
    return Check("descriptors", "good", value)


def somaxconn(number: int) -> Check:
    """How many new connections wait in the kernel while everybody is busy."""
    if number < SOMAXCONN_GOOD:
        hint = f"bursts are dropped and retried a second later: sysctl -w net.core.somaxconn={SOMAXCONN_GOOD}"
        return Check("somaxconn", "warning", f"{number:,}", hint)
    return Check("somaxconn", "good", f"{number:,}")


def cores(available: float, there: int) -> Check:
    """Cores by affinity and quota, against what the machine has."""
    value = f"{available:g}" if available == there else f"{available:g} of {there} (affinity or quota)"
    if available < 1:
        return Check("cores", "warning", value, "less than one core: allow more (docker run --cpus, CPUQuota=)")
    return Check("cores", "good", value)


def memory(available_bytes: int, total_bytes: int, free_bytes: int) -> Check:
    """Memory by control group, against what the machine has, and what is free of it."""
    value = f"{format_bytes(available_bytes)}"
    if available_bytes < total_bytes:
        value += f" of {format_bytes(total_bytes)} (control group)"
    value += f", {format_bytes(free_bytes)} free"
    least = min(available_bytes, free_bytes)
    if least < MEMORY_BAD_BYTES:
        return Check("memory", "bad", value, "hardly room for one replica: stop something, or allow more memory")
    if least < MEMORY_LOW_BYTES:
        return Check("memory", "warning", value, "room for a few replicas only: keep `replicas` low, or add memory")
    return Check("memory", "good", value)


def overcommit(mode: int) -> Check:
    """Strict accounting (mode 2) refuses memory that PostgreSQL and forked processes never touch."""
    if mode == 2:
        hint = "PostgreSQL and workers may be refused memory that is free: sysctl -w vm.overcommit_memory=0"
        return Check("overcommit", "warning", "strict (vm.overcommit_memory=2)", hint)
    return Check("overcommit", "good", "as the kernel guesses" if mode == 0 else "always allowed")


def disk(name: str, path: str, free_bytes: int, *, writable: bool, there: bool) -> Check:
    """A folder we write to: may we, and is there room."""
    value = f"{path}{'' if there else ' (made at the first start)'}, {format_bytes(free_bytes)} free"
    if not writable:
        return Check(
            name, "bad", f"{path} cannot be written", "make it writable, or keep the state elsewhere: --state DIR"
        )
    if free_bytes < DISK_BAD_BYTES:
        return Check(name, "bad", value, f"free some space on that disk: {format_bytes(DISK_BAD_BYTES)} is the least")
    if free_bytes < DISK_LOW_BYTES:
        return Check(name, "warning", value, "databases and logs grow: free some space on that disk")
    return Check(name, "good", value)


def open_files(used: Sequence[tuple[str, int, int]]) -> Check:
    """Descriptors in use by a running system: name, number, limit of each process."""
    total = sum(number for _name, number, _limit in used)
    name, number, limit = max(used, key=lambda entry: entry[1] / max(1, entry[2]))
    value = f"{total:,} in {len(used)} processes; {name} has {number:,} of {limit:,}"
    if number > limit * OPEN_FILES_HIGH:
        return Check("open files", "warning", value, f"{name} is near its limit: raise it before the next start")
    return Check("open files", "good", value)
