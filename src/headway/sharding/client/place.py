"""Where a key's transaction goes: its shard, the server of that shard, and what an error says about the two.

Shared by the asynchronous and the plain client, which differ only in how they wait.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from headway.errors import DatabaseBusy, DatabaseError, ServerDown, ShardMoved, WrongShard
from headway.model.sharding import FENCED, SOURCE_SERVER, ShardMap, ShardServer, schema_name
from headway.sharding.client.permits import Permits
from headway.sharding.client.told import Told
from headway.sharding.client.watch import MapWatch
from headway.sharding.ids import shard_of_id
from headway.sharding.keys import SHARD_OF, WrongKey

# What a server answers that has given a shard away: fenced, without rights, without its tables or its schema.
MOVED = frozenset({FENCED, "42501", "42P01", "3F000"})
# What a transaction function is repeated for besides: another one was first.
AGAIN = frozenset({"40001", "40P01"})
REFERENCE_SCHEMA = "headway_reference"
FENCE_WAIT_S = 1.0  # while a shard is about to be handed over
MAP_WAIT_S = 5.0
NEWER_WAIT_S = 0.5  # an error says that the map is old: the newer one is on its way
LOOKED_WAIT_S = 5.0  # and before that, until this process, which may be busy, has looked
AGAIN_MAX = 20
_AGAIN_HINT = "Do the whole transaction again; `run` does so by itself."
_DOWN_S = 0.5
# SQLSTATEs with which a server refuses a connection because of its own state.
_NOT_NOW = ("57P03", "53300", "08")


class ShardNumber:
    """Instead of a key: the shard itself, where all of them are meant."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class OnServer:
    """Instead of a key: a server, for what it holds besides shards."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class RowId:
    """Instead of a key: an id that says by itself on which shard its row is."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


NO_SHARD = -1
_NO_KEYS = (ShardNumber, OnServer, RowId)


class Place:
    """A shard on a server, by one map."""

    __slots__ = ("map", "server", "shard")

    def __init__(self, map_: ShardMap, shard: int, server: str) -> None:
        self.map, self.shard, self.server = map_, shard, server


