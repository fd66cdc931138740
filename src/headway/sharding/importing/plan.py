"""What is imported into which table, and what stands against it, decided from what was found. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headway.model.sharding import Join, TableKey
from headway.sharding.importing.nouns import FoundTable, Partition, Plan, TablePlan

VERSION_MIN = 15
_NAMED_MAX = 5
_IDENTITIES = {"d": "DEFAULT", "f": "FULL"}  # that partitions take from one another without an index of their own
_WITH_KEY = ", the columns that it is partitioned by among them"
_KEPT_MIB = 1024  # a server that is started again catches up with so much
_KINDS = {
    "int": re.compile(r"smallint|integer|bigint"),
    "text": re.compile(r"text|character varying(\(\d+\))?"),
    "uuid": re.compile(r"uuid"),
}


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the source says of itself."""

    version: int
    identity: str  # the same for two ways to one database
    may_replicate: bool = True
    may_create: bool = True
    wal_level: str = "logical"
    slots_free: int = 20
    senders_free: int = 20
    role: str = ""
    kept_max_mib: int = -1  # of log for those who follow; -1: all of it


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server of the shards says of itself."""

    name: str
    version: int
    identity: str
    may_subscribe: bool = True
    may_create: bool = True
    workers: int = 4  # max_logical_replication_workers
    in_the_way: tuple[str, ...] = ()  # tables that somebody else has made where ours would be


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason, and what to do about it."""

    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Declared:
    """What is declared of the sharded database, with the types that its shards have."""

    database: str
    shards: int
    keys: Mapping[str, TableKey]
    reference: tuple[str, ...]
    joins: Mapping[str, Join]

    @property
    def tables(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.keys, *self.reference)


def of_servers(source: SourceFacts, servers: Sequence[ServerFacts], schema: str) -> list[Objection]:
    """What stands against an import on the side of the servers."""
    if same := next((server for server in servers if server.identity == source.identity), None):
        return [
            Objection(
                f"the source is the database of server {same.name} itself", "Import from the database that the app has."
            )
        ]
    reasons = []
    for what, version in (("the source", source.version), *((f"server {one.name}", one.version) for one in servers)):
        if version // 10000 < VERSION_MIN:
            told = f"{what} runs PostgreSQL {version // 10000}, and {VERSION_MIN} is the oldest that can be imported"
            reasons.append(Objection(told, "Upgrade it first."))
    if source.wal_level != "logical":
        reasons.append(
            Objection(
                f"the source has wal_level = {source.wal_level}, which carries no logical replication",
                "ALTER SYSTEM SET wal_level = logical; then restart it.",
            )
        )
    needed = len(servers) + 1
    for setting, free in (("max_replication_slots", source.slots_free), ("max_wal_senders", source.senders_free)):
        if free < needed:
            reasons.append(
                Objection(
                    f"the source has {max(0, free)} of {needed} needed {setting[4:].replace('_', ' ')} to spare",
                    f"Raise {setting} and restart it, or drop slots that nobody reads.",
                )
            )
    if not source.may_replicate:
        told = f"role {source.role} may not replicate from the source"
        reasons.append(Objection(told, f"ALTER ROLE {source.role} REPLICATION, or give the URL of another role."))
    if not source.may_create:
        told = f"role {source.role} may not create a schema and a publication at the source"
        reasons.append(Objection(told, f"GRANT CREATE ON DATABASE … TO {source.role}"))
    for server in servers:
        if not server.may_subscribe:
            hint = "It needs CREATE on the database and the role pg_create_subscription; on PostgreSQL 15, a superuser."
            reasons.append(Objection(f"the login on server {server.name} may not create a subscription", hint))
        if not server.may_create:
            told = f"the login on server {server.name} may not create tables in schema {schema}"
            reasons.append(Objection(told, f"GRANT CREATE ON SCHEMA {schema} TO it, on that server."))
        if server.workers < 2:
            told = f"server {server.name} has max_logical_replication_workers = {server.workers}"
            reasons.append(Objection(told, "Raise it to 4 or more and restart that server."))
        if server.in_the_way:
            told = f"server {server.name} has tables {_some(server.in_the_way)} in schema {schema}"
            reasons.append(Objection(told, "The copies of the source's tables go there: rename or drop them."))
    return reasons


def notes(source: SourceFacts) -> tuple[str, ...]:
    """What does not stand against an import, and is worth knowing before it."""
    if not 0 <= source.kept_max_mib < _KEPT_MIB:
        return ()
    return (
        f"the source keeps no more than {source.kept_max_mib} MiB of log for it (max_slot_wal_keep_size): while more "
        "is written than that, no server may be away",
    )


