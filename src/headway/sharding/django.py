"""Drives a project's Django migrations over all shards, or a plain database.

What is there already is seen by plain SQL before any process looks at a shard, so that having nothing to do is quick.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headway.errors import AppError, EngineError, HeadwayError, Problem
from headway.model.sharding import VERSION_TABLES
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
from headway.sharding.django_migrations import (
    DjangoMigration,
    DjangoTable,
    Project,
    conflicts,
    left_out,
    not_whole,
    pending,
    problems,
)
from headway.sharding.migrating import Migrated, Say, counted
from headway.sharding.targets import Targets, refuse_empty, targets, tell_clients

_VERSION_TABLE = VERSION_TABLES[1]
_NAMED_MAX = 5
_NO_ALIAS = (
    'Give it one: DATABASES = {{..., "{0}": {{"ENGINE": "headway.sharding.client.django_backend", "NAME": "{0}"}}}}'
)

_NO_CONNECTION = (
    "Let a service that uses {0} give the settings its address: env = {{{{ DATABASE_URL = "
    '"{{{0}.url}}" }}}}, or the alias the engine headway.sharding.client.django_backend with NAME = "{0}".'
)


class Django(AppTool):
    """A Django project; its file is `manage.py`."""


def migrate_by_django(
    database: str,
    django: Django,
    servers: Sequence[AdminServer],
    *,
    keys: Mapping[str, str],
    reference: tuple[str, ...] = (),
    stamp: str | None = None,
    dry_run: bool = False,
    say: Say,
) -> Migrated:
    """Apply the project's migrations to every shard, or a plain database. Conflict while a shard moves or another one
    migrates; AppError names the first shard that refused one: it is as it was before it, and all others have all of
    them.
    """
    path = f"databases.{database}"
    # Which alias of the settings is a plain database is only seen while its lock is held.
    project = None if servers[0].is_plain else read_project(database, django, keys, reference)
    with targets(database, servers) as found:
        plain, map_ = found if found.is_plain else None, found.map
        project = project or read_project(database, django, keys, reference, plain)
        needed = pending(project, _applied(found))
        if stamp is not None:
            refuse_empty(found)
            upon = _up_to(database, django, project, stamp, plain)
            needed = {shard: tuple(name for name in names if name in upon) for shard, names in needed.items()}
        all_needed = frozenset(name for names in needed.values() for name in names)
        if plain is None and stamp is None:  # what Django itself does with it is known to who has only one
            _refuse(path, not_whole({migration.id: migration for migration in project.migrations}, all_needed))
            for line in left_out(project, all_needed, keys):
                say(line)
        counts = counted([migration.id for migration in project.migrations], needed)
        if dry_run and stamp is not None:
            for name, count in counts.items():
                say(found.counted(name, count))
        elif dry_run:
            _tell(django, found, needed, counts, say)
        elif counts:
            shards = {name: [shard for shard in map_.on(name) if needed[shard]] for name in map_.servers}
            all_keys = keys_to_come(map_, keys)

            def finish(server: AdminServer, shard: int) -> list[str]:
                if plain is not None:
                    return []
                schema = found.schema(shard)
                constraints = layout.constrain_those_there(schema, shard, map_.shards, all_keys)
                return [layout.refuse_others(schema, all_keys), *constraints, *server.rights_each(schema)]

            try:
                apply(database, django, servers, shards, finish=finish, say=say, plain=plain, stamp=stamp)
            finally:
                tell_clients(found)
        return Migrated(counts, len(project.migrations), 0 if found.is_plain else map_.shards)


def read_project(
    database: str,
    django: Django,
    keys: Mapping[str, str],
    reference: tuple[str, ...],
    plain: Targets | None = None,
) -> Project:
    """What a project would make in shards, or in a plain database. AppError when there is no Django project, or shards
    cannot take what it would make; EngineError when its Python or something that belongs to it is missing."""
    path = f"databases.{database}"
    if not Path(django.file).is_file():
        raise AppError(
            f"{path}.migrations.django: there is no file {django.file}",
            hint="Correct the name: it is the manage.py that `django-admin startproject` has written.",
        )
    asked = {"do": "look", "database": database, "holder": plain.holder if plain else None}
    answer = look(django, _words(database, django), asked)
    project = Project(
        tuple(
            DjangoMigration(app, name, tuple(replaces), atomic, operations, tuple(creates))
            for app, name, replaces, atomic, operations, creates in answer["migrations"]
        ),
        tuple(DjangoTable(*table) for table in answer["tables"]),
        {app: tuple(names) for app, names in answer["conflicts"].items()},
    )
    _refuse(path, *(conflicts(project) if plain else problems(project, keys, reference)))
    return project


def apply(
    database: str,
    django: Django,
    servers: Sequence[AdminServer],
    shards: Mapping[str, Sequence[int]],
    *,
    finish: Finish = lambda _server, _shard: [],
    say: Say,
    plain: Targets | None = None,
    stamp: str | None = None,
) -> None:
    """Give these shards (by server) what they lack; as `upgrade_shards`."""
    words = _words(database, django)
    upgrade_shards(database, django, words, servers, shards, finish=finish, say=say, plain=plain, stamp=stamp)


def make_by_django(
    database: str,
    django: Django,
    servers: Sequence[AdminServer],
    shards: Mapping[str, Sequence[int]],
    *,
    keys: Mapping[str, str],
    reference: tuple[str, ...] = (),
) -> None:
    """Have the project make the tables of new shards, as `TablesBy` does."""
    project = read_project(database, django, keys, reference)
    by_id = {migration.id: migration for migration in project.migrations}
    _refuse(f"databases.{database}", not_whole(by_id, frozenset(by_id)))
    apply(database, django, servers, shards, say=lambda _line: None)


def _up_to(database: str, django: Django, project: Project, stamp: str, plain: Targets | None) -> frozenset[str]:
    """The migrations up to the one that somebody names, with those that it depends on."""
    asked = {"do": "plan", "database": database, "holder": plain.holder if plain else None, "stamp": stamp}
    found: list[str] | None = look(django, _words(database, django), asked)["plan"]
    if found is None:
        last = ", ".join(migration.id for migration in project.migrations[-_NAMED_MAX:])
        hint = f"Write APP.NAME, as of {last}, APP for all of an app, or head for all."
        raise AppError(f"databases.{database}.migrations.django: there is no migration {stamp}", hint=hint)
    return frozenset(found)


def _refuse(path: str, *found: Problem | None) -> None:
    told = [one for one in found if one is not None]
    if told:
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        raise AppError(f"{path}.{told[0].path}: {told[0].message}{more}", hint=told[0].hint)


def _tell(
    django: Django, found: Targets, needed: Mapping[int, Sequence[str]], counts: Mapping[str, int], say: Say
) -> None:
    """What would be applied, and by which SQL, as of the shard that lacks the most."""
    if not counts:
        return
    shard = max(needed, key=lambda one: len(needed[one]))
    server = next(one for one in found.servers if one.name == found.map.owners[shard])
    place = on(found.database, server, found if found.is_plain else None)
    asked = {"do": "sql", "shard": at(found.database, shard), **place}
    statements = dict(look(django, _words(found.database, django), asked)["sql"])
    for name, count in counts.items():
        say(found.counted(name, count))
        lines = statements.get(name)
        if lines is None and name in statements:
            say("    -- depends on what is there when it is run")
        for line in lines or ():
            if not line.startswith("--") and line not in ("BEGIN;", "COMMIT;"):
                say(f"    {line}")


def _words(database: str, django: Django) -> Words:
    return Words("Django", "django_migrations", partial(_cannot_begin, database, django), partial(_refused, database))


def _cannot_begin(database: str, django: Django, failed: Failed) -> HeadwayError:
    """What prevents Django from beginning at all."""
    path = f"databases.{database}.migrations.django"
    missing = str(failed.get("missing") or "").partition(".")[0]
    if missing in ("django", "psycopg", "headway"):
        return EngineError(
            f"{path}: {django.python} has no {missing}", hint=f"{shlex.quote(django.python)} -m pip install {missing}"
        )
    if failed["kind"] == "NoAlias":
        return AppError(f"{path}: {failed['message']}", hint=_NO_ALIAS.format(database))
    if failed["kind"] == "NoConnection":
        return AppError(f"{path}: {failed['message']}", hint=_NO_CONNECTION.format(database))
    if failed["kind"] == "NotManage":
        return AppError(f"{path}: {failed['message']}", hint="Name the manage.py of a Django project.")
    command = shlex.join([django.python, Path(django.file).name, "check"])
    hint = f"Try it there: cd {shlex.quote(django.place)}; {command}"
    return AppError(f"{path}: {failed['message']}", hint=hint)


def _refused(database: str, where: str, failed: Failed) -> HeadwayError:
    step = f"{failed['step']}: " if failed["step"] else ""
    if failed["kind"] == "ended":
        return EngineError(f"{where}: {failed['message']}", hint="headway logs controller.")
    hint = refused_hint(database, failed, failed["step"], "Correct the migration.")
    return AppError(f"{where}: {step}{failed['message']}", hint=hint)


def _applied(found: Targets) -> dict[int, frozenset[str]]:
    """What every shard has, by two queries a server."""

    def read(server: AdminServer, connection: Connection) -> list[Any]:
        there = tables_named(_VERSION_TABLE, connection, list(found.schemas_on(server)))
        rows = connection.execute(layout.applied(there, _VERSION_TABLE).encode()).fetchall() if there else []
        return [(found.schemas_on(server)[str(schema)], app, name) for schema, app, name in rows]

    done: dict[int, set[str]] = {shard: set() for shard in range(found.map.shards)}
    for rows in on_each(found.servers, read).values():
        for shard, app, name in rows:
            done[shard].add(f"{app}.{name}")
    return {shard: frozenset(names) for shard, names in done.items()}
