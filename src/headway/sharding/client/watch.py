"""The shard map as this process knows it: loaded once, replaced when the catalog tells of a change.

One thread listens on one connection. While the catalog is away the last map goes on: shards do not move without it. A
client with an old map is not in danger either, for the server that gave a shard away refuses it; it then asks for a
newer map here.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Sequence

import psycopg

from headway.errors import ServerDown
from headway.model.sharding import MAP_CHANNEL, ShardMap
from headway.sharding.keys import VECTORS, self_test, shard_of
from headway.sharding.map_row import MAP_SQL, map_of

_CONNECT_S = 2
_RETRY_S, _RETRY_MAX_S = 0.2, 5.0
_LOOK_S = 30.0  # a notification that was lost, with the connection that only looks alive
_LOOK_SPLIT_S = 2.0  # the same while shards are split: what waits for all clients waits for this

Wake = Callable[[], object]


class MapWatch:
    """Holds the newest known map of one database. Safe from any thread; a forked child begins anew."""

    def __init__(self, database: str, catalog_url: str, *, has_source: bool = False) -> None:
        self.database = database
        self._has_source = has_source  # rows are looked for there, as long as the catalog says so
        self._url = catalog_url
        self._pipe: tuple[int, int] = (-1, -1)
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        for descriptor in self._pipe:
            if descriptor >= 0:
                os.close(descriptor)
        self.map: ShardMap | None = None
        self.error = ""
        self._changed = threading.Condition()
        self._calls: list[Wake] = []
        self._looks = self._looked = 0  # begun, and the last of them that has ended
        self._thread: threading.Thread | None = None
        self._pipe = (-1, -1)

    def start(self) -> None:
        """Have the map loaded, by a thread, if nobody has asked before."""
        with self._changed:
            if self._thread is None:
                self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._thread = threading.Thread(target=self._watch, name=f"headway-map-{self.database}", daemon=True)
                self._thread.start()

    def ask(self) -> int:
        """Look for a newer map now, and not only when it is told; for `has_looked`."""
        self.start()
        asked = self._looks
        with contextlib.suppress(OSError):
            os.write(self._pipe[1], b"\1")
        return asked

    def has_looked(self, asked: int) -> bool:
        """Whether the map is at least as new as when that was asked, or the catalog cannot be reached."""
        return self._looked > asked or bool(self.error)

    def wait(self, is_enough: Callable[[ShardMap], bool], timeout_s: float) -> ShardMap | None:
        """The map, as soon as it is so; after the time as it is then. None: none was ever loaded."""
        self.start()
        with self._changed:
            self._changed.wait_for(lambda: self.map is not None and is_enough(self.map), timeout_s)
            return self.map

    def on_change(self, call: Wake) -> None:
        """Have `call` called once, in another thread, when a map has come."""
        self.start()
        with self._changed:
            self._calls.append(call)

    def missing(self) -> ServerDown:
        """The error for a map that was never there."""
        why = self.error or "its first server does not answer"
        return ServerDown(
            f"database {self.database}: there is no shard map: {why}", hint="headway status; headway db status"
        )

    # -- the thread -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        pause_s = _RETRY_S
        while True:
            try:
                with psycopg.connect(
                    self._url, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway map"
                ) as connection:
                    connection.execute(f"LISTEN {MAP_CHANNEL}")
                    self._check(connection)
                    while True:
                        self._load(connection)
                        pause_s = _RETRY_S
                        _wait([connection.fileno(), self._pipe[0]], self._look_s())
                        with contextlib.suppress(OSError):
                            os.read(self._pipe[0], 4096)
            except Exception as error:  # whatever it is: a thread that has ended would leave the map as it is for ever
                self.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                self._tell()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _RETRY_MAX_S)

    def _look_s(self) -> float:
        return _LOOK_SPLIT_S if self.map is not None and self.map.split else _LOOK_S

    def _load(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._looks += 1
        look = self._looks
        row = connection.execute(MAP_SQL).fetchone()
        if row is None:
            raise RuntimeError("its catalog is empty")
        found = map_of(row)
        if found.at_source and self._has_source:
            found = found.from_source()
        with self._changed:
            # Of two maps the newer; a catalog that was restored to an older state is an operator's deed, not a race.
            self.map, self.error, self._looked = found, "", look
        self._tell()

    def _check(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """That the server and this interpreter find the same shard for a key, before any is looked up."""
        row = connection.execute(MAP_SQL).fetchone()
        if row is None:
            return
        found = map_of(row)
        self_test(found.algorithm)
        key = next(key for kind, key, _ in VECTORS if kind == found.kind)
        theirs = connection.execute("SELECT headway.shard_of(%s)", (key,)).fetchone()
        ours = shard_of(key, found.shards, found.kind)
        if theirs is None or theirs[0] != ours:
            raise RuntimeError(f"key {key!r} is on shard {theirs and theirs[0]} by the server and on {ours} by the app")

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            calls, self._calls = self._calls, []
        for call in calls:
            with contextlib.suppress(RuntimeError):  # its event loop is closed
                call()


def _wait(descriptors: Sequence[int], timeout_s: float) -> None:
    """Until one can be read. By poll: select takes no descriptor above 1023, and an app with as many clients has none
    below."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(timeout_s * 1000)
