"""Looks at all servers of a sharded database: what they hold, how much, and what is under way."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from headway.errors import EngineError
from headway.model.sharding import LEDGER_TABLE, MARKER_TABLE, ShardMap, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, connect
from headway.sharding.estimates import weights
from headway.sharding.verify import Held

# Of each shard's schema: its tables with columns, types, constraints and indexes, as one digest.
_SHAPES = """
SELECT nspname, md5(coalesce(string_agg(part, E'\\n' ORDER BY part), '')) FROM pg_namespace n
  LEFT JOIN LATERAL (
    SELECT format('%%s.%%s %%s %%s', relname, attname,
                  replace(format_type(atttypid, atttypmod), quote_ident(nspname) || '.', ''), attnotnull) AS part
      FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
     WHERE relnamespace = n.oid AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
       AND relname NOT IN (%(ledger)s, %(marker)s)
    UNION ALL
    SELECT format('%%s %%s', relname, replace(pg_get_indexdef(i.indexrelid), quote_ident(nspname) || '.', ''))
      FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = n.oid
    UNION ALL
    SELECT format('%%s %%s %%s', relname, conname, contype)
      FROM pg_constraint o JOIN pg_class c ON c.oid = conrelid
     WHERE relnamespace = n.oid AND contype IN ('c', 'f', 'p', 'u', 'x')
  ) parts ON true
 WHERE nspname ~ %(pattern)s GROUP BY nspname
"""
# Rows read and written since PostgreSQL began to count, and for how long it has.
_COUNTED = """
SELECT schemaname,
       sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) + n_tup_ins + n_tup_upd + n_tup_del)::float8,
       EXTRACT(epoch FROM clock_timestamp() - (SELECT coalesce(stats_reset, pg_postmaster_start_time())
         FROM pg_stat_database WHERE datname = current_database()))::float8
  FROM pg_stat_all_tables WHERE schemaname ~ %s AND relname NOT IN (%s, %s) GROUP BY schemaname
"""
_LEFTOVERS = """
SELECT 'slot ' || slot_name FROM pg_replication_slots
 WHERE database = current_database() AND (slot_name LIKE 'headway%%' OR slot_name LIKE 'pg\\_%%\\_sync\\_%%')
UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE 'headway%%'
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
 WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND subname LIKE 'headway%%'
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace
 WHERE (nspname LIKE '%%\\_half' AND starts_with(obj_description(oid, 'pg_namespace'), 'headway: half of a shard'))
    OR starts_with(obj_description(oid, 'pg_namespace'), 'headway: being imported')
UNION ALL SELECT 'prepared transaction ' || gid FROM pg_prepared_xacts
 WHERE database = current_database() AND prepared < now() - interval '1 minute'
"""
_REFERENCE = """
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname = %s AND relkind IN ('r', 'p') ORDER BY 1
"""


def pattern(database: str) -> str:
    """A regular expression for the schemas of a database's shards."""
    return f"^{re.escape(schema_name(database, 0)[:-4])}[0-9]{{4}}$"


def look(database: str, server: AdminServer, connection: Connection) -> Held:
    """What one server holds."""
    arguments = {"pattern": pattern(database), "ledger": LEDGER_TABLE, "marker": MARKER_TABLE}
    shapes: list[Any] = connection.execute(_SHAPES, arguments).fetchall()
    tables = [str(row[0]) for row in connection.execute(_REFERENCE, (layout.REFERENCE_SCHEMA,))]
    return Held(
        shards={layout.shard_number(database, schema): shape for schema, shape in shapes},
        reference={table: _digest(connection, table) for table in tables},
        leftovers=tuple(str(row[0]) for row in connection.execute(_LEFTOVERS)),
    )


def _digest(connection: Connection, table: str) -> str:
    """Of all rows of a reference table, whatever their order."""
    place = f"{layout.REFERENCE_SCHEMA}.{layout.identifier(table)}"
    row = connection.execute(
        f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {place} t"
    ).fetchone()
    return hashlib.sha256(repr(row).encode()).hexdigest()


def look_at_all(database: str, servers: Sequence[AdminServer]) -> dict[str, Held]:
    """What every server holds that answers."""
    found = {}
    for server in servers:
        try:
            with connect(server) as connection:
                found[server.name] = look(database, server, connection)
        except EngineError:
            continue
    return found


def sizes(
    database: str, map_: ShardMap, servers: Sequence[AdminServer], *, counts: bool = True
) -> dict[int, tuple[int, int]]:
    """Rows (where they are many, or not `counts`, as PostgreSQL estimates them) and bytes of every shard, where it is
    now."""
    found: dict[int, tuple[int, int]] = {}
    for server in servers:
        here = {schema_name(database, shard): shard for shard in map_.on(server.name)}
        with connect(server) as connection:
            weighed = weights(connection, here, counts=counts)
        for (schema, table), weight in weighed.items():
            if table not in layout.OURS:
                rows, size = found.get(here[schema], (0, 0))
                found[here[schema]] = (rows + weight.rows, size + weight.bytes)
    return found


def rows_counted(
    database: str, map_: ShardMap, servers: Sequence[AdminServer]
) -> tuple[dict[int, float], dict[int, float]]:
    """Rows read and written in every shard so far, where it is now, and for how many seconds they were counted."""
    found: dict[int, float] = {}
    for_s: dict[int, float] = {}
    for server in servers:
        with connect(server) as connection:
            rows: list[Any] = connection.execute(_COUNTED, (pattern(database), LEDGER_TABLE, MARKER_TABLE)).fetchall()
        for schema, count, since_s in rows:
            shard = layout.shard_number(database, schema)
            if shard < map_.shards and map_.owners[shard] == server.name:
                found[shard], for_s[shard] = float(count), float(since_s)
    return found, for_s
