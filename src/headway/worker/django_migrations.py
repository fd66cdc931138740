"""Runs a project's Django migrations over shards or a plain database, in the project's own interpreter.

manage.py is run as it is, so that settings and paths are those of the project's own commands, up to the point where it
hands over to Django: that is where this takes over. For each shard the alias of the sharded database has a connection
to that shard, and Django's own executor applies what the shard lacks. A migration, its row in `django_migrations` and
what Headway adds to new tables are one transaction. A plain database gets them as by `manage.py migrate`, signals and
all, through the alias whose connection leads there.
"""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Iterator
from typing import Any

from . import app_tool

_ENGINE = "headway.sharding.client.django_backend"


class NoAlias(Exception):
    """The settings name no connection for the sharded database."""


class NoConnection(Exception):
    """No alias of the settings leads to the plain database."""


class NotManage(Exception):
    """manage.py came to its end without Django's command line."""


class Run(app_tool.Run):
    """One process's work."""

    _alias = ""

    def do(self) -> None:
        """By way of manage.py."""
        from django.core import management

        ended: list[BaseException | None] = []

        def execute(_utility: object) -> None:
            try:
                self._work()
            except (Exception, SystemExit) as error:
                ended.append(error)
            else:
                ended.append(None)

        # What execute_from_command_line comes to, however manage.py has imported it.
        management.ManagementUtility.execute = execute
        sys.argv = [self.asked["file"], "migrate"]
        try:
            runpy.run_path(self.asked["file"], run_name="__main__")
        except SystemExit:
            if not ended:
                raise
        if not ended:
            raise NotManage(f"{self.asked['file']} has not called Django's execute_from_command_line")
        if ended[0] is not None:
            raise ended[0]

    def _work(self) -> None:
        import django

        django.setup()
        self._alias = self._find_connected() if self.is_this_one else self._find_alias()
        if self.asked["do"] == "look":
            self.answer(self._look())
        elif self.asked["do"] == "sql":
            self.answer({"sql": self._sql()})
        elif self.asked["do"] == "plan":
            self.answer({"plan": self._up_to()})
        else:
            self.upgrade()

    def _find_alias(self) -> str:
        from django.db import connections

        name = self.asked["database"]
        found = [
            alias
            for alias, settings in connections.settings.items()
            if settings["ENGINE"] == _ENGINE and settings["NAME"] == name
        ]
        if not found:
            raise NoAlias(f"the settings have no alias for database {name}")
        return str(found[0])

    def _find_connected(self) -> str:
        """The alias of a plain database: the one whose connection is to it, those that say so first."""
        from django.db import connections

        name, seen = self.asked["database"], []

        def order(alias: str) -> tuple[bool, bool]:
            settings = connections.settings[alias]
            return (settings["ENGINE"] != _ENGINE or settings["NAME"] != name, alias != "default")

        for alias in sorted(connections.settings, key=order):
            try:
                if connections[alias].vendor != "postgresql":
                    seen.append(f"{alias} is {connections[alias].vendor}")
                    continue
                with connections[alias].cursor() as cursor:
                    cursor.execute(self.is_this_one)
                    if cursor.fetchone()[0]:
                        return str(alias)
                seen.append(f"{alias} is another one")
                connections[alias].close()
            except Exception as error:  # of whatever backend
                seen.append(f"{alias}: {app_tool.said(error)}")
        raise NoConnection(f"no alias of the settings leads to database {name} ({'; '.join(seen)})")

    # -- what there is ------------------------------------------------------------------------------------------------

    def _look(self) -> dict[str, Any]:
        """The migrations of the apps that the routers let onto shards, in order, and the tables that go there."""
        from django.db.migrations.loader import MigrationLoader

        loader = MigrationLoader(None)
        apps = self._apps(loader)
        conflicts = {app: sorted(names) for app, names in loader.detect_conflicts().items() if app in apps}
        return {
            "migrations": [self._told(migration) for migration in self._in_order(loader, apps)],
            "tables": list(self._tables(apps)),
            "conflicts": conflicts,
        }

    def _apps(self, loader: Any) -> set[str]:
        from django.db import router

        if self.is_this_one:
            return set(loader.migrated_apps)
        return {app for app in loader.migrated_apps if router.allow_migrate(self._alias, app)}

    def _in_order(self, loader: Any, apps: set[str]) -> list[Any]:
        order: dict[tuple[str, str], None] = {}
        for leaf in loader.graph.leaf_nodes():
            if leaf[0] in apps:
                order.update(dict.fromkeys(loader.graph.forwards_plan(leaf)))
        return [loader.graph.nodes[key] for key in order]

    def _told(self, migration: Any) -> list[Any]:
        operations = list(_flat(migration.operations))
        creates = [
            operation.options.get("db_table") or f"{migration.app_label}_{operation.name.lower()}"
            for operation in operations
            if type(operation).__name__ == "CreateModel" and _is_managed(operation.options)
        ]
        replaces = [f"{app}.{name}" for app, name in migration.replaces]
        return [migration.app_label, migration.name, replaces, migration.atomic, len(operations), creates]

    def _tables(self, apps: set[str]) -> Iterator[list[Any]]:
        from django.apps import apps as registry
        from django.db import router

        for config in registry.get_app_configs():
            if config.label not in apps:
                continue
            for model in config.get_models():
                if _is_managed(model._meta) and router.allow_migrate_model(self._alias, model):
                    yield _table(model)
                    for field in model._meta.local_many_to_many:
                        if field.remote_field.through._meta.auto_created:  # made with its model, whatever routers say
                            yield _table(field.remote_field.through)

    def _sql(self) -> list[Any]:
        """What the shard at hand lacks, as Django would run it; None where that depends on what is there by then."""
        from django.db import DatabaseError

        self.shard = self.asked["shard"]
        found = []
        with self._connected() as connection:
            executor = self._executor(connection)
            for migration, backwards in self._plan(executor):
                lines: list[str] | None
                try:
                    lines = executor.loader.collect_sql([(migration, backwards)])
                except (DatabaseError, ValueError, LookupError):
                    lines = None
                found.append([f"{migration.app_label}.{migration.name}", lines])
        return found

    # -- a shard ------------------------------------------------------------------------------------------------------

    def upgrade_one(self) -> None:
        """Bring the shard at hand to the newest state."""
        if self.asked["stamp"] is not None:
            self._stamp()
            return
        if self.is_this_one:
            self._migrate()
            return
        with self._connected() as connection:
            executor = self._executor(connection)
            executor.loader.check_consistent_history(connection)
            plan = self._plan(executor)
            executor.migrate([], plan)

    def _stamp(self) -> None:
        """Record what is lacking of what is named as applied, as `migrate --fake` does."""
        with self._connected() as connection:
            executor = self._executor(connection)
            loader = executor.loader
            names = [key for key in self._named(loader) if key not in loader.applied_migrations]
            executor.migrate([], [(loader.graph.nodes[key], False) for key in names], fake=True)

    def _named(self, loader: Any) -> list[Any]:
        """What is to be recorded, each after what it depends on; nothing where there is none of that name."""
        app, _, name = self.asked["stamp"].partition(".")
        apps, graph = self._apps(loader), loader.graph
        leaves = [leaf for leaf in graph.leaf_nodes() if leaf[0] in apps]
        if self.asked["stamp"] != "head":
            leaves = [leaf for leaf in leaves if leaf[0] == app]
            if name:
                leaves = [(app, name)] if app in apps and (app, name) in graph.nodes else []
        return list(dict.fromkeys(key for leaf in leaves for key in graph.forwards_plan(leaf)))

    def _up_to(self) -> list[str] | None:
        from django.db.migrations.loader import MigrationLoader

        found = self._named(MigrationLoader(None))
        return [f"{app}.{name}" for app, name in found] or None

    def _migrate(self) -> None:
        """As its own command does."""
        from django.core.management import call_command
        from django.db import connections, transaction
        from django.db.migrations.executor import MigrationExecutor

        run, apply = self, MigrationExecutor.apply_migration

        def apply_migration(executor: Any, state: Any, migration: Any, *more: Any, **named: Any) -> Any:
            run.step = f"{migration.app_label}.{migration.name}"
            # Django writes the row of some after their transaction: a death in between would leave it out.
            whole = transaction.atomic(using=self._alias) if migration.atomic else contextlib.nullcontext()
            with whole:
                return apply(executor, state, migration, *more, **named)

        MigrationExecutor.apply_migration = apply_migration
        with connections[self._alias].cursor() as cursor:
            cursor.execute(self.asked["watched"])
        try:
            call_command("migrate", database=self._alias, interactive=False, no_color=True)
        finally:
            MigrationExecutor.apply_migration = apply

    def _plan(self, executor: Any) -> Any:
        apps = self._apps(executor.loader)
        return executor.migration_plan([leaf for leaf in executor.loader.graph.leaf_nodes() if leaf[0] in apps])

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """The alias with a connection to the shard at hand, by whom its tables belong to."""
        from django.db import connections
        from django.db.backends.postgresql.base import DatabaseWrapper

        if self.is_this_one:
            yield connections[self._alias]
            return
        place = dict(self.asked["place"])
        options = dict(place.pop("options"))
        options["options"] = f"{options.get('options', '')} -c search_path={self.search_path}".strip()
        settings = {
            **connections.settings[self._alias],
            "ENGINE": "django.db.backends.postgresql",
            **{key.upper(): value for key, value in place.items()},
            "OPTIONS": options,
        }
        former = connections[self._alias]
        connection = connections[self._alias] = DatabaseWrapper(settings, self._alias)
        try:
            with connection.cursor() as cursor:
                cursor.execute(self.asked["watched"])
            yield connection
        finally:
            connection.close()
            connections[self._alias] = former

    def _executor(self, connection: Any) -> Any:
        from django.db import transaction
        from django.db.migrations.executor import MigrationExecutor

        run = self

        class Executor(MigrationExecutor):  # type: ignore[misc]
            """Django's, with one transaction a migration."""

            def apply_migration(
                self, state: Any, migration: Any, fake: bool = False, fake_initial: bool = False
            ) -> Any:
                run.step = f"{migration.app_label}.{migration.name}"
                if not migration.atomic:
                    state = super().apply_migration(state, migration, fake, fake_initial)
                    with transaction.atomic(using=connection.alias):
                        run.finish(connection)
                    return state
                with transaction.atomic(using=connection.alias):
                    state = super().apply_migration(state, migration, fake, fake_initial)
                    run.finish(connection)
                return state

        return Executor(connection)

    def finish(self, connection: Any) -> None:
        """What Headway adds to a shard's tables."""
        with connection.cursor() as cursor:
            # A table whose rows have checks that wait for the commit cannot be altered.
            for statement in ("SET CONSTRAINTS ALL IMMEDIATE", *self.shard["finish"]):
                cursor.execute(statement)


def _table(model: Any) -> list[Any]:
    columns = {field.column: bool(field.null) for field in model._meta.local_concrete_fields if field.column}
    return [model._meta.db_table, model._meta.label, columns]


def _is_managed(options: Any) -> bool:
    """Of a model's options, or of those that an operation has."""
    if isinstance(options, dict):
        return bool(options.get("managed", True)) and not options.get("proxy") and not options.get("swappable")
    return bool(options.managed) and not options.proxy and not options.swapped


def _flat(operations: Any) -> Iterator[Any]:
    """Those that touch the database, of which one may hold several."""
    for operation in operations:
        inner = getattr(operation, "database_operations", None)
        if inner is None:
            yield operation
        else:
            yield from _flat(inner)


def main(_name: str) -> int:
    """Serve one that asks."""
    return app_tool.run_tool(Run)
