"""What shards put into new rows by themselves: the key that a row has from its parent, and ids.

Both are functions and triggers in each shard, which follow the declaration: they are made, changed and taken away while
the shards are in use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from headway.errors import Conflict
from headway.model.sharding import Join, TableKey, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect
from headway.sharding.existing import map_on
from headway.sharding.ids import FILLED, ids_sql, no_id_sql
from headway.sharding.locks import comes_free
from headway.sharding.move.record import try_lock
from headway.sharding.wanted import Layout


def find_keys(
    joins: Mapping[str, Join],
    connection: Connection,
    schemas: Sequence[str],
    keys: Mapping[str, TableKey],
    *,
    anew: bool = False,
) -> None:
    """Have new rows of the tables with a join find their key, in shards where they do not do so yet, or in all."""
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
            if anew or found[schema].get(layout.key_function(table)) != source
        ]
        if lines:
            with connection.transaction():
                connection.execute("".join(lines))


def fill_in_ids(
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
                connection.execute(no_id_sql(schema, table))
            ids = ids_sql(schema, here[schema], len(owners), wanted.ids, keys)
            connection.execute(ids + server.rights(schema))


@contextlib.contextmanager
def _kept_here(wanted: Layout, first: AdminServer | None, shard: int) -> Iterator[None]:
    """Nobody moves or splits the shard meanwhile. Conflict while somebody does."""
    if first is None:
        yield
        return
    with connect(first) as catalog:
        moves = "SELECT FROM headway.moves WHERE shard = %s AND ended_at IS NULL"
        if not comes_free(lambda: try_lock(catalog, shard)) or catalog.execute(moves, (shard,)).fetchone():
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
