"""What a worker tells about itself, without a message: a small file both sides map into memory.

The worker writes plain 64-bit counters, the controller reads them every tick; neither ever waits for the other, and a
controller that comes back simply maps the file again. Times are nanoseconds of the machine's monotonic clock, which all
its processes share. A slot is written by one thread or under a lock.

The first slots stand each for itself. From AT_NS on lies a *page* that is one reading as a whole: it is written at once
between two steps of SEQ, which is odd meanwhile, so a reader that met the writer sees it and looks again. The page is
AT_NS, LAG_NS, CLASS_SLOTS for each class, ROUTE_SLOTS for each sampled route. CAP alone is written by the controller.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum

_MAGIC = 0x4845_4144_5741_5902  # "HEADWAY" and the version of the layout
_MAGIC_1 = 0x4845_4144_5741_5901  # before there were pages: the first twelve slots are the same
SIZE_BYTES = 16384
_SIZE_1_BYTES = 4096

CLASSES_MAX = 8
HISTOGRAM_BUCKETS = 32
ROUTES_MAX = 32
PREFIX_BYTES = 48  # ended by a zero
CLASS_SLOTS = (
    8 + HISTOGRAM_BUCKETS
)  # completed, failed, service ns, in flight, dropped, refused, cancelled, spare, histogram
ROUTE_SLOTS = PREFIX_BYTES // 8 + 2  # prefix, samples, service ns


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
    CAP = 12  # how many requests, streams not counted, the worker may hold; 0 = as many as come
    SEQ = 13  # odd while the page is being written
    AT_NS = 14  # when the page was written
    LAG_NS = 15  # how late the event loop's beat was, at most, since the page before; WSGI: 0


PAGE_CLASSES = 2  # where in the page the classes begin
PAGE_ROUTES = PAGE_CLASSES + CLASSES_MAX * CLASS_SLOTS
PAGE = slice(int(Slot.AT_NS), int(Slot.AT_NS) + PAGE_ROUTES + ROUTES_MAX * ROUTE_SLOTS)


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
    """Map an existing file; None when it is not there or of an unknown layout.

    A worker from before an upgrade has no page (`has_page`), but its first slots are read like any other's.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        size_bytes = os.fstat(fd).st_size
        if size_bytes not in (SIZE_BYTES, _SIZE_1_BYTES):
            return None
        slots = memoryview(mmap.mmap(fd, size_bytes)).cast("Q")
    finally:
        os.close(fd)
    return slots if slots[Slot.MAGIC] == (_MAGIC if size_bytes == SIZE_BYTES else _MAGIC_1) else None


def has_page(slots: memoryview) -> bool:
    """Whether this worker counts by class, and knows a cap."""
    return len(slots) * 8 == SIZE_BYTES
