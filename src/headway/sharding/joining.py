"""A server that is to join a sharded database: what it allows, before anything is changed, and how it is taken in.

What is taken in alone is a server without shards. Whatever else a start looks after is done when all servers answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import psycopg

from headway.errors import AppError, Conflict, EngineError
from headway.model.sharding import ShardMap, ShardServer
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect, on_each
from headway.sharding.catalog import add_servers, read_map
from headway.sharding.connection import check_url_reachable
from headway.sharding.reference import make_reference, reference_copied
from headway.sharding.requirements import FACTS, Finding, ServerFacts, findings
from headway.sharding.schema_file import read_schema
from headway.sharding.survey import pattern
from headway.sharding.url import parse_url
from headway.sharding.wanted import Layout

_CONNECT_S = 5
# The same for two ways to one database.
_IDENTITY: LiteralString = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) || ' '
    || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || ' ' || pg_postmaster_start_time()::text
"""
_CATALOG: LiteralString = "SELECT to_regclass('headway.catalog') IS NOT NULL"
_SCHEMAS: LiteralString = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY 1"


def check_joining(
    path: str,
    url: str,
    database: str,
    others: Sequence[AdminServer],
    connections_wanted: int,
    away: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """What the server allows, and what it does not that can be done without. AppError for what is missing, Conflict
    when it holds something of a sharded database, EngineError when it does not let us in.

    `away`: servers that cannot be asked who they are, with their URLs.
    """
    for name, known in (away or {}).items():
        if _place(known) == _place(url):
            raise _same(path, name)
    check_url_reachable(url, path=path)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway") as there:
            facts: Any = there.execute(FACTS).fetchone()
            found = findings(ServerFacts(*facts), connections_wanted)
            if missing := [one for one in found if one.level == "missing"]:
                told = "; ".join(f"{one.what} (it has {one.found})" for one in missing)
                raise AppError(f"{path}: it does not allow what shards need: {told}", hint=_changes(missing))
            identity = there.execute(_IDENTITY).fetchone()
            has_catalog = there.execute(_CATALOG).fetchone() == (True,)
            schemas = [str(row[0]) for row in there.execute(_SCHEMAS, (pattern(database),))]
    except psycopg.Error as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"{path}: {told}", hint="Correct the URL, or the server.") from error
    for other in others:
        with connect(other) as connection:
            if connection.execute(_IDENTITY).fetchone() == identity:
                raise _same(path, other.name)
    if has_catalog:
        hint = "Give every sharded database a PostgreSQL database of its own: another name at the end of the URL."
        raise Conflict(f"{path}: it holds the catalog of a sharded database", hint=hint)
    if schemas:
        more = f" and {len(schemas) - 3} more" if len(schemas) > 3 else ""
        hint = "Look whether anybody needs them, and rename or drop them there."
        raise Conflict(f"{path}: it holds schemas of shards already: {', '.join(schemas[:3])}{more}", hint=hint)
    return found


def join(wanted: Layout, first: AdminServer, others: Sequence[AdminServer], new: Sequence[AdminServer]) -> ShardMap:
    """Take servers into the catalog, which hold no shard yet, with the reference tables of `others`; the map. The
    server that writers of such tables ask first has to be among these.

    Can be killed anywhere and done again.
    """
    sql, _ = read_schema(wanted)
    shared, _ = layout.split_script(sql, wanted.reference)

    def prepare(server: AdminServer, connection: Connection) -> None:
        if server.is_ours:
            connection.execute(layout.take_over(server.database, server.role))
        make_reference(server, connection, shared, wanted)

    on_each(new, prepare)
    # One that was a server before has what was in them then.
    lacked: dict[str, Sequence[str]] = {server.name: () for server in others}
    lacked |= {server.name: wanted.reference for server in new}
    with reference_copied((*others, *new), lacked), connect(first) as catalog:
        add_servers(catalog, [ShardServer(server.name, server.url) for server in new])
        return read_map(catalog)


def _same(path: str, other: str) -> Conflict:
    hint = "Give it a PostgreSQL database of its own: another name at the end of the URL."
    return Conflict(f"{path}: it is the same database as server {other}", hint=hint)


def _place(url: str) -> tuple[object, ...]:
    found = parse_url(url)
    return (found.hosts, found.name)


def _changes(missing: Sequence[Finding]) -> str:
    return "; ".join(dict.fromkeys(one.change for one in missing))
