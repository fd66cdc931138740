"""Whichever tool of the app's is declared for a database's migrations: the same two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headway.sharding.admin import AdminServer
from headway.sharding.alembic import Alembic, migrate_by_alembic, read_revisions, upgrade
from headway.sharding.app_tool import AppTool
from headway.sharding.django import Django, make_by_django, migrate_by_django
from headway.sharding.migrating import Migrated, Say
from headway.sharding.shards import TablesBy


def tables_by(database: str, tool: AppTool, keys: Mapping[str, str], reference: tuple[str, ...]) -> TablesBy:
    """How it makes the tables of new shards."""

    def make(servers: Sequence[AdminServer], shards: Mapping[str, Sequence[int]]) -> None:
        if isinstance(tool, Django):
            make_by_django(database, tool, servers, shards, keys=keys, reference=reference)
        elif isinstance(tool, Alembic):
            read_revisions(tool, f"databases.{database}.migrations.alembic")
            upgrade(database, tool, servers, shards, say=lambda _line: None)

    return make


def migrate_by(
    database: str,
    tool: AppTool,
    servers: Sequence[AdminServer],
    *,
    keys: Mapping[str, str],
    reference: tuple[str, ...],
    stamp: str | None = None,
    dry_run: bool,
    say: Say,
) -> Migrated:
    """Bring all shards to the newest state, or only record one (`stamp`)."""
    if isinstance(tool, Django):
        return migrate_by_django(
            database, tool, servers, keys=keys, reference=reference, stamp=stamp, dry_run=dry_run, say=say
        )
    assert isinstance(tool, Alembic)
    return migrate_by_alembic(database, tool, servers, keys=keys, stamp=stamp, dry_run=dry_run, say=say)
