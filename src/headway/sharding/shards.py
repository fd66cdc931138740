"""Lays out a sharded database on its servers: shards, tables, rights, and the catalog that says where they are.

Every shard is one transaction together with its row in the ledger, every server has a connection of its own, and what
is there already is seen in one query a server: it can be killed anywhere and done again, and doing it again is quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from headway.errors import AppError, Conflict, EngineError, HeadwayError
from headway.model.sharding import LEDGER_TABLE, Join, ShardMap, ShardServer, TableKey, schema_name, spread
from headway.sharding import layout
from headway.sharding.catalog import create_catalog, read_map, settle_source
from headway.sharding.ids import FILLED, ids_sql, no_id_sql
from headway.sharding.reference import reference_copied
from headway.sharding.script import single_transaction

SCHEMA_MAX_BYTES = 16 * 1024 * 1024
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

    @property
    def is_apart(self) -> bool:
        """Whether the app logs in as another than the owner, and has to be given its rights."""
        return self.role != self.owner

    def rights(self, schema: str) -> str:
        """SQL that gives the app its rights in a shard."""
        return layout.grant(schema, self.role) if self.is_apart else ""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is declared of a sharded database."""

    system: str
    name: str
    shards: int
    keys: Mapping[str, str]
    reference: tuple[str, ...]
    schema_file: Path | None
    joins: Mapping[str, Join] = field(default_factory=dict)
    import_from: str | None = None  # the plain database that has the rows until they are imported
    ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Its place in the declaration."""
        return f"databases.{self.name}"


def connect(server: AdminServer) -> Connection:
    """The administrator's connection. EngineError when the server does not let us in."""
    try:
        return psycopg.connect(server.admin, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway")
    except psycopg.Error as error:
        told = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise EngineError(f"server {server.name} cannot be reached: {told}", hint="headway status") from error


def on_each(servers: Sequence[AdminServer], work: Callable[[AdminServer, Connection], Result]) -> dict[str, Result]:
    """Do the same on all servers at once; the first error, when all have ended."""

    def one(server: AdminServer) -> Result:
        with connect(server) as connection:
            return work(server, connection)

    with ThreadPoolExecutor(max_workers=max(1, len(servers)), thread_name_prefix="headway-servers") as pool:
        started = {server.name: pool.submit(one, server) for server in servers}
    return {name: future.result() for name, future in started.items()}


def lay_out(wanted: Layout, servers: Sequence[AdminServer]) -> tuple[ShardMap, bool]:
    """Bring the servers to what is declared: the map, and whether anything had to be made.

    AppError for a schema that PostgreSQL refuses or that does not fit the keys, Conflict for a catalog of another
    database, EngineError for a server that is away.
    """
    sql, checksum = _read(wanted)
    shared, own = layout.split_script(sql, wanted.reference)
    first = servers[0]
    map_ = existing_map(wanted, first)
    if map_ is not None:
        wanted = replace(wanted, shards=map_.shards)  # the catalog decides: they may have been doubled
    owners = map_.owners if map_ is not None else _owners(wanted, servers)
    if map_ is not None and (gone := sorted(set(owners) - {server.name for server in servers})):
        raise Conflict(
            f"{wanted.path}.servers: {', '.join(gone)} holds shards and is not declared any more",
            hint=f"Declare it again, and empty it first: headway db rebalance {wanted.name} --empty {gone[0]} --yes",
        )

    lacked: dict[str, list[str]] = {}

    def prepare(server: AdminServer, connection: Connection) -> list[int]:
        if server.is_ours:
            _run(connection, layout.take_over(server.database, server.role))
        lacked[server.name] = _make_reference(server, connection, shared, wanted)
        there = _there(wanted, connection, server)
        here = [shard for shard, owner in enumerate(owners) if owner == server.name]
        _give_rights(wanted, connection, server, [shard for shard in here if there.get(shard) is False])
        return [shard for shard in here if shard not in there]

    missing = on_each(servers, prepare)
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
            keys = _keys(wanted, connection, model)
    fresh = {table: key for table, key in keys.items() if map_ is not None and map_.keys.get(table) != key}

    def fill(server: AdminServer, connection: Connection) -> int:
        for shard, owner in enumerate(owners):
            if owner == server.name and shard in missing[server.name]:
                _make(wanted, connection, server, shard, own, checksum, keys)
            elif owner == server.name and fresh:
                _constrain(wanted, connection, shard, fresh)
        find_keys(wanted.joins, connection, [schema_name(wanted.name, s) for s in map_on(owners, server.name)], keys)
        _fill_in_ids(wanted, connection, server, owners, keys, first if map_ is not None else None)
        return len(missing[server.name])

    count = sum(on_each(servers, fill).values())
    with reference_copied(servers, lacked, connect), connect(first) as connection:
        create_catalog(
            connection,
            system=wanted.system,
            database=wanted.name,
            servers=[ShardServer(server.name, server.url) for server in servers],
            owners=owners,
            keys=keys,
        )
        if first.is_apart:
            _run(connection, layout.grant_catalog(first.role))
        settle_source(connection, wanted.import_from is not None, lambda: _are_empty(wanted, servers, owners, keys))
        return read_map(connection), bool(count) or map_ is None


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


def _owners(wanted: Layout, servers: Sequence[AdminServer]) -> tuple[str, ...]:
    """A map where there is no catalog: shards that a killed start or a lost catalog has left stay where they are.

    Conflict when they are of another number of shards, or one of them is on two servers.
    """

    def look(server: AdminServer, connection: Connection) -> dict[int, str]:
        schemas = {shard: schema_name(wanted.name, shard) for shard in _there(wanted, connection, server)}
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


def _constrain(wanted: Layout, connection: Connection, shard: int, keys: Mapping[str, TableKey]) -> None:
    """Tables that were declared later, and exist since a migration."""
    schema = schema_name(wanted.name, shard)
    try:
        with connection.transaction():
            _run(connection, layout.constrain(schema, shard, wanted.shards, keys))
    except (psycopg.errors.CheckViolation, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        raise AppError(
            f"{wanted.path}.keys: shard {shard}: {error.diag.message_primary}",
            hint="Its rows are of other shards' keys, or a migration has not reached it: headway db migrate",
        ) from error


def _are_empty(
    wanted: Layout, servers: Sequence[AdminServer], owners: Sequence[str], keys: Mapping[str, TableKey]
) -> bool:
    """Whether no shard holds a row."""

    def look(server: AdminServer, connection: Connection) -> bool:
        for shard in map_on(owners, server.name):
            schema = layout.identifier(schema_name(wanted.name, shard))
            some = [f"EXISTS (SELECT FROM {schema}.{layout.identifier(table)})" for table in keys]
            row = connection.execute(f"SELECT {' OR '.join(some)}".encode()).fetchone()
            if row is not None and row[0]:
                return False
        return True

    return all(on_each(servers, look).values())


def map_on(owners: Sequence[str], server: str) -> list[int]:
    """The shards of a server."""
    return [shard for shard, owner in enumerate(owners) if owner == server]


def find_keys(
    joins: Mapping[str, Join], connection: Connection, schemas: Sequence[str], keys: Mapping[str, TableKey]
) -> None:
    """Have new rows of the tables with a join find their key, in shards where they do not do so yet."""
    found: dict[str, dict[str, str]] = {schema: {} for schema in schemas}
    for schema, function, source in connection.execute(layout.KEY_FUNCTIONS.encode(), (list(schemas),)):
        found[str(schema)][str(function)] = str(source)
    usable = {table: join for table, join in joins.items() if table in keys and join.parent in keys}
    for schema in schemas:
        wanted = {
            table: layout.key_source(schema, keys[table], join, keys[join.parent]) for table, join in usable.items()
        }
        names = {layout.key_function(table) for table in wanted}
        lines = [layout.forget_key(schema, name) for name in found[schema].keys() - names]
        lines += [
            layout.find_key(schema, table, source)
            for table, source in wanted.items()
            if found[schema].get(layout.key_function(table)) != source
        ]
        if lines:
            with connection.transaction():
                _run(connection, "".join(lines))


def _fill_in_ids(
    wanted: Layout,
    connection: Connection,
    server: AdminServer,
    owners: Sequence[str],
    keys: Mapping[str, TableKey],
    first: AdminServer | None,
) -> None:
    """Bring the shards of a server to the declared `ids`. Conflict while one of them moves: its copy would lack it."""
    here = {schema_name(wanted.name, shard): shard for shard in map_on(owners, server.name)}
    there: dict[str, dict[str, str]] = {schema: {} for schema in here}
    for schema, table, column in connection.execute(FILLED.encode(), (list(here),)):
        there[str(schema)][str(table)] = str(column)
    for schema, filled in there.items():
        if filled == wanted.ids:
            continue
        with _kept_here(wanted, first, here[schema]), connection.transaction():
            for table in sorted(set(filled) - set(wanted.ids)):
                _run(connection, no_id_sql(schema, table))
            ids = ids_sql(schema, here[schema], len(owners), wanted.ids, keys)
            _run(connection, ids + server.rights(schema))


@contextlib.contextmanager
def _kept_here(wanted: Layout, first: AdminServer | None, shard: int) -> Iterator[None]:
    """Nobody moves or splits the shard meanwhile. Conflict while somebody does."""
    if first is None:
        yield
        return
    with connect(first) as catalog:
        query = "SELECT pg_try_advisory_lock(hashtext('headway.move'), %s)"
        moves = "SELECT FROM headway.moves WHERE shard = %s AND ended_at IS NULL"
        if catalog.execute(query, (shard,)).fetchone() != (True,) or catalog.execute(moves, (shard,)).fetchone():
            raise Conflict(
                f"{wanted.path}.ids: shard {shard} is moving, and its copy would miss the change",
                hint=f"It is made by itself when the move has ended: headway db status {wanted.name}",
            )
        splits = "SELECT FROM headway.splits WHERE ended_at IS NULL"
        if (
            catalog.execute("SELECT to_regclass('headway.splits')").fetchone() != (None,)
            and catalog.execute(splits).fetchone()
        ):
            raise Conflict(
                f"{wanted.path}.ids: the shards are being split, and the new halves would miss the change",
                hint=f"It is made by itself when the split has ended: headway db status {wanted.name}",
            )
        yield


def _there(wanted: Layout, connection: Connection, server: AdminServer) -> dict[int, bool]:
    """The shards that are on a server with their tables, and whether the app may get to them."""
    pattern = f"^{re.escape(schema_name(wanted.name, 0)[:-4])}[0-9]{{4}}$"
    found = connection.execute(layout.SCHEMAS, (server.role, pattern, LEDGER_TABLE))
    return {layout.shard_number(wanted.name, str(schema)): bool(may) for schema, may in found}


def _give_rights(wanted: Layout, connection: Connection, server: AdminServer, shards: Sequence[int]) -> None:
    """To an app that gets another role than before: to all shards, or to none."""
    with connection.transaction():
        for shard in shards:
            _run(connection, server.rights(schema_name(wanted.name, shard)))


def _make_reference(server: AdminServer, connection: Connection, shared: str, wanted: Layout) -> list[str]:
    """The tables that were not there and are now."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('headway.reference'))")
        _run(connection, layout.CREATE_REFERENCE)
        tables = {
            str(row[0])
            for row in connection.execute(
                "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                "WHERE nspname = %s AND relkind IN ('r', 'p')",
                (layout.REFERENCE_SCHEMA,),
            )
        }
        if lacking := [table for table in wanted.reference if table not in tables]:
            _run(connection, f"SET LOCAL search_path = {layout.REFERENCE_SCHEMA}")
            _apply(wanted, connection, layout.split_script(shared, lacking)[0])
            if lost := _absent(connection, wanted.reference):
                raise AppError(
                    f"{wanted.path}.reference: the schema creates no table {', '.join(lost)}",
                    hint="Correct the name, or take it out.",
                )
        if server.is_apart:
            _run(connection, layout.grant_reference(server.role))
    return lacking


def _absent(connection: Connection, reference: Sequence[str]) -> list[str]:
    return [
        table
        for table in reference
        if connection.execute("SELECT to_regclass(%s)", (f"{layout.REFERENCE_SCHEMA}.{table}",)).fetchone() == (None,)
    ]


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
        _run(connection, layout.create_shard(schema) + layout.search_path(schema))
        _apply(wanted, connection, sql)
        found = dict(keys) if keys is not None else _keys(wanted, connection, schema)
        ids = ids_sql(schema, shard, wanted.shards, wanted.ids, found)
        _run(connection, layout.constrain(schema, shard, wanted.shards, found) + ids + server.rights(schema))
        row = f"INSERT INTO {layout.identifier(schema)}.{LEDGER_TABLE} VALUES (%s, %s)"
        connection.execute(row, (layout.SHARDS_ENTRY, str(wanted.shards)))
        if wanted.schema_file is not None:
            connection.execute(row, (layout.SCHEMA_ENTRY + wanted.schema_file.name, checksum))
    return found


def _keys(wanted: Layout, connection: Connection, schema: str) -> dict[str, TableKey]:
    rows: list[Any] = connection.execute(layout.COLUMNS, (schema,)).fetchall()
    columns = [layout.Column(*row) for row in rows]
    keys, problems = layout.table_keys(wanted.path, wanted.keys, columns)
    problems = problems or layout.id_problems(wanted.path, wanted.ids, columns)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise AppError(f"{problems[0].path}: {problems[0].message}{more}", hint=problems[0].hint)
    return keys


def _read(wanted: Layout) -> tuple[str, str]:
    """The schema file as it is applied to each shard, and its checksum."""
    file = wanted.schema_file
    if file is None:
        return "", ""
    path = f"{wanted.path}.schema"
    try:
        with file.open("rb") as opened:
            content = opened.read(SCHEMA_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise AppError(f"{path}: {file} cannot be read: {error.strerror}", hint="Correct the name.") from error
    except UnicodeDecodeError as error:
        raise AppError(f"{path}: {file} is not UTF-8: {error.reason}", hint="Save it as UTF-8.") from error
    if len(content) > SCHEMA_MAX_BYTES:
        hint = "Keep the schema alone in that file; it is applied to every shard."
        raise AppError(f"{path}: {file} is larger than {SCHEMA_MAX_BYTES // 2**20} MiB", hint=hint)
    script = single_transaction(text)
    if script.refused:
        line, word = script.refused[0]
        told = f"{path}: {file}:{line}: {word} does not go into a schema, which is one transaction"
        raise AppError(told, hint=f"Take {word} out of the file.")
    return script.text, hashlib.sha256(content).hexdigest()


def _apply(wanted: Layout, connection: Connection, sql: str) -> None:
    if not sql.strip():
        return
    try:
        _run(connection, sql)
    except psycopg.Error as error:
        raise refused(error, sql, f"{wanted.path}.schema: {wanted.schema_file}") from error


def refused(error: psycopg.Error, sql: str, where: str) -> HeadwayError:
    """The error for SQL of the user's that a server did not take."""
    message = error.diag.message_primary or str(error).strip() or type(error).__name__
    line = ""
    if position := error.diag.statement_position:
        line = f":{sql.count(chr(10), 0, int(position)) + 1}"
    hint = "Nothing of it was applied to this shard; correct the statement."
    if error.diag.message_hint:
        hint += f" ({error.diag.message_hint})"
    if isinstance(error, psycopg.OperationalError):
        return EngineError(f"{where}: {message}", hint="headway status")
    return AppError(f"{where}{line}: {message}", hint=hint)


def _run(connection: Connection, sql: str) -> None:
    connection.execute(sql)
