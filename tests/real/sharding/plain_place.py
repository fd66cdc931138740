"""A plain database for tests of its migrations, by SQL files, an app's Alembic and a Django project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg

from headway.sharding import settings
from headway.sharding.admin import AdminServer, plain_server
from headway.sharding.alembic import Alembic, migrate_by_alembic
from headway.sharding.django import Django, migrate_by_django
from headway.sharding.migrating import migrate, read_folder
from headway.sharding.postgresql import HOST, Server
from headway.sharding.url import DatabaseUrl, compose_url, url_fields

Lines = tuple[dict[str, int], list[str]]


def new_plain(engine: Server, name: str) -> AdminServer:
    """An empty database, as the app gets to it."""
    way = {"host": str(engine.socket_folder), "port": engine.port, "user": settings.SUPERUSER, "dbname": "postgres"}
    with psycopg.connect(**way, autocommit=True) as admin:  # type: ignore[arg-type]
        admin.execute(f"CREATE DATABASE {name} OWNER {engine.role}")  # type: ignore[call-overload]
    place = ((HOST, engine.port),)
    url = compose_url(DatabaseUrl("postgresql", place, name, user=engine.role, password=engine.password))
    return plain_server("main", url_fields(url))


def rows(main: AdminServer, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(main.admin, autocommit=True) as connection:
        found = connection.execute(sql)  # type: ignore[call-overload]
        return found.fetchall() if found.description else []


def apply(main: AdminServer, folder: Path, *, dry_run: bool = False, stamp: str | None = None) -> Lines:
    lines: list[str] = []
    done = migrate("main", read_folder(folder, "m"), (main,), stamp=stamp, dry_run=dry_run, say=lines.append)
    assert done.shards == 0
    return dict(done.applied), lines


REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{id}", {before!r}, None, None


def upgrade():
    {body}
"""


class App:
    """A folder with an alembic.ini, and what is written into it."""

    def __init__(self, folder: Path, template: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "alembic", "init", "-t", template, "migrations"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        self._last: str | None = None

    def revision(self, number: str, body: str) -> Path:
        file = self.folder / "migrations" / "versions" / f"{number}.py"
        file.write_text(REVISION.format(id=number, before=self._last, body=body))
        self._last = number
        return file

    def migrate(self, main: AdminServer, *, dry_run: bool = False, stamp: str | None = None, **env: str) -> Lines:
        lines: list[str] = []
        tool = Alembic(str(self.folder / "alembic.ini"), sys.executable, str(self.folder), tuple(env.items()))
        done = migrate_by_alembic("main", tool, (main,), stamp=stamp, dry_run=dry_run, say=lines.append)
        assert done.shards == 0
        return dict(done.applied), lines


NOTES = 'op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))'


SETTINGS = """
import os
import psycopg
_url = psycopg.conninfo.conninfo_to_dict(os.environ["URL"])
_place = {"HOST": _url["host"], "PORT": _url["port"], "USER": _url["user"], "PASSWORD": _url["password"]}
DATABASES["rows"] = {"ENGINE": "django.db.backends.postgresql", "NAME": _url["dbname"], **_place}
INSTALLED_APPS += ["news"]
"""
MODELS = "from django.db import models\n\nclass Entry(models.Model):\n    text = models.TextField()\n"


def new_site(folder: Path) -> Path:
    """A project of `startproject` whose default database is SQLite, and which has another one."""
    subprocess.run([sys.executable, "-m", "django", "startproject", "config", "."], cwd=folder, check=True)
    settings = folder / "config" / "settings.py"
    settings.write_text(settings.read_text() + SETTINGS)
    (folder / "news" / "migrations").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("models.py", MODELS), ("migrations/__init__.py", "")):
        (folder / "news" / name).write_text(text)
    command = [sys.executable, "manage.py", "makemigrations", "news", "-v0"]
    env = {"URL": "postgresql://nobody:x@127.0.0.1:1/nothing"}
    subprocess.run(command, cwd=folder, env=env, check=True, timeout=200)
    return folder


def by_django(main: AdminServer, site: Path, url: str, *, dry_run: bool = False, stamp: str | None = None) -> Lines:
    lines: list[str] = []
    django = Django(str(site / "manage.py"), sys.executable, str(site), (("URL", url),))
    done = migrate_by_django("main", django, (main,), keys={}, stamp=stamp, dry_run=dry_run, say=lines.append)
    assert done.shards == 0
    return dict(done.applied), lines
