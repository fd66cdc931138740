"""The declared databases for the tests of an app: on a PostgreSQL of the run's own, new for each test."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from headway.declaration.load import Loaded
from headway.declaration.paths import find_python
from headway.errors import HeadwayError
from headway.model.declared import Database
from headway.model.sharding import DATABASES_VARIABLE, parse_join
from headway.process.companion import Companion, start_companion
from headway.sharding import layout, settings
from headway.sharding.admin import AdminServer, plain_server
from headway.sharding.alembic import Alembic
from headway.sharding.app_tool import AppTool
from headway.sharding.app_tools import migrate_by, tables_by
from headway.sharding.client import database as client
from headway.sharding.django import Django
from headway.sharding.failures import PORT_TAKEN, explain_failure
from headway.sharding.migrating import migrate, read_folder
from headway.sharding.postgresql import (
    HOST,
    Server,
    ensure_database,
    prepare,
    remove_socket_folder,
    spawn_arguments,
    wait_until_ready,
)
from headway.sharding.schema import apply_schema_once
from headway.sharding.shards import TablesBy, lay_out
from headway.sharding.url import DatabaseUrl, compose_url, url_fields
from headway.sharding.wanted import Layout

_READY_S = 60.0
_TRIES = 3
_ACTIVE_MAX = 8


class Databases:
    """A PostgreSQL of the run's own, and in it a model of each declared database and its copy."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._server: Server | None = None
        self._process: Companion | None = None
        self.urls: dict[str, str] = {}

    # -- once a run ---------------------------------------------------------------------------------------------------

    def start(self, folder: Path) -> None:
        """Bring the server up, and the databases; all that it writes is in `folder`."""
        (run := folder / "run").mkdir()
        for tries_left in reversed(range(_TRIES)):
            server = self._server = prepare(folder / "s", run, system=self._loaded.system.name, name="test")
            if self._comes_up(server, folder / "log", may_fail=tries_left > 0):
                break
        ensure_database(server)
        self.urls = {name: self._url(settings.database_name(name)) for name in self._loaded.system.databases}

    def _comes_up(self, server: Server, log: Path, *, may_fail: bool) -> bool:
        """False where its port was taken since it was chosen: runs that begin at once choose at once."""
        arguments = spawn_arguments(server)
        process = self._process = start_companion(
            arguments.argv,
            env=arguments.env,
            cwd=arguments.cwd,
            identity=arguments.identity,
            log=log,
            death_signal=signal.SIGQUIT,
        )
        try:
            wait_until_ready(server, timeout_s=_READY_S, is_alive=lambda: process.lives)
        except HeadwayError as error:
            message, hint = explain_failure(log.read_text(errors="replace")[-8192:])
            if may_fail and not process.lives and message == PORT_TAKEN:
                return False
            raise type(error)(f"{error.message}: {message}", hint=hint) from error
        return True

    def make_models(self) -> None:
        """Make each database as it is declared; the app's environment is there by now."""
        for name, declared in self._loaded.system.databases.items():
            self._make_model(name, declared)
        self.renew()

    def stop(self) -> None:
        """End the server."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT, 10.0)
        if self._server is not None:
            remove_socket_folder(self._server)

    def fields(self) -> dict[str, dict[str, str]]:
        """What references to the databases stand for."""
        return {name: url_fields(url) for name, url in self.urls.items()}

    def told(self) -> dict[str, str]:
        """What the app is told of them, in its environment."""
        access = {name: self._access(name, declared) for name, declared in self._loaded.system.databases.items()}
        return {DATABASES_VARIABLE: json.dumps(access)}

    @property
    def plain_url(self) -> str | None:
        """Of the first one that is not sharded."""
        plain = (name for name, declared in self._loaded.system.databases.items() if declared.shards is None)
        return next((self.urls[name] for name in plain), None)

    def _access(self, name: str, declared: Database) -> dict[str, object]:
        url = self.urls[name]
        if declared.shards is None:
            return {"kind": "plain", "url": url, "active_max": _ACTIVE_MAX}
        fields = url_fields(url)
        return {
            "kind": "sharded",
            "catalog": url,
            "logins": {"s1": {"user": fields["user"], "password": fields["password"]}},
            "active_max": _ACTIVE_MAX,
            "idle_max": declared.idle_max,
            "reference": list(declared.reference),
            "tables": list(declared.keys),
            "by_code_point": True,
        }

    def _make_model(self, name: str, declared: Database) -> None:
        server, model = self._known, _model(name)
        # A plain one is made at its own address, which is what the app's migrations know, and called otherwise then.
        made = settings.database_name(name) if declared.shards is None else model
        with self._admin("postgres") as admin:
            admin.execute(f"CREATE DATABASE {_quoted(made)} OWNER {_quoted(server.role)}".encode())
        file = Path(declared.schema_file) if declared.schema_file else None
        if declared.shards is None:
            if file is not None:
                apply_schema_once(self.urls[name], file, server.engine, path=f"databases.{name}")
            self._migrate_plain(name, declared)
            with self._admin("postgres") as admin:
                admin.execute(f"ALTER DATABASE {_quoted(made)} RENAME TO {_quoted(model)}".encode())
            return
        way = make_conninfo(host=str(server.socket_folder), port=server.port, user=settings.SUPERUSER, dbname=model)
        url = f"postgresql://{server.role}@{HOST}:{server.port}/{settings.database_name(name)}"
        one = AdminServer("s1", way, way, url, server.role, settings.SUPERUSER, model, is_ours=True)
        wanted = Layout(
            system=self._loaded.system.name,
            name=name,
            shards=declared.shards,
            keys=declared.keys,
            reference=declared.reference,
            schema_file=file,
            joins={table: join for table, text in declared.joins.items() if (join := parse_join(text)) is not None},
            ids=declared.ids,
        )
        lay_out(wanted, (one,), tables_by=self._tables_by(name, declared))
        if declared.migrations is not None and declared.migrations.sql is not None:
            files = read_folder(Path(declared.migrations.sql), f"databases.{name}.migrations.sql")
            migrate(name, files, (one,), say=lambda _line: None)

    def _migrate_plain(self, name: str, declared: Database) -> None:
        server = plain_server(name, url_fields(self.urls[name]))
        tool = self._tool(name, declared)
        if tool is not None:
            migrate_by(name, tool, (server,), keys={}, reference=(), dry_run=False, say=lambda _line: None)
        elif declared.migrations is not None and declared.migrations.sql is not None:
            files = read_folder(Path(declared.migrations.sql), f"databases.{name}.migrations.sql")
            migrate(name, files, (server,), say=lambda _line: None)

    def _tables_by(self, name: str, declared: Database) -> TablesBy | None:
        tool = self._tool(name, declared)
        return tables_by(name, tool, declared.keys, declared.reference) if tool is not None else None

    def _tool(self, name: str, declared: Database) -> AppTool | None:
        if declared.migrations is None:
            return None
        file = declared.migrations.alembic or declared.migrations.django
        if file is None:
            return None
        python = next(
            (service.python for service in self._loaded.system.services.values() if name in service.uses),
            None,
        )
        folder = str(self._loaded.root)
        python = python or find_python(Path(file).parent, sys.executable)
        kind = Alembic if declared.migrations.alembic is not None else Django
        return kind(file, python, folder)

    # -- for each test ------------------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Every database as its model."""
        self.let_go()
        role = self._known.role
        with self._admin("postgres") as admin:
            for name, declared in self._loaded.system.databases.items():
                there = settings.database_name(name)
                owner = role if declared.shards is None else settings.SUPERUSER
                admin.execute(f"DROP DATABASE IF EXISTS {_quoted(there)} WITH (FORCE)".encode())
                model = f"TEMPLATE {_quoted(_model(name))} OWNER {_quoted(owner)}"
                admin.execute(f"CREATE DATABASE {_quoted(there)} {model}".encode())
                admin.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {_quoted(there)} TO {_quoted(role)}".encode())

    def let_go(self) -> None:
        """Close what the app keeps open: a connection to the former copy is of no use."""
        for database in list(client._databases.values()):
            with contextlib.suppress(psycopg.Error):
                database.sync.close()

    @property
    def _known(self) -> Server:
        assert self._server is not None
        return self._server

    def _admin(self, database: str) -> psycopg.Connection[tuple[object, ...]]:
        server = self._known
        return psycopg.connect(
            host=str(server.socket_folder),
            port=server.port,
            user=settings.SUPERUSER,
            dbname=database,
            autocommit=True,
        )

    def _url(self, database: str) -> str:
        server = self._known
        place = ((HOST, server.port),)
        return compose_url(DatabaseUrl("postgresql", place, database, user=server.role, password=server.password))


def _model(name: str) -> str:
    return f"{settings.database_name(name)}_model"


def _quoted(name: str) -> str:
    return layout.identifier(name)