def make_plan(
    declared: Declared, schema: str, source: Mapping[str, FoundTable], shard: Mapping[str, FoundTable], places: str
) -> tuple[Plan, list[Objection]]:
    """What is copied where, and why it cannot be. `shard`: tables of a shard and reference tables; `places`: the schema
    of that shard, whose own types are written for any shard."""
    reasons: list[Objection] = []
    tables: dict[str, TablePlan] = {}
    for name in declared.tables:
        found = source.get(name)
        if found is None:
            if name not in declared.reference:
                hint = f"Create it there, or take it out of keys of [databases.{declared.database}]."
                reasons.append(Objection(f"the source has no table {schema}.{name}", hint))
            continue
        key = declared.keys.get(name)
        join = declared.joins.get(name)
        join = join if key is not None and found.column(key.column) is None else None
        reasons += _of_table(found)
        reasons += _of_columns(found, shard[name], key)
        if key is not None:
            reasons += _of_key(declared, found, key, declared.joins.get(name), source)
        columns = tuple(column for column in found.columns if not column.is_generated)
        types = {
            column.name: _cast(shard[name], column.name, places)
            for column in columns
            if shard[name].column(column.name)
        }
        if key is not None:
            types[key.column] = _cast(shard[name], key.column, places)
        tables[name] = TablePlan(
            name,
            columns,
            found.key,
            types,
            key.column if key else "",
            join,
            by_index=bool(found.by_index),
            is_partitioned=found.kind == "p",
            identity=found.identity,
        )
    kind = next(iter(declared.keys.values())).kind if declared.keys else "int"
    ordered, circle = _parents_first(tables, {name: shard[name].refers for name in tables})
    if circle:
        told = f"joins of [databases.{declared.database}] go in a circle: {', '.join(circle)}"
        reasons.append(Objection(told, "One of them has to have the key itself."))
    if not any(not table.is_reference for table in ordered):
        reasons.append(Objection("nothing can be imported: the source has none of the declared tables", "See keys."))
    return Plan(schema, declared.database, declared.shards, kind, tuple(ordered)), reasons


def _parents_first(
    tables: Mapping[str, TablePlan], refers: Mapping[str, frozenset[str]]
) -> tuple[list[TablePlan], list[str]]:
    """In the order in which rows can be filled in: after those that they refer to. And a circle of joins."""
    ordered: list[TablePlan] = []
    left = list(tables.values())
    while left:
        waiting = {table.name for table in left}
        free = [table for table in left if table.join is None or table.join.parent not in waiting]
        # Foreign keys may go in a circle; then the servers have to be told not to look at them.
        ready = [table for table in free if not refers[table.name] & waiting] or free[:1]
        if not ready:
            return [*ordered, *left], [table.name for table in left]
        ordered += ready
        left = [table for table in left if table not in ready]
    return ordered, []


