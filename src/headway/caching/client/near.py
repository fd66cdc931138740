"""The tier in the process: decoded values, bounded by bytes, shared by all threads and event loops.

What makes it right is when a value may come in. A reader asks the server, an invalidation overtakes the answer, and
the answer is stored: it would be wrong for as long as it holds. So every fetch notes the tier's count of changes when
it begins, and what it brings is stored only if nothing of it changed since. While the stream of changes is cut,
nothing here is believed, unless the server itself is away: then a value holds to the end of its time, and no longer
than a bound.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from headway.caching.eviction import Held, S3Fifo

AWAY_S = 60.0  # for how long a value may be believed without a word from the server
_REMEMBERED_MAX = 20_000  # changes that are remembered for fetches under way
_TAGS_KNOWN_MAX = 50_000
# A tag that nobody asks the server for looks unused to it, and would be the first to go when it is full.
_TAG_KNOWN_S = 10.0
now = time.monotonic


class Entry(Held):
    """A value in the process. Times by the monotonic clock."""

    __slots__ = (
        "arguments",
        "calls",
        "ends",
        "epoch",
        "kinds",
        "load_s",
        "mark",
        "raw",
        "seen",
        "stale_ends",
        "tags",
        "until",
        "value",
    )

    def __init__(
        self,
        key: bytes,
        size_bytes: int,
        value: Any,
        raw: bytes | None,  # for those who get an object of their own each time
        ends: float,
        stale_ends: float,
        until: float,  # to here it is given without a further look
        load_s: float,
        tags: tuple[bytes, ...],
        mark: bytes,  # tells the stored value from its successor
    ) -> None:
        # Made for each value that comes from the server: the base's fields here as well, without a call.
        self.key = key
        self.size_bytes = size_bytes
        self.freq = 0
        self._queue = None
        self.value = value
        self.raw = raw
        self.ends = ends
        self.stale_ends = stale_ends
        self.until = until
        self.load_s = load_s
        self.tags = tags
        self.mark = mark
        self.epoch = -1
        self.seen = 0.0  # when the server last vouched for it
        self.calls: dict[Any, Entry] | None = None  # the table of its function, by arguments
        self.arguments: Any = None
        # Of the arguments, for 1 and True are one key to a dict; of a single one without the tuple, which takes long.
        self.kinds: type | tuple[type, ...] = ()


class Near:
    """The tier of one cache."""

    def __init__(self, bytes_max: int) -> None:
        self._held: S3Fifo[Entry] = S3Fifo(bytes_max)
        self._lock = threading.Lock()
        self.entries = self._held.entries  # to be read
        self.largest_bytes = self._held.largest_bytes
        self._tagged: dict[bytes, set[Entry]] = {}
        self._tags_known: dict[bytes, tuple[bytes, float]] = {}  # their generations, and until when they are used
        self._changed: dict[bytes, int] = {}
        self._floor = 0
        self._tables: list[dict[Any, Entry]] = []
        self._listeners: list[Callable[[bytes | None], None]] = []
        self.changes = 0
        self.epoch = 0
        self.is_trusted = False
        self.server = ""  # whose changes are told: values of another one are not to be believed
        self.evicted = 0

    @property
    def bytes_held(self) -> int:
        """What the values take, as weighed."""
        return self._held.bytes_held

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self._held.entries)

    def adopt(self, table: dict[Any, Entry]) -> None:
        """A function's table by arguments, for its quick look; emptied when the tier is distrusted."""
        with self._lock:
            self._tables.append(table)

    def on_change(self, listener: Callable[[bytes | None], None]) -> None:
        """Be told of every change, by value key or `t:` tag; None for everything. From any thread."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

    def off_change(self, listener: Callable[[bytes | None], None]) -> None:
        """Tell it no more."""
        with self._lock:
            self._listeners = [other for other in self._listeners if other != listener]

    def look(self, key: bytes) -> Entry | None:
        """The value if there is one, and it counts as used; whether to believe it is the caller's to judge."""
        entry = self._held.entries.get(key)
        if entry is not None and entry.freq < 3:
            entry.freq += 1
        return entry

    def believes(self, entry: Entry) -> bool:
        """Whether the server would have told if the value had changed."""
        return self.is_trusted and entry.epoch == self.epoch

    def generations_known(self, tags: tuple[bytes, ...]) -> list[bytes] | None:
        """The generations of these tags, as good as the server's own word while its changes are followed; None when
        they are to be asked for."""
        known, at = self._tags_known, now()
        found = []
        for tag in tags:
            each = known.get(tag)
            if each is None or each[1] < at:
                return None
            found.append(each[0])
        return found

    def learn(self, tags: tuple[bytes, ...], generations: list[bytes], since: int) -> None:
        """Keep what a question that began at `changes == since` told of tags, where nothing changed since."""
        with self._lock:
            if since < self._floor or not self.is_trusted:
                return
            if len(self._tags_known) + len(tags) > _TAGS_KNOWN_MAX:
                self._tags_known.clear()
            until = now() + _TAG_KNOWN_S
            for tag, generation in zip(tags, generations, strict=True):
                if generation is not None and self._changed.get(b"t:" + tag, 0) <= since:
                    self._tags_known[tag] = generation, until

    def put(self, entry: Entry, since: int, calls: dict[Any, Entry] | None, arguments: Any, *, local: bool) -> bool:
        """Store what a fetch that began at `changes == since` brought. False when it was overtaken, or is too large.

        `local` says that the server has not seen it: it is believed only as long as the server is away.
        """
        with self._lock:
            if since < self._floor or self._changed.get(entry.key, 0) > since:
                return False
            for tag in entry.tags:
                if self._changed.get(b"t:" + tag, 0) > since:
                    return False
            entry.seen = now()
            entry.epoch = self.epoch if self.is_trusted and not local else -1
            gone = self._held.insert(entry)
            for tag in entry.tags:
                self._tagged.setdefault(tag, set()).add(entry)
            if calls is not None and entry.epoch == self.epoch:
                entry.calls, entry.arguments = calls, arguments
                entry.kinds = type(arguments[0]) if len(arguments) == 1 else tuple(map(type, arguments))
                calls[arguments] = entry
            for other in gone:
                self._forget(other)
                self.evicted += other.key != entry.key
            return entry._queue is not None

    def drop(self, changed: Iterable[bytes]) -> None:
        """Values that changed, by key, and tags, by `t:` and their name."""
        names = tuple(changed)
        with self._lock:
            self.changes += 1
            for name in names:
                self._changed[name] = self.changes
                if name.startswith(b"t:"):
                    self._tags_known.pop(name[2:], None)
                    for entry in tuple(self._tagged.get(name[2:], ())):
                        self._remove(entry)
                self._remove(self._held.entries.get(name))
            if len(self._changed) > _REMEMBERED_MAX:
                self._changed.clear()
                self._floor = self.changes
        for listener in self._listeners:
            for name in names:
                listener(name)

    def clear(self) -> None:
        """Everything changed."""
        with self._lock:
            self.changes += 1
            self._floor = self.changes
            self._changed.clear()
            self._tags_known.clear()
            for entry in tuple(self._held.entries.values()):
                self._remove(entry)
        for listener in self._listeners:
            listener(None)

    def distrust(self) -> None:
        """The stream of changes is cut: what is here may be wrong from now on, and what is being fetched as well."""
        with self._lock:
            self.is_trusted = False
            self.epoch += 1
            self.changes += 1
            self._floor = self.changes
            self._changed.clear()
            self._tags_known.clear()
            for table in self._tables:
                table.clear()

    def trust(self) -> None:
        """The stream of changes is there: what is stored from now on is believed."""
        with self._lock:
            self.is_trusted = True
            self.epoch += 1
            self.changes += 1
            self._floor = self.changes

    def _remove(self, entry: Entry | None) -> None:
        if entry is not None:
            self._held.remove(entry)
            self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        entry.until = 0.0
        if entry.calls is not None and entry.calls.get(entry.arguments) is entry:
            del entry.calls[entry.arguments]
        for tag in entry.tags:
            tagged = self._tagged.get(tag)
            if tagged is not None:
                tagged.discard(entry)
                if not tagged:
                    del self._tagged[tag]
