"""Django's migrations over shards: which of them a shard still needs, and why shards cannot take them. Pure.

Each shard has Django's own table of what was applied. Which apps, and which of their tables, belong to shards is for
the project's routers to say; here that is held against the declared keys, before anything is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headway.errors import Problem

ROUTER = "headway.sharding.client.django.ShardRouter"
_TO_ROUTE = f'Let the settings say which tables go there: DATABASE_ROUTERS = ["{ROUTER}"]'


@dataclass(frozen=True, slots=True)
class DjangoMigration:
    """One file: its app and name, the names that it stands for, and what it does."""

    app: str
    name: str
    replaces: tuple[str, ...] = ()  # of squashed ones, by their ids
    atomic: bool = True
    operations: int = 1
    creates: tuple[str, ...] = ()  # tables

    @property
    def id(self) -> str:
        """For people, and to tell it from others: `sales.0001_initial`."""
        return f"{self.app}.{self.name}"


@dataclass(frozen=True, slots=True)
class DjangoTable:
    """A table that the routers let onto the shards."""

    name: str
    model: str
    nullable: Mapping[str, bool]  # by column


@dataclass(frozen=True, slots=True)
class Project:
    """What a project says of itself: the migrations of the apps that go to shards, in order, and their tables."""

    migrations: tuple[DjangoMigration, ...]
    tables: tuple[DjangoTable, ...]
    conflicts: Mapping[str, tuple[str, ...]]  # by app: several last migrations


def conflicts(project: Project) -> tuple[Problem, ...]:
    """Why no database can get its tables from this project; paths are those of the database."""
    return tuple(
        Problem(
            "migrations.django",
            f"app {app} has {len(names)} last migrations: {', '.join(names)}",
            "Put them together: python manage.py makemigrations --merge",
        )
        for app, names in project.conflicts.items()
    )


def problems(project: Project, keys: Mapping[str, str], reference: tuple[str, ...]) -> tuple[Problem, ...]:
    """Why shards cannot get their tables from this project, as `conflicts`."""
    found = list(conflicts(project))
    there = {table.name: table for table in project.tables}
    if not there.keys() & keys.keys():
        told = f"no app with migrations has a table for the shards: {', '.join(keys)}"
        hint = "Check the names under keys, db_table of the models, and whether they are managed. " + _TO_ROUTE
        return (*found, Problem("migrations.django", told, hint))
    for table in project.tables:
        if table.name in reference:
            hint = f"Let `schema` make it, and give {table.model} managed = False."
            told = f"{table.model} would be made in every shard, and {table.name} is a reference table"
            found.append(Problem("reference", told, hint))
        elif table.name not in keys:
            told = f"table {table.name} of {table.model} would be made in every shard, and has no key"
            hint = f'Give its key, keys = {{ {table.name} = "column" }}, or keep it away. {_TO_ROUTE}'
            found.append(Problem("keys", told, hint))
        elif (column := keys[table.name]) not in table.nullable:
            have = ", ".join(table.nullable)
            told = f"{table.model} has no column {column}"
            found.append(Problem(f"keys.{table.name}", told, f"It has: {have}."))
        elif table.nullable[column]:
            told = f"column {column} of {table.model} may be NULL"
            found.append(
                Problem(f"keys.{table.name}", told, "Take null=True away: a row without a key is on no shard.")
            )
    return tuple(found)


def not_whole(migrations: Mapping[str, DjangoMigration], needed: frozenset[str]) -> Problem | None:
    """A migration among those needed that could stop half done: neither undone nor recorded."""
    for migration in migrations.values():
        if migration.id in needed and not migration.atomic and migration.operations != 1:
            return Problem(
                "migrations.django",
                f"{migration.id} has atomic = False and {migration.operations} operations: "
                "one that fails would leave those before it done and not recorded",
                "One operation a migration with atomic = False; the others go into migrations of their own.",
            )
    return None


def pending(project: Project, applied: Mapping[int, frozenset[str]]) -> dict[int, tuple[str, ...]]:
    """What each shard still needs (`applied`: shard → what its own table says), in order.

    What is applied and not among the files is Django's to leave alone: an app that was taken out, or migrations that
    were squashed and then removed.
    """
    states: dict[frozenset[str], tuple[str, ...]] = {}
    for done in set(applied.values()):
        states[done] = tuple(one.id for one in project.migrations if not _is_done(one, done))
    return {shard: states[done] for shard, done in sorted(applied.items())}


def _is_done(migration: DjangoMigration, done: frozenset[str]) -> bool:
    return migration.id in done or (bool(migration.replaces) and done.issuperset(migration.replaces))


def left_out(project: Project, needed: frozenset[str], keys: Mapping[str, str]) -> tuple[str, ...]:
    """Sentences on tables that migrations among those needed create elsewhere, and not in shards."""
    return tuple(
        f"{one.id} makes no table {table} in shards: it is not under keys"
        for one in project.migrations
        if one.id in needed
        for table in one.creates
        if table not in keys
    )


def lost(declared: Mapping[str, str], there: frozenset[str]) -> Problem | None:
    """A declared table that is not in the shards although all migrations are."""
    for table in declared:
        if table not in there:
            return Problem(
                f"keys.{table}",
                f"all migrations are applied to the shards, and none has made table {table}",
                "Make a migration for it, or take it out; one that was applied before that is not run again.",
            )
    return None
