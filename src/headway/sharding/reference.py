"""Reference tables, whole on every server: made where they are missing, and given the rows that others have.

A server that comes later lacks them all; one that has lost rows, or has others, is given those of a good one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from headway.errors import AppError
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect
from headway.sharding.schema_file import apply_schema
from headway.sharding.wanted import Layout

# Tables of the schema that a table refers to.
_REFERS = """
SELECT DISTINCT b.relname FROM pg_constraint o
  JOIN pg_class a ON a.oid = o.conrelid JOIN pg_class b ON b.oid = o.confrelid
 WHERE o.contype = 'f' AND a.relnamespace = to_regnamespace(%s) AND b.relnamespace = a.relnamespace
   AND a.relname = %s AND b.relname <> a.relname
"""


def make_reference(server: AdminServer, connection: Connection, shared: str, wanted: Layout) -> list[str]:
    """Make those that are missing, by the statements of the schema file that are about them: which were missing."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('headway.reference'))")
        connection.execute(layout.CREATE_REFERENCE)
        tables = {
            str(row[0])
            for row in connection.execute(
                "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                "WHERE nspname = %s AND relkind IN ('r', 'p')",
                (layout.REFERENCE_SCHEMA,),
            )
        }
        if lacking := [table for table in wanted.reference if table not in tables]:
            connection.execute(f"SET LOCAL search_path = {layout.REFERENCE_SCHEMA}")
            apply_schema(wanted, connection, layout.split_script(shared, lacking)[0])
            if lost := _absent(connection, wanted.reference):
                raise AppError(
                    f"{wanted.path}.reference: the schema creates no table {', '.join(lost)}",
                    hint="Correct the name, or take it out.",
                )
        if server.is_apart:
            connection.execute(layout.grant_reference(server.role))
    return lacking


def _absent(connection: Connection, reference: Sequence[str]) -> list[str]:
    return [
        table
        for table in reference
        if connection.execute("SELECT to_regclass(%s)", (f"{layout.REFERENCE_SCHEMA}.{table}",)).fetchone() == (None,)
    ]


def gate(servers: Collection[str]) -> str:
    """The server that everybody who writes a reference table asks first."""
    return min(servers)


@contextlib.contextmanager
def reference_copied(servers: Sequence[AdminServer], lacked: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Copy the tables that a server lacked from one that had them, and keep writers out until the block ends: by then
    the catalog names the new server, and they write there too."""
    jobs: list[tuple[AdminServer, AdminServer, list[str]]] = []
    for server in servers:
        for other in servers:
            tables = [table for table in lacked[server.name] if table not in lacked[other.name]]
            if tables:
                jobs.append((other, server, tables))
                break
    if not jobs:
        yield
        return
    had = sorted((server for server in servers if server not in [job[1] for job in jobs]), key=lambda one: one.name)
    with contextlib.ExitStack() as stack:
        # The server that every writer asks first.
        gate = stack.enter_context(connect(had[0]))
        stack.enter_context(gate.transaction())
        gate.execute("SELECT pg_advisory_xact_lock(hashtext('headway.reference'))")
        for source, target, tables in jobs:
            _copy(stack.enter_context(connect(source)), stack.enter_context(connect(target)), tables)
        yield


def _copy(source: Any, target: Any, tables: Sequence[str]) -> None:
    names = {table: f"{layout.REFERENCE_SCHEMA}.{layout.identifier(table)}" for table in tables}
    refers = {
        table: {row[0] for row in target.execute(_REFERS, (layout.REFERENCE_SCHEMA, table))} & set(tables)
        for table in tables
    }
    with source.transaction(), target.transaction():
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        target.execute(f"TRUNCATE {', '.join(names.values())}")
        left = list(tables)
        while left:
            # What refers to another one comes after it; in a circle, as it is declared.
            table = next((one for one in left if not refers[one] & set(left)), left[0])
            left.remove(table)
            with (
                source.cursor() as reading,
                target.cursor() as writing,
                reading.copy(f"COPY {names[table]} TO STDOUT (FORMAT binary)") as out,
                writing.copy(f"COPY {names[table]} FROM STDIN (FORMAT binary)") as into,
            ):
                for block in out:
                    into.write(block)


_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
   AND attgenerated = '' ORDER BY attnum
"""
_KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
 WHERE i.indrelid = %s::regclass AND i.indisprimary
"""


def replace_rows(table: str, source: AdminServer, target: AdminServer, first: AdminServer) -> None:
    """Give a reference table on `target` the rows that it has on `source`. What it had is kept there, in schema
    `headway_lost`. `first` is the server that every writer asks first: none of them writes meanwhile."""
    place = f"{layout.REFERENCE_SCHEMA}.{layout.identifier(table)}"
    with connect(first) as gate, connect(source) as reading, connect(target) as writing, gate.transaction():
        gate.execute("SELECT pg_advisory_xact_lock(hashtext('headway.reference'))")
        columns = [str(row[0]) for row in writing.execute(_COLUMNS, (place,))]
        key = [str(row[0]) for row in writing.execute(_KEY, (place,))]
        names = ", ".join(map(layout.identifier, columns))
        with writing.transaction():
            if writing.execute(f"SELECT EXISTS (SELECT FROM {place})").fetchone() == (True,):
                _keep(writing, place, table)
            writing.execute(
                f"CREATE TEMPORARY TABLE headway_rows ON COMMIT DROP AS SELECT {names} FROM {place} WITH NO DATA"
            )
            with (
                reading.cursor() as out,
                writing.cursor() as into,
                out.copy(f"COPY {place} ({names}) TO STDOUT (FORMAT binary)") as blocks,
                into.copy(f"COPY headway_rows ({names}) FROM STDIN (FORMAT binary)") as taken,
            ):
                for block in blocks:
                    taken.write(block)
            writing.execute(_replacing(place, columns, key))


def _keep(writing: Any, place: str, table: str) -> None:
    writing.execute("CREATE SCHEMA IF NOT EXISTS headway_lost")
    number = 1
    while True:
        name = f"headway_lost.{layout.identifier(f'{table[:50]}_{number}')}"
        if writing.execute("SELECT to_regclass(%s)", (name,)).fetchone() == (None,):
            writing.execute(f"CREATE TABLE {name} AS TABLE {place}")
            return
        number += 1


def _replacing(place: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """By key where there is one, so that rows of shards that refer to a row find it at every moment."""
    names = ", ".join(map(layout.identifier, columns))
    into = f"INSERT INTO {place} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM headway_rows"
    if not key:
        return f"DELETE FROM {place}; {into};"
    same = " AND ".join(f"n.{layout.identifier(name)} = t.{layout.identifier(name)}" for name in key)
    others = [layout.identifier(name) for name in columns if name not in key]
    doing = f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in others)}" if others else "DO NOTHING"
    by = ", ".join(map(layout.identifier, key))
    return (
        f"DELETE FROM {place} t WHERE NOT EXISTS (SELECT FROM headway_rows n WHERE {same}); "
        f"{into} ON CONFLICT ({by}) {doing};"
    )
