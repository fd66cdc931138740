"""What the processes of this machine's services tell of the services that they call: a file each.

A process takes its file along when it ends. What one that was killed left behind is removed here.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from headway.calls.totals import Running, add_up
from headway.process.linux import is_same

_FILES_MAX = 10_000
_SIZE_MAX_BYTES = 1 << 20


class CallCounts:
    """The files of one system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = Running()
        self._one_at_a_time = threading.Lock()

    def now(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By service and the one it calls: what the processes that live have counted."""
        return add_up(self._read().values())

    def running(self) -> dict[tuple[str, str], dict[str, int]]:
        """The same since the first look, which processes that end do not take away."""
        with self._one_at_a_time:
            return {key: dict(counts) for key, counts in self._running.look(self._read()).items()}

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError):  # no process has told anything yet
            for path in sorted(self._folder.glob("*.json"))[:_FILES_MAX]:
                told = _told(path)
                if told is None:
                    continue
                if is_same(told["pid"], told["ticks"]):
                    _as_of(told, time.monotonic())
                    found[f"{told['pid']}-{told['ticks']}"] = told
                else:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".new").unlink(missing_ok=True)
        return found


def _as_of(told: dict[str, Any], now_s: float) -> None:
    """A breaker whose pause is over lets a call through to see, and nobody writes that down. One clock for all."""
    targets = told.get("targets")
    for target in targets.values() if isinstance(targets, dict) else ():
        until_s = target.get("breaker_until_s")
        if target.get("breaker") == "open" and isinstance(until_s, int | float) and until_s <= now_s:
            target["breaker"] = "half-open"


def _told(path: Path) -> dict[str, Any] | None:
    """What a file says; None for one that has just gone, or is none of ours."""
    try:
        if path.stat().st_size > _SIZE_MAX_BYTES:
            return None
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(told, dict) and isinstance(told.get("pid"), int) and isinstance(told.get("ticks"), int)
    return told if is_ours else None
