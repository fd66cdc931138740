"""What a shard consists of, as SQL: its schema, the app's tables in it, what is ours in it, and who may do what. Pure.

The tables of a schema file are created in every shard; those of them that are declared as reference tables are created
once a server, in a schema that every shard sees behind its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from headway.errors import Problem
from headway.model.sharding import LEDGER_TABLE, MARKER_TABLE, VERSION_TABLES, Join, KeyKind, TableKey, schema_name
from headway.sharding.keys import shard_sql
from headway.sharding.script import statements

REFERENCE_SCHEMA = "headway_reference"
CREATE_REFERENCE = f"CREATE SCHEMA IF NOT EXISTS {REFERENCE_SCHEMA};"
CONSTRAINT = "headway_shard"
KEY_TRIGGER = "headway_key"
OURS = (LEDGER_TABLE, MARKER_TABLE)
NOT_APPS = (*OURS, *VERSION_TABLES)
# Whether a relation `c` is Alembic's own, whatever an app calls it: SQL.
IS_VERSION_TABLE = """
ARRAY(SELECT attname || ' ' || atttypid::regtype::text FROM pg_attribute
       WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) = ARRAY['version_num character varying']
"""
SCHEMA_ENTRY = "schema:"  # how the ledger names what is no migration: the schema file
BEGUN_ENTRY = "begun:"  # a migration outside of a transaction whose end is not known
SHARDS_ENTRY = f"{SCHEMA_ENTRY}shards"  # and of how many shards this is one, which its constraints rely on

_NAME = r'(?:(?:"(?P<quoted>[^"]+)")|(?P<plain>[A-Za-z_][\w$]*))'
_ABOUT = re.compile(
    r"\s*(?:CREATE\s+(?:UNLOGGED\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    r"|ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?"
    r"|CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:[\w\"$]+\s+)?ON\s+(?:ONLY\s+)?"
    r"|INSERT\s+INTO\s+|COMMENT\s+ON\s+TABLE\s+)" + _NAME,
    re.IGNORECASE,
)
_KINDS: dict[str, KeyKind] = {
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "text": "text",
    "character varying": "text",
    "uuid": "uuid",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table in a shard, as the server describes it."""

    table: str
    name: str
    type: str
    is_required: bool


def is_version_table(name: str, columns: Sequence[tuple[str, str]]) -> bool:
    """Whether a table is a migration tool's own, by its name, or its columns with their types: an app may call
    Alembic's as it likes."""
    return name in VERSION_TABLES or (
        len(columns) == 1 and columns[0][0] == "version_num" and columns[0][1].startswith("character varying")
    )


def identifier(name: str) -> str:
    """A name as SQL takes it, whatever it is."""
    return '"' + name.replace('"', '""') + '"'


def split_script(sql: str, reference: Collection[str]) -> tuple[str, str]:
    """A schema file's statements about reference tables, and the others, each in their order."""
    if not reference:
        return "", sql
    shared: list[str] = []
    own: list[str] = []
    for statement in statements(sql):
        text = sql[statement.start : statement.end]
        about = _ABOUT.match(text)
        name = (about["quoted"] or about["plain"].lower()) if about else ""
        (shared if name in reference else own).append(text)
    return "\n".join(shared), "\n".join(own)


def create_shard(schema: str) -> str:
    """An empty shard with what is ours in it."""
    place = identifier(schema)
    return f"""
CREATE SCHEMA {place};
{create_ledger(place)};
CREATE TABLE {place}.{MARKER_TABLE} (one boolean PRIMARY KEY DEFAULT true CHECK (one), token text NOT NULL DEFAULT '');
"""


