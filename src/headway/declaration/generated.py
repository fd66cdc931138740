"""Keeps a generated page of the docs current: writes it, or says that it is not."""

from __future__ import annotations

import sys
from pathlib import Path


def keep_current(path: Path, text: str, arguments: list[str], command: str) -> int:
    """Write `text` to `path`, or with `--check` among the arguments compare; the exit status of `command`."""
    if not path.parent.is_dir():
        print(f"error: {path.parent} is not here\nhint: run this in the project's own folder", file=sys.stderr)
        return 1
    if "--check" in arguments:
        current = path.is_file() and path.read_text(encoding="utf-8") == text
        if not current:
            print(f"error: {path} is out of date\nhint: {command}", file=sys.stderr)
        return 0 if current else 1
    path.write_text(text, encoding="utf-8")
    return 0
