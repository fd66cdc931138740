"""The SQL of a split as text: the triggers that keep both places of a row in step, its copy, its comparison. Pure.

What a trigger of ours writes, it writes with session_replication_role = replica: the triggers of the app, foreign keys
and our own triggers on the other side stay silent. They have acted already, where the row was written first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from headway.model.sharding import FENCED, KeyKind
from headway.sharding.keys import shard_sql
from headway.sharding.layout import CONSTRAINT, identifier
from headway.sharding.split.nouns import Halves, SplitTable

FORWARD, BACKWARD, REFUSE, KEEP = "headway_forward", "headway_backward", "headway_refuse", "headway_keep"
TRIGGERS = (FORWARD, BACKWARD, REFUSE, KEEP)
_ROW_EVENTS = ("INSERT", "UPDATE", "DELETE")
IN_STEP = "SET search_path = pg_catalog SET session_replication_role = replica"


def literal(text: str) -> str:
    """A text as SQL takes it, with standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def place(schema: str, name: str) -> str:
    """A name in a schema."""
    return f"{identifier(schema)}.{identifier(name)}"


def comment(catalog_id: str, split_id: int) -> str:
    """By which a schema is known to be made by this split, and nothing else is ever dropped."""
    return f"headway: half of a shard ({catalog_id} {split_id})"


def is_other(halves: Halves, table: SplitTable, row: str = "") -> str:
    """The condition for a row of the second half."""
    column = identifier(table.key.column)
    of_row = f"{row}.{column}" if row else column
    return f"{shard_sql(of_row, 2 * halves.shards, table.key.kind)} = {halves.other}"


def move_names(halves: Halves, dump: str) -> str:
    """The dump of the first half run so that it makes the second: for the time of the transaction the names change.

    Every name in a dump is qualified, so this cannot miss one as replacing text could.
    """
    old, new, aside = identifier(halves.old), identifier(halves.new), identifier(halves.beside)
    return (
        f"ALTER SCHEMA {old} RENAME TO {aside};\n{dump}\nSET LOCAL search_path = pg_catalog;\n"
        f"ALTER SCHEMA {old} RENAME TO {new};\nALTER SCHEMA {aside} RENAME TO {old};\n"
    )


def views(halves: Halves, tables: Sequence[SplitTable], role: str) -> str:
    """The tables of the first half without the rows that the second has as well: for who reads over all shards."""
    lines = []
    for table in tables:
        lines.append(
            f"CREATE VIEW {place(halves.beside, table.name)} AS SELECT * FROM {place(halves.old, table.name)} "
            f"WHERE {shard_sql(identifier(table.key.column), 2 * halves.shards, table.key.kind)} = {halves.shard};"
        )
    if role:
        who, where = identifier(role), identifier(halves.beside)
        lines.append(f"GRANT USAGE ON SCHEMA {where} TO {who}; GRANT SELECT ON ALL TABLES IN SCHEMA {where} TO {who};")
    return "\n".join(lines)


def constrain_to(schema: str, table: str, column: str, kind: KeyKind, shard: int, shards: int) -> str:
    """Rows of this shard alone from now on; those that are there are looked at later (VALIDATE)."""
    where = place(schema, table)
    check = f"CHECK ({shard_sql(identifier(column), shards, kind)} = {shard})"
    return f"ALTER TABLE {where} DROP CONSTRAINT IF EXISTS {CONSTRAINT}, ADD CONSTRAINT {CONSTRAINT} {check} NOT VALID;"


def function_name(halves: Halves, direction: str, table: str) -> str:
    """A trigger's function, in our own schema. PostgreSQL would cut off what is longer than 63 bytes."""
    name = f"{direction}_{table}"
    if len(name.encode()) > 63:
        name = f"{direction}_{hashlib.sha256(table.encode()).hexdigest()[:16]}"
    return place(halves.beside, name)


def mirror(halves: Halves, table: SplitTable, direction: str) -> str:
    """The function that does to the other place what was done here."""
    target = place(halves.new if direction == FORWARD else halves.old, table.name)
    columns = ", ".join(map(identifier, table.columns))
    values = ", ".join(f"NEW.{identifier(column)}" for column in table.columns)
    updated = ", ".join(
        f"{identifier(column)} = NEW.{identifier(column)}" for column in table.columns if column not in table.fixed
    )
    same = " AND ".join(f"{identifier(column)} = OLD.{identifier(column)}" for column, _ in table.primary)
    # Changed in place: a writer that waits for the row must find it again.
    return f"""CREATE OR REPLACE FUNCTION {function_name(halves, direction, table.name)}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER {IN_STEP} AS $headway$
DECLARE
  was_other boolean := false;
  is_other boolean := false;
BEGIN
  IF TG_OP <> 'INSERT' THEN was_other := {is_other(halves, table, "OLD")}; END IF;
  IF TG_OP <> 'DELETE' THEN is_other := {is_other(halves, table, "NEW")}; END IF;
  IF was_other AND is_other THEN
    UPDATE {target} SET {updated} WHERE {same};
    IF FOUND THEN RETURN NULL; END IF;
  ELSIF was_other THEN
    DELETE FROM {target} WHERE {same};
  END IF;
  IF is_other THEN
    INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({values});
  END IF;
  RETURN NULL;
END $headway$;"""


def silent(halves: Halves, table: SplitTable) -> str:
    """From now on what the second half writes stays there."""
    return f"""CREATE OR REPLACE FUNCTION {function_name(halves, BACKWARD, table.name)}() RETURNS trigger
LANGUAGE plpgsql AS $headway$ BEGIN RETURN NULL; END $headway$;"""


