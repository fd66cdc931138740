"""The servers of a sharded database as their administrator gets to them: one after another, or all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, LiteralString, TypeVar

import psycopg

from headway.errors import EngineError
from headway.sharding import layout
from headway.sharding.url import without_password

_CONNECT_S = 5
Connection = psycopg.Connection[tuple[object, ...]]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class AdminServer:
    """A server as Headway gets to it, and as the app does."""

    name: str
    admin: str = field(repr=False)  # connection string of the administrator
    replication: str = field(repr=False)  # by which another server's subscription gets to it
    url: str  # the app's, without a password
    role: str  # the app's
    owner: str  # the administrator's, whose the shards are
    database: str  # the name of PostgreSQL's database
    is_ours: bool  # embedded: nothing but this database is on it
    is_plain: bool = False  # a database without shards; Headway gets to it as the app does, whose tables it holds

    @property
    def is_apart(self) -> bool:
        """Whether the app logs in as another than the owner, and has to be given its rights."""
        return self.role != self.owner

    def rights(self, schema: str) -> str:
        """SQL that gives the app its rights in a shard."""
        return layout.grant(schema, self.role) if self.is_apart else ""

    def rights_each(self, schema: str) -> list[str]:
        """The same, a statement each."""
        return layout.grants(schema, self.role) if self.is_apart else []


def plain_server(name: str, fields: Mapping[str, str]) -> AdminServer:
    """A plain database as its migrations get to it: as the app, whose tables they are to be. `fields`: of its URL."""
    url, role = fields["url"], fields["user"]
    shown = without_password(url)
    return AdminServer(name, url, url, shown, role, role, fields["name"], is_ours=False, is_plain=True)


def connect(server: AdminServer) -> Connection:
    """The administrator's connection. EngineError when the server does not let us in."""
    try:
        return psycopg.connect(server.admin, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway")
    except psycopg.Error as error:
        told = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise EngineError(f"server {server.name} cannot be reached: {told}", hint="headway status") from error


def watched(scope: Literal["session", "transaction"]) -> LiteralString:
    """SQL that has the server end a statement whose client is gone, within a second: it would finish it for nobody,
    and hold its locks until then. Only where the server's machine can tell."""
    local = "true" if scope == "transaction" else "false"
    return (
        f"SELECT CASE WHEN version() ~ 'linux' THEN set_config('client_connection_check_interval', '1s', {local}) END"
    )


def on_each(servers: Sequence[AdminServer], work: Callable[[AdminServer, Connection], Result]) -> dict[str, Result]:
    """Do the same on all servers at once; the first error, when all have ended."""

    def one(server: AdminServer) -> Result:
        with connect(server) as connection:
            return work(server, connection)

    with ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="headway-servers") as pool:
        started = {server.name: pool.submit(one, server) for server in servers}
    return {name: future.result() for name, future in started.items()}
