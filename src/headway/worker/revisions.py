"""Runs an app's Alembic over shards or a plain database, in the app's own interpreter.

For each shard Alembic runs the app's env.py, as its own command would. Whatever engine env.py makes, its connection
sees the tables of that shard, and what Headway adds to new tables is part of the transaction that makes them.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from typing import Any

from . import app_tool

_DRIVERS = {"sync": ("psycopg", "psycopg2"), "async": ("asyncpg", "psycopg")}
_IS_ASYNC = re.compile(r"\basync_engine_from_config\b|\bcreate_async_engine\b|\bAsyncEngine\b")
_VERSION_TABLE = "alembic_version"  # where env.py says nothing
_TOLD = ("version_table", "version_table_schema")
_NAMED = re.compile(r"\s*postgres(?:ql)?\+(\w+):")


class Elsewhere(Exception):
    """env.py connects to something else than the shard it was given."""


class Run(app_tool.Run):
    """One process's work."""

    _driver = ""

    def do(self) -> None:
        """Look, or have env.py run: to see what it sets, or to upgrade."""
        if self.asked["do"] == "look":
            self.look()
            return
        self._driver = self._find_driver()
        self._listen()
        if self.asked["do"] == "version table":
            self.shard = self.asked["shards"][0]
            self.look_at_version_table()
            return
        self.upgrade()

    def look(self) -> None:
        """Tell the revisions, the oldest first, the heads, and the version table where env.py's text says it."""
        script = self._script()
        found = []
        for revision in reversed(list(script.walk_revisions())):
            after = [*_names(revision.down_revision)]
            after += [script.get_revision(name).revision for name in _names(revision.dependencies)]
            found.append([revision.revision, after, revision.doc or ""])
        with open(script.env_py_location, encoding="utf-8") as file:
            table = version_table(file.read())
        self.answer({"revisions": found, "heads": list(script.get_heads()), "table": table})

    def look_at_version_table(self) -> None:
        """Run env.py as `alembic current` does, which changes nothing, and tell which version table it sets."""
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        found = []

        def seen(_heads: Any, context: Any) -> list[Any]:
            found.append([context.version_table, context.version_table_schema])
            return []

        config = self._config_of_shard()
        script = ScriptDirectory.from_config(config)
        with EnvironmentContext(config, script, fn=seen, dont_mutate=True):
            script.run_env()
        self.answer({"table": found[-1] if found else None})

    def upgrade_one(self) -> None:
        """Bring the shard at hand to the head."""
        from alembic import command

        config = self._config_of_shard()
        if self.asked["stamp"] is not None:
            command.stamp(config, self.asked["stamp"])
        else:
            command.upgrade(config, "head")

    def kind_of(self, error: BaseException) -> str:
        """As everywhere; one that says where env.py should not have gone is told apart."""
        elsewhere = any(isinstance(cause, Elsewhere) for cause in _causes(error))
        return "elsewhere" if elsewhere else super().kind_of(error)

    def _config(self) -> Any:
        from alembic.config import Config

        return Config(self.asked["file"])

    def _config_of_shard(self) -> Any:
        """The app's, which leads to the shard at hand."""
        config = self._config()
        shard = None if self.is_this_one else self.shard["shard"]
        config.attributes["headway"] = {"database": self.asked["database"], "shard": shard}
        url = self._url(self._driver).render_as_string(hide_password=False)
        config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        return config

    def _script(self) -> Any:
        from alembic.script import ScriptDirectory

        return ScriptDirectory.from_config(self._config())

    def _find_driver(self) -> str:
        """The one that alembic.ini names, or one that is installed and fits env.py."""
        import importlib.util

        config = self._config()
        named = _NAMED.match(config.get_main_option("sqlalchemy.url") or "")
        with open(self._script().env_py_location, encoding="utf-8") as file:
            kind = "async" if _IS_ASYNC.search(file.read()) else "sync"
        candidates = (*([named[1]] if named and named[1] in _DRIVERS[kind] else []), *_DRIVERS[kind])
        for name in candidates:
            if importlib.util.find_spec(name) is not None:
                return name
        raise ModuleNotFoundError(f"No module named {candidates[0]!r}", name=candidates[0])

    def _url(self, driver: str) -> Any:
        from sqlalchemy.engine import URL

        place = dict(self.asked["place"])
        options = dict(place.pop("options"))
        known = {"username": place["user"] or None, "password": place["password"] or None, "database": place["name"]}
        if driver == "asyncpg":  # its names for the same; the search_path is set by the connection itself
            options = {"ssl": options["sslmode"]} if "sslmode" in options else {}
        elif not self.is_this_one:
            path = f"-csearch_path={self.search_path}"
            options["options"] = f"{options.get('options', '')} {path}".strip()
        if place["host"].startswith("/") or "," in place["host"]:
            options.update(host=place["host"], port=place["port"])
        else:
            known.update(host=place["host"] or None, port=int(place["port"]) if place["port"] else None)
        return URL.create(f"postgresql+{driver}", query=options, **known)

    # -- in the app's connections -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """To every engine that env.py makes."""
        import logging

        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        event.listen(Engine, "connect", self._connected)
        event.listen(Engine, "commit", self._commits)
        # A filter outlives what env.py does to the handlers.
        logging.getLogger("alembic.runtime.migration").addFilter(self._heard)
        if not self.is_this_one:
            self._keep_version_tables_apart()

    def _keep_version_tables_apart(self) -> None:
        """Each shard's version table is in the shard: in a schema of its own, one would be all shards' of a server."""
        from alembic.runtime.environment import EnvironmentContext

        of_alembic: Any = EnvironmentContext
        configure = of_alembic.configure

        def configured(context: Any, *given: Any, **settings: Any) -> None:
            configure(context, *given, **{**settings, "version_table_schema": None})

        of_alembic.configure = configured

    def _connected(self, connection: Any, _record: Any) -> None:
        """Its names are those of the shard; SQLAlchemy itself asks for them later than this."""
        if not re.search(r"asyncpg|psycopg|pg8000", type(connection).__module__):
            return  # another database of the app's
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(
                self.is_this_one
                or f"SELECT to_regclass('{self.schema}.{self.asked['ledger']}') IS NOT NULL "
                f"AND has_schema_privilege(to_regnamespace('{self.schema}'), 'CREATE')"
            )
            if not cursor.fetchone()[0]:
                raise Elsewhere("env.py connects to another place than the one it is told")
            cursor.execute(self.asked["watched"])
            if not self.is_this_one:
                cursor.execute(f"SET search_path = {self.search_path}")
        connection.commit()

    def _commits(self, connection: Any) -> None:
        """What Headway adds to a shard's tables is committed with them."""
        if connection.dialect.name != "postgresql":
            return
        with contextlib.closing(connection.connection.cursor()) as cursor:
            for statement in self.shard["finish"]:
                cursor.execute(statement)

    def _heard(self, record: Any) -> bool:
        """Note the step that Alembic is at."""
        if record.msg == "Running %s":
            self.step = record.getMessage().removeprefix("Running ")
        return True


def version_table(text: str) -> list[str | None] | None:
    """The version table that env.py sets, and its schema, as its text says them; None where only running it tells."""
    try:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    except SyntaxError:
        return None
    found = {
        tuple((each.arg, _literal(each.value)) for each in call.keywords if each.arg is None or each.arg in _TOLD)
        for call in calls
        if (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) == "configure"
    }
    if len(found) != 1:  # another file sets them, or it is one thing here and another there
        return None
    told = dict(found.pop())
    if None in told or ... in told.values():
        return None
    return [told.get("version_table") or _VERSION_TABLE, told.get("version_table_schema")]


def _literal(value: ast.expr) -> Any:
    return value.value if isinstance(value, ast.Constant) else ...


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _names(found: Any) -> tuple[str, ...]:
    """What Alembic gives as None, a name, or several."""
    if found is None:
        return ()
    return (found,) if isinstance(found, str) else tuple(found)


def main(_name: str) -> int:
    """Serve one that asks."""
    return app_tool.run_tool(Run)
