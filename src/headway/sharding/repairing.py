"""Looks at what a sharded database should be and is, and carries out the mends of a plan, one by one.

Every mend can be done twice, and is a transaction of its own wherever PostgreSQL allows it. One on a shard has that
shard to itself: a move that has begun since the plan was made is left alone, and so is the shard.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from headway.errors import Conflict, EngineError, HeadwayError
from headway.model.sharding import FENCE, TableKey, schema_name
from headway.sharding import clearing, layout
from headway.sharding.admin import AdminServer, Connection, connect
from headway.sharding.catalog import raise_epoch, set_fenced
from headway.sharding.doubt import end_doubts
from headway.sharding.filled_in import find_keys
from headway.sharding.ids import TRIGGER, ids_sql
from headway.sharding.importing.nouns import Source, space_of
from headway.sharding.importing.record import open_import
from headway.sharding.importing.record import try_lock as try_lock_imports
from headway.sharding.locks import comes_free, given_back
from headway.sharding.map_row import MAP_SQL, map_of
from headway.sharding.mends import Mend
from headway.sharding.move.compare import Reader, compare
from headway.sharding.move.link import drop_subscription
from headway.sharding.move.look import tables_of
from headway.sharding.move.record import open_moves, try_lock
from headway.sharding.move.sessions import connect as connect_for_long
from headway.sharding.move.statements import PRINTING, fenced, open_fence
from headway.sharding.publication import drop_publication
from headway.sharding.reference import replace_rows
from headway.sharding.remnants import SOURCE
from headway.sharding.repair import Copy, Pair, Plan, Record, Seen, propose, to_compare
from headway.sharding.shards import TablesBy, constrain, lay_out
from headway.sharding.split.record import open_split
from headway.sharding.split.record import try_lock as try_lock_splits
from headway.sharding.survey import look, pattern
from headway.sharding.wanted import Layout

Say = Callable[[str], None]
_LOCK_MS = 2000  # of a table that the app uses

_COPIES = f"""
SELECT n.nspname, coalesce(obj_description(n.oid, 'pg_namespace'), ''),
       EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = '{FENCE}' AND prosrc LIKE '%%RAISE%%'),
       ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = n.oid AND relkind IN ('r', 'p')),
       ARRAY(SELECT c.relname::text FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
              WHERE c.relnamespace = n.oid AND o.conname = '{layout.CONSTRAINT}'),
       ARRAY(SELECT c.relname || ' ' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
              WHERE relnamespace = n.oid AND tgname IN ('{layout.KEY_TRIGGER}', '{TRIGGER}') AND t.tgenabled <> 'D'),
       has_schema_privilege(%(role)s, n.oid, 'USAGE') AND NOT EXISTS (
         SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND NOT c.relname = ANY(%(ours)s) AND CASE
           WHEN c.relkind IN ('r', 'p') THEN NOT (
             has_table_privilege(%(role)s, c.oid, 'SELECT') AND has_table_privilege(%(role)s, c.oid, 'INSERT') AND
             has_table_privilege(%(role)s, c.oid, 'UPDATE') AND has_table_privilege(%(role)s, c.oid, 'DELETE'))
           WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(%(role)s, c.oid, 'USAGE') END)
  FROM pg_namespace n WHERE n.nspname ~ %(pattern)s
"""
_KEPT: LiteralString = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY length(nspname), nspname"
_LACKS: dict[str, LiteralString] = {
    "the reference tables": """
SELECT to_regnamespace('headway_reference') IS NOT NULL AND (
  NOT has_schema_privilege(%(role)s, 'headway_reference', 'USAGE') OR EXISTS (
    SELECT FROM pg_class c WHERE relnamespace = to_regnamespace('headway_reference') AND relkind IN ('r', 'p') AND NOT (
      has_table_privilege(%(role)s, c.oid, 'SELECT') AND has_table_privilege(%(role)s, c.oid, 'INSERT') AND
      has_table_privilege(%(role)s, c.oid, 'UPDATE') AND has_table_privilege(%(role)s, c.oid, 'DELETE'))))""",
    "the catalog": """
SELECT to_regnamespace('headway') IS NOT NULL AND to_regclass('headway.decisions') IS NOT NULL AND (
  NOT has_schema_privilege(%(role)s, 'headway', 'USAGE')
  OR NOT has_table_privilege(%(role)s, 'headway.decisions', 'INSERT')
  OR NOT has_table_privilege(%(role)s, 'headway.decisions', 'DELETE') OR EXISTS (
    SELECT FROM pg_class c WHERE relnamespace = to_regnamespace('headway') AND relkind IN ('r', 'p')
      AND NOT has_table_privilege(%(role)s, c.oid, 'SELECT')))""",
}
_RECORD: LiteralString = """
SELECT (SELECT shards FROM headway.catalog), (SELECT id::text FROM headway.catalog),
       ARRAY(SELECT shard FROM headway.shard_map ORDER BY shard),
       ARRAY(SELECT server FROM headway.shard_map ORDER BY shard),
       ARRAY(SELECT shard FROM headway.shard_map WHERE fenced)
