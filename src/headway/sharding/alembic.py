"""Drives an app's Alembic over all shards, or a plain database.

What is there already is seen by plain SQL before any process looks at a shard, so that having nothing to do is quick.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from headway.errors import AppError, EngineError, HeadwayError
from headway.sharding import layout
from headway.sharding.admin import AdminServer, Connection, on_each
from headway.sharding.app_tool import (
    AppTool,
    Failed,
    Finish,
    Words,
    at,
    keys_to_come,
    look,
    on,
    refused_hint,
    tables_named,
    upgrade_shards,
)
from headway.sharding.migrating import Migrated, Say, counted
from headway.sharding.revisions import Revision, Revisions, VersionTable, find, pending, problem, with_those_before
from headway.sharding.targets import Targets, refuse_empty, targets, tell_clients

_NAMED_MAX = 5
_STEP = re.compile(r"-> ([^,:\s]+)")  # of `upgrade aa01 -> aa02, title`
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
    stamp: str | None = None,
    dry_run: bool = False,
    say: Say,
) -> Migrated:
    """Bring every shard, or a plain database, to the head of the app's revisions. Conflict while a shard moves or
    another one migrates; AppError names the first shard that refused a revision: it is as it was before it, and all
    others are at the head.

    `keys`: those that are declared; tables of theirs that a revision makes are held to them. `stamp`: only record that
    they are at this revision, where they are not past it; AppError when there is none of that name.
    """
    path = f"databases.{database}.migrations.alembic"
    wanted = read_revisions(alembic, path)
    to = _find(wanted, path, stamp) if stamp is not None else None
    with targets(database, servers) as found:
        map_ = found.map
        table = wanted.table or _ask_env_py(alembic, path, found)
        needed, problems = pending(wanted, _versions(found, table), found.name)
        if problems:
            raise AppError(f"{path}: {problems[0].message}", hint=problems[0].hint)
        if to is not None:
            refuse_empty(found, table.name)
        upon = with_those_before(wanted, to) if to is not None else frozenset(one.id for one in wanted.all)
        names = {shard: [one.id for one in lacking if one.id in upon] for shard, lacking in needed.items()}
        applied = counted([revision.id for revision in wanted.all], names)
        if dry_run:
            for revision in wanted.all:
                if count := applied.get(revision.id):
                    say(found.counted(revision.name, count))
        elif applied:
            shards = {name: [shard for shard in map_.on(name) if names[shard]] for name in map_.servers}
            all_keys = keys_to_come(map_, keys or {})

            def finish(server: AdminServer, shard: int) -> list[str]:
                if found.is_plain:
                    return []
                schema = found.schema(shard)
                return layout.constrain_those_there(schema, shard, map_.shards, all_keys) + server.rights_each(schema)

            try:
                plain = found if found.is_plain else None
                upgrade(database, alembic, servers, shards, finish=finish, say=say, plain=plain, stamp=to)
            finally:
                tell_clients(found)
            begun = [shard for shard, lacking in names.items() if lacking]
            _check(path, wanted, found, table, begun, to or wanted.heads[0])
        return Migrated(applied, len(wanted.all), 0 if found.is_plain else map_.shards)


def _find(wanted: Revisions, path: str, name: str) -> str:
    """The identifier of the revision that somebody names."""
    if (found := find(wanted, name)) is None:
        last = ", ".join(revision.name for revision in wanted.all[-_NAMED_MAX:])
        hint = f"There is {last}, and head for the last one." if last else "There are no revisions."
        raise AppError(f"{path}: there is no revision {name}", hint=hint)
    return found.id


def _ask_env_py(alembic: Alembic, path: str, found: Targets) -> VersionTable:
    """The version table that env.py sets, by having it run; as it is run for the first shard."""
    server = next(server for server in found.servers if found.map.on(server.name))
    shard = {**at(found.database, found.map.on(server.name)[0]), "finish": []}
    asked = {"do": "version table", "shards": [shard], **on(found.database, server, found if found.is_plain else None)}
    words = replace(_words(alembic, path), cannot_begin=partial(_cannot_read, alembic, path, command="current"))
    told = look(alembic, words, asked)["table"]
    if told is None:
        raise AppError(f"{path}: env.py runs no migrations", hint="Let it call context.run_migrations().")
    return VersionTable(*told)


def _check(
    path: str, wanted: Revisions, found: Targets, table: VersionTable, shards: Sequence[int], at_last: str
) -> None:
    """Alembic has ended well: do the shards say so too?"""
    versions, upon = _versions(found, table), with_those_before(wanted, at_last)
    for shard in shards:
        if at_last not in versions[shard] or versions[shard] & (upon - {at_last}):
            raise AppError(
                f"{path}: Alembic ended well, and {table.name} of {found.name(shard)} does not say so",
                hint="env.py must set the same version_table whenever it runs, and run what it is given.",
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
        VersionTable(*answer["table"]) if answer["table"] else None,
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
    plain: Targets | None = None,
    stamp: str | None = None,
) -> None:
    """Bring these shards (by server) to the head; as `upgrade_shards`."""
    words = _words(alembic, f"databases.{database}.migrations.alembic", database)
    upgrade_shards(database, alembic, words, servers, shards, finish=finish, say=say, plain=plain, stamp=stamp)


def _words(alembic: Alembic, path: str, database: str = "") -> Words:
    return Words("Alembic", "revisions", partial(_cannot_read, alembic, path), partial(_refused, database))


def _cannot_read(alembic: Alembic, path: str, failed: Failed, command: str = "heads") -> HeadwayError:
    """What prevents Alembic from beginning at all."""
    missing = str(failed.get("missing") or "").partition(".")[0]
    if missing in ("alembic", "sqlalchemy", "psycopg", "psycopg2", "asyncpg"):
        return EngineError(
            f"{path}: {alembic.python} has no {missing}", hint=f"{shlex.quote(alembic.python)} -m pip install {missing}"
        )
    if failed.get("kind") == "elsewhere":
        return AppError(f"{path}: {failed['message']}", hint=_ELSEWHERE)
    return AppError(
        f"{path}: {failed['message']}", hint=f"Try it there: cd {shlex.quote(alembic.place)}; alembic {command}"
    )


def _refused(database: str, where: str, failed: Failed) -> HeadwayError:
    step = f"{failed['step']}: " if failed["step"] else ""
    if failed["kind"] == "elsewhere":
        return AppError(f"{where}: {failed['message']}", hint=_ELSEWHERE)
    if failed["kind"] == "ended":
        return EngineError(f"{where}: {failed['message']}", hint="headway logs controller.")
    revision = _STEP.search(step)
    hint = refused_hint(database, failed, revision[1] if revision else "", "Correct the revision.")
    return AppError(f"{where}: {step}{failed['message']}", hint=hint)


def _versions(found: Targets, table: VersionTable) -> dict[int, frozenset[str]]:
    """At which revisions every shard is, by two queries a server."""

    def read(server: AdminServer, connection: Connection) -> list[Any]:
        schemas = found.schemas_on(server)
        if found.is_plain and table.schema is not None:
            schemas = {table.schema: 0}
        there = tables_named(table.name, connection, list(schemas))
        rows = connection.execute(layout.revisions(there, table.name).encode()).fetchall() if there else []
        return [(schemas[str(schema)], version) for schema, version in rows]

    told: dict[int, set[str]] = {shard: set() for shard in range(found.map.shards)}
    for rows in on_each(found.servers, read).values():
        for shard, version in rows:
            told[shard].add(str(version))
    return {shard: frozenset(versions) for shard, versions in told.items()}
