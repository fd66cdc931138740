"""What several processes look at together while they race: the truth of each key, and which part of a round is on."""

from __future__ import annotations

import asyncio
import mmap
import struct
import time
from pathlib import Path

_WORD = struct.Struct("<q")
_PROCESSES = 16


class Board:
    """A file mapped into the memory of each process; one of them writes what is true."""

    OVER = -1

    def __init__(self, path: str, keys: int) -> None:
        size = _WORD.size * (1 + _PROCESSES + 2 * keys)
        self._keys = keys
        if not Path(path).exists() or Path(path).stat().st_size < size:
            Path(path).write_bytes(bytes(size))
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)

    def _get(self, word: int) -> int:
        return int(_WORD.unpack_from(self._memory, word * _WORD.size)[0])

    def _put(self, word: int, value: int) -> None:
        _WORD.pack_into(self._memory, word * _WORD.size, value)

    @property
    def part(self) -> int:
        """Odd while the race is on, even while values are compared, OVER at the end."""
        return self._get(0)

    @part.setter
    def part(self, part: int) -> None:
        self._put(0, part)

    def truth(self, key: int) -> int:
        """What an origin would say now."""
        return self._get(1 + _PROCESSES + key)

    def change(self, key: int) -> None:
        """Something else is true from now on."""
        self._put(1 + _PROCESSES + key, self.truth(key) + 1)

    def mark(self, key: int, part: int) -> None:
        """What the cache gave for a key in this part was not true."""
        self._put(1 + _PROCESSES + self._keys + key, part)

    def marked(self, part: int) -> int:
        """How many keys were marked in a part."""
        return sum(self._get(1 + _PROCESSES + self._keys + key) == part for key in range(self._keys))

    def done(self, number: int, part: int) -> None:
        """Process `number` has done what it had to in a part."""
        self._put(1 + number, part)

    async def all_done(self, part: int, processes: int) -> None:
        """Until that many processes have; RuntimeError after 60 s."""
        until_s = time.monotonic() + 60
        while any(self._get(1 + number) < part for number in range(processes)):
            if time.monotonic() > until_s:
                raise RuntimeError("a reader does not get done")
            await asyncio.sleep(0.0005)
