"""Reads on in a file that others append to, from where it was left, also by another process.

The file may begin anew while nobody looks, with what it held beside it as NAME.1: renamed there, as spans are, or
copied there and cut, as logs are. What NAME.1 still holds is read first; what has been replaced there too is lost.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LINE_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read. `is_behind`: `offset` is one of NAME.1."""

    inode: int = 0
    offset: int = 0
    is_behind: bool = False

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)


def read_position(document: Any) -> Position:
    """What `document` gave; the beginning for anything else."""
    try:
        return Position(int(document["inode"]), int(document["offset"]), bool(document["is_behind"]))
    except (KeyError, TypeError, ValueError):
        return Position()


def end_of(path: Path) -> Position:
    """The present end of the file."""
    try:
        status = path.stat()
    except OSError:
        return Position()
    return Position(status.st_ino, status.st_size)


def read_on(path: Path, position: Position, most_bytes: int) -> tuple[list[bytes], Position]:
    """Whole lines from the position on, of about `most_bytes`, and the position behind them."""
    if not position.is_behind:
        try:
            status = path.stat()
        except OSError:
            return [], position
        if position.inode in (0, status.st_ino) and status.st_size >= position.offset:
            lines, offset = _lines(path, position.offset, most_bytes)
            return lines, Position(status.st_ino, offset)
        position = Position(position.inode, position.offset, is_behind=True)
    lines, offset = _lines(path.with_name(f"{path.name}.1"), position.offset, most_bytes)
    if lines:
        return lines, Position(position.inode, offset, is_behind=True)
    try:
        return read_on(path, Position(path.stat().st_ino, 0), most_bytes)
    except OSError:
        return [], Position()


def _lines(path: Path, offset: int, most_bytes: int) -> tuple[list[bytes], int]:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                return [], offset
            file.seek(offset)
            data = file.read(most_bytes)
            if data and b"\n" not in data:  # one long line; what has no end within reason is passed over
                data += file.readline(LINE_MAX_BYTES)
                if len(data) > LINE_MAX_BYTES:
                    return [b""], offset + len(data)
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), offset + len(whole)
