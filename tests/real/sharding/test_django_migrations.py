"""A Django project's own migrations over shards on two real servers, by the manage.py of `startproject`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from empty_servers import schemas

from headway.errors import AppError, EngineError
from headway.model.sharding import DATABASES_VARIABLE, ShardMap
from headway.sharding.admin import AdminServer, connect
from headway.sharding.catalog import read_map
from headway.sharding.django import Django, make_by_django, migrate_by_django
from headway.sharding.keys import shard_of
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout

SHARDS = 8
SETTINGS = """
DATABASES["orders"] = {"ENGINE": "headway.sharding.client.django_backend", "NAME": "orders"}
DATABASE_ROUTERS = ["headway.sharding.client.django.ShardRouter"]
INSTALLED_APPS += ["sales", "news"]
"""
SALES = """
from django.db import models

class Order(models.Model):
    id = models.BigIntegerField(primary_key=True)
    customer = models.BigIntegerField()
    author = models.ForeignKey("auth.User", models.DO_NOTHING, db_constraint=False, null=True)

    class Meta:
        db_table = "orders"
"""
NEWS = "from django.db import models\n\nclass Entry(models.Model):\n    text = models.TextField()\n"
MIGRATION = """from django.db import migrations, models
import django.db.models.deletion
{top}

class Migration(migrations.Migration):
    atomic = {atomic}
    dependencies = {after}
    operations = [{operations}]
"""
NOTE = 'migrations.AddField("order", "note", models.TextField(default=""))'
# To be seen to run on shards as little as the tables of its app.
DATA = """

def fill(apps, editor):
    apps.get_model("news", "Entry").objects.using(editor.connection.alias).create(text="x")
