"""Gives a server that comes later the rows that reference tables have by then on the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headway.sharding import layout

if TYPE_CHECKING:
    from headway.sharding.shards import AdminServer

# Tables of the schema that a table refers to.
_REFERS = """
SELECT DISTINCT b.relname FROM pg_constraint o
  JOIN pg_class a ON a.oid = o.conrelid JOIN pg_class b ON b.oid = o.confrelid
 WHERE o.contype = 'f' AND a.relnamespace = to_regnamespace(%s) AND b.relnamespace = a.relnamespace
   AND a.relname = %s AND b.relname <> a.relname
"""


@contextlib.contextmanager
def reference_copied(
    servers: Sequence[AdminServer], lacked: Mapping[str, Sequence[str]], connect: Callable[[AdminServer], Any]
) -> Iterator[None]:
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
