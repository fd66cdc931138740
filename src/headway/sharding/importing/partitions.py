"""The partitions of the source's tables: what they are, where rows lie, and whether somebody has changed them.

The rows of a partitioned table are copied and followed as its own. A partition that is attached, detached, dropped or
emptied by itself says nothing of its rows to those who follow the log; so it is looked for, and all rows are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from headway.sharding.importing.nouns import Partition
from headway.sharding.move.sessions import Connection

_PARTITIONS = """
WITH RECURSIVE tree AS (
  SELECT c.oid AS root, c.relname::text AS table_name, c.relnamespace AS space, c.oid
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = %s AND c.relkind = 'p' AND NOT c.relispartition
  UNION ALL SELECT t.root, t.table_name, t.space, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
SELECT t.table_name, CASE WHEN c.relnamespace = t.space THEN '' ELSE n.nspname || '.' END || c.relname, c.relkind::text,
       c.relpersistence <> 'u', c.relreplident::text,
       EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary AND indisvalid),
       pg_has_role(c.relowner, 'USAGE'),
       CASE WHEN c.relkind <> 'r' THEN 0 WHEN c.reltuples >= 0 THEN c.reltuples
            ELSE COALESCE(pg_relation_size(c.oid), 0) / 100 END::bigint
  FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.oid <> t.root ORDER BY 1, 2
"""
# Who attaches a partition writes its row of pg_inherits anew, and who empties or rewrites one gives it another file.
_SHAPES = """
WITH RECURSIVE tree AS (
  SELECT c.oid AS root, c.relname::text AS table_name, c.oid, ''::text AS bound
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind = 'p'
  UNION ALL SELECT t.root, t.table_name, i.inhrelid, i.inhparent || ' ' || i.xmin::text
    FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid WHERE NOT i.inhdetachpending)
SELECT table_name, md5(string_agg(concat_ws(' ', oid, bound, pg_relation_filenode(oid)), ',' ORDER BY oid))
  FROM tree GROUP BY 1
"""
_HOLDERS = """
WITH RECURSIVE tree AS (
  SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = %s AND c.relname = %s
  UNION ALL SELECT c.oid, c.relkind FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid AND t.relkind = 'p'
    JOIN pg_class c ON c.oid = i.inhrelid WHERE NOT i.inhdetachpending)
SELECT format('%%I.%%I', n.nspname, c.relname),
       COALESCE(pg_relation_size(c.oid), 0) / current_setting('block_size')::int
  FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A table that holds rows itself: one that is not partitioned, or the last partition of a branch."""

    place: str  # with its schema, quoted
    pages: int


def partitions_of(connection: Connection, schema: str) -> dict[str, tuple[Partition, ...]]:
    """By table of the schema: its partitions of all levels, wherever they are."""
    found: dict[str, list[Partition]] = {}
    for table, name, kind, is_logged, identity, has_key, is_owned, rows in connection.execute(
        _PARTITIONS, (schema,)
    ).fetchall():
        one = Partition(
            name=str(name),
            kind=str(kind),
            is_logged=bool(is_logged),
            identity=str(identity),
            has_key=bool(has_key),
            is_owned=bool(is_owned),
            rows=int(cast(int, rows)),
        )
        found.setdefault(str(table), []).append(one)
    return {table: tuple(partitions) for table, partitions in found.items()}


def partition_shapes(connection: Connection, schema: str, tables: Sequence[str]) -> dict[str, str]:
    """By partitioned table: a digest of its partitions. It is another one after each of them was attached, detached,
    dropped or emptied by itself, even if all looks as it did before; and after a rewrite, which changes no row."""
    found = connection.execute(_SHAPES, (schema, list(tables))).fetchall()
    return {str(table): str(digest) for table, digest in found}


def changed_shapes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The tables whose partitions are not what they were."""
    return sorted(table for table in before.keys() | now.keys() if before.get(table) != now.get(table))


def holders(connection: Connection, schema: str, table: str) -> list[Holder]:
    """Where the rows of a table lie, as the transaction sees it; empty when there is no such table."""
    found = connection.execute(_HOLDERS, (schema, table)).fetchall()
    return [Holder(str(place), int(cast(int, pages))) for place, pages in found]