def refuse(halves: Halves, table: SplitTable) -> str:
    """The function with which the old place refuses rows that have left; and TRUNCATE, while there are two places."""
    return f"""CREATE OR REPLACE FUNCTION {function_name(halves, REFUSE, table.name)}() RETURNS trigger
LANGUAGE plpgsql AS $headway$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '{FENCED}', MESSAGE = 'the shard has been split',
    HINT = 'Roll back, read the shard map again and repeat the transaction.';
END $headway$;"""


def keep(halves: Halves, table: SplitTable) -> str:
    """The function that refuses TRUNCATE while there are two places."""
    return f"""CREATE OR REPLACE FUNCTION {function_name(halves, KEEP, table.name)}() RETURNS trigger
LANGUAGE plpgsql AS $headway$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the shard is being split, and TRUNCATE would reach half of it',
    HINT = 'Use DELETE, or wait: headway db status';
END $headway$;"""


def triggers(halves: Halves, table: SplitTable, direction: str) -> str:
    """The triggers of a table; the caller holds its lock. Rows of the first half cost one condition."""
    where = place(halves.new if direction == BACKWARD else halves.old, table.name)
    old, new = is_other(halves, table, "OLD"), is_other(halves, table, "NEW")
    conditions = {"INSERT": new, "DELETE": old, "UPDATE": f"{old} OR {new}"}
    when = "BEFORE" if direction == REFUSE else "AFTER"
    return "\n".join(
        f"CREATE OR REPLACE TRIGGER {direction}_{event.lower()} {when} {event} ON {where} FOR EACH ROW "
        f"WHEN ({conditions[event]}) EXECUTE FUNCTION {function_name(halves, direction, table.name)}();"
        for event in _ROW_EVENTS
    )


def keep_trigger(halves: Halves, table: SplitTable, schema: str) -> str:
    """The trigger that refuses TRUNCATE."""
    return (
        f"CREATE OR REPLACE TRIGGER {KEEP} BEFORE TRUNCATE ON {place(schema, table.name)} FOR EACH STATEMENT "
        f"EXECUTE FUNCTION {function_name(halves, KEEP, table.name)}();"
    )


def drop_triggers(schema: str, table: str, names: Sequence[str]) -> str:
    """Take triggers away that there are."""
    return "\n".join(f"DROP TRIGGER {identifier(name)} ON {place(schema, table)};" for name in names)


# -- rows, in runs of the primary key ---------------------------------------------------------------------------------


def run_end(schema: str, table: SplitTable, after: Sequence[str] | None, rows: int) -> str:
    """The primary key, as texts, of the last of the next `rows` rows; no row: there are none."""
    columns = ", ".join(identifier(column) for column, _ in table.primary)
    texts = ", ".join(f"{identifier(column)}::text" for column, _ in table.primary)
    descending = ", ".join(f"{identifier(column)} DESC" for column, _ in table.primary)
    return (
        f"SELECT {texts} FROM (SELECT {columns} FROM {place(schema, table.name)} WHERE {_after(table, after)} "
        f"ORDER BY {columns} LIMIT {rows}) headway_run ORDER BY {descending} LIMIT 1"
    )


def _bound(table: SplitTable, sign: str, values: Sequence[str]) -> str:
    columns = ", ".join(identifier(column) for column, _ in table.primary)
    given = ", ".join(f"{literal(value)}::{kind}" for value, (_, kind) in zip(values, table.primary, strict=True))
    return f"({columns}) {sign} ({given})" if len(values) > 1 else f"{columns} {sign} {given}"


def _after(table: SplitTable, after: Sequence[str] | None) -> str:
    return "true" if after is None else _bound(table, ">", after)


def in_run(table: SplitTable, after: Sequence[str] | None, to: Sequence[str] | None) -> str:
    """The condition for rows of a run; `to` None: all that follow."""
    return _after(table, after) + ("" if to is None else f" AND {_bound(table, '<=', to)}")


def copy(halves: Halves, table: SplitTable, run: str) -> str:
    """Rows of a run to the second half, locked meanwhile: whoever changes one does so before, or after and in both."""
    columns = ", ".join(map(identifier, table.columns))
    primary = ", ".join(identifier(column) for column, _ in table.primary)
    return (
        f"INSERT INTO {place(halves.new, table.name)} ({columns}) OVERRIDING SYSTEM VALUE "
        f"SELECT {columns} FROM {place(halves.old, table.name)} WHERE {run} AND {is_other(halves, table)} "
        f"FOR SHARE ON CONFLICT ({primary}) DO NOTHING"
    )


def purge(halves: Halves, table: SplitTable, run: str) -> str:
    """Delete the rows of a run that have left."""
    return f"DELETE FROM {place(halves.old, table.name)} WHERE {run} AND {is_other(halves, table)}"


def compare(halves: Halves, table: SplitTable, run: str) -> str:
    """Both places of a run's rows as of one moment: counts and digests, first the old place's."""
    row = "ROW(" + ", ".join(f"headway_row.{identifier(column)}" for column in table.columns) + ")::text"
    digest = (
        f'count(*), coalesce(bit_xor(hashtextextended({row} COLLATE "C", 1)), 0), '
        f'coalesce(bit_xor(hashtextextended({row} COLLATE "C", 2)), 0)'
    )
    return (
        f"SELECT * FROM (SELECT {digest} FROM {place(halves.old, table.name)} headway_row "
        f"WHERE {run} AND {is_other(halves, table)}) before, "
        f"(SELECT {digest} FROM {place(halves.new, table.name)} headway_row WHERE {run}) after"
    )
