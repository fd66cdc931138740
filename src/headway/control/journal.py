"""The journal: what the loop did and why, one JSON line each, bounded; `headway explain` reads it."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

_FILE_MAX_BYTES = 4 << 20  # two files of this size at most
_RECENT = 500
_READ_MAX_BYTES = 1 << 20


class Journal:
    """Appends entries {"time", "about", "what", "reason", "level"}; a full disk loses entries, never the loop."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self.count = 0
        self._lock = threading.Lock()  # a number that two have is one that a follower misses

    def write(self, about: str, what: str, reason: str, level: str = "note") -> None:
        """One entry. `about` is the name of a part, `what` the deed in a few words."""
        entry = {"time": round(time.time(), 3), "about": about, "what": what, "reason": reason, "level": level}
        with self._lock:
            self.count += 1
            self.recent.append({**entry, "number": self.count})
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(entry, ensure_ascii=False).encode() + b"\n")
                if os.fstat(fd).st_size > _FILE_MAX_BYTES:
                    os.replace(self._path, f"{self._path}.1")
            finally:
                os.close(fd)


def read_journal(path: Path, about: str | None, last: int) -> list[dict[str, Any]]:
    """The last entries, oldest first; with `about` only those of a part, as `is_of` has it."""
    entries: list[dict[str, Any]] = []
    for file in (Path(f"{path}.1"), path):
        try:
            with file.open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                size = stream.tell()
                stream.seek(max(0, size - _READ_MAX_BYTES))
                lines = stream.read().splitlines()
        except OSError:
            continue
        for line in lines:
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
    if about is not None:
        entries = [entry for entry in entries if is_of(entry["about"], about)]
    return entries[-last:]


def is_of(part: str, name: str) -> bool:
    """Whether a part is meant by a name, which may be the one in `headway status`: web.1 by "web", database.orders.s1
    by "orders" and "orders/s1", cache.hot by "hot".
    """
    dotted = name.replace("/", ".")
    wholes = (dotted, f"database.{dotted}", f"cache.{dotted}")
    return any(part == whole or part.startswith(f"{whole}.") for whole in wholes)
