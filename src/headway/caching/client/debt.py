"""What was made void and may be unknown to the server: it is the first that the server hears again.

That is what could not be told while the server was away. And it is what was told in the last seconds before a
connection broke, for the next server may be a copy of the former, of which it had not heard everything yet.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque

from headway.caching import resp
from headway.caching.blob import GENERATION_BYTES
from headway.caching.client.near import now
from headway.caching.scripts import void_tag

DEBT_MAX = 10_000
RECENT_S = 10.0  # a copy that is further behind than this has little to do with what it copies
# `DEL` and keys; `SET` and the key of the cache's generation; `VOID`, the counter's key and that of a tag's generation.
# A generation is another one each time.
Void = tuple[bytes, ...]


class Debt:
    """Of one process, from any thread. More than a bound of them come to one: that everything is void."""

    def __init__(self, prefix: bytes, *, may_move: bool = True) -> None:
        self._everything = (b"SET", prefix + b"g")
        self._may_move = may_move  # whether another server may come in the place of this one
        self._owed: dict[Void, int] = {}
        self._count = 0
        self._recent: deque[tuple[float, Void]] = deque(maxlen=DEBT_MAX)
        self._lock = threading.Lock()

    def add(self, *voids: Void) -> None:
        """These are owed."""
        with self._lock:
            for void in voids:
                self._count += 1
                if self._everything in self._owed:
                    void = self._everything
                self._owed[void] = self._count
                if len(self._owed) > DEBT_MAX:
                    self._owed = {self._everything: self._count}

    def owed(self) -> tuple[tuple[Void, int], ...]:
        """What is owed now, in its order, and a number: what is owed anew before it is paid is owed still."""
        return tuple(self._owed.items())

    def paid(self, owed: tuple[tuple[Void, int], ...]) -> None:
        """These have been answered."""
        with self._lock:
            for void, number in owed:
                if self._owed.get(void) == number:
                    del self._owed[void]
        self.told(*[void for void, _number in owed])

    def told(self, *voids: Void) -> None:
        """The server was told of these just now."""
        if not self._may_move:
            return
        with self._lock:
            at = now()
            self._recent.extend([(at, void) for void in voids])
            while self._recent and self._recent[0][0] < at - RECENT_S:
                self._recent.popleft()

    def doubt(self) -> None:
        """The connection broke: what was told lately is owed once more."""
        with self._lock:
            since, recent = now() - RECENT_S, tuple(self._recent)
            self._recent.clear()
        self.add(*[void for at, void in recent if at >= since])


def command(void: Void) -> bytes:
    """As it goes out. A generation that was in force once would make values of that time hold again."""
    if void[0] == b"VOID":
        return resp.command(*void_tag(void[1], void[2], int(time.time() * 1000)))
    return resp.command(*void, *((secrets.token_bytes(GENERATION_BYTES),) if void[0] == b"SET" else ()))
