"""The record that a supervisor keeps of itself and its processes: who runs, though nobody may answer.

Commands read it, and the next supervisor. No environment is in it but that of engines, which holds no secret.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headway.process.folders import Folders
from headway.process.linux import is_same, start_ticks
from headway.process.spec import ProcessSpec

_FILE = "processes.json"


def write_record(
    run_folder: Path, detached: bool, processes: Iterable[tuple[Mapping[str, Any], ProcessSpec | None]]
) -> None:
    """Write down who runs under this process; where that cannot be, the last record stays."""
    stored = [
        {
            **state,
            "spec": spec.to_json() if spec and spec.keep else None,
            "addresses": list(spec.listeners) if spec else [],
        }
        for state, spec in processes
    ]
    me = {"pid": os.getpid(), "ticks": start_ticks(os.getpid()), "detached": detached}
    path = run_folder / _FILE
    fresh = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"supervisor": me, "processes": stored}, file)
        fresh.replace(path)


def record_in(run_folder: Path) -> dict[str, Any] | None:
    """The record as it was written last; None when there is none."""
    try:
        record: dict[str, Any] = json.loads((run_folder / _FILE).read_text())
    except (OSError, ValueError):
        return None
    return record


def read_record(folders: Folders) -> dict[str, Any] | None:
    """The same, of a system."""
    return record_in(folders.run)


def supervisor_runs(record: dict[str, Any] | None) -> bool:
    """Whether the supervisor that wrote the record still lives."""
    return record is not None and is_same(record["supervisor"]["pid"], record["supervisor"]["ticks"])


def has_processes(record: dict[str, Any] | None) -> bool:
    """Whether anything that the supervisor started still lives, be it only for another moment."""
    return record is not None and any(is_same(entry["pid"], entry["ticks"]) for entry in record["processes"])


def has_leftovers(record: dict[str, Any] | None) -> bool:
    """Whether processes of a detached system still run."""
    return record is not None and bool(record["supervisor"]["detached"]) and has_processes(record)
