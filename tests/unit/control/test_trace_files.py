"""A request is found from the newest line backwards, in files that are written to, cut and renamed meanwhile."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from headway.control import trace_files
from headway.control.trace_files import find, lines_with, oldest_s
from headway.model.span import Span
from headway.process.folders import Folders


def span(request: str, name: str, begin_s: float = 1000.0) -> bytes:
    made = Span("t" * 32, f"{abs(hash(name)):016x}"[:16], "", request, name, "cache", int(begin_s * 1e9), 1000)
    return json.dumps(made.document()).encode()


def hop(request: str, begin_s: float) -> bytes:
    entry = {"time": int(begin_s * 1000), "method": "GET", "path": "/", "status": 200, "service": "web"}
    more = {"replica": "web.1", "queue_ms": 0, "ttfb_ms": 1, "total_ms": 1, "end": "--", "id": request}
    return json.dumps(entry | more).encode()


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1 << 20])
def test_lines_are_found_backwards_wherever_blocks_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(trace_files, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "log"
    path.write_bytes(b"one A\ntwo\nA three A\n\nfour\nA\nfive without its end A")
    assert list(lines_with(path, b"A")) == [b"five without its end A", b"A", b"A three A", b"one A"]
    assert list(lines_with(path, b"B")) == []
    path.write_bytes(b"")
    assert list(lines_with(path, b"A")) == []
    assert list(lines_with(tmp_path / "none", b"A")) == []


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    found = Folders(tmp_path, tmp_path / "run")
    found.logs.mkdir()
    found.traces.mkdir()
    return found


def test_a_request_is_found_in_every_file(folders: Folders) -> None:
    (folders.logs / "access.log.2").write_bytes(hop("r1", 1000.0) + b"\n")
    (folders.logs / "access.log").write_bytes(b"HAProxy says hello\n" + hop("r2", 1000.5) + b"\n")
    (folders.traces / "web.1.jsonl.1").write_bytes(span("r1", "a") + b"\n" + span("r11", "b") + b"\n")
    (folders.traces / "web.1.jsonl").write_bytes(
        b'{"torn": "r1' + b"\n" + span("r1", "c") + b"\n" + b'{"dropped": 1, "r1": 1}\n'
    )
    assert sorted(found.name for found in find(folders, "r1").spans) == ["GET /", "a", "c"]
    assert [found.name for found in find(folders, "r11").spans] == ["b"]
    assert {found.name for found in find(folders, "t" * 32).spans} == {"a", "b", "c"}
    assert find(folders, "r3").spans == []
    assert oldest_s(folders) == 1000.0


def test_nothing_there_is_nothing_found(tmp_path: Path) -> None:
    nowhere = Folders(tmp_path / "gone", tmp_path / "run")
    assert find(nowhere, "r1").spans == []
    assert oldest_s(nowhere) is None


def test_files_that_are_older_than_the_request_are_not_read(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    request = f"{int(now_s * 1e6):016d}{'a' * 16}"
    old = folders.logs / "access.log.1"
    old.write_bytes(hop(request, now_s) + b"\n")  # cannot be: it only shows that it is not looked at
    os.utime(old, (now_s - 3600, now_s - 3600))
    assert find(folders, request).spans == []
    os.utime(old, (now_s, now_s))
    assert len(find(folders, request).spans) == 1
    monkeypatch.setattr(trace_files, "_BLOCK_BYTES", 4096)
    lines = [hop(request, now_s), *(hop("other", now_s - 3600) for _ in range(100)), hop("last", now_s)]
    old.write_bytes(b"\n".join(lines) + b"\n")
    assert find(folders, request).spans == []
    assert len(find(folders, "last").spans) == 1


def test_what_is_found_is_bounded(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_files, "SPANS_MAX", 10)
    (folders.traces / "web.1.jsonl").write_bytes(b"\n".join(span("r1", f"s{n}") for n in range(50)) + b"\n")
    assert len(find(folders, "r1").spans) == 10
