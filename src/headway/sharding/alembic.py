"""Drives an app's Alembic over all shards.

What is there already is seen by plain SQL before any process looks at a shard, so that having nothing to do is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headway.errors import AppError, EngineError, HeadwayError
from headway.model.sharding import VERSION_TABLES, ShardMap, schema_name
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, on_each
from headway.sharding.app_tool import (
    AppTool,
    Failed,
    Finish,
    Words,
    counted,
    keys_to_come,
    look,
    tables_named,
    upgrade_shards,
)
from headway.sharding.catalog import read_map
from headway.sharding.migrating import Migrated, Say, still, tell_clients
from headway.sharding.revisions import Revision, Revisions, pending, problem

_VERSION_TABLE = VERSION_TABLES[0]
_ELSEWHERE = (
    'Let env.py leave sqlalchemy.url as it is where Headway has set it: if "headway" not in config.attributes: …'
)


class Alembic(AppTool):
    """An app's Alembic; its file is `alembic.ini`."""


def migrate_by_alembic(
    database: str,
    alembic: Alembic,
    servers: Sequence[AdminServer],
    *,
    keys: Mapping[str, str] | None = None,
    dry_run: bool = False,
    say: Say,
) -> Migrated:
    """Bring every shard to the head of the app's revisions. Conflict while a shard moves or another one migrates;
    AppError names the first shard that refused a revision: it is as it was before it, and all others are at the head.

    `keys`: those that are declared; tables of theirs that a revision makes are held to them.
    """
    path = f"databases.{database}.migrations.alembic"
    wanted = read_revisions(alembic, path)
    with still(database, servers[0]) as catalog:
        map_ = read_map(catalog)
        needed, problems = pending(wanted, _versions(map_, servers))
        if problems:
            raise AppError(f"{path}: {problems[0].message}", hint=problems[0].hint)
        names = {shard: [revision.id for revision in lacking] for shard, lacking in needed.items()}
        applied = counted([revision.id for revision in wanted.all], names)
        if dry_run:
            for revision in wanted.all:
                if count := applied.get(revision.id):
                    say(f"{revision.name}: {count} of {map_.shards} shards")
        elif applied:
            shards = {name: [shard for shard in map_.on(name) if needed[shard]] for name in map_.servers}
            all_keys = keys_to_come(map_, keys or {})

            def finish(server: AdminServer, shard: int) -> list[str]:
                schema = schema_name(database, shard)
                return layout.constrain_those_there(schema, shard, map_.shards, all_keys) + server.rights_each(schema)

            try:
                upgrade(database, alembic, servers, shards, finish=finish, say=say)
            finally:
                tell_clients(catalog)
            _check(path, wanted, _versions(map_, servers))
        return Migrated(applied, len(wanted.all), map_.shards)


def _check(path: str, wanted: Revisions, versions: Mapping[int, frozenset[str]]) -> None:
    """Alembic has ended well: do the shards say so too?"""
    for shard, at in versions.items():
        if at != frozenset(wanted.heads):
            raise AppError(
                f"{path}: Alembic ended well, and {_VERSION_TABLE} of shard {shard} does not say so",
                hint="env.py must leave version_table and version_table_schema as they are, and run what it is given.",
            )


def read_revisions(alembic: Alembic, path: str) -> Revisions:
    """The revisions of an app. AppError when there is no Alembic, or it cannot read them; EngineError without Python.

    `path`: the place in the declaration, for errors.
    """
    if not Path(alembic.file).is_file():
        raise AppError(
            f"{path}: there is no file {alembic.file}", hint="Correct the name, or run: alembic init alembic"
        )
    answer = look(alembic, _words(alembic, path), {"do": "look"})
    found = Revisions(
        tuple(Revision(name, tuple(after), title) for name, after, title in answer["revisions"]),
        tuple(answer["heads"]),
    )
    if wrong := problem(found):
        raise AppError(f"{path}: {wrong.message}", hint=wrong.hint)
    return found


def upgrade(
    database: str,
    alembic: Alembic,
    servers: Sequence[AdminServer],
    shards: Mapping[str, Sequence[int]],
    *,
    finish: Finish = lambda _server, _shard: [],
    say: Say,
) -> None:
    """Bring these shards (by server) to the head; as `upgrade_shards`."""
    words = _words(alembic, f"databases.{database}.migrations.alembic")
    upgrade_shards(database, alembic, words, servers, shards, finish=finish, say=say)


def _words(alembic: Alembic, path: str) -> Words:
    return Words("Alembic", "revisions", partial(_cannot_read, alembic, path), _refused)


def _cannot_read(alembic: Alembic, path: str, failed: Failed) -> HeadwayError:
    """What prevents Alembic from beginning at all."""
    missing = str(failed.get("missing") or "").partition(".")[0]
    if missing in ("alembic", "sqlalchemy", "psycopg", "psycopg2", "asyncpg"):
        return EngineError(
            f"{path}: {alembic.python} has no {missing}", hint=f"{alembic.python} -m pip install {missing}"
        )
    return AppError(f"{path}: {failed['message']}", hint=f"Try it there: cd {alembic.place}; alembic heads")


def _refused(where: str, failed: Failed) -> HeadwayError:
    step = f"{failed['step']}: " if failed["step"] else ""
    if failed["kind"] == "elsewhere":
        return AppError(f"{where}: {failed['message']}", hint=_ELSEWHERE)
    if failed["kind"] == "ended":
        return EngineError(f"{where}: {failed['message']}", hint="headway logs controller.")
    return AppError(f"{where}: {step}{failed['message']}", hint="Correct the revision.")


def _versions(map_: ShardMap, servers: Sequence[AdminServer]) -> dict[int, frozenset[str]]:
    """At which revisions every shard is, by two queries a server."""

    def read(server: AdminServer, connection: Connection) -> list[Any]:
        there = tables_named(_VERSION_TABLE, map_.database, connection, map_.on(server.name))
        return connection.execute(layout.revisions(there, _VERSION_TABLE).encode()).fetchall() if there else []

    found: dict[int, set[str]] = {shard: set() for shard in range(map_.shards)}
    for rows in on_each(servers, read).values():
        for schema, version in rows:
            found[layout.shard_number(map_.database, schema)].add(str(version))
    return {shard: frozenset(at) for shard, at in found.items()}