"""
_COPIED: LiteralString = """
SELECT facts ->> 'subid', facts ->> 'target_system', id FROM headway.moves
 WHERE facts ? 'subid' AND facts ? 'target_system'
"""


@dataclass(frozen=True, slots=True)
class Found:
    """All that was looked at, and what follows from it."""

    record: Record
    seen: Mapping[str, Seen]
    plan: Plan


class Repairer:
    """Of one database. `servers`: those that were ever reached; `logins`: the app's ways in, with passwords; `source`:
    of the last import, where it is known how to get there."""

    def __init__(
        self,
        wanted: Layout,
        servers: Sequence[AdminServer],
        names: Sequence[str],
        logins: Mapping[str, str],
        say: Say,
        stopping: Callable[[], bool],
        tables_by: TablesBy | None = None,
        source: Source | None = None,
    ) -> None:
        self._wanted = wanted
        self._tables_by = tables_by
        self._source = source
        self._servers = {server.name: server for server in servers}
        self._names = names
        self._logins = logins
        self._say = say
        self._stopping = stopping

    # -- looking ------------------------------------------------------------------------------------------------------

    def find(self, keep: Mapping[int | str, str] | None = None) -> Found:
        """Look at everything. HeadwayError when the catalog does not answer, or `keep` names what is not there."""
        with connect(self._first) as catalog:
            keys = map_of(_map_row(catalog)).keys
            record = self._record(catalog, keys)
            at_source = None
            if self._source is not None:
                at_source = clearing.at_source(catalog, record.database, record.operations, self._source)
        seen: dict[str, Seen] = {}
        for server in self._servers.values():
            with contextlib.suppress(EngineError, psycopg.OperationalError), connect(server) as connection:
                seen[server.name] = self._look(server, connection, record, keys)
        away = ({*self._names, *record.owners.values()}) - seen.keys()
        self._check_keep(record, seen, keep or {})
        differences: dict[Pair, tuple[str, ...]] = {}
        for pair in to_compare(record, seen):
            try:
                differences[pair] = self._differences(pair)
            except psycopg.OperationalError as error:
                told = str(error).strip().partition("\n")[0] or type(error).__name__
                raise EngineError(
                    f"{pair[1]} and {pair[2]} cannot be compared: {told}",
                    hint="headway status; then the same command again",
                ) from error
        return Found(record, seen, propose(record, seen, away, differences, keep, at_source))

    def _record(self, catalog: Connection, keys: Mapping[str, TableKey]) -> Record:
        row: Any = catalog.execute(_RECORD).fetchone()
        wanted = self._wanted
        joined = {table for table, join in wanted.joins.items() if table in keys and join.parent in keys}
        copied: list[Any] = catalog.execute(_COPIED).fetchall()
        known = clearing.operations(catalog)
        return Record(
            database=wanted.name,
            catalog_id=str(row[1]),
            shards=int(row[0]),
            owners=dict(zip(row[2], row[3], strict=True)),
            fenced=frozenset(row[4]),
            moving={move.id: move.shard for move in open_moves(catalog)},
            copies={(str(subid), str(system)): int(move) for subid, system, move in copied},
            keyed=frozenset(keys),
            triggers=frozenset(
                {(table, layout.KEY_TRIGGER) for table in joined} | {(table, TRIGGER) for table in wanted.ids}
            ),
            reference=wanted.reference,
            splits=known.splits,
            imports=known.imports,
            corner=space_of(wanted.name),
        )

    def _look(self, server: AdminServer, connection: Connection, record: Record, keys: Mapping[str, TableKey]) -> Seen:
        held = look(self._wanted.name, server, connection)
        told = {"role": server.role, "ours": list(layout.OURS), "pattern": pattern(self._wanted.name)}
        rows: list[Any] = connection.execute(_COPIES.encode(), told).fetchall()
        shards = {}
        for schema, comment, is_fenced, tables, constrained, triggers, has_rights in rows:
            shard = layout.shard_number(self._wanted.name, schema)
            shards[shard] = Copy(
                shape=held.shards.get(shard, ""),
                comment=comment,
                is_fenced=is_fenced,
                tables=frozenset(tables),
                constrained=frozenset(constrained),
                triggers=frozenset((table, name) for table, _, name in (one.rpartition(" ") for one in triggers)),
                has_rights=has_rights or not server.is_apart,
            )
        names = f"{pattern(self._wanted.name)[:-1]}|^{re.escape(record.corner)}"
        kept = f"({names})_(moved|lost|imported)_[0-9]+$"
        lacks = []
        for what, question in _LACKS.items():
            if what == "the catalog" and server.name != self._first.name:
                continue
            if server.is_apart and connection.execute(question, told).fetchone() == (True,):
                lacks.append(what)
        return Seen(
            shards=shards,
            reference=held.reference,
            without_rows=frozenset(table for table in held.reference if not _has_rows(connection, table)),
            leftovers=held.leftovers,
            kept=tuple(str(row[0]) for row in connection.execute(_KEPT, (kept,))),
            lacks_rights=tuple(lacks),
            halves=clearing.halves_on(connection, self._wanted.name, record.shards, keys),
            corner=clearing.corner_on(connection, self._wanted.name, keys),
        )

    def _check_keep(self, record: Record, seen: Mapping[str, Seen], keep: Mapping[int | str, str]) -> None:
        for what, server in keep.items():
            called = f"shard {what}" if isinstance(what, int) else f"reference table {what}"
            if server not in self._names:
                raise HeadwayError(
                    f"--keep: database {record.database} has no server {server}",
                    hint=f"Its servers are {', '.join(self._names)}.",
                )
            if server not in seen:
                raise EngineError(f"--keep: server {server} does not answer", hint="headway status")
            held = seen[server]
            if isinstance(what, int) and what in record.moving.values():
                raise Conflict(f"--keep: shard {what} is moving", hint="headway db status; or headway db abort")
            if what not in (held.shards if isinstance(what, int) else held.reference) or (
                isinstance(what, int) and held.shards[what].is_half_made
            ):
                raise HeadwayError(
                    f"--keep: there is no {called} on server {server}", hint="headway db repair names what there is."
                )

    def _differences(self, pair: Pair) -> tuple[str, ...]:
        """How the rows of the second server differ from those of the first, in sentences."""
        what, one, other = pair
        schema = schema_name(self._wanted.name, what) if isinstance(what, int) else layout.REFERENCE_SCHEMA
        self._say(f"comparing {schema} on {one} and {other}")
        with (
            connect_for_long(self._servers[one].admin, "headway repair") as ours,
            connect_for_long(self._servers[other].admin, "headway repair") as theirs,
        ):
            for connection in (ours, theirs):
                connection.execute(PRINTING)
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            here, there = (
                [
                    table
                    for table in fenced(tables_of(connection, schema))
                    if isinstance(what, int) or table.name == what
                ]
                for connection in (ours, theirs)
            )
            names = {table.name for table in here}, {table.name for table in there}
            told = [f"table {name} is not on {other}" for name in sorted(names[0] - names[1])]
            told += [f"table {name} is not on {one}" for name in sorted(names[1] - names[0])]
            both = [table for table in here if table.name in names[1]]
            try:
                found = compare(Reader(ours, schema), Reader(theirs, schema), both, self._stopping, lambda _rows: None)
            except (psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedTable) as error:
                return (*told, f"its tables are of another form ({error.diag.message_primary})")
            return (*told, *(difference.sentence for difference in found.differences))

    # -- mending ------------------------------------------------------------------------------------------------------

    def mend(self, found: Found, one: Mend) -> None:
        """Carry out one of a plan's. HeadwayError with nothing of it done."""
        with self._alone(None if one.kind == "lay_out" else one.shard):
            self._mend(found, one)

    def _mend(self, found: Found, one: Mend) -> None:
        try:
            if one.kind == "lay_out":
                servers = [self._servers[name] for name in self._names]
                lay_out(self._wanted, servers, tables_by=self._tables_by)
            elif one.kind in ("point", "release"):
                self._in_catalog(one)
            elif one.kind == "doubt":
                self._end_doubt(one)
            elif one.kind == "fill":
                table, _, source = one.name.partition("=")
                first = min(self._servers)  # whom every writer asks first
                ways = self._servers
                replace_rows(table, ways[source], ways[one.server], ways[first])
            elif one.server == SOURCE and self._source is not None:
                with connect_for_long(self._source.admin, "headway repair") as connection:
                    self._on_server(found, one, connection)
            else:
                with connect(self._servers[one.server]) as connection:
                    self._on_server(found, one, connection)
        except psycopg.Error as error:
            told = error.diag.message_primary or str(error).strip() or type(error).__name__
            raise EngineError(f"{one.what}: {told}", hint=error.diag.message_hint or "headway db repair") from error

    def _in_catalog(self, one: Mend) -> None:
        with connect(self._first) as catalog:
            if one.kind == "release":
                set_fenced(catalog, int(one.shard or 0), False)
                return
            with catalog.transaction():
                epoch = raise_epoch(catalog)
                catalog.execute(
                    "INSERT INTO headway.shard_map (shard, server, epoch) VALUES (%s, %s, %s) ON CONFLICT (shard) "
                    "DO UPDATE SET server = excluded.server, epoch = excluded.epoch, fenced = false",
                    (one.shard, one.server, epoch),
                )

    def _end_doubt(self, one: Mend) -> None:
        """As the app's role, which is the one that prepared it."""
        with (
            psycopg.connect(self._logins[self._first.name], autocommit=True, connect_timeout=5) as catalog,
            psycopg.connect(self._logins[one.server], autocommit=True, connect_timeout=5) as there,
        ):
            end_doubts(self._wanted.name, catalog, [(one.server, there)], forget=False)

    def _on_server(self, found: Found, one: Mend, connection: Connection) -> None:
        wanted = self._wanted
        if one.kind == "subscription":
            drop_subscription(connection, one.name)
        elif one.kind == "slot":
            _drop_slot(connection, one.name)
        elif one.kind == "publication":
            drop_publication(connection, one.name)
        elif one.kind == "corner":
            clearing.clear_corner(connection, wanted.name, one.name, _LOCK_MS)
        elif one.kind == "half" and one.shard is not None:
            clearing.clear_half(connection, wanted.name, one.shard, found.record.shards, _LOCK_MS)
        elif one.kind == "rights" and one.shard is None:
            rights = layout.grant_catalog if one.name == "the catalog" else layout.grant_reference
            connection.execute(rights(self._servers[one.server].role).encode())
        if one.shard is None or one.kind == "half":
            return
        server = self._servers[one.server]
        schema = schema_name(wanted.name, one.shard)
        place = sql.Identifier(schema)
        if one.kind == "open":
            connection.execute(open_fence(schema))
            with contextlib.suppress(psycopg.errors.LockNotAvailable), connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
                connection.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(sql.Identifier(schema, FENCE)))
            return
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
            if one.kind == "aside":
                if connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,):
                    return
                connection.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(place, sql.Identifier(one.name)))
            elif one.kind == "rights":
                connection.execute(server.rights(schema).encode())
            elif one.kind == "constrain":
                keys = self._keys(found, one.shard, one.server)
                constrain(wanted.path, connection, schema, one.shard, found.record.shards, keys)
            elif one.kind == "triggers":
                keys = self._keys(found, one.shard, one.server)
                find_keys(wanted.joins, connection, [schema], keys, anew=True)
                ids = {table: column for table, column in wanted.ids.items() if table in keys}
                connection.execute((ids_sql(schema, one.shard, found.record.shards, ids, keys) or ";").encode())
                connection.execute((server.rights(schema) or ";").encode())

    def _keys(self, found: Found, shard: int, server: str) -> dict[str, Any]:
        """The keys of the tables that the shard has."""
        with connect(self._first) as catalog:
            keys = map_of(_map_row(catalog)).keys
        tables = found.seen[server].shards[shard].tables
        return {table: key for table, key in keys.items() if table in tables}

    @contextlib.contextmanager
    def _alone(self, shard: int | None) -> Iterator[None]:
        """Nobody moves the shard meanwhile, splits shards or imports. Conflict while somebody does."""
        with connect(self._first) as catalog, given_back(catalog):
            for what, begun, try_to in (
                ("its shards are being split", open_split(catalog), try_lock_splits),
                ("it is being imported", open_import(catalog), try_lock_imports),
            ):
                if begun is not None or not comes_free(partial(try_to, catalog)):
                    told = f"database {self._wanted.name} cannot be mended now: {what}"
                    raise Conflict(told, hint="headway db status; then the same command again")
            if shard is not None:
                moving = any(move.shard == shard for move in open_moves(catalog))
                if moving or not comes_free(partial(try_lock, catalog, shard)):
                    told = f"shard {shard} is moving now"
                    raise Conflict(told, hint="headway db status; then the same command again")
            yield

    @property
    def _first(self) -> AdminServer:
        return self._servers[self._names[0]]


def _map_row(catalog: Connection) -> Any:
    return catalog.execute(MAP_SQL).fetchone()


def _has_rows(connection: Connection, table: str) -> bool:
    place = sql.Identifier(layout.REFERENCE_SCHEMA, table)
    return connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(place)).fetchone() == (True,)


def _drop_slot(connection: Connection, name: str) -> None:
    """Whoever reads it: it is of a link that has ended."""
    row = connection.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (name,)).fetchone()
    if row is None:
        return
    if row[0] is not None:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", row)
    connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
