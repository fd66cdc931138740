"""The SQL of an import as text: the tables to copy into, what carries changes on, the fences, and names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headway.model.sharding import FENCED, MARKER_TABLE, schema_name
from headway.sharding.importing.nouns import Plan, TablePlan
from headway.sharding.keys import SQL_TYPE, shard_sql
from headway.sharding.layout import REFERENCE_SCHEMA, identifier

FENCE = "headway_import_fence"
MARKER = MARKER_TABLE
CHANGED = "changed"
_SHARD = "@@"  # in what is executed for one shard: its schema


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
    return f"CREATE PUBLICATION {identifier(name)} FOR TABLE {', '.join(parts)}"


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
    """One transaction: wait out writers in flight, keep new ones away, put the fence; reads go on."""
    where = place(plan.schema, table.name)
    return f"""
SET LOCAL lock_timeout = {max(1, timeout_ms)};
LOCK TABLE {where} IN SHARE ROW EXCLUSIVE MODE;
CREATE OR REPLACE TRIGGER {FENCE} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {where}
  FOR EACH STATEMENT EXECUTE FUNCTION {place(plan.space, "fence")}();
"""


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
    return f"::{table.types[column].replace(_SHARD, schema)}"


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


# -- what carries changes into the shards -----------------------------------------------------------------------------


def carriers(plan: Plan, here: Sequence[int]) -> str:
    """Functions and triggers that bring every change of the copies into the shards of this server, at its own place
    in the order of commits. They keep one thing true: a shard's rows are those of the copies whose key is the shard's.
    """
    lines = []
    for number, table in enumerate(plan.tables):
        lines.append(_key_of(plan, number, table))
        lines += [make(plan, number, table, here) for make in (_put, _take, _change)]
        if table.join is not None:
            name = f"headway_import_{number}"
            lines.append(
                f"CREATE INDEX IF NOT EXISTS {name} ON {place(plan.schema, table.name)} "
                f"({identifier(table.join.column)});"
            )
    for number, table in reversed(list(enumerate(plan.tables))):
        lines.append(_with_children(plan, number, table))
    for number, table in enumerate(plan.tables):
        lines.append(_carry(plan, number, table, here))
    return "\n".join(lines)


def _number(plan: Plan, name: str) -> int:
    return next(number for number, table in enumerate(plan.tables) if table.name == name)


def _row(plan: Plan, table: TablePlan) -> str:
    return place(plan.schema, table.name)


def _function(plan: Plan, name: str, arguments: str, returns: str, declared: str, body: str) -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {place(plan.space, name)}({arguments}) RETURNS {returns} LANGUAGE plpgsql AS "
        f"$headway$ {declared} BEGIN\n{body}\nEND $headway$;"
    )


def _key_of(plan: Plan, number: int, table: TablePlan) -> str:
    kind = SQL_TYPE[plan.kind]
    if table.is_reference:
        body = "RETURN NULL;"
    elif table.join is None:
        body = f"RETURN headway_r.{identifier(table.shard_key)};"
    else:
        parent = _number(plan, table.join.parent)
        body = (
            f"RETURN (SELECT {place(plan.space, f'key_{parent}')}(headway_p) "
            f"FROM {place(plan.schema, table.join.parent)} headway_p "
            f"WHERE headway_p.{identifier(table.join.parent_column)} = headway_r.{identifier(table.join.column)});"
        )
    return _function(plan, f"key_{number}", f"headway_r {_row(plan, table)}", kind, "", body)


def _note(plan: Plan, table: TablePlan, row: str) -> str:
    return (
        f"INSERT INTO {place(plan.space, CHANGED)} (table_name, key) "
        f"VALUES ({literal(table.name)}, {key_object(table, row)});"
    )


def _for_shard(plan: Plan, here: Sequence[int], note: str, statement: str) -> str:
    """Carry a statement out in the shard of key `headway_k`, if it is on this server, and note it.

    The statement is written out for each shard, so that its plan is made once and not for every row.
    """
    lines = [
        f"  IF headway_k IS NULL THEN {note} RETURN; END IF;",  # on no shard: the comparison has to see it
        f"  headway_s := {shard_sql('headway_k', plan.shards, plan.kind)};",
    ]
    word = "IF"
    for shard in here:
        lines.append(
            f"  {word} headway_s = {shard} THEN {statement.replace(_SHARD, schema_name(plan.database, shard))};"
        )
        word = "ELSIF"
    if here:
        lines.append("  ELSE RETURN; END IF;")
        lines.append(f"  {note}")
    return "\n".join(lines)


def _array(numbers: Iterable[int]) -> str:
    return f"'{{{','.join(map(str, numbers))}}}'::int[]"


def _put(plan: Plan, number: int, table: TablePlan, here: Sequence[int]) -> str:
    columns = [column.name for column in table.columns]
    values = [_value(table, column.name, "headway_r") for column in table.columns]
    if table.join is not None:
        columns.append(table.shard_key)
        values.append(f"headway_k::{table.types[table.shard_key]}")
    statement = (
        f"INSERT INTO {_where(table)} ({', '.join(map(identifier, columns))}) OVERRIDING SYSTEM VALUE "
        f"VALUES ({', '.join(values)})"
    )
    return _of_row(plan, f"put_{number}", table, here, statement)


def _take(plan: Plan, number: int, table: TablePlan, here: Sequence[int]) -> str:
    return _of_row(plan, f"take_{number}", table, here, f"DELETE FROM {_where(table)} t WHERE {_same_row(table)}")


def _change(plan: Plan, number: int, table: TablePlan, here: Sequence[int]) -> str:
    """For a row that stays the same one, in the same shard."""
    others = [column.name for column in table.columns if column.name not in table.key]
    if not others:
        return _of_row(plan, f"change_{number}", table, here, "NULL")
    values = ", ".join(f"{identifier(name)} = {_value(table, name, 'headway_r')}" for name in others)
    return _of_row(
        plan, f"change_{number}", table, here, f"UPDATE {_where(table)} t SET {values} WHERE {_same_row(table)}"
    )


def _where(table: TablePlan) -> str:
    return place(REFERENCE_SCHEMA if table.is_reference else _SHARD, table.name)


def _value(table: TablePlan, column: str, row: str) -> str:
    is_plain = next(one for one in table.columns if one.name == column).is_plain
    return f"{row}.{identifier(column)}" + ("" if is_plain else f"::{table.types[column]}")


def _same_row(table: TablePlan) -> str:
    by_key = [f"t.{identifier(name)} = {_value(table, name, 'headway_r')}" for name in table.key]
    if not table.is_reference:
        by_key.append(f"t.{identifier(table.shard_key)} = headway_k")
    return " AND ".join(by_key)


def _of_row(plan: Plan, name: str, table: TablePlan, here: Sequence[int], statement: str) -> str:
    note = _note(plan, table, "headway_r")
    doing = f"  {note} {statement};" if table.is_reference else _for_shard(plan, here, note, statement)
    arguments = f"headway_r {_row(plan, table)}, headway_k {SQL_TYPE[plan.kind]}"
    return _function(plan, name, arguments, "void", "DECLARE headway_s int;", doing)


def _with_children(plan: Plan, number: int, table: TablePlan) -> str:
    """`bring` and `drop`: a row with all that follow it by their joins."""
    lines = []
    for verb, own in (("bring", "put"), ("drop", "take")):
        body = [f"  PERFORM {place(plan.space, f'{own}_{number}')}(headway_r, headway_k);"]
        for child in plan.children(table.name):
            assert child.join is not None
            of_child = _number(plan, child.name)
            body.append(
                f"  PERFORM {place(plan.space, f'{verb}_{of_child}')}(headway_c, headway_k) "
                f"FROM {place(plan.schema, child.name)} headway_c "
                f"WHERE headway_c.{identifier(child.join.column)} = headway_r.{identifier(child.join.parent_column)};"
            )
        arguments = f"headway_r {_row(plan, table)}, headway_k {SQL_TYPE[plan.kind]}"
        lines.append(_function(plan, f"{verb}_{number}", arguments, "void", "", "\n".join(body)))
    return "\n".join(lines)


def _carry(plan: Plan, number: int, table: TablePlan, here: Sequence[int]) -> str:
    def call(name: str, *arguments: str) -> str:
        return f"{place(plan.space, f'{name}_{number}')}({', '.join(arguments)})"

    kind = SQL_TYPE[plan.kind]
    # What others find it by, and what tells it apart: while that stays, it stays in its place, and its children do.
    fixed = {child.join.parent_column for child in plan.children(table.name) if child.join is not None} | {*table.key}
    same = " AND ".join(
        [
            "was IS NOT DISTINCT FROM becomes",
            *(f"OLD.{identifier(one)} = NEW.{identifier(one)}" for one in sorted(fixed)),
        ]
    )
    body = f"""
  IF TG_OP = 'INSERT' THEN PERFORM {call("bring", "NEW", call("key", "NEW"))}; RETURN NULL; END IF;
  was := {call("key", "OLD")};
  IF TG_OP = 'DELETE' THEN PERFORM {call("drop", "OLD", "was")}; RETURN NULL; END IF;
  becomes := {call("key", "NEW")};
  IF {same} THEN
    PERFORM {call("change", "NEW", "becomes")};
  ELSE
    PERFORM {call("drop", "OLD", "was")}; PERFORM {call("bring", "NEW", "becomes")};
  END IF;
  RETURN NULL;"""
    row = _function(plan, f"carry_{number}", "", "trigger", f"DECLARE was {kind}; becomes {kind};", body)
    emptied = _function(plan, f"empty_{number}", "", "trigger", "", _emptied(plan, table, here))
    where = place(plan.schema, table.name)
    return f"""{row}
{emptied}
CREATE OR REPLACE TRIGGER headway_carry AFTER INSERT OR UPDATE OR DELETE ON {where}
  FOR EACH ROW EXECUTE FUNCTION {place(plan.space, f"carry_{number}")}();
