"""Finds the spans of one request in the access log and in the files of the replicas, from the newest line backwards."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.control.dropped import read_dropped
from headway.edge.hops import spans_of
from headway.model.span import DROPPED, Span, read_span
from headway.process.folders import Folders

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SPANS_MAX = 2000
_BLOCK_BYTES = 1 << 20
_LINE_MAX_BYTES = 1 << 20
_TIMED = re.compile(r"([0-9]{16})[0-9a-f]{16}")  # the edge's own ids begin with their time in microseconds
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_QUEUED_S = 1.0
_MARGIN_S = 10.0  # spans are written when they end, and in batches
_YEAR_2001_S, _DAY_S = 1e9, 86_400.0


@dataclass(slots=True)
class Found:
    """What is known of a request."""

    spans: list[Span] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)  # by replica: spans of that time that had no room

    @property
    def begin_s(self) -> float:
        return min((span.begin_ns for span in self.spans), default=0) / 1e9

    @property
    def end_s(self) -> float:
        return max((span.end_ns for span in self.spans), default=0) / 1e9


def find(folders: Folders, request: str) -> Found:
    """All spans of a request, by its id or by that of its trace. Files that cannot be read hold none."""
    began_s = _began_s(request)
    found = Found()
    for path in _files(folders):
        for line in lines_with(path, request.encode(), began_s):
            for span in read_line(line):
                if request in (span.request, span.trace):
                    found.spans.append(span)
            if len(found.spans) >= SPANS_MAX:
                break
    found.dropped = _dropped(folders, found)
    return found


def _dropped(folders: Folders, found: Found) -> dict[str, int]:
    """What the replicas that had the request say of spans of that time, which are written a little after they end."""
    counts: dict[str, int] = {}
    for replica in dict.fromkeys(span.replica for span in found.spans if span.replica):
        path = folders.traces / f"{_UNSAFE.sub('_', replica)}.jsonl"
        for each in (path, path.with_name(f"{path.name}.1")):
            for line in lines_with(each, f'"{DROPPED}":'.encode(), found.begin_s - _MARGIN_S):
                told = read_dropped(line)
                if told is not None and told.overlaps(found.begin_s, found.end_s + _QUEUED_S):
                    counts[replica] = counts.get(replica, 0) + told.count
    return counts


def oldest_s(folders: Folders) -> float | None:
    """When the oldest request began that the access log still holds; None when it holds none."""
    for path in _logs(folders)[::-1]:
        try:
            with path.open("rb") as file:
                for line in file.read(_BLOCK_BYTES).splitlines():
                    spans = read_line(line)
                    if spans:
                        return spans[0].begin_ns / 1e9
        except OSError:
            continue
    return None


def _logs(folders: Folders) -> list[Path]:
    """The access log, the newest file first."""
    log = folders.logs / "access.log"
    return [log, *(log.with_name(f"{log.name}.{number}") for number in (1, 2))]


def _files(folders: Folders) -> list[Path]:
    try:
        spans = sorted(Path(entry.path) for entry in os.scandir(folders.traces) if ".jsonl" in entry.name)
    except OSError:
        spans = []
    return [*_logs(folders), *spans]


def lines_with(path: Path, text: bytes, since_s: float = 0.0) -> Iterator[bytes]:
    """Whole lines with `text` in them, the last one first; of a file that may be written to, cut or renamed meanwhile.

    It ends where lines are older than `since_s`.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < since_s:
                return
            end, rest = status.st_size, b""
            while end > 0:
                begin = max(0, end - _BLOCK_BYTES)
                block = os.pread(file.fileno(), end - begin, begin) + rest
                head, _, whole = block.partition(b"\n") if begin else (b"", b"", block)
                yield from _matching(whole, text)
                if since_s and _is_older(whole, since_s):
                    return
                end, rest = begin, head[:_LINE_MAX_BYTES] + b"\n" if begin else b""
    except OSError:
        return


def _matching(block: bytes, text: bytes) -> Iterator[bytes]:
    at = block.rfind(text)
    while at >= 0:
        begin = block.rfind(b"\n", 0, at) + 1
        end = block.find(b"\n", at)
        yield block[begin : end if end >= 0 else len(block)]
        at = block.rfind(text, 0, begin)


def _is_older(block: bytes, since_s: float) -> bool:
    spans = read_line(block.partition(b"\n")[0])
    return bool(spans) and spans[0].end_ns / 1e9 < since_s


def read_line(line: bytes) -> tuple[Span, ...]:
    """The spans of a line of either kind of file; none of what is neither."""
    try:
        document: Any = json.loads(line)
    except ValueError:
        return ()
    if not isinstance(document, dict):
        return ()
    if "begin_ns" in document:
        span = read_span(document)
        return (span,) if span is not None else ()
    return spans_of(document)


def _began_s(request: str) -> float:
    """When a request began, by its id, less a margin; 0 when the id does not say it."""
    timed = _TIMED.fullmatch(request)
    began_s = int(timed[1]) / 1e6 if timed else 0.0
    return began_s - _MARGIN_S if _YEAR_2001_S < began_s < time.time() + _DAY_S else 0.0
