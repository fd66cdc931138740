"""What stands against a move, decided from what was found on both servers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

VERSION_MIN = 15
# Two-phase commits of the app are prepared for milliseconds; older ones wait for somebody to decide.
PREPARED_MAX_S = 5.0
_NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself."""

    name: str
    version: int  # as in server_version_num
    identity: str  # the same for two ways to one database
    has_schema: bool
    leftover: bool = False  # the schema there is what an aborted move of ours left
    may_publish: bool = True
    may_subscribe: bool = True
    wal_level: str = "logical"
    slots_free: int = 20
    senders_free: int = 20
    workers: int = 12  # max_logical_replication_workers
    app_role: str = ""
    has_app_role: bool = True


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """What the shard's schema holds that a move has trouble with, by name."""

    tables: tuple[str, ...] = ()
    no_identity: tuple[str, ...] = ()  # neither primary key nor replica identity
    unlogged: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()  # foreign tables
    materialized: tuple[str, ...] = ()
    always_triggers: tuple[str, ...] = ()  # fire in the apply worker, too
    outside_keys: tuple[str, ...] = ()  # foreign keys across schemas
    inherited: tuple[str, ...] = ()  # tables whose parent lies in another schema
    prepared: tuple[str, ...] = ()  # transactions in doubt
    large_objects: int = 0


@dataclass(frozen=True, slots=True)
class Objection:
    """One reason, and what to do about it. `taken`: somebody else is there, rather than something wrong."""

    message: str
    hint: str
    taken: bool = False


def objections(
    schema: str, source: ServerFacts, target: ServerFacts, found: SchemaFacts, dump_major: int
) -> tuple[Objection, ...]:
    """Every reason against the move, the ones that make the others meaningless alone."""
    if source.identity == target.identity:
        return (
            Objection(
                f"servers {source.name} and {target.name} are one and the same database",
                "Correct the servers' URLs; db status shows them.",
            ),
        )
    old = [server for server in (source, target) if server.version // 10000 < VERSION_MIN]
    if old:
        return tuple(
            Objection(
                f"server {server.name} runs PostgreSQL {server.version // 10000}, and {VERSION_MIN} is the oldest that "
                "moves shards",
                "Upgrade that server first.",
            )
            for server in old
        )
    if not source.has_schema:
        return (
            Objection(
                f"server {source.name} has no schema {schema}, though the map says so",
                "headway db repair says what can be done about it.",
            ),
        )
    return (*_of_servers(schema, source, target, dump_major), *_of_schema(schema, found))


def _of_servers(schema: str, source: ServerFacts, target: ServerFacts, dump_major: int) -> list[Objection]:
    reasons = []
    if target.has_schema and not target.leftover:
        reasons.append(
            Objection(
                f"server {target.name} has a schema {schema} already",
                f"Look what it holds; if nobody needs it, drop it there: DROP SCHEMA {schema} CASCADE",
                taken=True,
            )
        )
    if source.wal_level != "logical":
        reasons.append(
            Objection(
                f"server {source.name} has wal_level = {source.wal_level}, which carries no logical replication",
                "ALTER SYSTEM SET wal_level = logical; then restart that server.",
            )
        )
    if source.slots_free < 2 or source.senders_free < 2:
        what = "max_replication_slots" if source.slots_free < 2 else "max_wal_senders"
        reasons.append(
            Objection(
                f"server {source.name} has no two replication slots or senders to spare",
                f"Raise {what} and restart it, or drop slots that nobody reads (pg_replication_slots shows them).",
            )
        )
    if target.workers < 2:
        reasons.append(
            Objection(
                f"server {target.name} has max_logical_replication_workers = {target.workers}",
                "Raise it to 4 or more and restart that server.",
            )
        )
    if not source.may_publish:
        reasons.append(
            Objection(
                f"the administrator's role on server {source.name} may not replicate schema {schema}",
                "It needs the attribute REPLICATION, CREATE on the database and the tables' ownership, "
                "or be a superuser.",
            )
        )
    if not target.may_subscribe:
        reasons.append(
            Objection(
                f"the administrator's role on server {target.name} may not create a subscription",
                "It needs CREATE on the database and the role pg_create_subscription; on PostgreSQL 15, "
                "to be a superuser.",
            )
        )
    reasons += [
        Objection(
            f"server {server.name} has no role {server.app_role}, as which the app comes",
            f'CREATE ROLE "{server.app_role}" LOGIN, or correct the URL of that server.',
        )
        for server in (source, target)
        if not server.has_app_role
    ]
    if dump_major < source.version // 10000:
        reasons.append(
            Objection(
                f"pg_dump {dump_major} cannot read server {source.name}, which runs PostgreSQL "
                f"{source.version // 10000}",
                f"Install it: apt install postgresql-client-{source.version // 10000}",
            )
        )
    return reasons


def _of_schema(schema: str, found: SchemaFacts) -> list[Objection]:
    reasons = []
    listed = (
        (
            found.no_identity,
            "without a primary key, so its changed rows cannot be told apart: {}",
            "ALTER TABLE … ADD PRIMARY KEY (…)",
        ),
        (
            found.unlogged,
            "unlogged, and what is not in the log does not move: {}",
            "ALTER TABLE … SET LOGGED, or drop it for the time of the move.",
        ),
        (found.foreign, "foreign tables: {}", "Drop them here and create them on the target after the move."),
        (
            found.materialized,
            "materialized views, whose content does not move: {}",
            "Drop them and create them again after the move.",
        ),
        (
            found.always_triggers,
            "triggers that would fire a second time on the target: {}",
            "ALTER TABLE … ENABLE TRIGGER … (without ALWAYS or REPLICA)",
        ),
        (
            found.outside_keys,
            "foreign keys that cross schemas: {}",
            "Drop the constraint: the other table does not move along.",
        ),
        (
            found.inherited,
            "tables with a parent or child in another schema: {}",
            "Keep partitions in their table's schema.",
        ),
    )
    for names, message, hint in listed:
        if names:
            reasons.append(Objection(f"schema {schema} has tables or parts {message.format(_some(names))}", hint))
    if found.large_objects:
        reasons.append(
            Objection(
                f"the database holds {found.large_objects} large objects, which belong to no schema and do not move",
                "Keep them in a bytea column, or remove them: SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
            )
        )
    if found.prepared:
        reasons.append(
            Objection(
                f"prepared transactions in doubt hold their locks: {_some(found.prepared)}",
                "Decide them (COMMIT PREPARED or ROLLBACK PREPARED): headway db repair does it for its own.",
            )
        )
    if not found.tables:
        reasons.append(Objection(f"schema {schema} holds no table", "Run the migrations first: headway db migrate."))
    return reasons


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
