"""The file of a report: looked at before the work begins, and written when its figures have been told already."""

from __future__ import annotations

from pathlib import Path

from headway.errors import MachineError


def check_writable(path: Path) -> None:
    """MachineError when no report can be written there; leaves nothing behind."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_page(path: Path, text: str) -> None:
    """Write it whole. MachineError when the file cannot be written after all."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> MachineError:
    return MachineError(
        f"the report {path} cannot be written: {error.strerror}", hint="give a file in a folder that you may write to"
    )
