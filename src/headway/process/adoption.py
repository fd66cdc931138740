"""What a supervisor leaves running when it ends, and how the next one finds it again.

Processes are known by pid and start time, which no other process shares, from the record that the earlier supervisor
kept: it may have been killed at any moment. The listening sockets are copied out of a process that inherited them.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.process import linux
from headway.process.record import record_in
from headway.process.spec import FIRST_LISTENER_FD, ProcessSpec


@dataclass(frozen=True, slots=True)
class Left:
    """A process that an earlier supervisor started and that still runs."""

    name: str
    pid: int
    ticks: int
    addresses: tuple[str, ...]  # of the listening sockets it was given
    stored_spec: dict[str, Any] | None  # of an engine; of nothing else it is stored

    @property
    def spec(self) -> ProcessSpec | None:
        """How it is started again."""
        return ProcessSpec.from_json(self.stored_spec) if self.stored_spec else None

    @property
    def is_there(self) -> bool:
        """Whether it has not ended since."""
        return linux.is_same(self.pid, self.ticks)


def find_left(run_folder: Path) -> tuple[list[Left], bool]:
    """What still runs of an earlier supervisor, and whether that was detached: else it is not to go on."""
    record = record_in(run_folder)
    if record is None:
        return [], False
    entries = [
        Left(entry["name"], entry["pid"], entry["ticks"], tuple(entry["addresses"]), entry["spec"])
        for entry in record["processes"]
    ]
    return [entry for entry in entries if entry.is_there], bool(record["supervisor"]["detached"])


def take_listeners(processes: Sequence[Left]) -> dict[str, socket.socket]:
    """The listening sockets of the first process that gives all of its own; none where the kernel forbids it."""
    for process in processes:
        if process.addresses:
            numbers = range(FIRST_LISTENER_FD, FIRST_LISTENER_FD + len(process.addresses))
            if fds := linux.duplicate_descriptors(process.pid, numbers):
                return {address: socket.socket(fileno=fd) for address, fd in zip(process.addresses, fds, strict=True)}
    return {}


def end_left(processes: Sequence[Left], patience_s: float) -> None:
    """Ask them to end, wait, and kill those that are still there after `patience_s`."""
    for process in processes:
        number = process.stored_spec["stop_signal"] if process.stored_spec else signal.SIGTERM
        linux.send_signal(process.pid, process.ticks, number)
    until_s = time.monotonic() + patience_s
    while processes and time.monotonic() < until_s:
        processes = [process for process in processes if process.is_there]
        time.sleep(0.02)
    for process in processes:
        linux.send_signal(process.pid, process.ticks, signal.SIGKILL)
