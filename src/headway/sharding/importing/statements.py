"""The SQL of an import as text: the tables to copy into, the fences, what is compared, and names. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from headway.model.sharding import FENCED, MARKER_TABLE, schema_name
from headway.sharding.importing.nouns import Plan, TablePlan
from headway.sharding.keys import shard_sql
from headway.sharding.layout import REFERENCE_SCHEMA, identifier

FENCE = "headway_import_fence"
MARKER = MARKER_TABLE
CHANGED = "changed"
SHARD = "@@"  # in what is executed for one shard: its schema


def literal(text: str) -> str:
    """A text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def link_name(catalog_id: str, import_id: int, server: str) -> str:
    """The publication, the slot and the subscription of a server. Slots are the whole cluster's."""
    return f"headway_import_{catalog_id[:8]}_{import_id}_{server}"[:63]


def ours_comment(catalog_id: str, import_id: int) -> str:
    """By which a table is known to be ours, and nothing else is ever dropped."""
    return f"headway: being imported ({catalog_id} {import_id})"


def place(schema: str, name: str) -> str:
    """A table with its schema."""
    return f"{identifier(schema)}.{identifier(name)}"


# -- the source -------------------------------------------------------------------------------------------------------


def source_space(plan: Plan, mark: str) -> str:
    """Our corner at the source: the marker, which is written to see that all before it has arrived."""
    space = identifier(plan.space)
    return f"""
CREATE SCHEMA IF NOT EXISTS {space};
COMMENT ON SCHEMA {space} IS {literal(mark)};
{_marker(plan)}
"""


def _marker(plan: Plan) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {place(plan.space, MARKER)} "
        "(one boolean PRIMARY KEY DEFAULT true CHECK (one), token text NOT NULL DEFAULT '');"
    )


def create_publication(plan: Plan, name: str, shards: Sequence[int]) -> str:
    """What a server gets: its own rows where the source can tell, else all."""
    parts = [place(plan.space, MARKER)]
    for table in plan.tables:
        part = place(plan.schema, table.name)
        if table.can_filter:
            chosen = ", ".join(map(str, shards)) or "-1"
            part += f" WHERE ({shard_sql(identifier(table.shard_key), plan.shards, plan.kind)} IN ({chosen}))"
        parts.append(part)
    # The rows of all partitions come as the table's own, whichever of them they are in.
    options = "publish_via_partition_root = true"
    return f"CREATE PUBLICATION {identifier(name)} FOR TABLE {', '.join(parts)} WITH ({options})"


def create_subscription(name: str, conninfo: str, *, major: int) -> str:
    """Bound to a slot that exists already, and without a word to the source: a failure must not repeat the password.

    Commits are applied one after the other (no parallel apply), so that a marker that arrives says all before it has.
    While tables are copied, commits wait for the disk: a copy that is complete drops its slot at the source.
    """
    options = (
        f"connect = false, slot_name = {literal(name)}, streaming = off, synchronous_commit = 'on', binary = false"
    )
    if major >= 16:
        options += ", origin = any"
    publication = identifier(name)
    return (
        f"CREATE SUBSCRIPTION {publication} CONNECTION {literal(conninfo)} PUBLICATION {publication} WITH ({options})"
    )


def close_source(plan: Plan) -> str:
    """What the fence does from now on: refuse every write, whoever comes."""
    told = f"this table has gone into the shards of database {plan.database}"
    hint = f'Write by database("{plan.database}"), or repeat the transaction when the import goes on.'
    return (
        f"CREATE OR REPLACE FUNCTION {place(plan.space, 'fence')}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        f"RAISE EXCEPTION USING ERRCODE = '{FENCED}', MESSAGE = {literal(told)}, "
        f"HINT = {literal(hint)}; END$$"
    )


def open_source(plan: Plan) -> str:
    """Let writes through at once. Changing the function locks no table, as dropping triggers would."""
    return (
        f"CREATE OR REPLACE FUNCTION {place(plan.space, 'fence')}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RETURN NULL; END$$"
    )


