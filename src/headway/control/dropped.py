"""Spans that replicas had no room to write down: told in their files, counted from there."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.control.follow import Position, read_on
from headway.model.span import DROPPED

_MARK = f'"{DROPPED}":'.encode()
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many, from one moment to another, in seconds of the wall clock."""

    count: int
    since_s: float
    until_s: float

    def overlaps(self, begin_s: float, end_s: float) -> bool:
        """Whether some of them may be of this time."""
        return self.since_s <= end_s and begin_s <= self.until_s


def read_dropped(line: bytes) -> Dropped | None:
    """What a line of a replica's file says of them; None of any other line."""
    if _MARK not in line:
        return None
    try:
        document: Any = json.loads(line)
        count, until_s = int(document[DROPPED]), float(document["time"])
        return Dropped(count, float(document.get("since", until_s)), until_s) if count > 0 else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class DroppedCounts:
    """How many were dropped, by replica, since the oldest line that was there at the first look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._positions: dict[Path, Position] = {}
        self._counts: Counter[str] = Counter()
        self._one_at_a_time = threading.Lock()

    def look(self) -> dict[str, int]:
        """Read on in all files, and tell the counts; also of a replica that has dropped none."""
        with self._one_at_a_time:
            paths = list(self._files())
            for path in paths:
                self._counts[path.stem] += 0
                while True:
                    lines, self._positions[path] = read_on(path, self._positions.get(path, Position()), _READ_BYTES)
                    if not lines:
                        break
                    self._counts[path.stem] += sum(told.count for line in lines if (told := read_dropped(line)))
            self._positions = {path: self._positions[path] for path in paths}
            return dict(self._counts)

    def _files(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from sorted(Path(entry.path) for entry in os.scandir(self._folder) if entry.name.endswith(".jsonl"))
