"""The one question for the shard map, and how its row is read, by the control plane and the app alike. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, cast

from headway.model.sharding import KeyKind, ShardMap, ShardServer, TableKey

# One statement, so that all of it is of one moment.
MAP_SQL: LiteralString = """
SELECT database, epoch, algorithm,
       (SELECT array_agg(server ORDER BY shard) FROM headway.shard_map),
       (SELECT array_agg(shard) FROM headway.shard_map WHERE fenced),
       (SELECT array_agg(ARRAY[name, url] ORDER BY name) FROM headway.servers),
       (SELECT array_agg(ARRAY[table_name, column_name, kind] ORDER BY table_name) FROM headway.keys),
       COALESCE((to_jsonb(c) ->> 'at_source')::boolean, false),  -- a catalog of an earlier version has not said so
       COALESCE(to_jsonb(c) ->> 'split', ''),
       COALESCE(to_jsonb(c) ->> 'restoring', '')
  FROM headway.catalog c
"""


def map_of(row: Sequence[object]) -> ShardMap:
    """The map of a row of `MAP_SQL`."""
    database, epoch, algorithm, owners, fenced, servers, keys, at_source, split, restoring = row
    return ShardMap(
        database=str(database),
        epoch=int(cast(int, epoch)),
        algorithm=str(algorithm),
        owners=tuple(cast(list[str], owners) or ()),
        fenced=frozenset(cast(list[int], fenced) or ()),
        servers={name: ShardServer(name, url) for name, url in cast(list[list[str]], servers) or ()},
        keys={
            table: TableKey(column, cast(KeyKind, kind)) for table, column, kind in cast(list[list[str]], keys) or ()
        },
        at_source=bool(at_source),
        split=str(split),
        restoring=str(restoring),
    )
