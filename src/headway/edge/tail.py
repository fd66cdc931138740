"""Follows a log file that is rotated by copy and truncate: each read gives the whole lines written since the last."""

from __future__ import annotations

import os

READ_MAX_BYTES = 4 * 2**20


class Tail:
    """A place in a log file that moves on with each `lines()`; starts at the file's present end."""

    def __init__(self, path: str, *, from_start: bool = False) -> None:
        self._path = path
        self._rest = b""
        self._inode, self._offset = (None, 0) if from_start else self._end()

    def lines(self) -> list[bytes]:
        """Whole lines since the last call, without their ends; none while the file does not exist.

        A truncated or replaced file is read from its start. Of a backlog above `READ_MAX_BYTES` only the end is read.
        """
        try:
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rest = status.st_ino, 0, b""
                if status.st_size - self._offset > READ_MAX_BYTES:
                    self._offset, self._rest = status.st_size - READ_MAX_BYTES, b""
                    file.seek(self._offset)
                    self._offset += len(file.readline())  # most likely the end of a line whose start is skipped
                file.seek(self._offset)
                data = file.read(READ_MAX_BYTES)
        except FileNotFoundError:
            self._inode, self._offset, self._rest = None, 0, b""
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-READ_MAX_BYTES:]
        return whole

    def _end(self) -> tuple[int | None, int]:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None, 0
        return status.st_ino, status.st_size
