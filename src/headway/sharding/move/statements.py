"""The SQL of a move as text: the fence, the publication, the digest of rows, and names. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from psycopg import sql

from headway.model.sharding import FENCE, FENCED, MARKER_TABLE
from headway.sharding.move.nouns import Table

# Settings that change how a row reads as text: both sides print alike. And all rows, or an error.
PRINTING = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1; "
    "SET bytea_output = 'hex'; SET xmlbinary = 'base64'; SET row_security = off"
)


def link_name(catalog_id: str, move_id: int) -> str:
    """The publication, the slot and the subscription. Slots are the whole cluster's, so the catalog is in the name."""
    return f"headway_move_{catalog_id[:8]}_{move_id}"


def moved_name(schema: str, move_id: int) -> str:
    """What the source's schema is called when the shard is elsewhere, until it is dropped."""
    suffix = f"_moved_{move_id}"
    return schema[: 63 - len(suffix)] + suffix


def ours_comment(catalog_id: str, move_id: int) -> str:
    """By which a half-made schema on a target is known to be ours, and nothing else is ever dropped there."""
    return f"headway: being moved here ({catalog_id} {move_id})"


def close_fence(schema: str) -> sql.Composed:
    """What the triggers do from now on: refuse every write, whoever comes."""
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "RAISE EXCEPTION USING ERRCODE = {}, MESSAGE = 'the shard is being moved to another server', "
        "HINT = 'Roll back, read the shard map again and repeat the transaction.'; END$$"
    ).format(sql.Identifier(schema, FENCE), sql.Literal(FENCED))


def put_fence(schema: str, table: Table) -> sql.Composed:
    """The trigger of a table; the caller holds its lock, or nobody knows the table yet."""
    return sql.SQL(
        "CREATE OR REPLACE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {} "
        "FOR EACH STATEMENT EXECUTE FUNCTION {}()"
    ).format(sql.Identifier(FENCE), sql.Identifier(schema, table.name), sql.Identifier(schema, FENCE))


def create_fence(schema: str, tables: Sequence[Table]) -> sql.Composed:
    """Function and triggers at once, for tables that nobody knows yet."""
    return sql.SQL("; ").join([close_fence(schema), *(put_fence(schema, table) for table in fenced(tables))])


def fenced(tables: Sequence[Table]) -> list[Table]:
    """All but the marker, which is written behind the fence to see that all before it has arrived."""
    return [table for table in tables if table.name != MARKER_TABLE]


def open_fence(schema: str) -> sql.Composed:
    """Let writes through at once. Changing the function locks no table, as dropping triggers would."""
    return sql.SQL(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$"
    ).format(sql.Identifier(schema, FENCE))


def lock_table(schema: str, table: Table, timeout_ms: int) -> sql.Composed:
    """Wait out writers in flight and keep new ones away; reads go on."""
    return sql.SQL("SET LOCAL lock_timeout = {}; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(
        sql.Literal(max(1, timeout_ms)), sql.Identifier(schema, table.name)
    )


def create_publication(name: str, schema: str, tables: Sequence[Table]) -> sql.Composed:
    """Every table by name, for which its owner's rights suffice."""
    names = sql.SQL(", ").join(sql.Identifier(schema, table.name) for table in tables if table.holds_rows)
    return sql.SQL("CREATE PUBLICATION {} FOR TABLE {}").format(sql.Identifier(name), names)


def create_subscription(name: str, conninfo: str, *, major: int) -> sql.Composed:
    """Bound to a slot that exists already, and idle: creating the slot here would hang when both are one cluster.

    Commits are applied one after the other (no parallel apply), so that a marker that arrives says all before it has.
    While tables are copied, commits wait for the target's disk: a copy that is complete drops its slot on the source,
    and a target that crashes and has forgotten that it was complete would look for that slot for ever.
    """
    options = "create_slot = false, enabled = false, streaming = off, synchronous_commit = 'on'"
    options += f", binary = false, slot_name = '{name}'"
    if major >= 16:
        options += ", origin = any"
    return sql.SQL("CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH (" + options + ")").format(
        sql.Identifier(name), sql.Literal(conninfo), sql.Identifier(name)
    )


def digest(schema: str, table: Table, buckets: int, where: sql.Composable) -> sql.Composed:
    """Rows of a range of pages by bucket: how many, and two hashes over all of them.

    A bucket is a hash of the key, not a range of it: no order is needed, so collations of the two servers do not
    matter. Sums over ranges of pages add up (by exclusive or), so that a large table is read in short statements.
    """
    return sql.SQL(
        "SELECT headway_bucket, count(*), bit_xor(headway_hash), bit_xor(headway_hash_2) "
        "FROM ({}) headway_rows GROUP BY 1"
    ).format(_hashed(schema, table, buckets, where))


def rows_of(schema: str, table: Table, buckets: int, chosen: Iterable[int]) -> sql.Composed:
    """Key, hash and inserting transaction of every row of some buckets."""
    return sql.SQL(
        "SELECT headway_key, headway_hash, headway_xmin FROM ({}) headway_rows WHERE headway_bucket = ANY({})"
    ).format(_hashed(schema, table, buckets, sql.SQL("true")), sql.Literal(sorted(chosen)))


def _hashed(schema: str, table: Table, buckets: int, where: sql.Composable) -> sql.Composed:
    row = sql.SQL('headway_row::text COLLATE "C"')
    key: sql.Composable = row
    if table.key:
        columns = sql.SQL(", ").join(sql.Identifier("headway_row", column) for column in table.key)
        key = sql.SQL('ROW({})::text COLLATE "C"').format(columns)
    # OFFSET 0 keeps the text of a row from being made three times.
    return sql.SQL(
        "SELECT headway_key, (hashtextextended(headway_key, 0) & {mask})::int AS headway_bucket, "
        "hashtextextended(headway_text, 1) AS headway_hash, hashtextextended(headway_text, 2) AS headway_hash_2, "
        "headway_xmin FROM (SELECT {key} AS headway_key, {row} AS headway_text, "
        "headway_row.xmin::text::bigint AS headway_xmin FROM ONLY {table} headway_row WHERE {where} OFFSET 0) x"
    ).format(
        mask=sql.Literal(buckets - 1),
        key=key,
        row=row,
        table=sql.Identifier(schema, table.name),
        where=where,
    )


_PREAMBLE = re.compile(r"^SET \w+ = .*;$")
_META = re.compile(r"^\\(un)?restrict\b.*$")
_ROLE = re.compile(
    r"^((?:ALTER|GRANT|REVOKE) .* (?:OWNER TO|TO|FROM|ROLE)) (\"(?:[^\"]|\"\")+\"|[a-z_][a-z0-9_$]*)(.*;)$"
)


def ddl_for_target(dump: str, roles: Mapping[str, str]) -> str:
    """The dump as the target takes it: no commands of psql, no settings of another version, its own roles.

    `roles`: source's name -> target's, both unquoted. Everything else of the dump stays as it is.
    """
    lines = [
        "SET LOCAL check_function_bodies = off;",
        "SET LOCAL xmloption = content;",
        "SET LOCAL search_path = '';",
    ]
    preamble = True
    for line in dump.splitlines():
        preamble = preamble and not line.startswith(("CREATE ", "ALTER "))
        if _META.match(line) or (preamble and (_PREAMBLE.match(line) or "set_config('search_path'" in line)):
            continue
        if found := _ROLE.match(line):
            name = found[2][1:-1].replace('""', '"') if found[2].startswith('"') else found[2]
            if name in roles:
                line = f"{found[1]} {_quoted(roles[name])}{found[3]}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
