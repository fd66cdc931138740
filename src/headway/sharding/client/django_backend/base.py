"""Django's PostgreSQL backend, whose connection is that of the `with shard(...)` block around the query.

Django keeps a connection in each thread for as long as it likes. Here a block holds it: checked out at the block's
first query with a permit of its server, given back at the block's end. So the wrapper that Django has in each thread
looks up the block that it is in, which follows the context and not the thread: an asynchronous view sets it, and the
thread that runs its queries finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import psycopg
from django.db import OperationalError
from django.db.backends.postgresql import base as postgresql

from headway.errors import DatabaseError, NotRunning
from headway.model.sharding import ShardMap
from headway.sharding.client.database import Database, database
from headway.sharding.client.permits import Permits
from headway.sharding.client.place import Places
from headway.sharding.client.sync import Connection, SyncCheckOut, SyncDatabase, _Server

_CONNECT_S = 2


class NoShard(DatabaseError, OperationalError):  # type: ignore[misc]
    """A query of a sharded alias where no block says which shard is meant. Also Django's OperationalError, with which
    `makemigrations` goes on."""


class NotStarted(NotRunning, OperationalError):  # type: ignore[misc]
    """A query in a process that Headway has not started. Also Django's OperationalError, as NoShard is."""


class Block:
    """What a `with shard(...)` block holds: in each thread that queries in it, a connection."""

    def __init__(self, connections: Connections, key: object, shard: int) -> None:
        self.shard = shard
        self._connections, self._key = connections, key
        self._by_thread: dict[int, tuple[SyncCheckOut, Connection | None]] = {}

    @property
    def connection(self) -> Connection | None:
        """This thread's, once there is one."""
        found = self._by_thread.get(threading.get_ident())
        return found and found[1]

    def forget(self) -> None:
        """This thread's was closed; the next query checks out another one."""
        thread = threading.get_ident()
        if thread in self._by_thread:
            self._by_thread[thread] = (self._by_thread[thread][0], None)

    def connect(self) -> Connection:
        """A connection for this thread."""
        former = self._by_thread.pop(threading.get_ident(), None)
        if former is not None:
            former[0].__exit__(None, None, None)
        check_out = self._connections.at(self._key)
        connection = check_out.__enter__()
        self._by_thread[threading.get_ident()] = (check_out, connection)
        return connection

    def leave(self, error: BaseException | None) -> None:
        """Give all back; raise what the error means, where it means more than it says."""
        cause = of_driver(error)
        found: BaseException | None = None
        while self._by_thread:
            check_out, _ = self._by_thread.popitem()[1]
            try:
                check_out.__exit__(type(cause or error) if error else None, cause or error, None)
            except BaseException as meaning:  # the others are given back all the same
                found = found or meaning
        if found is not None and found is not cause:
            raise found


BLOCKS: ContextVar[Mapping[str, Block]] = ContextVar("headway.django", default=MappingProxyType({}))  # by alias


def of_driver(error: BaseException | None) -> psycopg.Error | None:
    """The driver's error under Django's."""
    for found in (error, error and error.__cause__):
        if isinstance(found, psycopg.Error):
            return found
    return None


class DjangoServer(_Server):
    """Connections to one server, opened as Django wants them: with its cursors and adapters, in autocommit."""

    def __init__(self, places: Places, name: str, url: str, options: Mapping[str, Any]) -> None:
        super().__init__(places, name, url)
        self._options = options

    def _connect(self, shard: int) -> Connection:
        places = self._places
        places.check_up(self.name)
        options: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "application_name": "headway",
            "tcp_user_timeout": 30_000,
            **self._options,
        }
        if schemas := places.schemas(shard, self.name):
            path = f"-c search_path={schemas.replace(' ', '')}"
            options["options"] = f"{options.get('options', '')} {path}".strip()
        try:
            connection = psycopg.connect(self.url, autocommit=True, **options)
        except (psycopg.OperationalError, OSError) as error:
            failed = places.failed(self.name, error)
            raise failed from (error if failed is not error else None)
        places.answered(self.name)
        return connection


class Connections(SyncDatabase):
    """The connections of an alias to all of its servers, for all threads."""

    def __init__(self, found: Database, options: Mapping[str, Any]) -> None:
        super().__init__(found._places)
        self.database, self._options = found, options

    def server(self, map_: ShardMap, name: str) -> tuple[_Server, Permits]:
        """As SyncDatabase's."""
        url = self._places.url(map_, name)
        found = self._servers.get(name)
        if found is None or found.url != url:
            former = None
            with self._lock:
                found = self._servers.get(name)
                if found is None or found.url != url:  # no other thread was first
                    former, found = found, DjangoServer(self._places, name, url, self._options)
                    self._servers[name] = found
            if former is not None:
                former.close()
        return found, self._places.permits(name)


_connections: dict[str, Connections] = {}
_lock = threading.Lock()


class DatabaseWrapper(postgresql.DatabaseWrapper):  # type: ignore[misc]
    """Django's own, with the connection of the block."""

    pool = None  # Headway's is beneath
    _plain: Connection | None = None  # of a database without shards, outside of blocks

    @property
    def shards(self) -> Connections:
        """The connections that all threads share."""
        options = self.get_connection_params()
        found = _connections.get(self.alias)
        name = self.settings_dict["NAME"]
        if found is None or found.database is not database(name):
            with _lock:
                found = _connections[self.alias] = Connections(database(name), options)
        return found

    @property
    def connection(self) -> Connection | None:
        """Django's name for the driver's connection."""
        block = BLOCKS.get().get(self.__dict__.get("alias", ""))
        return self._plain if block is None else block.connection

    @connection.setter
    def connection(self, connection: Connection | None) -> None:
        block = BLOCKS.get().get(self.__dict__.get("alias", ""))
        if block is None:
            self._plain = connection
        elif connection is None:
            block.forget()

    def get_connection_params(self) -> dict[str, Any]:
        """Where to is Headway's to say; how is the settings'."""
        found: dict[str, Any] = super().get_connection_params()
        for name in ("dbname", "user", "password", "host", "port"):
            found.pop(name, None)
        return found

    def get_new_connection(self, conn_params: dict[str, Any]) -> Connection:
        """The block's, or none."""
        # What Django sets here besides, and does itself for its own connections.
        self.isolation_level = psycopg.IsolationLevel(
            self.settings_dict["OPTIONS"].get("isolation_level", psycopg.IsolationLevel.READ_COMMITTED)
        )
        block = BLOCKS.get().get(self.alias)
        if block is not None:
            connection = block.connect()
        else:
            try:
                shards = self.shards
            except NotRunning as error:
                raise NotStarted(error.message, hint=error.hint) from error
            if shards.database._places.watch is not None:
                raise NoShard(
                    f"database {self.alias!r} has shards, and the query says not which is meant",
                    hint=f'Query it in a block: with shard("{self.alias}", key):',
                )
            server, _ = shards.server(shards.map(), "main")
            connection = server._connect(0)
        if "isolation_level" in self.settings_dict["OPTIONS"]:
            connection.isolation_level = self.isolation_level
        return connection