def fence_source(plan: Plan, table: TablePlan, timeout_ms: int) -> str:
    """One transaction: wait out writers in flight, keep new ones away, put the fence; reads go on.

    The lock is that of all partitions, too, and lets no other one come. Each gets a fence of its own: a trigger for
    statements is that of the table alone that the statement names.
    """
    where = place(plan.schema, table.name)
    fence = place(plan.space, "fence")
    trigger = f"CREATE OR REPLACE TRIGGER {FENCE} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON"
    inside = f"""
DO $headway$ DECLARE headway_p regclass; BEGIN
  FOR headway_p IN SELECT relid FROM pg_partition_tree({literal(where)}) WHERE level > 0 LOOP
    EXECUTE format('{trigger} %s FOR EACH STATEMENT EXECUTE FUNCTION %s()', headway_p, {literal(fence)});
  END LOOP; END $headway$;
"""
    return f"""
SET LOCAL lock_timeout = {max(1, timeout_ms)};
LOCK TABLE {where} IN SHARE ROW EXCLUSIVE MODE;
{trigger} {where}
  FOR EACH STATEMENT EXECUTE FUNCTION {fence}();
{inside if table.is_partitioned else ""}"""


# -- the servers of the shards ----------------------------------------------------------------------------------------


def target_space(plan: Plan, mark: str) -> str:
    """Our corner on a server: the marker, and the keys of rows that have changed since they were compared."""
    space = identifier(plan.space)
    return f"""
CREATE SCHEMA IF NOT EXISTS {space};
COMMENT ON SCHEMA {space} IS {literal(mark)};
{_marker(plan)}
CREATE TABLE IF NOT EXISTS {place(plan.space, CHANGED)}
  (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, table_name text NOT NULL, key jsonb);
CREATE SCHEMA IF NOT EXISTS {identifier(plan.schema)};
"""


def staging(plan: Plan, table: TablePlan, mark: str) -> str:
    """The table that replication writes into. What is no type of PostgreSQL itself is kept as text."""
    columns = [
        f"{identifier(column.name)} {column.type if column.is_plain else 'text'}"
        + (" NOT NULL" if column.name in table.key else "")
        for column in table.columns
    ]
    key = ", ".join(map(identifier, table.key))
    where = place(plan.schema, table.name)
    return f"""
CREATE TABLE IF NOT EXISTS {where} ({", ".join(columns)}, PRIMARY KEY ({key}));
COMMENT ON TABLE {where} IS {literal(mark)};
"""


def close_shards(plan: Plan) -> str:
    """Refuse what the app writes to the shards; what is replicated passes, and so does who says that it imports."""
    return f"""
CREATE OR REPLACE FUNCTION {place(plan.space, "closed")}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
  IF current_setting('headway.importing', true) = 'on' THEN RETURN NULL; END IF;
  RAISE EXCEPTION USING ERRCODE = '{FENCED}', MESSAGE = {literal(f"database {plan.database} is being imported")},
    HINT = 'Its shards take writes after the switch.'; END$$;
"""


def open_shards(plan: Plan) -> str:
    """Let the app write to the shards of a server, all at once."""
    return (
        f"CREATE OR REPLACE FUNCTION {place(plan.space, 'closed')}() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RETURN NULL; END$$"
    )


def fence_shard(plan: Plan, schema: str, table: TablePlan) -> str:
    """The fence of one table of a shard, or of a reference table."""
    return (
        f"CREATE OR REPLACE TRIGGER {FENCE} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON "
        f"{place(schema, table.name)} FOR EACH STATEMENT EXECUTE FUNCTION {place(plan.space, 'closed')}();"
    )


def fill(plan: Plan, table: TablePlan, shard: int) -> str:
    """All rows of a table that belong to a shard, at once; a child's key comes from its parents."""
    schema = schema_name(plan.database, shard)
    joined, key = _joined(plan, table)
    columns = [column.name for column in table.columns]
    values = [f"t.{identifier(name)}{_as(plan, table, name, schema)}" for name in columns]
    if table.join is not None:
        columns.append(table.shard_key)
        values.append(f"{key}::{table.types[table.shard_key]}")
    return (
        f"INSERT INTO {place(schema, table.name)} ({', '.join(map(identifier, columns))}) OVERRIDING SYSTEM VALUE "
        f"SELECT {', '.join(values)} FROM {place(plan.schema, table.name)} t {joined} "
        f"WHERE {shard_sql(key, plan.shards, plan.kind)} = {shard}"
    )


def fill_reference(plan: Plan, table: TablePlan) -> str:
    """All rows of a reference table."""
    columns = [column.name for column in table.columns]
    values = [f"t.{identifier(name)}{_as(plan, table, name, REFERENCE_SCHEMA)}" for name in columns]
    return (
        f"INSERT INTO {place(REFERENCE_SCHEMA, table.name)} ({', '.join(map(identifier, columns))}) "
        f"OVERRIDING SYSTEM VALUE SELECT {', '.join(values)} FROM {place(plan.schema, table.name)} t"
    )


