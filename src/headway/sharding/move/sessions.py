"""The mover's connections to the catalog and both servers: opened when needed, told apart by name, closed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from headway.sharding.move.nouns import MoveServer
from headway.sharding.move.statements import PRINTING

Connection = psycopg.Connection[tuple[object, ...]]
Side = Literal["source", "target"]
_ORPHANS_S = 5.0
_CONNECT_S = 5
# Whatever the administrator's role or the server has set for others would end a move halfway.
_SETTINGS = (
    "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0; "
    "SET idle_in_transaction_session_timeout = 0; SET synchronous_commit = on; SET client_min_messages = warning"
)
# Sent at the start of a connection, for a subscription's way in.
NO_TIMEOUTS = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"


def end_sessions(connection: Connection, application: str, but: Sequence[int] = ()) -> None:
    """End what others, by the name of their application, do in this database; given up on after some seconds."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s "
        "AND datname = current_database() AND NOT pid = ANY(%s)",
        (application, list(but)),
    ).fetchall():
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.01)


def connect(conninfo: str, name: str) -> Connection:
    """A connection with no time limits of the server's own, that notices soon when the other end is gone."""
    connection = psycopg.connect(
        make_conninfo(
            conninfo,
            application_name=name,
            connect_timeout=_CONNECT_S,
            tcp_user_timeout=10_000,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
        ),
        autocommit=True,
        prepare_threshold=None,
    )
    connection.execute(_SETTINGS)
    if connection.info.server_version >= 170000:
        connection.execute("SET transaction_timeout = 0")
    connection.execute("SET idle_session_timeout = 0")
    return connection


@dataclass
class Sessions:
    """Connections of one move. Any failure of one: `close`, and go on with new ones."""

    catalog_url: str
    servers: dict[Side, MoveServer]
    name: str  # of the mover, for those who look at pg_stat_activity
    _open: dict[str, Connection] = field(default_factory=dict)

    @property
    def catalog(self) -> Connection:
        return self._get("catalog", self.catalog_url)

    def at(self, side: Side) -> Connection:
        """The working connection to a server."""
        return self._get(side, self.servers[side].admin)

    def second(self, side: Side) -> Connection:
        """Another one, that holds a snapshot."""
        return self._get(f"{side} snapshot", self.servers[side].admin)

    def drop_second(self, side: Side) -> None:
        if connection := self._open.pop(f"{side} snapshot", None):
            connection.close()

    @property
    def source(self) -> Connection:
        return self.at("source")

    @property
    def target(self) -> Connection:
        return self.at("target")

    def _get(self, name: str, conninfo: str) -> Connection:
        connection = self._open.get(name)
        if connection is None or connection.closed or connection.broken:
            connection = self._open[name] = connect(conninfo, self.name)
            if name.endswith("snapshot"):
                connection.execute(PRINTING)
        return connection

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def end_orphans(self, side: Side) -> None:
        """End what a killed mover's connections still do there: a lock waited for, a slot half made."""
        end_sessions(self.at(side), self.name, [opened.info.backend_pid for opened in self._open.values()])


def scalar(connection: Connection, query: str | sql.Composed, parameters: tuple[object, ...] = ()) -> object:
    """The first column of the first row; None when there is none."""
    row = connection.execute(query, parameters or None).fetchone()
    return row[0] if row else None


def number(connection: Connection, query: str | sql.Composed, parameters: tuple[object, ...] = ()) -> int:
    """As `scalar`, a whole number; 0 for NULL or no row."""
    value = scalar(connection, query, parameters)
    return int(cast(int, value)) if value is not None else 0