class Places:
    """The shards of one database, and the permits of its servers. One in a process."""

    def __init__(self, told: Told) -> None:
        self.told = told
        self.watch = MapWatch(told.name, told.url, has_source=told.source is not None) if told.is_sharded else None
        self._permits: dict[str, Permits] = {}
        self._down_until_s: dict[str, float] = {}
        self._lock = threading.Lock()
        self._plain = ShardMap(told.name, 1, ("main",), {"main": ShardServer("main", told.url)})

    @property
    def map(self) -> ShardMap | None:
        """The newest known map; None: not loaded yet."""
        return self._plain if self.watch is None else self.watch.map

    def find(self, map_: ShardMap, key: object) -> Place:
        """The place of a key. WrongKey (a TypeError) when it is of another type."""
        if self.watch is None:
            return Place(map_, 0, "main")
        self.check_whole(map_)
        owners = map_.owners
        if isinstance(key, _NO_KEYS):
            if isinstance(key, OnServer):
                return Place(map_, NO_SHARD, key.name)
            if isinstance(key, RowId):
                shard = _shard_of_id(key.number, len(owners))
                return Place(map_, shard, owners[shard])
            return Place(map_, key.number, owners[key.number])
        shard = SHARD_OF[map_.kind](key, len(owners))
        return Place(map_, shard, owners[shard])

    def check_whole(self, map_: ShardMap) -> None:
        """DatabaseBusy while the shards are filled from a backup: some have its rows and some do not."""
        if map_.restoring:
            raise DatabaseBusy(
                f"database {self.told.name} is being restored from a backup",
                hint="It answers again when all of it is there: headway db status",
            )

    def schemas(self, shard: int, server: str) -> str:
        """The search_path of a shard; empty, for the server's own, at a plain database."""
        if self.watch is None or server == SOURCE_SERVER:
            return ""
        if shard == NO_SHARD:
            return REFERENCE_SCHEMA
        return f'"{schema_name(self.told.name, shard)}", {REFERENCE_SCHEMA}'

    def url(self, map_: ShardMap, server: str) -> str:
        """The URL of a server, with the password."""
        if server == SOURCE_SERVER and self.told.source is not None:
            return self.told.source.url
        return self.told.url if self.watch is None else self.told.url_of(server, map_.servers[server].url)

    def permits(self, server: str) -> Permits:
        """The permits of a server."""
        found = self._permits.get(server)
        if found is None:
            with self._lock:
                found = self._permits.get(server)
                if found is None:
                    source = self.told.source if server == SOURCE_SERVER else None
                    # At the source they are the same for those who come by its own name.
                    name = f"{source.name}.main" if source is not None else f"{self.told.name}.{server}"
                    most = source.active_max if source is not None else self.told.active_max
                    found = self._permits[server] = Permits(name, most, self.told.folder)
        return found

    # -- servers that do not answer ----------------------------------------------------------------------------------

    def check_up(self, server: str) -> None:
        """ServerDown at once where a connection has just failed: its callers must not each wait for a time-out."""
        until_s = self._down_until_s.get(server, 0.0)
        if until_s and time.monotonic() < until_s:
            raise self.down(server, "it did not answer just now")

    def failed(self, server: str, error: BaseException) -> BaseException:
        """A connection could not be made: the error to raise, and a word to those who come next."""
        state = str(getattr(error, "sqlstate", None) or "")
        text = str(error)
        is_state = state.startswith(_NOT_NOW) or not state
        if not is_state:
            return error  # a wrong password, no such database: the driver's own says it best
        if state != "53300":
            self._down_until_s[server] = time.monotonic() + _DOWN_S
        told = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        return self.down(server, told)

    def answered(self, server: str) -> None:
        """A connection was made."""
        self._down_until_s.pop(server, None)

    def broke(self, server: str, error: BaseException) -> ServerDown:
        """The error for a connection that ended while it was checked out."""
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        which = f"server {server} of database {self.told.name}" if self.watch else f"database {self.told.name}"
        return ServerDown(
            f"{which}: the connection broke: {told}",
            hint="A statement that was on its way may have been done or not: look before you repeat it.",
        )

    def down(self, server: str, why: str) -> ServerDown:
        """The error for a server that cannot be reached."""
        which = f"server {server} of database {self.told.name}" if self.watch else f"database {self.told.name}"
        return ServerDown(f"{which} does not answer: {why}", hint="headway status")

    def busy(self, server: str, waited_s: float) -> DatabaseBusy:
        """The error for one who has waited long enough."""
        which = f"server {server} of database {self.told.name}" if self.watch else f"database {self.told.name}"
        return DatabaseBusy(
            f"{which} is busy: no place within {waited_s:.3g} s ({self.told.active_max} transactions work at once)",
            hint="Fewer requests at once, quicker transactions, or more servers: headway walls",
        )

    # -- what an error says -------------------------------------------------------------------------------------------

    def may_have_moved(self, error: BaseException | None) -> bool:
        """Whether an error may come from an old map."""
        return self.watch is not None and getattr(error, "sqlstate", None) in MOVED

    def is_elsewhere(self, place: Place) -> Callable[[ShardMap], bool]:
        """Whether a map has the shard on another server, or as about to go there."""
        if place.shard == NO_SHARD:
            return lambda map_: place.server not in map_.servers
        return lambda map_: (
            map_.shards != place.map.shards  # split meanwhile: the key may be on another shard
            or map_.owners[place.shard] != place.server
            or place.shard in map_.fenced
        )

    def read(self, place: Place, error: BaseException, newest: ShardMap | None) -> BaseException:
        """The error to raise, when the newest map is known: ShardMoved, or the driver's own."""
        is_fenced = getattr(error, "sqlstate", None) == FENCED
        if is_fenced or (newest is not None and self.is_elsewhere(place)(newest)):
            if place.server == SOURCE_SERVER:
                return ShardMoved(
                    f"database {self.told.name} goes from its source into shards; nothing was committed",
                    hint="Do the whole transaction again; `run` does so by itself.",
                )
            return ShardMoved(
                f"shard {place.shard} of database {self.told.name} is moving to another server; nothing was committed",
                hint=_AGAIN_HINT,
            )
        return error

    def wrong_shard(self, place: Place, error: BaseException) -> DatabaseError | None:
        """WrongShard for a row that the constraint of its table refused."""
        if getattr(error, "sqlstate", None) != "23514":
            return None
        details = getattr(error, "diag", error)
        if getattr(details, "constraint_name", None) != "headway_shard":
            return None
        if self.map is not None and self.map.shards != place.map.shards:
            return ShardMoved(
                f"shard {place.shard} of database {self.told.name} has been split; nothing was committed",
                hint=_AGAIN_HINT,
            )
        table = getattr(details, "table_name", "a table")
        return WrongShard(
            f"{table}: the row's key is of another shard than the one checked out ({place.shard})",
            hint="Check out by the key of the row that is written.",
        )


def _shard_of_id(number: object, shards: int) -> int:
    if not isinstance(number, int):
        raise WrongKey(f"an id is a whole number, and not a {type(number).__name__}")
    try:
        return shard_of_id(number, shards)
    except ValueError as error:
        raise WrongKey(str(error)) from None


def pause_s(attempt: int) -> float:
    """Before a transaction is repeated: a few milliseconds, doubling, by chance."""
    return float(min(0.1, 0.002 * 2**attempt) * (0.5 + random.random() / 2))