def _joined(plan: Plan, table: TablePlan) -> tuple[str, str]:
    """The joins from a child `t` to the table that has the key, and the expression of the key."""
    joins, alias, number = [], "t", 0
    while table.join is not None:
        number += 1
        parent, before = f"p{number}", alias
        joins.append(
            f"JOIN {place(plan.schema, table.join.parent)} {parent} "
            f"ON {parent}.{identifier(table.join.parent_column)} = {before}.{identifier(table.join.column)}"
        )
        alias, table = parent, plan.table(table.join.parent)
    return " ".join(joins), f"{alias}.{identifier(table.shard_key)}"


def _as(plan: Plan, table: TablePlan, column: str, schema: str) -> str:
    found = next(one for one in table.columns if one.name == column)
    if found.is_plain:
        return ""
    return f"::{table.types[column].replace(SHARD, schema)}"


def orphans(plan: Plan, table: TablePlan, schema: str) -> str:
    """Whether a table holds rows that belong to no shard: without a key, or without a parent."""
    where = place(schema, table.name)
    if table.join is None:
        return f"SELECT EXISTS (SELECT FROM {where} t WHERE t.{identifier(table.shard_key)} IS NULL)"
    parent = place(schema, table.join.parent)
    return (
        f"SELECT EXISTS (SELECT FROM {where} t WHERE NOT EXISTS (SELECT FROM {parent} p WHERE "
        f"p.{identifier(table.join.parent_column)} = t.{identifier(table.join.column)}))"
    )


# -- comparing --------------------------------------------------------------------------------------------------------


def key_object(table: TablePlan, row: str) -> str:
    """What tells a row apart, as a JSON object."""
    parts = ", ".join(f"{literal(name)}, {row}.{identifier(name)}" for name in table.key)
    return f"jsonb_build_object({parts})"


def _texts(table: TablePlan) -> tuple[str, str]:
    key = f"ROW({', '.join(f't.{identifier(name)}' for name in table.key)})::text"
    row = f"ROW({', '.join(f't.{identifier(column.name)}' for column in table.columns)})::text"
    return f'{key} COLLATE "C"', f'{row} COLLATE "C"'


def digest(table: TablePlan, held_by: str, buckets: int, where: str) -> str:
    """Rows of a range of pages by bucket: how many, and two hashes over all of them; they add up by exclusive or.

    `held_by`: the table itself, or a partition of it.
    """
    key, row = _texts(table)
    return (
        "SELECT (hashtextextended(k, 0) & " + str(buckets - 1) + ")::int, count(*), bit_xor(hashtextextended(r, 1)), "
        f"bit_xor(hashtextextended(r, 2)) FROM (SELECT {key} AS k, {row} AS r FROM {held_by} t "
        f"WHERE {where} OFFSET 0) x GROUP BY 1"
    )


def rows_of(table: TablePlan, schema: str, buckets: int, bucket: int) -> str:
    """Key and hash of every row of a bucket."""
    key, row = _texts(table)
    return (
        f"SELECT {key_object(table, 't')}::text, hashtextextended({row}, 1) FROM {place(schema, table.name)} t "
        f"WHERE (hashtextextended({key}, 0) & {buckets - 1})::int = {bucket}"
    )


def rows_by_key(table: TablePlan, schemas: Sequence[str], keys: str) -> str:
    """Key and hash of the rows of given keys, a JSON array, in any of several schemas."""
    _, row = _texts(table)
    plain = {column.name: column for column in table.columns}
    types = {name: (plain[name].type if plain[name].is_plain else "text") for name in table.key}
    wanted = ", ".join(f"{identifier(name)} {types[name]}" for name in table.key)
    found = []
    for schema in schemas:
        by_key = " AND ".join(
            f"t.{identifier(name)}{'' if plain[name].is_plain else '::text'} = w.{identifier(name)}"
            for name in table.key
        )
        found.append(
            f"SELECT {key_object(table, 't')}::text, hashtextextended({row}, 1) "
            f"FROM w JOIN {place(schema, table.name)} t ON {by_key}"
        )
    return (
        f"WITH w AS MATERIALIZED (SELECT * FROM jsonb_to_recordset({literal(keys)}::jsonb) AS x({wanted})) "
        + " UNION ALL ".join(found)
    )
