"""Checks a server that is to join a sharded database by its URL, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

import psycopg

from headway.errors import AppError, Conflict, EngineError
from headway.sharding.admin import AdminServer, connect
from headway.sharding.connection import check_url_reachable
from headway.sharding.requirements import FACTS, Finding, ServerFacts, findings
from headway.sharding.survey import pattern

_CONNECT_S = 5
# The same for two ways to one database.
_IDENTITY: LiteralString = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) || ' '
    || (SELECT oid::text FROM pg_database WHERE datname = current_database()) || ' ' || pg_postmaster_start_time()::text
"""
_CATALOG: LiteralString = "SELECT to_regclass('headway.catalog') IS NOT NULL"
_SCHEMAS: LiteralString = "SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY 1"


def check_joining(
    path: str, url: str, database: str, others: Sequence[AdminServer], connections_wanted: int
) -> tuple[Finding, ...]:
    """What the server allows, and what it does not that can be done without. AppError for what is missing, Conflict
    when it holds something of a sharded database, EngineError when it does not let us in."""
    check_url_reachable(url, path=path)
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_S, application_name="headway") as there:
            facts: Any = there.execute(FACTS).fetchone()
            found = findings(ServerFacts(*facts), connections_wanted)
            if missing := [one for one in found if one.level == "missing"]:
                told = "; ".join(f"{one.what} (it has {one.found})" for one in missing)
                raise AppError(f"{path}: it does not allow what shards need: {told}", hint=_changes(missing))
            identity = there.execute(_IDENTITY).fetchone()
            has_catalog = there.execute(_CATALOG).fetchone() == (True,)
            schemas = [str(row[0]) for row in there.execute(_SCHEMAS, (pattern(database),))]
    except psycopg.Error as error:
        told = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"{path}: {told}", hint="Correct the URL, or the server.") from error
    for other in others:
        with connect(other) as connection:
            if connection.execute(_IDENTITY).fetchone() == identity:
                hint = "Give it a PostgreSQL database of its own: another name at the end of the URL."
                raise Conflict(f"{path}: it is the same database as server {other.name}", hint=hint)
    if has_catalog:
        hint = "Give every sharded database a PostgreSQL database of its own: another name at the end of the URL."
        raise Conflict(f"{path}: it holds the catalog of a sharded database", hint=hint)
    if schemas:
        more = f" and {len(schemas) - 3} more" if len(schemas) > 3 else ""
        hint = "Look whether anybody needs them, and rename or drop them there."
        raise Conflict(f"{path}: it holds schemas of shards already: {', '.join(schemas[:3])}{more}", hint=hint)
    return found


def _changes(missing: Sequence[Finding]) -> str:
    return "; ".join(dict.fromkeys(one.change for one in missing))
