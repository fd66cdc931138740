"""What a worker counts, class by class and route by route, and how it is published.

Counting is paid for by every request, so it is plain integers of this process; once per beat they are copied to the
file that the controller reads. Bounds are fixed: so many classes, buckets and routes, whatever paths clients think of.
"""

from __future__ import annotations

import re
from array import array

from .telemetry import (
    CLASS_SLOTS,
    CLASSES_MAX,
    HISTOGRAM_BUCKETS,
    PAGE,
    PAGE_CLASSES,
    PAGE_ROUTES,
    PREFIX_BYTES,
    ROUTE_SLOTS,
    ROUTES_MAX,
    Slot,
)

# One request in so many is looked at for its route. A prime: clients that ask for two or sixteen paths in turn would
# otherwise show always the same one.
SAMPLE_EVERY = 17

# The edge compares paths as they were sent, the app gets them decoded: only what is the same in both is kept.
_PLAIN = re.compile(rf"/[A-Za-z0-9._~-]{{0,{PREFIX_BYTES - 2}}}")
_UNKNOWN_PATH = 404
CLIENT_ERROR = 400  # and up to 499
_BUCKETS_COUNTED = 64  # as many as a time in 64 bits can need, so that no request pays for a bound


class Tally:
    """Of one class. Event streams and WebSockets are in none: they stay for long and say nothing of speed."""

    __slots__ = (
        "_error_ns",
        "_errors",
        "_seen_good",
        "_seen_good_ns",
        "_usual_ns",
        "cancelled",
        "cancels",
        "dropped",
        "failed",
        "histogram",
        "in_flight",
        "refused",
        "service_ns",
    )

    def __init__(self) -> None:
        self.failed = self.service_ns = self.in_flight = self.dropped = self.refused = self.cancelled = 0
        self.cancels = False  # whether work that nobody waits for is
        self.histogram = [0] * _BUCKETS_COUNTED  # its sum is the number of completed requests
        self._errors = self._error_ns = 0  # of the client, among the completed, and what was counted for them
        self._seen_good = self._seen_good_ns = 0  # the others, at the last beat
        self._usual_ns = 0  # what the others take of late

    def count(self, status: int, service_ns: int, *, is_kept: bool = False) -> None:
        """An answer below 500. (The layers do the common case, below 400, by themselves: that saves a call.)

        The client's own errors are answers, but a refused login says nothing of how long the work takes that the others
        wait for: a quick one counts as what is usual. So does an answer from a cache (`is_kept`).
        """
        self.histogram[(service_ns >> 10).bit_length()] += 1
        if status >= CLIENT_ERROR or is_kept:
            service_ns = max(service_ns, self._usual_ns)
            self._errors += 1
            self._error_ns += service_ns
        self.service_ns += service_ns

    def beat(self, completed: int) -> None:
        """Learn what is usual. Where nothing but errors comes, they are the work after a while."""
        good, good_ns = completed - self._errors, self.service_ns - self._error_ns
        more, more_ns = good - self._seen_good, good_ns - self._seen_good_ns
        self._seen_good, self._seen_good_ns = good, good_ns
        if more > 0:
            mean_ns = more_ns // more
            self._usual_ns += (mean_ns - self._usual_ns) // 4 if self._usual_ns else mean_ns
        else:
            self._usual_ns -= self._usual_ns // 64


class Tallies:
    """All classes and the sampled routes of one worker."""

    def __init__(self) -> None:
        self.classes = tuple(Tally() for _ in range(CLASSES_MAX))
        self._routes: dict[str, int] = {}  # where each prefix lies in the page
        self._page = array("Q", bytes(8 * (PAGE.stop - PAGE.start)))

    def sample(self, path: str, status: int, service_ns: int) -> None:
        """Count one request for its route."""
        if status == _UNKNOWN_PATH:
            return  # what scanners ask for would soon fill the table
        end = path.find("/", 1)
        prefix = path if end < 0 else path[:end]
        place = self._routes.get(prefix)
        if place is None:
            if len(self._routes) == ROUTES_MAX or not _PLAIN.fullmatch(prefix):
                return
            place = self._routes[prefix] = PAGE_ROUTES + len(self._routes) * ROUTE_SLOTS
            name = prefix.encode("ascii").ljust(PREFIX_BYTES, b"\0")
            self._page[place : place + PREFIX_BYTES // 8] = array("Q", name)
        self._page[place + ROUTE_SLOTS - 2] += 1
        self._page[place + ROUTE_SLOTS - 1] += service_ns

    def publish(self, slots: memoryview, at_ns: int, lag_ns: int) -> None:
        """Copy everything to the file at once; SEQ is odd meanwhile, so that nobody takes half of it for a reading."""
        page = self._page
        page[0], page[1] = at_ns, lag_ns
        place = PAGE_CLASSES
        for tally in self.classes:
            histogram = tally.histogram[:HISTOGRAM_BUCKETS]
            histogram[-1] += sum(tally.histogram[HISTOGRAM_BUCKETS:])
            completed = sum(histogram)
            tally.beat(completed)
            page[place : place + CLASS_SLOTS] = array(
                "Q",
                [
                    completed,
                    tally.failed,
                    tally.service_ns,
                    tally.in_flight,
                    tally.dropped,
                    tally.refused,
                    tally.cancelled,
                    0,
                    *histogram,
                ],
            )
            place += CLASS_SLOTS
        slots[Slot.SEQ] += 1
        slots[PAGE] = page
        slots[Slot.SEQ] += 1
