"""What servers hold of a sharded database already: its map, the shards that are there, and whether they have rows.

The catalog decides. Where it is missing (a start was killed, a server was lost) the shards that are found stay where
they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headway.errors import Conflict
from headway.model.sharding import LEDGER_TABLE, ShardMap, TableKey, schema_name, spread
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect, on_each
from headway.sharding.catalog import read_map
from headway.sharding.wanted import Layout


def existing_map(wanted: Layout, first: AdminServer) -> ShardMap | None:
    """The map as the catalog has it; None where there is none yet. Conflict when it is another database's."""
    with connect(first) as connection:
        row = connection.execute("SELECT to_regclass('headway.catalog')").fetchone()
        if row is None or row[0] is None:
            return None
        told = connection.execute("SELECT system, database, shards FROM headway.catalog").fetchone()
        if told is None:
            return None
        if told[:2] != (wanted.system, wanted.name):
            raise Conflict(
                f"{wanted.path}: its first server holds the catalog of database {told[1]} of system {told[0]}",
                hint="Give every sharded database a PostgreSQL database of its own: another name at the URL's end.",
            )
        if told[2] != wanted.shards and not was_split_from(connection, wanted.shards):
            hint = f"Write shards = {told[2]}."
            if wanted.shards == 2 * int(str(told[2])):
                hint = f"Write shards = {told[2]}, then double them while it runs: headway db split {wanted.name}"
            raise Conflict(
                f"{wanted.path}.shards: it was created with {told[2]}, and {wanted.shards} are declared", hint=hint
            )
        return read_map(connection)


def was_split_from(connection: Connection, shards: int) -> bool:
    """Whether there were so many shards before they were doubled."""
    row = connection.execute("SELECT to_regclass('headway.splits')").fetchone()
    if row is None or row[0] is None:
        return False
    done = "SELECT FROM headway.splits WHERE shards = %s AND stage IN ('switched', 'swept', 'done')"
    return connection.execute(done, (shards,)).fetchone() is not None


def find_owners(wanted: Layout, servers: Sequence[AdminServer]) -> tuple[str, ...]:
    """A map where there is no catalog: shards that a killed start or a lost catalog has left stay where they are.

    Conflict when they are of another number of shards, or one of them is on two servers.
    """

    def look(server: AdminServer, connection: Connection) -> dict[int, str]:
        schemas = {shard: schema_name(wanted.name, shard) for shard in shards_there(wanted, connection, server)}
        counts: dict[str, str] = {}
        if schemas:
            rows = connection.execute(layout.ledgers(list(schemas.values())).encode()).fetchall()
            counts = {str(row[0]): str(row[2]) for row in rows if row[1] == layout.SHARDS_ENTRY}
        return {shard: counts.get(schema, str(wanted.shards)) for shard, schema in schemas.items()}

    owners = list(spread(wanted.shards, tuple(server.name for server in servers)))
    seen: dict[int, str] = {}
    for name, found in on_each(servers, look).items():
        for shard, count in found.items():
            if count != str(wanted.shards) or shard >= wanted.shards:
                raise Conflict(
                    f"{wanted.path}.shards: server {name} holds shard {shard} of {count}, {wanted.shards} are declared",
                    hint=f"Write shards = {count}, or take the schemas of an earlier attempt away from that server.",
                )
            if shard in seen:
                raise Conflict(
                    f"{wanted.path}: there is no catalog, and shard {shard} is on servers {seen[shard]} and {name}",
                    hint=f"Rename the schema {schema_name(wanted.name, shard)} on the server whose rows are the older.",
                )
            seen[shard] = owners[shard] = name
    return tuple(owners)


def are_empty(
    database: str, servers: Sequence[AdminServer], owners: Sequence[str], keys: Mapping[str, TableKey]
) -> bool:
    """Whether no shard holds a row."""

    def look(server: AdminServer, connection: Connection) -> bool:
        for shard in map_on(owners, server.name):
            schema = layout.identifier(schema_name(database, shard))
            some = [f"EXISTS (SELECT FROM {schema}.{layout.identifier(table)})" for table in keys]
            row = connection.execute(f"SELECT {' OR '.join(some)}".encode()).fetchone()
            if row is not None and row[0]:
                return False
        return True

    return all(on_each(servers, look).values())


def map_on(owners: Sequence[str], server: str) -> list[int]:
    """The shards of a server."""
    return [shard for shard, owner in enumerate(owners) if owner == server]


def shards_there(wanted: Layout, connection: Connection, server: AdminServer) -> dict[int, bool]:
    """The shards that are on a server with their tables, and whether the app may get to them."""
    pattern = f"^{re.escape(schema_name(wanted.name, 0)[:-4])}[0-9]{{4}}$"
    found = connection.execute(layout.SCHEMAS, (server.role, pattern, LEDGER_TABLE))
    return {layout.shard_number(wanted.name, str(schema)): bool(may) for schema, may in found}
