"""What a worker publishes is what the controller reads: whole, or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.model import overload
from headway.runtimes.local.counts import read_counts
from headway.worker import telemetry
from headway.worker.tally import Tallies
from headway.worker.telemetry import PAGE, Slot

FIELDS = ("failed", "service_ns", "in_flight", "dropped", "refused")


@pytest.fixture
def slots(tmp_path: Path) -> memoryview:
    return telemetry.create(str(tmp_path / "web.1.tele"))


def test_both_sides_have_the_same_bounds() -> None:
    assert telemetry.CLASSES_MAX == overload.CLASSES_MAX
    assert telemetry.HISTOGRAM_BUCKETS == overload.HISTOGRAM_BUCKETS
    assert PAGE.stop * 8 <= telemetry.SIZE_BYTES


def test_nothing_was_published_yet(slots: memoryview) -> None:
    assert read_counts(slots) is None


numbers = st.integers(0, 1 << 20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(st.tuples(*[numbers] * len(FIELDS)), min_size=8, max_size=8),
    times_ns=st.lists(st.integers(0, 1 << 62), max_size=30),
    lag_ns=numbers,
)
def test_what_is_published_is_read(
    slots: memoryview, classes: list[tuple[int, ...]], times_ns: list[int], lag_ns: int
) -> None:
    tallies = Tallies()
    for tally, values in zip(tallies.classes, classes, strict=True):
        for field, value in zip(FIELDS, values, strict=True):
            setattr(tally, field, value)
        for time_ns in times_ns:
            tally.histogram[(time_ns >> 10).bit_length()] += 1
    at_ns = time.monotonic_ns()
    tallies.publish(slots, at_ns, lag_ns)
    counts = read_counts(slots)
    assert counts is not None
    assert (counts.at_s, counts.lag_s) == (at_ns / 1e9, lag_ns / 1e9)
    for read, (failed, service_ns, in_flight, dropped, refused) in zip(counts.classes, classes, strict=True):
        assert read.completed == sum(read.histogram) == len(times_ns)
        assert (read.failed, read.service_s, read.in_flight) == (failed, service_ns / 1e9, in_flight)
        assert (read.dropped, read.refused) == (dropped, refused)
        for index, count in enumerate(read.histogram):
            low_ns, high_ns = (1 << index - 1 if index else 0) * 1024, (1 << index) * 1024
            is_last = index == overload.HISTOGRAM_BUCKETS - 1
            assert count == sum(low_ns <= time_ns and (is_last or time_ns < high_ns) for time_ns in times_ns)


def test_quick_client_errors_make_the_app_look_no_quicker(slots: memoryview) -> None:
    tallies = Tallies()
    tally = tallies.classes[0]

    def mean_s(good: int, errors: int, error_ns: int = 1_000_000) -> float:
        before = read_counts(slots)
        for _ in range(good):
            tally.count(200, 100_000_000)
        for _ in range(errors):
            tally.count(404, error_ns)
        tallies.publish(slots, time.monotonic_ns(), 0)
        now = read_counts(slots)
        assert now is not None
        done = now.classes[0]
        was = before.classes[0] if before is not None else overload.ClassCounts()
        assert done.completed - was.completed == good + errors, "they are answers all the same"
        return (done.service_s - was.service_s) / (done.completed - was.completed)

    assert mean_s(0, 10) == pytest.approx(0.001), "where there is nothing else, they are what it does"
    assert mean_s(20, 0) == pytest.approx(0.1)
    for _ in range(20):
        assert mean_s(2, 18) == pytest.approx(0.1)
    assert mean_s(2, 8, 200_000_000) == pytest.approx(0.18), "a slow one counts as it is"
    assert mean_s(0, 10) == pytest.approx(0.1)
    for _ in range(400):
        last_s = mean_s(0, 10)
    assert last_s == pytest.approx(0.001, rel=0.1), "nothing else for a while"


def test_routes_are_few_and_plain(slots: memoryview) -> None:
    tallies = Tallies()
    tallies.sample("/reports/7", 200, 3000)
    tallies.sample("/reports", 301, 5000)
    tallies.sample("/", 200, 1000)
    for path in ("/nothing/here", "/a b", "/ünï", "/a;quit", "/" + "x" * 47, "*", "", "//x"):
        tallies.sample(path, 404 if path.startswith("/nothing") else 200, 1000)
    for index in range(100):
        tallies.sample(f"/{index}".ljust(47, "x") + "/more", 200, 1000)
    tallies.publish(slots, time.monotonic_ns(), 0)
    counts = read_counts(slots)
    assert counts is not None
    found = {route.prefix: (route.samples, route.service_s) for route in counts.routes}
    assert len(found) == telemetry.ROUTES_MAX
    assert found["/reports"] == (2, 8e-06)
    assert found["/"] == (2, 2e-06)  # "//x" begins with an empty part
    assert set(found) - {"/reports", "/"} == {f"/{index}".ljust(47, "x") for index in range(telemetry.ROUTES_MAX - 2)}


def test_a_writer_that_ended_in_the_middle_is_not_read(slots: memoryview) -> None:
    Tallies().publish(slots, time.monotonic_ns(), 0)
    assert read_counts(slots) is not None
    slots[Slot.SEQ] += 1
    assert read_counts(slots) is None


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 0),
        (0, (1 << 64) - 1),
        (telemetry.PAGE_CLASSES, 1),  # completed, and in no bucket of the histogram
        (telemetry.PAGE_CLASSES + 1, (1 << 64) - 1),
        (telemetry.PAGE_CLASSES + 2, (1 << 64) - 5),
        (telemetry.PAGE_CLASSES + 3, (1 << 64) - 1),
        (telemetry.PAGE_CLASSES + telemetry.CLASS_SLOTS + 8, 1),
    ],
)
def test_what_cannot_be_true_is_no_reading(slots: memoryview, index: int, value: int) -> None:
    Tallies().publish(slots, time.monotonic_ns(), 0)
    slots[PAGE.start + index] = value
    assert read_counts(slots) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, PAGE.stop - PAGE.start - 1), st.binary(min_size=8))))
def test_garbage_never_raises_and_names_no_strange_route(
    slots: memoryview, sequence: int, garbage: list[tuple[int, bytes]]
) -> None:
    tallies = Tallies()
    tallies.sample("/a", 200, 1)
    tallies.publish(slots, time.monotonic_ns(), 0)
    slots[Slot.SEQ] = sequence
    for index, data in garbage:
        slots[PAGE.start + index] = int.from_bytes(data[:8], "little")
    counts = read_counts(slots)
    assert counts is None or all(route.prefix.isascii() and " " not in route.prefix for route in counts.routes)


def test_a_worker_from_before_an_upgrade_has_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "old.tele"
    old = (0x4845_4144_5741_5901, 4711, 3)
    path.write_bytes(b"".join(number.to_bytes(8, sys.byteorder) for number in old).ljust(4096, b"\0"))
    slots = telemetry.attach(str(path))
    assert slots is not None
    assert (slots[Slot.PID], slots[Slot.STAGE]) == (4711, 3)
    assert read_counts(slots) is None


def test_another_layout_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "other.tele"
    for content in (b"", b"\1" * 100, b"\1" * 4096, b"\1" * telemetry.SIZE_BYTES):
        path.write_bytes(content)
        assert telemetry.attach(str(path)) is None


WRITER = """
import sys, time
from headway.worker import telemetry
from headway.worker.tally import Tallies
slots, tallies, turn = telemetry.create(sys.argv[1]), Tallies(), 0
print("begun", flush=True)
while True:
    turn += 1
    for tally in tallies.classes:
        tally.failed = tally.dropped = tally.refused = tally.service_ns = turn
        tally.histogram[turn % 32] += 1
    tallies.publish(slots, time.monotonic_ns(), turn)
"""


def test_no_reading_is_of_two_moments(tmp_path: Path) -> None:
    path = str(tmp_path / "busy.tele")
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"begun\n"
            slots = telemetry.attach(path)
            assert slots is not None
            turns = []
            until_s = time.monotonic() + 120
            while len(turns) < 3000 and time.monotonic() < until_s:
                counts = read_counts(slots)
                if counts is not None:
                    turns.append(round(counts.lag_s * 1e9))
                    for one in counts.classes:
                        assert one.completed == one.failed == one.dropped == one.refused == turns[-1]
            assert len(turns) == 3000
            assert turns == sorted(turns)
            assert turns[-1] > turns[0]
        finally:
            writer.kill()
