"""Reads the record that a supervisor keeps of itself and its processes: who runs, though nobody may answer."""

from __future__ import annotations

import json
from typing import Any

from headway.process.folders import Folders
from headway.process.linux import is_same


def read_record(folders: Folders) -> dict[str, Any] | None:
    """The record as it was written last; None when there is none."""
    try:
        record: dict[str, Any] = json.loads((folders.run / "processes.json").read_text())
    except (OSError, ValueError):
        return None
    return record


def supervisor_runs(record: dict[str, Any] | None) -> bool:
    """Whether the supervisor that wrote the record still lives."""
    return record is not None and is_same(record["supervisor"]["pid"], record["supervisor"]["ticks"])


def has_processes(record: dict[str, Any] | None) -> bool:
    """Whether anything that the supervisor started still lives, be it only for another moment."""
    return record is not None and any(is_same(entry["pid"], entry["ticks"]) for entry in record["processes"])


def has_leftovers(record: dict[str, Any] | None) -> bool:
    """Whether processes of a detached system still run."""
    return record is not None and bool(record["supervisor"]["detached"]) and has_processes(record)
