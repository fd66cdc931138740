"""The functions and triggers that carry every change of the copies into the shards, as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from headway.model.sharding import schema_name
from headway.sharding.importing.nouns import Plan, TablePlan
from headway.sharding.importing.statements import CHANGED, SHARD, key_object, literal, place
from headway.sharding.keys import SQL_TYPE, shard_sql
from headway.sharding.layout import REFERENCE_SCHEMA, identifier


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
            f"  {word} headway_s = {shard} THEN {statement.replace(SHARD, schema_name(plan.database, shard))};"
        )
        word = "ELSIF"
    if here:
        lines.append("  ELSE RETURN; END IF;")
        lines.append(f"  {note}")
    return "\n".join(lines)


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
    return place(REFERENCE_SCHEMA if table.is_reference else SHARD, table.name)


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
