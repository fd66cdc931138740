"""Spans without room: read from the files of replicas, counted once, and told of the requests of that time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headway.control.dropped import Dropped, DroppedCounts, read_dropped
from headway.control.trace_files import find
from headway.process.folders import Folders

HOP = {"method": "GET", "path": "/", "status": 200, "service": "web", "replica": "web.1", "queue_ms": 0, "ttfb_ms": 1}


def line(count: object, until_s: object = 1000.0, **more: object) -> bytes:
    return json.dumps({"dropped": count, "time": until_s, **more}, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line(3, 1000.0, since=990.0), Dropped(3, 990.0, 1000.0)),
        (line(3), Dropped(3, 1000.0, 1000.0)),  # as it was written before there was `since`
        (line(0), None),
        (line("x"), None),
        (line(3, None), None),
        (b'{"name":"\\"dropped\\":"}\n', None),
        (b'["dropped":', None),
        (b'{"name":"a"}\n', None),
    ],
)
def test_what_a_line_says(text: bytes, told: Dropped | None) -> None:
    assert read_dropped(text) == told


def test_each_is_counted_once_also_when_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "web.1.jsonl"
    path.write_bytes(b'{"name":"a"}\n' + line(2))
    (tmp_path / "web.2.jsonl").write_bytes(b"")
    counts = DroppedCounts(tmp_path)
    assert counts.look() == counts.look() == {"web.1": 2, "web.2": 0}
    with path.open("ab") as file:
        file.write(line(3))
    os.replace(path, tmp_path / "web.1.jsonl.1")
    path.write_bytes(line(5))
    assert counts.look() == {"web.1": 10, "web.2": 0}
    path.unlink()
    assert counts.look() == {"web.1": 10, "web.2": 0}
    assert DroppedCounts(tmp_path / "none").look() == {}


@pytest.mark.parametrize(
    ("told", "dropped"),
    [
        (line(4, 1001.0, since=1000.5), {"web.1": 4}),
        (line(4, 1300.0, since=900.0) + line(2, 1000.0), {"web.1": 6}),
        (line(4, 999.0, since=990.0), {}),
        (line(4, 1100.0, since=1010.0), {}),
    ],
)
def test_requests_of_that_time_say_so(tmp_path: Path, told: bytes, dropped: dict[str, int]) -> None:
    folders = Folders(tmp_path, tmp_path / "run")
    folders.logs.mkdir()
    folders.traces.mkdir()
    entry = {**HOP, "time": 1_000_000, "total_ms": 700, "end": "--", "id": "r1"}
    (folders.logs / "access.log").write_text(json.dumps(entry) + "\n")
    (folders.traces / "web.1.jsonl").write_bytes(told)
    (folders.traces / "other.1.jsonl").write_bytes(line(9, 1000.2))
    assert find(folders, "r1").dropped == dropped
