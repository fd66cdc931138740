"""Which values leave a tier that is full: S3-FIFO, bounded by bytes.

Most values are asked for once. A cache that lets each of them pass through its whole room (LRU does) has little
left for those that come again, and one scan over a table empties it. S3-FIFO lets newcomers into a tenth of the
room and moves on those that were asked for again; a value that leaves too early is remembered by name, and enters
the main part when it is back. A hit moves nothing: it raises a number that stops at three, so that reading needs
neither a lock nor a call.

The algorithm is that of Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP
2023 (https://doi.org/10.1145/3600006.3613147), with the parameters of its authors' simulator, libCacheSim: 10 % for
newcomers, names worth 90 % of the room, two hits to move on. Sizes are bytes. Queues are linked through the entries
themselves, so that any entry is taken out in a few steps, and nothing refers to one that is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

FREQ_MAX = 3
_FREQ_TO_MOVE_ON = 2
_SMALL_SHARE = 0.1
_GHOSTS_SHARE = 0.9
GHOSTS_MAX = 100_000  # names remembered, of about 130 bytes each, however small the values are
LARGEST_SHARE = 8  # a value over an eighth of the room would push out more than it is worth


class Held:
    """What the tier holds; the caller's own class adds the value.

    A hit is the caller's: `if entry.freq < FREQ_MAX: entry.freq += 1`.
    """

    __slots__ = ("_after", "_before", "_queue", "freq", "key", "size_bytes")

    _after: Held
    _before: Held

    def __init__(self, key: bytes, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self.freq = 0
        self._queue: _Queue | None = None


E = TypeVar("E", bound=Held)


class S3Fifo(Generic[E]):
    """The entries of one tier. Not safe for threads by itself, save for hits."""

    def __init__(self, bytes_max: int, *, ghosts_max: int = GHOSTS_MAX) -> None:
        self.bytes_max = bytes_max
        self.largest_bytes = max(1, bytes_max // LARGEST_SHARE)
        self.entries: dict[bytes, E] = {}
        self._small = _Queue()
        self._main = _Queue()
        self._main_max = bytes_max - int(bytes_max * _SMALL_SHARE)
        self._ghosts: OrderedDict[int, int] = OrderedDict()  # hash of the key → size; a wrong hit does no harm
        self._ghosts_bytes = 0
        self._ghosts_bytes_max = int(bytes_max * _GHOSTS_SHARE)
        self._ghosts_max = ghosts_max

    @property
    def bytes_held(self) -> int:
        """The sum of the entries' sizes; never over `bytes_max`."""
        return self._small.size_bytes + self._main.size_bytes

    def insert(self, entry: E) -> list[E]:
        """Take in a new entry. Returns those that left for it: an older one of its key, others for want of room,
        and the entry itself when it is over `largest_bytes`."""
        if entry._queue is not None or entry.size_bytes < 1:
            raise ValueError("an entry is inserted once, and has a size")
        gone: list[E] = []
        older = self.entries.get(entry.key)
        if older is not None:
            self.remove(older)
            gone.append(older)
        size = entry.size_bytes
        if size > self.largest_bytes:
            gone.append(entry)
            return gone
        known = self._ghosts.pop(hash(entry.key), None)
        if known is not None:
            self._ghosts_bytes -= known
        room = self.bytes_max - size
        while self._small.size_bytes + self._main.size_bytes > room:
            self._evict(gone)
        entry.freq = 0
        (self._small if known is None else self._main).push(entry)
        self.entries[entry.key] = entry
        return gone

    def remove(self, entry: E) -> None:
        """Take out an entry; one that is out already is no error. Its name is not remembered: it did not leave for
        room."""
        queue = entry._queue
        if queue is not None:
            queue.take(entry)
            del self.entries[entry.key]

    def _evict(self, gone: list[E]) -> None:
        if self._main.size_bytes > self._main_max or not self._small.size_bytes:
            self._evict_main(gone)
        else:
            self._evict_small(gone)

    def _evict_small(self, gone: list[E]) -> None:
        small = self._small
        while small.size_bytes:
            entry = small.pop()
            if entry.freq >= _FREQ_TO_MOVE_ON:
                entry.freq = 0
                self._main.push(entry)
            else:
                self._remember(entry)
                gone.append(self.entries.pop(entry.key))
                return

    def _evict_main(self, gone: list[E]) -> None:
        """Each round costs an entry one of its hits, so that rounds are paid for by hits."""
        main = self._main
        while main.size_bytes:
            entry = main.pop()
            if entry.freq:
                entry.freq -= 1
                main.push(entry)
            else:
                gone.append(self.entries.pop(entry.key))
                return

    def _remember(self, entry: Held) -> None:
        ghosts, name = self._ghosts, hash(entry.key)
        self._ghosts_bytes += entry.size_bytes - ghosts.pop(name, 0)
        ghosts[name] = entry.size_bytes
        while self._ghosts_bytes > self._ghosts_bytes_max or len(ghosts) > self._ghosts_max:
            self._ghosts_bytes -= ghosts.popitem(last=False)[1]


class _Queue:
    """First in, first out; and any one out."""

    __slots__ = ("_end", "size_bytes")

    def __init__(self) -> None:
        self._end = end = Held(b"", 0)
        end._before = end._after = end
        self.size_bytes = 0

    def push(self, entry: Held) -> None:
        end = self._end
        last = end._before
        entry._before, entry._after, entry._queue = last, end, self
        last._after = end._before = entry
        self.size_bytes += entry.size_bytes

    def pop(self) -> Held:
        first = self._end._after
        self.take(first)
        return first

    def take(self, entry: Held) -> None:
        before, after = entry._before, entry._after
        before._after, after._before = after, before
        del entry._before, entry._after
        entry._queue = None
        self.size_bytes -= entry.size_bytes
