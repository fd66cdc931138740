"""Looks at both servers before and during a move: what the schema holds, who is in the way, how far the rows are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from headway.model.sharding import MARKER_TABLE
from headway.sharding.estimates import weights
from headway.sharding.layout import IS_VERSION_TABLE, NOT_APPS
from headway.sharding.move.nouns import MoveServer, Table
from headway.sharding.move.objections import PREPARED_MAX_S, SchemaFacts, ServerFacts
from headway.sharding.move.sessions import Connection, number, scalar

_SERVER = """
SELECT current_setting('server_version_num')::int,
       (SELECT system_identifier::text FROM pg_control_system()) || ' '
         || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || ' '
         || pg_postmaster_start_time()::text,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s),
       COALESCE((SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %(schema)s), ''),
       rolsuper, rolreplication, has_database_privilege(current_database(), 'CREATE'),
       current_setting('wal_level'),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),
       current_setting('max_logical_replication_workers')::int,
       NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE')),
       COALESCE((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'pg_create_subscription'), false),
       EXISTS (SELECT FROM pg_roles WHERE rolname = %(app_role)s)
  FROM pg_roles WHERE rolname = current_user
"""


def look_at_server(connection: Connection, server: MoveServer, schema: str, ours: str) -> ServerFacts:
    """Version, rights and room of a server. `ours` begins the comment of a schema that a move left half made."""
    row = connection.execute(_SERVER, {"schema": schema, "app_role": server.app_role}).fetchone()
    assert row is not None
    superuser, owner = bool(row[4]), bool(row[11])
    return ServerFacts(
        name=server.name,
        version=int(cast(int, row[0])),
        identity=str(row[1]),
        has_schema=bool(row[2]),
        leftover=str(row[3]).startswith(ours),
        may_publish=superuser or bool(row[5] and row[6] and owner),
        may_subscribe=superuser or bool(row[6] and row[12]),
        wal_level=str(row[7]),
        slots_free=int(cast(int, row[8])),
        senders_free=int(cast(int, row[9])),
        workers=int(cast(int, row[10])),
        app_role=server.app_role,
        has_app_role=bool(row[13]),
    )


_OBJECTS = """
WITH mine AS (
    SELECT c.oid, c.relname::text AS name, c.relkind, c.relpersistence, c.relreplident
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s
)
SELECT ARRAY(SELECT name FROM mine WHERE relkind IN ('r', 'p') ORDER BY 1),
       ARRAY(SELECT name FROM mine WHERE relkind = 'r' AND (relreplident = 'n' OR (relreplident = 'd'
             AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = mine.oid AND i.indisprimary))) ORDER BY 1),
       ARRAY(SELECT name FROM mine WHERE relkind IN ('r', 'p') AND relpersistence = 'u' ORDER BY 1),
       ARRAY(SELECT name FROM mine WHERE relkind = 'f' ORDER BY 1),
       ARRAY(SELECT name FROM mine WHERE relkind = 'm' ORDER BY 1),
       ARRAY(SELECT name || '.' || t.tgname FROM mine JOIN pg_trigger t ON t.tgrelid = mine.oid
              WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') ORDER BY 1),
       ARRAY(SELECT DISTINCT c.conname::text FROM pg_constraint c
               JOIN pg_class a ON a.oid = c.conrelid JOIN pg_class b ON b.oid = c.confrelid
              WHERE c.contype = 'f' AND a.relnamespace <> b.relnamespace
                AND b.relnamespace IS DISTINCT FROM to_regnamespace('headway_reference')::oid  -- on every server alike
                AND (c.conrelid IN (SELECT oid FROM mine) OR c.confrelid IN (SELECT oid FROM mine)) ORDER BY 1),
       ARRAY(SELECT DISTINCT a.relname::text FROM pg_inherits i JOIN pg_class a ON a.oid = i.inhrelid
               JOIN pg_class b ON b.oid = i.inhparent WHERE a.relnamespace <> b.relnamespace
                AND (a.oid IN (SELECT oid FROM mine) OR b.oid IN (SELECT oid FROM mine)) ORDER BY 1),
       ARRAY(SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
                AND prepared < clock_timestamp() - make_interval(secs => %(prepared_s)s) ORDER BY 1),
       (SELECT count(*) FROM pg_largeobject_metadata)
"""


def look_at_schema(connection: Connection, schema: str) -> SchemaFacts:
    """What stands in the schema that may not move."""
    row = connection.execute(_OBJECTS, {"schema": schema, "prepared_s": PREPARED_MAX_S}).fetchone()
    assert row is not None
    names = [tuple(cast(list[str], found)) for found in row[:9]]
    return SchemaFacts(
        tables=tuple(name for name in names[0] if name != MARKER_TABLE),
        no_identity=names[1],
        unlogged=names[2],
        foreign=names[3],
        materialized=names[4],
        always_triggers=names[5],
        outside_keys=names[6],
        inherited=names[7],
        prepared=names[8],
        large_objects=int(cast(int, row[9])),
    )


_IS_APPS = f"c.relname <> ALL (%(not_apps)s) AND NOT {IS_VERSION_TABLE}"
_TABLES = f"""
SELECT c.relname::text,
       ARRAY(SELECT a.attname::text FROM pg_index i
               CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(n, place)
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n
              WHERE i.indrelid = c.oid AND k.place <= i.indnkeyatts
                AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END ORDER BY k.place),
       c.relkind = 'r', {_IS_APPS}
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %(schema)s AND c.relkind IN ('r', 'p') ORDER BY 1
"""


def tables_of(connection: Connection, schema: str) -> tuple[Table, ...]:
    """Every table of the schema in the order of names, ours included."""
    rows = connection.execute(_TABLES.encode(), {"schema": schema, "not_apps": list(NOT_APPS)}).fetchall()
    return tuple(
        Table(str(name), tuple(cast(list[str], key)), bool(holds), bool(apps)) for name, key, holds, apps in rows
    )


# By name and type of each column: a migration in between would leave the two sides different.
_SHAPE = """
SELECT md5(COALESCE(string_agg(c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' '
         || a.attnotnull, ',' ORDER BY c.relname COLLATE "C", a.attname COLLATE "C"), ''))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
"""


def shape_of(connection: Connection, schema: str) -> str:
    """A digest of tables and columns."""
    return str(scalar(connection, _SHAPE, (schema,)))


def estimated_rows(connection: Connection, schema: str) -> int:
    """How many rows of the app's the schema has: counted where it has few."""
    apps = {(schema, table.name) for table in tables_of(connection, schema) if table.is_apps}
    return sum(weight.rows for table, weight in weights(connection, [schema]).items() if table in apps)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction that a move waits for."""

    pid: int
    age_s: float
    user: str
    what: str

    @property
    def sentence(self) -> str:
        """Who it is, for people."""
        if not self.pid:
            return f"prepared transaction {self.what} (open for {self.age_s:.0f} s, user {self.user})"
        return f"a transaction open for {self.age_s:.0f} s (pid {self.pid}, user {self.user}, {self.what})"

    @property
    def hint(self) -> str:
        """How to end it."""
        if not self.pid:
            return f"COMMIT PREPARED '{self.what}', or ROLLBACK PREPARED '{self.what}'"
        return f"Let it end, or end it on that server: SELECT pg_terminate_backend({self.pid})"


_BLOCKERS = """
SELECT COALESCE(s.pid, 0), EXTRACT(epoch FROM clock_timestamp() - COALESCE(s.xact_start, p.prepared))::float8,
       COALESCE(s.usename, p.owner)::text, COALESCE(s.application_name || ', ' || s.state, p.gid)
  FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_stat_activity s ON s.pid = l.pid
  LEFT JOIN (pg_prepared_xacts p JOIN pg_locks x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction)
         ON l.pid IS NULL AND x.virtualtransaction = l.virtualtransaction
 WHERE n.nspname = %s AND l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p')
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND c.relname <> %s AND COALESCE(s.pid, 0) <> pg_backend_pid()
   AND COALESCE(s.backend_type, '') <> 'autovacuum worker'
   AND COALESCE(s.xact_start, p.prepared) < clock_timestamp() - make_interval(secs => %s)
 ORDER BY 2 DESC LIMIT 1
"""


def writer_in_the_way(connection: Connection, schema: str, older_than_s: float) -> Blocker | None:
    """The oldest transaction that has written to the schema and is open: the fence has to wait for it."""
    row = connection.execute(_BLOCKERS, (schema, MARKER_TABLE, older_than_s)).fetchone()
    return _blocker(row)


def oldest_writer(connection: Connection, older_than_s: float) -> Blocker | None:
    """The oldest transaction of the whole cluster that has written: a new slot waits for all of them."""
    row = connection.execute(
        "SELECT pid, age_s, who, what FROM ("
        " SELECT pid, EXTRACT(epoch FROM clock_timestamp() - xact_start)::float8 AS age_s, usename::text AS who,"
        "        application_name || ', ' || state AS what FROM pg_stat_activity"
        "  WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
        " UNION ALL SELECT 0, EXTRACT(epoch FROM clock_timestamp() - prepared)::float8, owner::text, gid"
        "  FROM pg_prepared_xacts) x WHERE age_s > %s ORDER BY age_s DESC LIMIT 1",
        (older_than_s,),
    ).fetchone()
    return _blocker(row)


def _blocker(row: tuple[object, ...] | None) -> Blocker | None:
    if row is None:
        return None
    return Blocker(int(cast(int, row[0])), float(cast(float, row[1])), str(row[2]), str(row[3]))


@dataclass(frozen=True, slots=True)
class Copying:
    """How far the subscription is."""

    waiting: tuple[str, ...]  # tables that are not ready, of all
    tables: int
    rows: int  # of the app's, that the copies have written
    errors: int  # of the workers so far
    bytes_behind: int = 0


_COPYING = f"""
SELECT ARRAY(SELECT r.srrelid::regclass::text FROM pg_subscription_rel r
              WHERE r.srsubid = s.oid AND r.srsubstate <> 'r'),
       (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = s.oid),
       (SELECT COALESCE(sum(p.tuples_processed), 0)::bigint FROM pg_stat_progress_copy p
         JOIN pg_subscription_rel r ON r.srrelid = p.relid JOIN pg_class c ON c.oid = p.relid
        WHERE r.srsubid = s.oid AND {_IS_APPS}),
       (SELECT COALESCE(sum(c.reltuples) FILTER (WHERE c.reltuples > 0), 0)::bigint FROM pg_subscription_rel r
         JOIN pg_class c ON c.oid = r.srrelid
        WHERE r.srsubid = s.oid AND r.srsubstate IN ('f', 's', 'r') AND {_IS_APPS}),
       COALESCE((SELECT apply_error_count + sync_error_count FROM pg_stat_subscription_stats t
                  WHERE t.subid = s.oid), 0)
  FROM pg_subscription s
 WHERE s.subname = %(name)s AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def copying(connection: Connection, subscription: str) -> Copying | None:
    """The state of a subscription on the target; None when there is none."""
    row = connection.execute(_COPYING.encode(), {"name": subscription, "not_apps": list(NOT_APPS)}).fetchone()
    if row is None:
        return None
    return Copying(
        waiting=tuple(cast(list[str], row[0])),
        tables=int(cast(int, row[1])),
        rows=int(cast(int, row[2])) + int(cast(int, row[3])),
        errors=int(cast(int, row[4])),
    )


def lost_copies(source: Connection, target: Connection, subscription: str) -> list[str]:
    """Tables whose copy is not finished and has no slot any more; it is so for a moment at the end of each copy."""
    slots = target.execute(
        "SELECT r.srrelid::regclass::text, format('pg_%%s_sync_%%s_%%s', r.srsubid, r.srrelid, system_identifier) "
        "FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid, pg_control_system() "
        "WHERE s.subname = %s AND r.srsubstate = 'f'",
        (subscription,),
    ).fetchall()
    there = {str(row[0]) for row in source.execute("SELECT slot_name::text FROM pg_replication_slots").fetchall()}
    return [str(table) for table, slot in slots if str(slot) not in there]


def retained_bytes(connection: Connection, slot: str, copies: str) -> int:
    """How much log the move's slots keep back on the source; -1 when the server has given one of them up."""
    return number(
        connection,
        "SELECT CASE WHEN bool_or(wal_status = 'lost') THEN -1 ELSE "
        "max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint END FROM pg_replication_slots "
        "WHERE slot_name = %s OR slot_name LIKE %s",
        (slot, copies),
    )
