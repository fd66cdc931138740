"""Looks at the source and at the servers of the shards, before an import and while it is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from headway.sharding.importing.nouns import Column, FoundTable
from headway.sharding.importing.partitions import partitions_of
from headway.sharding.importing.plan import ServerFacts, SourceFacts
from headway.sharding.move.sessions import Connection, number

_SOURCE = """
SELECT current_setting('server_version_num')::int,
       (SELECT system_identifier::text FROM pg_control_system()) || ' '
         || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || ' '
         || pg_postmaster_start_time()::text,
       rolsuper OR rolreplication, rolsuper OR has_database_privilege(current_database(), 'CREATE'),
       current_setting('wal_level'),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),
       rolname::text,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
  FROM pg_roles WHERE rolname = current_user
"""
_SERVER = """
SELECT current_setting('server_version_num')::int,
       (SELECT system_identifier::text FROM pg_control_system()) || ' '
         || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || ' '
         || pg_postmaster_start_time()::text,
       rolsuper OR (has_database_privilege(current_database(), 'CREATE') AND
         COALESCE((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_create_subscription'), false)),
       COALESCE(has_schema_privilege(to_regnamespace(quote_ident(%(schema)s)), 'CREATE'),
         has_database_privilege(current_database(), 'CREATE')),
       current_setting('max_logical_replication_workers')::int,
       ARRAY(SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = %(schema)s AND relname = ANY(%(tables)s)
                AND COALESCE(obj_description(c.oid, 'pg_class'), '') NOT LIKE %(mark)s || '%%'),
       to_regnamespace(quote_ident(%(space)s)) IS NOT NULL
  FROM pg_roles WHERE rolname = current_user
"""
_TABLES = """
SELECT c.oid::bigint, c.relname::text, c.relkind::text, c.relpersistence <> 'u', c.relreplident::text,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE pg_relation_size(c.oid) / 100 END::bigint,
       ARRAY(SELECT a.attname::text FROM pg_index i
               CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(n, place)
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n
              WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts
                AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END ORDER BY k.place),
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
              WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indpred IS NULL),
       COALESCE((SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                  WHERE i.indrelid = c.oid AND i.indisreplident AND NOT i.indisprimary AND c.relreplident = 'i'), ''),
       pg_has_role(c.relowner, 'USAGE'),
       c.relkind = 'r' AND NOT c.relispartition
         AND EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhparent, inhrelid)),
       ARRAY(SELECT DISTINCT b.relname::text FROM pg_constraint o JOIN pg_class b ON b.oid = o.confrelid
              WHERE o.contype = 'f' AND o.conrelid = c.oid AND b.oid <> c.oid),
       COALESCE((SELECT relname::text FROM pg_class WHERE c.relispartition AND oid = pg_partition_root(c.oid)), '')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname::text, format_type(a.atttypid, a.atttypmod),
       t.typnamespace = 'pg_catalog'::regnamespace,
       a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attgenerated <> ''
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum
"""


def look_at_source(connection: Connection) -> SourceFacts:
    """Version, rights and room of the source."""
    row = connection.execute(_SOURCE).fetchone()
    assert row is not None
    return SourceFacts(
        version=int(cast(int, row[0])),
        identity=str(row[1]),
        may_replicate=bool(row[2]),
        may_create=bool(row[3]),
        wal_level=str(row[4]),
        slots_free=int(cast(int, row[5])),
        senders_free=int(cast(int, row[6])),
        role=str(row[7]),
        kept_max_mib=int(cast(int, row[8])),
    )


def look_at_server(
    connection: Connection, name: str, schema: str, tables: Sequence[str], space: str, mark: str
) -> ServerFacts:
    """Rights and room of a server of the shards. `mark` begins the comment of what an import of ours left there."""
    told = {"schema": schema, "tables": list(tables), "space": space, "mark": mark}
    row = connection.execute(_SERVER, told).fetchone()
    assert row is not None
    return ServerFacts(
        name=name,
        version=int(cast(int, row[0])),
        identity=str(row[1]),
        may_subscribe=bool(row[2]),
        may_create=bool(row[3]),
        workers=int(cast(int, row[4])),
        in_the_way=tuple(cast(list[str], row[5])),
    )


def source_schema(connection: Connection, tables: Sequence[str], path: Sequence[str]) -> str:
    """The schema that the declared tables lie in: the first of the login's search path that has most of them."""
    rows = connection.execute(
        "SELECT n.nspname::text, count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY(%s) AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p') GROUP BY 1",
        (list(path), list(tables)),
    ).fetchall()
    counts = {str(name): int(cast(int, count)) for name, count in rows}
    return max(path or ["public"], key=lambda name: counts.get(name, 0)) if counts else (path or ["public"])[0]


def tables_of(connection: Connection, schema: str) -> tuple[tuple[FoundTable, ...], frozenset[str]]:
    """Every table of a schema, and those that are not the login's own."""
    partitions = partitions_of(connection, schema)
    rows = connection.execute(_TABLES, (schema,)).fetchall()
    columns: dict[int, list[Column]] = {}
    for relid, *told in connection.execute(_COLUMNS, ([row[0] for row in rows],)).fetchall():
        name, type_, is_plain, required, default, generated = told
        column = Column(str(name), str(type_), bool(is_plain), bool(required), bool(default), bool(generated))
        columns.setdefault(int(cast(int, relid)), []).append(column)
    found = tuple(
        FoundTable(
            name=str(row[1]),
            columns=tuple(columns.get(int(cast(int, row[0])), ())),
            key=tuple(cast(list[str], row[6])),
            by_index=str(row[8]),
            unique=frozenset(cast(list[str], row[7])),
            kind="i" if row[10] else str(row[2]),
            is_logged=bool(row[3]),
            identity=str(row[4]),
            rows=max(int(cast(int, row[5])), sum(one.rows for one in partitions.get(str(row[1]), ()))),
            refers=frozenset(cast(list[str], row[11])),
            partition_of=str(row[12]),
            partitions=partitions.get(str(row[1]), ()),
        )
        for row in rows
    )
    return found, frozenset(str(row[1]) for row in rows if not row[9])


# By name and type of each column: what is changed in the middle would stop the stream.
_SHAPE = """
SELECT md5(COALESCE(string_agg(c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ','
         ORDER BY c.relname COLLATE "C", a.attname COLLATE "C"), ''))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE n.nspname = %s AND c.relname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


def shape_of(connection: Connection, schema: str, tables: Sequence[str]) -> str:
    """A digest of tables and columns."""
    row = connection.execute(_SHAPE, (schema, list(tables))).fetchone()
    return str(row[0]) if row else ""


def kept_bytes(connection: Connection, pattern: str) -> int:
    """How much log the import's slots keep back on the source; -1 when the server has given one of them up."""
    return number(
        connection,
        "SELECT CASE WHEN bool_or(wal_status = 'lost') THEN -1 ELSE "
        "max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint END FROM pg_replication_slots "
        "WHERE slot_name LIKE %s",
        (pattern,),
    )
