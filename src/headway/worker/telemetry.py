"""What a worker tells about itself, without a message: a small file both sides map into memory.

The worker writes plain 64-bit counters, the controller reads them every tick; neither ever waits for the other, and a
controller that comes back simply maps the file again. Times are nanoseconds of the machine's monotonic clock, which all
its processes share. A slot is written by one thread or under a lock.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum

_MAGIC = 0x4845_4144_5741_5901  # "HEADWAY" and the version of the layout
SIZE_BYTES = 4096


class Slot(IntEnum):
    """Index of each counter in the file."""

    MAGIC = 0
    PID = 1
    STAGE = 2
    BEAT_NS = 3  # last sign of life of the process (a thread of its own)
    LOOP_BEAT_NS = 4  # last turn of the event loop; WSGI: last time a thread was free or a request ended
    IN_FLIGHT = 5
    STREAMS = 6  # WebSockets and event streams open
    STARTED = 7
    COMPLETED = 8
    FAILED = 9  # the app raised
    IS_WSGI = 10
    THREADS = 11


class Stage(IntEnum):
    """How far a worker has come."""

    BOOTING = 0
    IMPORTING = 1
    STARTING = 2  # imported, the app's own start-up runs
    SERVING = 3
    STOPPING = 4
    FAILED = 5  # the reason is in the settings' `failure` file


def create(path: str) -> memoryview:
    """Make the file afresh and map it, as unsigned 64-bit slots."""
    fresh = f"{path}.new"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, SIZE_BYTES)
        slots = memoryview(mmap.mmap(fd, SIZE_BYTES)).cast("Q")
    finally:
        os.close(fd)
    slots[Slot.MAGIC] = _MAGIC
    slots[Slot.PID] = os.getpid()
    os.replace(fresh, path)
    return slots


def attach(path: str) -> memoryview | None:
    """Map an existing file for reading; None when it is not there or of another layout."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size < SIZE_BYTES:
            return None
        slots = memoryview(mmap.mmap(fd, SIZE_BYTES, prot=mmap.PROT_READ)).cast("Q")
    finally:
        os.close(fd)
    return slots if slots[Slot.MAGIC] == _MAGIC else None