CREATE OR REPLACE TRIGGER headway_empty AFTER TRUNCATE ON {where}
  FOR EACH STATEMENT EXECUTE FUNCTION {place(plan.space, f"empty_{number}")}();
ALTER TABLE {where} ENABLE ALWAYS TRIGGER headway_carry, ENABLE ALWAYS TRIGGER headway_empty;
"""


def _emptied(plan: Plan, table: TablePlan, here: Sequence[int]) -> str:
    names = [table.name]
    for name in names:
        names += [child.name for child in plan.children(name)]
    lines = []
    for name in names:
        lines.append(f"  INSERT INTO {place(plan.space, CHANGED)} (table_name) VALUES ({literal(name)});")
        schemas = [REFERENCE_SCHEMA] if table.is_reference else [schema_name(plan.database, one) for one in here]
        lines += [f"  DELETE FROM {place(schema, name)};" for schema in schemas]
    return "\n".join([*lines, "  RETURN NULL;"])


# -- comparing --------------------------------------------------------------------------------------------------------


def key_object(table: TablePlan, row: str) -> str:
    """What tells a row apart, as a JSON object."""
    parts = ", ".join(f"{literal(name)}, {row}.{identifier(name)}" for name in table.key)
    return f"jsonb_build_object({parts})"


def _texts(table: TablePlan) -> tuple[str, str]:
    key = f"ROW({', '.join(f't.{identifier(name)}' for name in table.key)})::text"
    row = f"ROW({', '.join(f't.{identifier(column.name)}' for column in table.columns)})::text"
    return f'{key} COLLATE "C"', f'{row} COLLATE "C"'


def digest(table: TablePlan, schema: str, buckets: int, where: str) -> str:
    """Rows of a range of pages by bucket: how many, and two hashes over all of them; they add up by exclusive or."""
    key, row = _texts(table)
    return (
        "SELECT (hashtextextended(k, 0) & " + str(buckets - 1) + ")::int, count(*), bit_xor(hashtextextended(r, 1)), "
        f"bit_xor(hashtextextended(r, 2)) FROM (SELECT {key} AS k, {row} AS r FROM {place(schema, table.name)} t "
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