def create_ledger(place: str) -> str:
    """A ledger in the schema `place`, which is written as SQL takes it."""
    return (
        f"CREATE TABLE IF NOT EXISTS {place}.{LEDGER_TABLE} "
        "(name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )


def search_path(schema: str) -> str:
    """Where the names of a shard's statements are looked for."""
    return f"SET LOCAL search_path = {identifier(schema)}, {REFERENCE_SCHEMA};\n"


def constrain(schema: str, shard: int, shards: int, keys: Mapping[str, TableKey]) -> str:
    """Refuse rows of another shard's key, in every table of this one that does not do so yet."""
    lines = []
    for table, key in keys.items():
        place = f"{identifier(schema)}.{identifier(table)}"
        check = f"CHECK ({shard_sql(identifier(key.column), shards, key.kind)} = {shard})"
        lines.append(
            f"""DO $headway$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE conname = '{CONSTRAINT}' AND conrelid = to_regclass({_literal(place)}))
  THEN ALTER TABLE {place} ADD CONSTRAINT {CONSTRAINT} {check}; END IF;
END $headway$;"""
        )
    return "\n".join(lines)


def constrain_those_there(schema: str, shard: int, shards: int, keys: Mapping[str, TableKey]) -> list[str]:
    """The same for the tables that exist with their key: a migration may create some later, and drop others."""
    found = []
    for table, key in keys.items():
        place = _literal(f"{identifier(schema)}.{identifier(table)}")
        there = (
            f"SELECT FROM pg_attribute WHERE attrelid = to_regclass({place})"
            f" AND attname = {_literal(key.column)} AND NOT attisdropped"
        )
        inner = constrain(schema, shard, shards, {table: key})
        found.append(f"DO $there$ BEGIN IF EXISTS ({there}) THEN EXECUTE {_literal(inner)}; END IF; END $there$")
    return found


def key_source(schema: str, key: TableKey, join: Join, parent: TableKey) -> str:
    """The body of what gives a new row without its key the key of its parent, in the same shard."""
    column = identifier(key.column)
    return (
        f"BEGIN IF NEW.{column} IS NULL THEN SELECT p.{identifier(parent.column)} INTO NEW.{column} "
        f"FROM {identifier(schema)}.{identifier(join.parent)} p "
        f"WHERE p.{identifier(join.parent_column)} = NEW.{identifier(join.column)}; END IF; RETURN NEW; END"
    )


def key_function(table: str) -> str:
    """The name of the function of a table's join."""
    return f"{KEY_TRIGGER}_{table}"[:63]


def find_key(schema: str, table: str, source: str) -> str:
    """Have a table's new rows find their key by its join."""
    place, name = identifier(schema), identifier(key_function(table))
    return f"""
CREATE OR REPLACE FUNCTION {place}.{name}() RETURNS trigger LANGUAGE plpgsql AS {_literal(source)};
CREATE OR REPLACE TRIGGER {KEY_TRIGGER} BEFORE INSERT ON {place}.{identifier(table)}
  FOR EACH ROW EXECUTE FUNCTION {place}.{name}();
"""


def forget_key(schema: str, function: str) -> str:
    """A join that is not declared any more."""
    return f"DROP FUNCTION IF EXISTS {identifier(schema)}.{identifier(function)}() CASCADE;"


def grants(schema: str, role: str) -> list[str]:
    """The app reads and writes rows; it creates nothing, and what is ours it only reads. A statement each."""
    place, who = identifier(schema), identifier(role)
    ours = ", ".join(f"{place}.{table}" for table in OURS)
    return [
        f"GRANT USAGE ON SCHEMA {place} TO {who}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place} TO {who}",
        f"GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {place} TO {who}",
        f"REVOKE INSERT, UPDATE, DELETE ON {ours} FROM {who}",
    ]


def grant(schema: str, role: str) -> str:
    """The same as one text."""
    return "\n" + ";\n".join(grants(schema, role)) + ";\n"


def grant_reference(role: str) -> str:
    """The app reads reference tables, and writes them on all servers at once (`write_reference`)."""
    who = identifier(role)
    return f"""
GRANT USAGE ON SCHEMA {REFERENCE_SCHEMA} TO {who};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {REFERENCE_SCHEMA} TO {who};
"""


def grant_catalog(role: str) -> str:
    """The app reads the map, and decides its own transactions over several shards."""
    who = identifier(role)
    return f"""
GRANT USAGE ON SCHEMA headway TO {who};
GRANT SELECT ON ALL TABLES IN SCHEMA headway TO {who};
GRANT INSERT, DELETE ON headway.decisions TO {who};
"""


def take_over(database: str, role: str) -> str:
    """The database is the administrator's: the app's role creates nothing in it."""
    place, who = identifier(database), identifier(role)
    return f"""
ALTER DATABASE {place} OWNER TO CURRENT_USER;
GRANT CONNECT, TEMPORARY ON DATABASE {place} TO {who};
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM {who};
"""


# One row a shard on the server: its schema, and whether the app's role gets into it.
SCHEMAS = """
SELECT nspname, has_schema_privilege(%s, n.oid, 'USAGE') FROM pg_namespace n
 WHERE nspname ~ %s AND EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = %s)
"""
KEY_FUNCTIONS = f"""
SELECT nspname, proname, prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
 WHERE nspname = ANY(%s) AND proname LIKE '{KEY_TRIGGER.replace("_", chr(92) + "_")}\\_%%'
"""
COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, NULL), a.attnotnull
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


