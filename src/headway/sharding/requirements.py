"""What a server must allow for shards to live on it, to move, and to be changed together: facts to findings. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import LiteralString

VERSION_MIN = 15
SLOTS_FREE_MIN = 4  # one for each move, and as many for the tables that are copied at once
PREPARED_MIN = 32

FACTS: LiteralString = """
SELECT current_setting('server_version_num')::int / 10000 AS major,
       current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int AS slots_free,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)::int AS senders_free,
       current_setting('max_prepared_transactions')::int AS prepared_max,
       current_setting('max_connections')::int AS connections_max,
       current_setting('max_slot_wal_keep_size') AS wal_keep,
       current_setting('statement_timeout') AS statement_timeout,
       current_setting('idle_in_transaction_session_timeout') AS idle_timeout,
       r.rolsuper, r.rolcreaterole, r.rolreplication,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       r.rolsuper OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'pg_create_subscription'
                             AND pg_has_role(current_user, g.oid, 'USAGE')) AS may_subscribe,
       current_user AS login
  FROM pg_roles r WHERE r.rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server said of itself and of the login, in the order of `FACTS`."""

    major: int
    wal_level: str
    slots_free: int
    senders_free: int
    prepared_max: int
    connections_max: int
    wal_keep: str
    statement_timeout: str
    idle_timeout: str
    is_superuser: bool
    may_create_roles: bool
    may_replicate: bool
    may_create: bool
    may_subscribe: bool
    login: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One requirement: what it is for, whether it is met, what is there, and what to change."""

    what: str
    level: str  # "ok" | "warning" | "missing"
    found: str
    change: str = ""


def findings(facts: ServerFacts, connections_wanted: int) -> tuple[Finding, ...]:
    """Every requirement, in the order in which it is met on the way from shards to moves."""

    def one(what: str, is_met: bool, found: object, change: str, level: str = "missing") -> Finding:
        return Finding(what, "ok" if is_met else level, str(found), "" if is_met else change)

    system: Callable[[str], str] = lambda setting: f"ALTER SYSTEM SET {setting}; and restart the server"  # noqa: E731
    login = facts.login
    return (
        one("PostgreSQL", facts.major >= VERSION_MIN, facts.major, f"install PostgreSQL {VERSION_MIN} or newer"),
        one(
            "shards: create schemas",
            facts.may_create,
            login,
            f'GRANT CREATE ON DATABASE … TO "{login}"',
        ),
        one(
            "the app's own role",
            facts.is_superuser or facts.may_create_roles,
            login,
            f'ALTER ROLE "{login}" CREATEROLE; until then the app uses this login',
            "warning",
        ),
        one(
            "connections",
            facts.connections_max >= connections_wanted,
            facts.connections_max,
            system(f"max_connections = {connections_wanted}"),
            "warning",
        ),
        one("moves: wal_level", facts.wal_level == "logical", facts.wal_level, system("wal_level = logical")),
        one(
            "moves: free slots",
            facts.slots_free >= SLOTS_FREE_MIN,
            facts.slots_free,
            system("max_replication_slots = 20"),
        ),
        one(
            "moves: free senders",
            facts.senders_free >= SLOTS_FREE_MIN,
            facts.senders_free,
            system("max_wal_senders = 20"),
        ),
        one(
            "moves: replicate from here",
            facts.is_superuser or facts.may_replicate,
            login,
            f'ALTER ROLE "{login}" REPLICATION',
        ),
        one(
            "moves: subscribe here",
            facts.may_subscribe,
            login,
            f'GRANT pg_create_subscription TO "{login}" (16 or newer; before that a superuser)',
        ),
        one(
            "moves: log kept for a slot",
            facts.wal_keep != "-1",
            "without a bound" if facts.wal_keep == "-1" else facts.wal_keep,
            "ALTER SYSTEM SET max_slot_wal_keep_size = '4GB'; SELECT pg_reload_conf()",
            "warning",
        ),
        one(
            "moves: no time-outs",
            facts.statement_timeout == "0" and facts.idle_timeout == "0",
            f"statement {facts.statement_timeout}, idle in transaction {facts.idle_timeout}",
            f'ALTER ROLE "{login}" SET statement_timeout = 0; the same for idle_in_transaction_session_timeout',
            "warning",
        ),
        one(
            "transactions over shards",
            facts.prepared_max >= PREPARED_MIN,
            facts.prepared_max,
            system("max_prepared_transactions = 64"),
        ),
    )