"""


class Site:
    """A project of `django-admin startproject`, with one app that goes to shards and several that do not."""

    def __init__(self, folder: Path, keys: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.keys = dict(keys or {"orders": "customer"})
        self._last = "0001_initial"

    def django(self, **more: object) -> Django:
        told = {
            "kind": "sharded",
            "catalog": "postgresql://nobody@127.0.0.1:1/nothing",  # routers ask nobody
            "active_max": 2,
            "tables": list(self.keys),
            **more,
        }
        env = ((DATABASES_VARIABLE, json.dumps({"orders": told})),)
        return Django(str(self.folder / "manage.py"), sys.executable, str(self.folder), env)

    def migration(self, name: str, *operations: str, atomic: bool = True, after: str | None = None) -> Path:
        return self.write("sales", name, ", ".join(operations), after or self._last, atomic=atomic)

    def write(
        self, app: str, name: str, operations: str, after: str | None, top: str = "", *, atomic: bool = True
    ) -> Path:
        file = self.folder / app / "migrations" / f"{name}.py"
        dependencies = repr([(app, after)]) if after else "[]"
        file.write_text(MIGRATION.format(top=top, atomic=atomic, after=dependencies, operations=operations))
        if app == "sales":
            self._last = name
        return file

    def manage(self, *arguments: str) -> None:
        env = dict(self.django().env)
        subprocess.run([sys.executable, "manage.py", *arguments], cwd=self.folder, env=env, check=True, timeout=200)

    def lay_out(self, servers: tuple[AdminServer, ...]) -> ShardMap:
        def make(servers: Sequence[AdminServer], shards: Mapping[str, Sequence[int]]) -> None:
            make_by_django("orders", self.django(), servers, shards, keys=self.keys)

        return lay_out(Layout("shop", "orders", SHARDS, self.keys, (), None), servers, tables_by=make)[0]

    def migrate(
        self, servers: tuple[AdminServer, ...], *, dry_run: bool = False, stamp: str | None = None
    ) -> tuple[dict[str, int], list[str]]:
        lines: list[str] = []
        django = self.django()
        done = migrate_by_django(
            "orders", django, servers, keys=self.keys, stamp=stamp, dry_run=dry_run, say=lines.append
        )
        assert done.shards == SHARDS
        return dict(done.applied), lines


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("django") / "site"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "django", "startproject", "config", "."], cwd=folder, check=True)
    settings = folder / "config" / "settings.py"
    settings.write_text(settings.read_text() + SETTINGS)
    for name, models in (("sales", SALES), ("news", NEWS)):
        (folder / name / "migrations").mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / name / "migrations" / "__init__.py").touch()
        (folder / name / "models.py").write_text(models)
    site = Site(folder)
    site.manage("makemigrations", "-v0")
    site.write("news", "0002_fill", "migrations.RunPython(fill)", "0001_initial", DATA)
    return folder


@pytest.fixture
def site(template: Path, tmp_path: Path) -> Site:
    shutil.copytree(template, tmp_path / "site")
    return Site(tmp_path / "site")


def applied(servers: tuple[AdminServer, ...], app: str = "sales") -> dict[int, list[str]]:
    """By shard, what its own table says of an app."""
    found = {}
    for server in servers:
        with connect(server) as connection:
            for schema in schemas(server):
                query = f"SELECT name FROM {schema}.django_migrations WHERE app = %s ORDER BY id"
                found[int(schema[-4:])] = [str(row[0]) for row in connection.execute(query.encode(), (app,))]
    return found


def everywhere(*names: str, but: int = -1) -> dict[int, list[str]]:
    return {shard: list(names) for shard in range(SHARDS) if shard != but}


def tables(servers: tuple[AdminServer, ...]) -> set[str]:
    found: set[str] = set()
    for server in servers:
        with connect(server) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname ~ '^orders_'")
            found |= {str(row[0]) for row in rows}
    return found


def test_new_shards_get_the_tables_that_the_router_lets_there_and_a_second_migration_reaches_all(servers, site):
    map_ = site.lay_out(servers)
    assert map_.keys["orders"].kind == "int"
    assert applied(servers) == everywhere("0001_initial")
    assert tables(servers) == {"orders", "django_migrations", "headway_ledger", "headway_marker"}
    assert applied(servers, "news") == everywhere()
    key = next(key for key in range(1000) if shard_of(key, SHARDS, "int") == 3)
    holder = next(server for server in servers if server.name == map_.owners[3])
    with psycopg.connect(holder.admin, options="-c search_path=orders_0003", autocommit=True) as connection:
        connection.execute(f"SET ROLE {holder.role}".encode())
        connection.execute("INSERT INTO orders (customer, id) VALUES (%s, 1)", (key,))
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO orders (customer, id) VALUES (%s, 1)", (key + 1,))
    assert site.migrate(servers) == ({}, [])
    site.migration("0002_note", NOTE)
    counts, lines = site.migrate(servers, dry_run=True)
    assert counts == {"sales.0002_note": SHARDS}
    assert lines[0] == "sales.0002_note: 8 of 8 shards"
    assert any('ALTER TABLE "orders" ADD COLUMN "note"' in line for line in lines)
    assert applied(servers) == everywhere("0001_initial")
    assert site.migrate(servers)[0] == {"sales.0002_note": SHARDS}
    assert applied(servers) == everywhere("0001_initial", "0002_note")
    with connect(servers[0]) as catalog:
        assert read_map(catalog).epoch > map_.epoch  # what clients have prepared is of tables as they were


def test_shards_that_were_made_without_django_are_taken_over_by_a_stamp(servers, site, tmp_path):
    schema = tmp_path / "schema.sql"
    schema.write_text("CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, author_id int);")
    lay_out(Layout("shop", "orders", SHARDS, site.keys, (), schema), servers)
    with pytest.raises(AppError, match="already exists") as caught:
        site.migrate(servers)
    assert "? headway db migrate orders --stamp sales.0001_initial records that." in caught.value.hint
    site.migration("0002_note", NOTE)
    done = site.migrate(servers, stamp="sales.0001_initial")[0]
    assert done["sales.0001_initial"] == SHARDS
    assert "sales.0002_note" not in done
    assert site.migrate(servers, stamp="sales.0001_initial") == ({}, [])
    assert site.migrate(servers)[0] == {"sales.0002_note": SHARDS}
    for server in servers:
        with connect(server) as connection:
            for name in schemas(server):
                columns = connection.execute(f"SELECT note FROM {name}.orders")  # type: ignore[call-overload]
                assert columns.fetchall() == []


def test_a_shard_that_refuses_one_is_named_stays_as_it_was_and_is_gone_on_with(servers, site):
    map_ = site.lay_out(servers)
    holder = next(server for server in servers if server.name == map_.owners[5])
    with connect(holder) as connection:
        connection.execute("ALTER TABLE orders_0005.orders ADD COLUMN note int")
    site.migration("0002_more", 'migrations.AddField("order", "more", models.TextField(default=""))', NOTE)
    site.migration("0003_last", 'migrations.AddField("order", "last", models.TextField(default="", db_index=True))')
    told = r'^shard 5 on server s2: sales\.0002_more: column "note" of relation "orders" already exists \(7 have it\)$'
    with pytest.raises(AppError, match=told) as caught:
        site.migrate(servers)
    assert caught.value.hint.startswith("Correct the migration.")
    done = applied(servers)
    assert done.pop(5) == ["0001_initial"]
    assert done == everywhere("0001_initial", "0002_more", "0003_last", but=5)
    with connect(holder) as connection:
        look = "SELECT FROM pg_attribute WHERE attrelid = 'orders_0005.orders'::regclass AND attname = 'more'"
        assert connection.execute(look).fetchone() is None
        connection.execute("ALTER TABLE orders_0005.orders DROP COLUMN note")
    assert site.migrate(servers)[0] == {"sales.0002_more": 1, "sales.0003_last": 1}
    assert applied(servers)[5] == ["0001_initial", "0002_more", "0003_last"]


def test_a_table_to_come_is_held_to_its_key_with_the_migration_that_makes_it(servers, site):
    site.lay_out(servers)
    site.keys["carts"] = "customer"
    assert "carts" not in site.lay_out(servers).keys  # declared, and not there yet: nothing stands still for that
    models = site.folder / "sales" / "models.py"
    cart = "\nclass Cart(models.Model):\n    customer = models.BigIntegerField(primary_key=True)\n"
    models.write_text(models.read_text() + cart + '    class Meta:\n        db_table = "carts"\n')
    site.manage("makemigrations", "-v0", "-n", "carts")
    assert site.migrate(servers)[0] == {"sales.0002_carts": SHARDS}
    assert "carts" in site.lay_out(servers).keys
    for server in servers:
        with connect(server) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_constraint o JOIN pg_class c ON c.oid = conrelid "
                "WHERE relname = 'carts' AND conname = 'headway_shard'"
            ).fetchone()
            assert found == (len(schemas(server)),)


def test_a_table_without_a_key_is_refused_by_name_before_anything_is_made(servers, site):
    settings = site.folder / "config" / "settings.py"
    text = settings.read_text()
    settings.write_text(text + "DATABASE_ROUTERS = []\n")
    with pytest.raises(AppError, match=r"keys: table \w+ of [\w.]+ would be made in every shard, and has no key") as e:
        site.lay_out(servers)
    assert "ShardRouter" in e.value.hint
    assert "django_migrations" not in tables(servers)
    settings.write_text(text)
    models = site.folder / "sales" / "models.py"
    models.write_text(SALES.replace("    customer", '    of = models.ManyToManyField("self")\n    customer', 1))
    site.manage("makemigrations", "-v0", "-n", "of")
    with pytest.raises(AppError, match=r"keys: table orders_of of sales\.Order_of would be made in every shard"):
        site.lay_out(servers)
    (site.folder / "sales" / "migrations" / "0002_of.py").unlink()
    models.write_text(SALES)
    site.lay_out(servers)
    # One that no model tells of.
    site.migration("0002_raw", 'migrations.RunSQL("CREATE TABLE raw (id int)", hints={"model_name": "order"})')
    with pytest.raises(AppError, match=r"shard 0 on server s1: sales\.0002_raw: table raw has no key \(8 shards"):
        site.migrate(servers)
    assert "raw" not in tables(servers)


def test_a_migration_that_could_stop_half_done_is_refused(servers, site):
    site.lay_out(servers)
    file = site.migration("0002_two", NOTE, 'migrations.RunSQL("SELECT 1")', atomic=False)
    with pytest.raises(AppError, match=r"sales\.0002_two has atomic = False and 2 operations"):
        site.migrate(servers)
    file.unlink()
    index = 'AddIndexConcurrently("order", models.Index(fields=["author"], name="by_author"))'
    file = site.migration("0002_index", index, atomic=False, after="0001_initial")
    file.write_text("from django.contrib.postgres.operations import AddIndexConcurrently\n" + file.read_text())
    assert site.migrate(servers)[0] == {"sales.0002_index": SHARDS}


def test_what_keeps_django_from_beginning_is_said(servers, site, tmp_path):
    django, settings = site.django(), site.folder / "config" / "settings.py"

    def told(error: type[Exception], match: str, django: Django = django) -> str:
        with pytest.raises(error, match=match) as caught:
            make_by_django("orders", django, servers, {}, keys=site.keys)
        assert str(caught.value.message).startswith("databases.orders.migrations.django: ")
        return str(caught.value.hint)

    told(AppError, "there is no file", replace(django, file=str(tmp_path / "manage.py")))
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    python = str(bare / "bin" / "python")
    assert told(EngineError, "has no django", replace(django, python=python)) == f"{python} -m pip install django"
    (tmp_path / "manage.py").write_text("print('hello')\n")
    told(
        AppError, "has not called Django's execute_from_command_line", replace(django, file=str(tmp_path / "manage.py"))
    )
    text = settings.read_text()
    settings.write_text(text + "import nowhere\n")
    assert "manage.py check" in told(AppError, "No module named 'nowhere'")
    settings.write_text(text + 'del DATABASES["orders"]\n')
    assert "django_backend" in told(AppError, "the settings have no alias for database orders")
    settings.write_text(text + 'INSTALLED_APPS.remove("sales")\n')
    assert "ShardRouter" in told(AppError, "no app with migrations has a table for the shards: orders")
    settings.write_text(text)
    site.migration("0002_one", NOTE)
    site.migration("0002_other", 'migrations.RunSQL("SELECT 1")', after="0001_initial")
    assert "--merge" in told(AppError, r"app sales has 2 last migrations: 0002_one, 0002_other")
