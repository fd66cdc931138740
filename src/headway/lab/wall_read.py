"""What the kernel tells of a system's processes: cores, memory, descriptors, sockets; and what its workers counted.

What cannot be read, another user's process above all, is left unknown.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from headway.lab.wall_facts import FilesUsed
from headway.model.overload import ClassCounts
from headway.process.folders import Folders
from headway.process.linux import is_same
from headway.process.record import read_record
from headway.runtimes.local.counts import read_counts
from headway.worker import telemetry
from headway.worker.telemetry import Slot

_PORTS = (32768, 60999)  # Linux's own default
_CLIENT = re.compile(r"(\d+\.\d+\.\d+\.\d+\(\d+\)|\[local\]) ")  # in the title of a backend that serves a client
_TIME_WAIT, _LISTEN = "06", "0A"  # states in /proc/net/tcp


@dataclass(slots=True)
class Reading:
    """Counters at one end of the window; `cores_s` by process name."""

    at_s: float
    cores_s: dict[str, float]
    busy_s: float  # of the cores that we may use
    completed: dict[str, int] = field(default_factory=dict)  # by replica
    service_s: dict[str, float] = field(default_factory=dict)
    wsgi: frozenset[str] = frozenset()


def alive(record: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Everything that runs for this system, the supervisor included."""
    entries = [{"name": "supervisor", **record["supervisor"]}, *record["processes"]] if record else []
    return [entry for entry in entries if is_same(entry["pid"], entry["ticks"])]


def read(folders: Folders) -> Reading:
    reading = Reading(time.monotonic(), {}, _busy_s())
    wsgi = set()
    for entry in alive(read_record(folders)):
        name = entry["name"]
        cores_s = 0.0
        for process in _family(entry["pid"]):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cores_s += times.user + times.system
        reading.cores_s[name] = cores_s
        slots = telemetry.attach(str(folders.replicas / f"{name}.tele"))
        if slots is None:
            continue
        if slots[Slot.IS_WSGI]:
            wsgi.add(name)
        counts = read_counts(slots)
        classes: Sequence[ClassCounts] = counts.classes if counts else ()
        if classes:
            reading.completed[name] = sum(one.completed for one in classes)
            reading.service_s[name] = sum(one.service_s for one in classes)
    reading.wsgi = frozenset(wsgi)
    return reading


def _family(pid: int) -> list[psutil.Process]:
    """A process with its children: a server's work is done by them."""
    try:
        process = psutil.Process(pid)
        # The supervisor's children are counted by their own names.
        return [process, *(process.children(recursive=True) if _is_postmaster(process) else ())]
    except psutil.Error:
        return []


def _is_postmaster(process: psutil.Process) -> bool:
    return process.name() == "postgres"


def _busy_s() -> float:
    """Seconds that the cores we may use were busy, since the machine started."""
    allowed = os.sched_getaffinity(0)
    total = 0.0
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        if number in allowed:
            total += times.user + times.system + times.nice + times.irq + times.softirq
    return total


def memory_bytes(entries: Sequence[Mapping[str, Any]]) -> int:
    """Resident memory of everything together. What processes share is counted in each: an upper bound."""
    total = 0
    for entry in entries:
        for process in _family(entry["pid"]):
            with contextlib.suppress(psutil.Error):
                found = process.memory_info()
                total += found.rss - found.shared
    return total


def files_used(entries: Sequence[Mapping[str, Any]]) -> Iterator[FilesUsed]:
    """Descriptors by kind of process, the fullest of each."""
    fullest: dict[str, FilesUsed] = {}
    for entry in entries:
        name = str(entry["name"])
        engine = name in ("edge", "controller", "supervisor") or name.startswith("database.")
        kind = name if engine else f"{name.rpartition('.')[0]}, fullest replica"
        limit = _files_max(entry["pid"])
        try:
            now: int | None = len(os.listdir(f"/proc/{entry['pid']}/fd"))
        except OSError:
            now = None  # an engine's user is another one, and its files are its own
        if limit is not None and (kind not in fullest or (now or 0) > (fullest[kind].now or 0)):
            fullest[kind] = FilesUsed(kind, now, limit)
    yield from fullest.values()


def _files_max(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    except OSError:
        return None
    soft = next((line.split()[3] for line in lines if line.startswith("Max open files")), "")
    return int(soft) if soft.isdigit() else None


def clients(postmaster: int) -> int | None:
    """Connections of clients: a process of its own each, named after the client."""
    try:
        titles = [" ".join(process.cmdline()) + " " for process in psutil.Process(postmaster).children()]
    except psutil.Error:
        return None
    return sum(_CLIENT.search(title) is not None for title in titles)


def ports_max() -> int:
    try:
        first, last = (int(text) for text in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        first, last = _PORTS
    return last - first + 1


def ports_are_reused() -> bool:
    """Whether ports in TIME_WAIT are taken again for connections on this machine: 1 = everywhere, 2 = on loopback."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/net/ipv4/tcp_tw_reuse").read_text().strip() in ("1", "2")
    return False


def _sockets(pid: int | str = "self") -> Iterator[tuple[int, int, str, int]]:
    """Local port, remote port, state and receive queue of every TCP socket that process `pid` sees."""
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            local, remote = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
            yield local, remote, fields[3], int(fields[4].partition(":")[2], 16)


def ports_waiting(port: int) -> int:
    return sum(remote == port and state == _TIME_WAIT for _local, remote, state, _queue in _sockets())


def waiting_to_be_accepted(edge: int | None, urls: Sequence[str]) -> int | None:
    """New connections that the edge has not taken yet, the most on one address."""
    ports = {int(found[1]) for url in urls if (found := re.search(r":(\d+)$", url))}
    if edge is None:
        return None
    queues = [queue for local, _remote, state, queue in _sockets(edge) if state == _LISTEN and local in ports]
    return max(queues, default=None)
