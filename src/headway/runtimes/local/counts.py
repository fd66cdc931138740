"""Reads what a worker has counted out of the file it shares, and believes none of it unseen.

The worker writes while we look, so a reading counts only when nobody wrote in between. And it is the app's process: it
may overwrite the file, or lie. What cannot be true is no reading at all; limits are never computed from it.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence

from headway.model.overload import ClassCounts, Counts, RouteCounts
from headway.worker import telemetry
from headway.worker.telemetry import PAGE, PREFIX_BYTES, Slot

_TRIES_MAX = 8  # the worker writes for some microseconds, ten times a second
_AHEAD_MAX_NS = 1_000_000_000
_LAG_MAX_NS = 3600 * 1_000_000_000
_COUNT_MAX = 1 << 48  # a million a second for nine years
_IN_FLIGHT_MAX = 1 << 24
_TIME_MAX_NS = 1 << 62  # the sum of all requests: 146 years
_NUMBERS = struct.Struct(f"={PAGE.stop - PAGE.start}Q")
_PREFIX = re.compile(rb"/[A-Za-z0-9._~-]*")  # it goes into a map of the edge: nothing that could mean something there


def read_counts(slots: memoryview) -> Counts | None:
    """One reading; None when there is none yet, the writer never stood still, or what it wrote cannot be true."""
    if not telemetry.has_page(slots):
        return None
    for _ in range(_TRIES_MAX):
        sequence = slots[Slot.SEQ]
        page = slots[PAGE].tobytes()
        if sequence % 2 == 0 and slots[Slot.SEQ] == sequence:
            return _counts(page, time.monotonic_ns()) if sequence else None
    return None


def _counts(page: bytes, now_ns: int) -> Counts | None:
    numbers = _NUMBERS.unpack(page)
    at_ns, lag_ns = numbers[:2]
    if not 0 < at_ns <= now_ns + _AHEAD_MAX_NS:
        return None
    classes = []
    for number in range(telemetry.CLASSES_MAX):
        begin = telemetry.PAGE_CLASSES + number * telemetry.CLASS_SLOTS
        counted = _class_counts(numbers[begin : begin + telemetry.CLASS_SLOTS])
        if counted is None:
            return None
        classes.append(counted)
    return Counts(at_ns / 1e9, min(lag_ns, _LAG_MAX_NS) / 1e9, tuple(classes), _routes(page, numbers))


def _class_counts(block: Sequence[int]) -> ClassCounts | None:
    completed, failed, service_ns, in_flight, dropped, refused, cancelled = block[:7]
    histogram = tuple(block[8:])
    counted = max(completed, failed, dropped, refused, cancelled)
    if counted > _COUNT_MAX or in_flight > _IN_FLIGHT_MAX or service_ns > _TIME_MAX_NS:
        return None
    if sum(histogram) != completed:
        return None
    return ClassCounts(completed, failed, service_ns / 1e9, in_flight, dropped, refused, histogram, cancelled)


def _routes(page: bytes, numbers: Sequence[int]) -> tuple[RouteCounts, ...]:
    """Each route that makes sense; one that does not harms no other."""
    found: dict[str, RouteCounts] = {}
    for index in range(telemetry.ROUTES_MAX):
        begin = telemetry.PAGE_ROUTES + index * telemetry.ROUTE_SLOTS
        samples, service_ns = numbers[begin + PREFIX_BYTES // 8 : begin + telemetry.ROUTE_SLOTS]
        if not 0 < samples <= _COUNT_MAX or service_ns > _TIME_MAX_NS:
            continue
        name, ending, rest = page[begin * 8 : begin * 8 + PREFIX_BYTES].partition(b"\0")
        if ending and not rest.strip(b"\0") and _PREFIX.fullmatch(name):
            prefix = name.decode("ascii")
            found.setdefault(prefix, RouteCounts(prefix, samples, service_ns / 1e9))
    return tuple(found.values())
