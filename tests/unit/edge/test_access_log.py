"""Sums up a window of the access log, and follows the file through its rotation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headway.edge.access_log import parse_line, percentile, sample, summary
from headway.edge.tail import READ_MAX_BYTES, Tail


def line(status: int = 200, ttfb_ms: float = 1, replica: str = "web.1", service: str = "web") -> bytes:
    entry = {"time": 1_700_000_000_123, "client": "::1", "method": "GET", "path": "/", "status": status}
    entry |= {"service": service, "replica": replica, "queue_ms": 0, "ttfb_ms": ttfb_ms, "total_ms": 2}
    return json.dumps(entry).encode()


def test_sums_up_a_window() -> None:
    lines = [line(ttfb_ms=number) for number in range(1, 101)]
    lines += [line(503, 0, "<NOSRV>"), line(429, 0, "<NOSRV>", "headway.public"), line(503, 5), line(502, -1)]
    found = summary(lines, 2.0)
    assert (found.requests, found.requests_per_s) == (104, 52.0)
    assert (found.refused, found.failed) == (2, 2), "an app's own 503 is a failure, the edge's a refusal"
    assert (found.p50_ms, found.p99_ms) == (50, 99)


def test_of_a_busy_window_a_sample_is_enough() -> None:
    lines = [line(503, 0, "<NOSRV>") if number % 4 == 0 else line() for number in range(10_000)]
    found = summary(lines, 1.0)
    assert found.requests == 10_000
    assert 2000 <= found.refused <= 3000
    assert len(sample(lines)) == 1000
    assert sample(lines[:5]) == lines[:5]


def test_an_empty_window_has_no_percentiles() -> None:
    found = summary([], 1.0)
    assert (found.requests, found.p50_ms, found.p99_ms) == (0, None, None)
    assert percentile([], 0.5) is None


@pytest.mark.parametrize("broken", [b"", b"Proxy web started.", b'{"time":1', b"[]", b'{"status":"x"}', b"\xff\x00"])
def test_passes_over_what_is_no_request(broken: bytes) -> None:
    assert parse_line(broken) is None
    assert summary([broken, line()], 1.0).requests == 1


def test_names_no_replica_that_was_none() -> None:
    request = parse_line(line(404, 0, "<NOSRV>", "headway.unrouted"))
    assert request is not None
    assert (request.service, request.replica, request.time_s) == (None, None, 1_700_000_000.123)


def test_all_classes_of_a_service_are_the_service() -> None:
    for written in ("my-web", "my-web.slow", "my-web.at3"):
        request = parse_line(line(service=written))
        assert request is not None
        assert request.service == "my-web"


def test_follows_a_file_through_truncation_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    tail = Tail(str(path))
    assert tail.lines() == []
    path.write_bytes(b"one\ntwo\nthr")
    assert tail.lines() == [b"one", b"two"]
    with path.open("ab") as file:
        file.write(b"ee\nfour\n")
    assert tail.lines() == [b"three", b"four"]
    assert tail.lines() == []
    os.truncate(path, 0)
    with path.open("ab") as file:
        file.write(b"five\n")
    assert tail.lines() == [b"five"]
    path.unlink()
    assert tail.lines() == []
    path.write_bytes(b"six is in a new file\n")
    assert tail.lines() == [b"six is in a new file"]


def test_begins_at_the_end_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"old\n")
    assert Tail(str(path)).lines() == []
    assert Tail(str(path), from_start=True).lines() == [b"old"]


def test_reads_only_the_end_of_a_large_backlog(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.touch()
    tail = Tail(str(path))
    path.write_bytes(b"".join(b"%09d\n" % number for number in range(READ_MAX_BYTES // 10 + 5000)))
    lines = tail.lines()
    assert len(lines) <= READ_MAX_BYTES // 10
    assert {len(line) for line in lines} == {9}
    assert lines[-1] == b"%09d" % (READ_MAX_BYTES // 10 + 4999)


def test_calls_between_services_are_not_what_clients_see() -> None:
    slow = json.dumps(json.loads(line(ttfb_ms=900)) | {"caller": "web"}).encode()
    failed = json.dumps(json.loads(line(502, replica="<NOSRV>")) | {"caller": "?"}).encode()
    outside = json.dumps(json.loads(line(ttfb_ms=3)) | {"caller": ""}).encode()
    assert parse_line(slow).caller == "web"
    found = summary([slow, failed, outside], 1.0)
    assert (found.requests, found.p99_ms, found.failed) == (1, 3.0, 0)
