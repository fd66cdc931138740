"""Bounds the logs. Processes write straight into append-only files; they are rotated by copy and truncate.

Nothing of ours sits between a process and its log, so a controller that dies costs no line and breaks no pipe. Lines
written between the copy and the cut are lost: the price of touching no process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

LOG_MAX_BYTES = 16 << 20
LOG_KEEP = 2  # rotated files beside the live one
FILES_MAX = 400  # logs of replicas long gone: the oldest go first


def rotate(folder: Path, prepare: Callable[[str], None] = lambda _name: None) -> None:
    """Rotate every log in `folder` that has grown over the bound, and drop the oldest files over the count.

    `prepare` is told a file's name just before it is cut.
    """
    with contextlib.suppress(OSError):
        files = [entry for entry in os.scandir(folder) if entry.is_file()]
        for entry in files:
            if entry.name.endswith(".log") and entry.stat().st_size > LOG_MAX_BYTES:
                _rotate(Path(entry.path), prepare)
    drop_oldest(folder)


def drop_oldest(folder: Path) -> None:
    """Drop the files of `folder` that were written to longest ago, over the count."""
    with contextlib.suppress(OSError):
        files = [entry for entry in os.scandir(folder) if entry.is_file()]
        if len(files) > FILES_MAX:
            files.sort(key=lambda entry: entry.stat().st_mtime)
            for entry in files[: len(files) - FILES_MAX]:
                os.unlink(entry.path)


def _rotate(path: Path, prepare: Callable[[str], None]) -> None:
    with contextlib.suppress(OSError):
        for number in range(LOG_KEEP, 1, -1):
            older = path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                os.replace(older, path.with_name(f"{path.name}.{number}"))
    copied = path.with_name(f"{path.name}.1")
    with contextlib.suppress(OSError):
        shutil.copyfile(path, copied)
        os.chmod(copied, 0o600)
    # Even when there was no room for the copy: a log that cannot be kept must not fill the disk.
    prepare(path.name)
    with contextlib.suppress(OSError):
        os.truncate(path, 0)
