"""Lays out a sharded database on its servers: shards, tables, rights, and the catalog that says where they are.

Every shard is one transaction together with its row in the ledger, every server has a connection of its own, and what
is there already is seen in one query a server: it can be killed anywhere and done again, and doing it again is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg

from headway.errors import AppError, Conflict
from headway.model.sharding import LEDGER_TABLE, ShardMap, ShardServer, TableKey, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect, on_each
from headway.sharding.catalog import create_catalog, read_map, settle_source
from headway.sharding.existing import are_empty, existing_map, find_owners, map_on, shards_there
from headway.sharding.filled_in import fill_in_ids, find_keys
from headway.sharding.ids import ids_sql
from headway.sharding.reference import make_reference, reference_copied
from headway.sharding.schema_file import apply_schema, read_schema
from headway.sharding.wanted import Layout

# Makes tables in these shards, by server; done again where some are there already.
TablesBy = Callable[[Sequence[AdminServer], Mapping[str, Sequence[int]]], None]


def lay_out(
    wanted: Layout, servers: Sequence[AdminServer], *, tables_by: TablesBy | None = None, restored: bool = False
) -> tuple[ShardMap, bool]:
    """Bring the servers to what is declared: the map, and whether anything had to be made. Shards that are being filled
    from a backup are left alone, until all of them are (`restored`).

    `tables_by` makes the tables of new shards that the schema file does not: the app's migrations. AppError for a
    schema that PostgreSQL refuses or that does not fit the keys, Conflict for a catalog of another database,
    EngineError for a server that is away.
    """
    sql, checksum = read_schema(wanted)
    shared, own = layout.split_script(sql, wanted.reference)
    first = servers[0]
    map_ = existing_map(wanted, first)
    if map_ is not None and map_.restoring and not restored:
        return map_, False
    if map_ is not None:
        wanted = replace(wanted, shards=map_.shards)  # the catalog decides: they may have been doubled
    owners = map_.owners if map_ is not None else find_owners(wanted, servers)
    if map_ is not None and (gone := sorted(set(owners) - {server.name for server in servers})):
        raise Conflict(
            f"{wanted.path}.servers: {', '.join(gone)} holds shards and is not declared any more",
            hint=f"Declare it again, and empty it first: headway db rebalance {wanted.name} --empty {gone[0]} --yes",
        )

    lacked: dict[str, list[str]] = {}

    def prepare(server: AdminServer, connection: Connection) -> list[int]:
        if server.is_ours:
            connection.execute(layout.take_over(server.database, server.role))
        lacked[server.name] = make_reference(server, connection, shared, wanted)
        if map_ is not None and server.name not in map_.servers:
            lacked[server.name] = list(wanted.reference)  # it was one before: what it has is of then
        there = shards_there(wanted, connection, server)
        here = [shard for shard, owner in enumerate(owners) if owner == server.name]
        _give_rights(wanted, connection, server, [shard for shard in here if there.get(shard) is False])
        return [shard for shard in here if shard not in there]

    missing = on_each(servers, prepare)
    count = 0
    if tables_by is not None and (map_ is None or any(missing.values())):
        begun = missing if map_ is not None else {server.name: map_on(owners, server.name) for server in servers}
        count = _make_by_migrations(wanted, servers, begun, missing, own, checksum, tables_by)
        missing = {server.name: [] for server in servers}
    keys: dict[str, TableKey] = dict(map_.keys) if map_ is not None else {}
    # The first shard decides what the keys are, before the others are made by it.
    model = schema_name(wanted.name, 0)
    holder = next(server for server in servers if server.name == owners[0])
    if 0 in missing[holder.name]:
        with connect(holder) as connection:
            keys = _make(wanted, connection, holder, 0, own, checksum, None)
        missing[holder.name].remove(0)
    else:
        with connect(holder) as connection:
            if tables_by is not None and map_ is not None:
                wanted = _with_those_there(wanted, connection, model)
            keys = _keys(wanted, connection, model)
    fresh = {table: key for table, key in keys.items() if map_ is not None and map_.keys.get(table) != key}

    def fill(server: AdminServer, connection: Connection) -> int:
        for shard, owner in enumerate(owners):
            if owner == server.name and shard in missing[server.name]:
                _make(wanted, connection, server, shard, own, checksum, keys)
            elif owner == server.name and fresh:
                schema = schema_name(wanted.name, shard)
                constrain(wanted.path, connection, schema, shard, wanted.shards, fresh)
        find_keys(wanted.joins, connection, [schema_name(wanted.name, s) for s in map_on(owners, server.name)], keys)
        fill_in_ids(wanted, connection, server, owners, keys, first if map_ is not None else None)
        return len(missing[server.name])

    count += sum(on_each(servers, fill).values())
    with reference_copied(servers, lacked), connect(first) as connection:
        create_catalog(
            connection,
            system=wanted.system,
            database=wanted.name,
            servers=[ShardServer(server.name, server.url) for server in servers],
            owners=owners,
            keys=keys,
        )
        if first.is_apart:
            connection.execute(layout.grant_catalog(first.role))
        settle_source(connection, wanted.import_from is not None, lambda: are_empty(wanted.name, servers, owners, keys))
        return read_map(connection), bool(count) or map_ is None


def _make_by_migrations(
    wanted: Layout,
    servers: Sequence[AdminServer],
    begun: Mapping[str, Sequence[int]],
    missing: Mapping[str, Sequence[int]],
    sql: str,
    checksum: str,
    tables_by: TablesBy,
) -> int:
    """Make what is missing of the shards, and the tables in all that are begun; how many were made.

    The first shard is finished before the others begin: it says what the keys are, and whether migrations can make it.
    """
    shards = sorted(shard for of_server in begun.values() for shard in of_server)
    holder = next(server for server in servers if shards[0] in begun[server.name])
    keys: dict[str, TableKey] = {}

    def make(part: Sequence[int], server: AdminServer, connection: Connection) -> None:
        for shard in [shard for shard in missing[server.name] if shard in part]:
            _make(wanted, connection, server, shard, sql, checksum, {})

    def finish(part: Sequence[int], server: AdminServer, connection: Connection) -> None:
        for shard in [shard for shard in begun[server.name] if shard in part]:
            schema = schema_name(wanted.name, shard)
            with connection.transaction():
                connection.execute(layout.constrain(schema, shard, wanted.shards, keys) + server.rights(schema))

    for part in (shards[:1], shards[1:]):
        on_each(servers, partial(make, part))
        if part:
            tables_by(servers, {name: [shard for shard in here if shard in part] for name, here in begun.items()})
        with connect(holder) as connection:
            keys.update(_keys(wanted, connection, schema_name(wanted.name, shards[0])))
        on_each(servers, partial(finish, part))
    return sum(map(len, missing.values()))


def constrain(
    path: str, connection: Connection, schema: str, shard: int, shards: int, keys: Mapping[str, TableKey]
) -> None:
    """Have tables that do not do so yet refuse rows of other shards. AppError where they hold such rows."""
    try:
        with connection.transaction():
            connection.execute(layout.constrain(schema, shard, shards, keys))
    except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise AppError(
            f"{path}.keys: shard {shard}: {error.diag.message_primary}",
            hint="Its rows are of other shards' keys, or a migration has not reached it: headway db migrate",
        ) from error


def _give_rights(wanted: Layout, connection: Connection, server: AdminServer, shards: Sequence[int]) -> None:
    """To an app that gets another role than before: to all shards, or to none."""
    with connection.transaction():
        for shard in shards:
            connection.execute(server.rights(schema_name(wanted.name, shard)))


def _make(
    wanted: Layout,
    connection: Connection,
    server: AdminServer,
    shard: int,
    sql: str,
    checksum: str,
    keys: Mapping[str, TableKey] | None,
) -> dict[str, TableKey]:
    """One shard, whole or not at all; the keys of its tables, which are found out where they are not known."""
    schema = schema_name(wanted.name, shard)
    with connection.transaction():
        connection.execute(layout.create_shard(schema) + layout.search_path(schema))
        apply_schema(wanted, connection, sql)
        found = dict(keys) if keys is not None else _keys(wanted, connection, schema)
        ids = ids_sql(schema, shard, wanted.shards, wanted.ids, found)
        connection.execute(layout.constrain(schema, shard, wanted.shards, found) + ids + server.rights(schema))
        row = f"INSERT INTO {layout.identifier(schema)}.{LEDGER_TABLE} VALUES (%s, %s)"
        connection.execute(row, (layout.SHARDS_ENTRY, str(wanted.shards)))
        if wanted.schema_file is not None:
            connection.execute(row, (layout.SCHEMA_ENTRY + wanted.schema_file.name, checksum))
    return found


def _with_those_there(wanted: Layout, connection: Connection, schema: str) -> Layout:
    """Without tables that are declared already and only about to be made by the app's migrations."""
    there = {str(row[0]) for row in connection.execute(layout.COLUMNS.encode(), (schema,))}
    keys = {table: column for table, column in wanted.keys.items() if table in there}
    return replace(wanted, keys=keys, ids={table: column for table, column in wanted.ids.items() if table in there})


def _keys(wanted: Layout, connection: Connection, schema: str) -> dict[str, TableKey]:
    rows: list[Any] = connection.execute(layout.COLUMNS, (schema,)).fetchall()
    columns = [layout.Column(*row) for row in rows]
    keys, problems = layout.table_keys(wanted.path, wanted.keys, columns)
    problems = problems or layout.id_problems(wanted.path, wanted.ids, columns)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise AppError(f"{problems[0].path}: {problems[0].message}{more}", hint=problems[0].hint)
    return keys