def _of_table(found: FoundTable) -> list[Objection]:
    name = found.name
    if found.partition_of:
        told = f"table {name} of the source is a partition of {found.partition_of}"
        return [Objection(told, f"Declare {found.partition_of}: the rows of all its partitions come with it.")]
    if found.kind == "i":
        told = f"table {name} of the source inherits, or is inherited from"
        return [Objection(told, "Import from a table that is whole, or partitioned by PARTITION BY.")]
    if found.kind not in ("r", "p"):
        return [Objection(f"{name} of the source is no table", "Import from a table.")]
    reasons = []
    if not found.is_logged:
        hint = f"ALTER TABLE {name} SET LOGGED"
        reasons.append(Objection(f"table {name} of the source is unlogged, and what is not in the log is missed", hint))
    if not found.key or found.identity == "n":
        told = f"table {name} of the source has no primary key, so its changed rows cannot be told apart"
        reasons.append(Objection(told, f"ALTER TABLE {name} ADD PRIMARY KEY (…){_WITH_KEY * (found.kind == 'p')}"))
    elif found.kind == "p" and found.identity not in _IDENTITIES:
        told = f"table {name} of the source, which is partitioned, has a replica identity of its own"
        reasons.append(Objection(told, f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT"))
    return [*reasons, *of_partitions(name, found.identity, found.partitions)]


def of_partitions(table: str, identity: str, partitions: Iterable[Partition]) -> list[Objection]:
    """What stands against carrying the rows of a table's partitions as its own; the first partition of each kind is
    named. `identity`: that of the table, for replicas."""
    reasons: dict[str, Objection] = {}
    for one in partitions:
        told = f"partition {one.name} of table {table} of the source"
        if one.kind == "f":
            hint = f"Bring its rows here, or detach it: ALTER TABLE {table} DETACH PARTITION {one.name}"
            reasons.setdefault("foreign", Objection(f"{told} is on another server, whose log does not come here", hint))
        elif not one.is_owned:
            hint = "Give the URL of the owner of all partitions."
            reasons.setdefault("owned", Objection(f"{told} is not the login's own, which cannot fence it", hint))
        elif one.kind == "p":
            continue  # holds no rows itself
        elif not one.is_logged:
            hint = f"ALTER TABLE {one.name} SET LOGGED"
            reasons.setdefault("logged", Objection(f"{told} is unlogged, and what is not in the log is missed", hint))
        elif not one.has_key:
            hint = f"ALTER TABLE {one.name} ADD PRIMARY KEY (…), as that of {table}"
            reasons.setdefault("key", Objection(f"{told} has no primary key", hint))
        elif one.identity != identity:
            hint = f"Give both the same: ALTER TABLE {one.name} REPLICA IDENTITY {_IDENTITIES.get(identity, 'DEFAULT')}"
            reasons.setdefault("identity", Objection(f"{told} has another replica identity than the table", hint))
    return list(reasons.values())


def _of_columns(found: FoundTable, shard: FoundTable, key: TableKey | None) -> list[Objection]:
    reasons = []
    for column in found.columns:
        there = shard.column(column.name)
        if there is None:
            hint = f"Write a migration: ALTER TABLE {found.name} ADD COLUMN {column.name} {column.type}"
            reasons.append(Objection(f"column {found.name}.{column.name} is not in the shards", hint))
        elif _bare(there.type) != _bare(column.type):
            told = f"column {found.name}.{column.name} is {column.type} at the source and {there.type} in the shards"
            reasons.append(Objection(told, "Give both the same type."))
        elif there.is_generated and not column.is_generated:
            told = f"column {found.name}.{column.name} is generated in the shards and not at the source"
            reasons.append(Objection(told, "Make both alike."))
    have = {column.name for column in found.columns}
    for column in shard.columns:
        is_needed = column.is_required and not (column.has_default or column.is_generated)
        if column.name not in have and is_needed and (key is None or column.name != key.column):
            told = f"column {found.name}.{column.name} of the shards is not at the source, and has no default"
            reasons.append(Objection(told, "Give it a default, or let it be NULL."))
    return reasons


def _of_key(
    declared: Declared, found: FoundTable, key: TableKey, join: Join | None, source: Mapping[str, FoundTable]
) -> list[Objection]:
    name = found.name
    column = found.column(key.column)
    if column is not None:
        if not _KINDS[key.kind].fullmatch(column.type):
            told = (
                f"the key {name}.{key.column} is {column.type} at the source, and the shards are spread by {key.kind}"
            )
            return [Objection(told, "Give both the same type.")]
        return []
    path = f"[databases.{declared.database}]"
    if join is None:
        hint = f'Say in {path} how a row finds it: joins = {{ {name} = "order_id = orders.id" }}'
        return [Objection(f"table {name} of the source has no column {key.column}, its key", hint)]
    parent = source.get(join.parent)
    written = f"joins.{name} of {path}"
    if found.column(join.column) is None:
        return [Objection(f"{written}: table {name} of the source has no column {join.column}", "Correct the name.")]
    if parent is None or join.parent not in declared.keys:
        return [Objection(f"{written}: {join.parent} is no table with a key that is imported", "Correct the name.")]
    if join.parent_column not in parent.unique:
        told = f"{written}: {join.parent}.{join.parent_column} is not unique, so it tells no single parent"
        hint = "Join by the parent's primary key, or by a column with a unique index."
        if parent.kind == "p":  # where a unique index needs the columns of PARTITION BY
            hint = f"{join.parent} is partitioned by something else: give {name} itself the column {key.column}."
        return [Objection(told, hint)]
    return []


def _bare(type_: str) -> str:
    """Without the schema of a type that is not PostgreSQL's own: each shard has its own."""
    return re.sub(r'^("[^"]+"|[a-z_0-9$]+)\.', "", type_)


def _cast(shard: FoundTable, column: str, places: str) -> str:
    found = shard.column(column)
    assert found is not None
    for written in (f'"{places}".', f"{places}."):
        if found.type.startswith(written):
            return '"@@".' + found.type[len(written) :]
    return found.type


def orphaned(table: TablePlan) -> Objection:
    """The objection to rows that belong to no shard."""
    if table.join is None:
        key = table.shard_key
        told = f"table {table.name} of the source has rows whose {key} is NULL: they belong to no shard"
        return Objection(told, f"Give them a key, or delete them: SELECT * FROM {table.name} WHERE {key} IS NULL")
    join = table.join
    return Objection(
        f"table {table.name} of the source has rows without a parent in {join.parent}: they belong to no shard",
        f"Give them one, or delete them: SELECT * FROM {table.name} t WHERE NOT EXISTS (SELECT FROM {join.parent} p "
        f"WHERE p.{join.parent_column} = t.{join.column})",
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