def revisions(schemas: Sequence[str], table: str) -> str:
    """One query for what a table of Alembic's says in the shards of a server: schema, revision."""
    return " UNION ALL ".join(
        f"SELECT {_literal(schema)}, version_num FROM {identifier(schema)}.{identifier(table)}" for schema in schemas
    )


def applied(schemas: Sequence[str], table: str) -> str:
    """One query for what a table of Django's says in the shards of a server: schema, app, name."""
    return " UNION ALL ".join(
        f"SELECT {_literal(schema)}, app, name FROM {identifier(schema)}.{identifier(table)}" for schema in schemas
    )


def refuse_others(schema: str, tables: Collection[str]) -> str:
    """The statement that raises an error where a shard has a table that is neither one of these nor a tool's."""
    known = ", ".join(_literal(table) for table in (*tables, *NOT_APPS))
    return (
        "DO $headway$ DECLARE name text; BEGIN SELECT relname INTO name FROM pg_class "
        f"WHERE relnamespace = {_literal(identifier(schema))}::regnamespace AND relkind IN ('r', 'p') "
        f"AND NOT relispartition AND relname NOT IN ({known}) ORDER BY 1 LIMIT 1; "
        "IF FOUND THEN RAISE 'table % has no key', name; END IF; END $headway$"
    )


def ledgers(schemas: Sequence[str]) -> str:
    """One query for all ledgers of a server: schema, name, checksum."""
    return " UNION ALL ".join(
        f"SELECT {_literal(schema)}, name, checksum FROM {identifier(schema)}.{LEDGER_TABLE}" for schema in schemas
    )


def table_keys(
    path: str, declared: Mapping[str, str], columns: Sequence[Column]
) -> tuple[dict[str, TableKey], tuple[Problem, ...]]:
    """The sharding keys with their types, from the columns of a shard, and what is wrong with them."""
    by_table: dict[str, dict[str, Column]] = {}
    for column in columns:
        by_table.setdefault(column.table, {})[column.name] = column
    keys: dict[str, TableKey] = {}
    problems: list[Problem] = []
    for table, those in by_table.items():
        is_tools = is_version_table(table, [(column.name, column.type) for column in those.values()])
        if table not in declared and table not in OURS and not is_tools:
            hint = f'Give its key, keys = {{ {table} = "column" }}, or take it into reference = ["{table}"].'
            problems.append(Problem(f"{path}.keys", f"table {table} has no key", hint))
    for table, name in declared.items():
        found = by_table.get(table, {}).get(name)
        where = f"{path}.keys.{table}"
        if table not in by_table:
            problems.append(Problem(where, f"the schema creates no table {table}", "Correct the name, or take it out."))
        elif found is None:
            have = ", ".join(sorted(by_table[table]))
            problems.append(Problem(where, f"table {table} has no column {name}", f"It has: {have}."))
        elif found.type not in _KINDS:
            hint = "A key is a whole number (smallint, integer, bigint), a text or a uuid."
            problems.append(Problem(where, f"column {name} is of type {found.type}", hint))
        elif not found.is_required:
            hint = "Declare the column NOT NULL: a row without a key is on no shard."
            problems.append(Problem(where, f"column {name} of table {table} may be NULL", hint))
        else:
            keys[table] = TableKey(name, _KINDS[found.type])
    kinds = {key.kind for key in keys.values()}
    if len(kinds) > 1:
        hint = "Rows that belong together are found by the same key: give all of them one type."
        problems.append(Problem(f"{path}.keys", f"keys are of different types: {', '.join(sorted(kinds))}", hint))
    return keys, tuple(problems)


def id_problems(path: str, declared: Mapping[str, str], columns: Sequence[Column]) -> tuple[Problem, ...]:
    """What is wrong with the columns that are to be filled in with ids."""
    types = {(column.table, column.name): column.type for column in columns}
    problems = []
    for table, name in declared.items():
        found = types.get((table, name))
        where = f"{path}.ids.{table}"
        if found is None:
            have = ", ".join(sorted(column for one, column in types if one == table))
            problems.append(Problem(where, f"table {table} has no column {name}", f"It has: {have}."))
        elif found != "bigint":
            problems.append(Problem(where, f"column {name} is of type {found}", "An id has 64 bits: bigint."))
    return tuple(problems)


def shard_number(database: str, schema: str) -> int:
    """The number of a shard's schema."""
    return int(schema.removeprefix(schema_name(database, 0)[:-4]))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
