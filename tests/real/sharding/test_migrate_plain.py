"""Migrations of a plain database on a real server: SQL files, the app's Alembic, a Django project."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psycopg
import pytest
from plain_place import NOTES, App, apply, by_django, rows

from headway.errors import AppError, Conflict
from headway.sharding.backup.restore_plain import restore_plain
from headway.sharding.backup.take import take_plain
from headway.sharding.move.sessions import Connection, connect
from headway.sharding.targets import targets

# -- SQL files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_notes.sql").write_text("CREATE TABLE notes (id int PRIMARY KEY);")
    return tmp_path


def test_files_are_applied_once_each_with_its_row_in_a_ledger_that_is_out_of_sight(main, folder):
    assert apply(main, folder, dry_run=True) == ({"0001_notes.sql": 1}, ["0001_notes.sql"])
    assert rows(main, "SELECT FROM pg_namespace WHERE nspname = 'headway'") == []  # nothing was touched
    assert apply(main, folder) == ({"0001_notes.sql": 1}, ["0001_notes.sql"])
    assert apply(main, folder) == ({}, [])
    (folder / "0002_index.sql").write_text("-- headway: no transaction\nCREATE INDEX CONCURRENTLY i ON notes (id);")
    assert apply(main, folder)[0] == {"0002_index.sql": 1}
    names = "SELECT name FROM headway.headway_ledger ORDER BY 1"
    assert rows(main, names) == [("0001_notes.sql",), ("0002_index.sql",)]
    tables = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert rows(main, tables) == [("notes", main.role)]  # the app's own
    assert rows(main, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


def test_a_file_that_is_refused_is_told_with_its_line_and_nothing_of_it_is_there(main, folder):
    file = folder / "0002_more.sql"
    file.write_text("CREATE TABLE more (id int);\nCREATE TABLE less (id nix);\n")
    (folder / "0003_last.sql").write_text("CREATE TABLE last (id int);")
    with pytest.raises(AppError) as caught:
        apply(main, folder)
    assert caught.value.message == 'database main: 0002_more.sql:2: type "nix" does not exist'
    assert caught.value.hint.startswith("Nothing of it was applied; correct the statement.")
    assert caught.value.hint.endswith("Then run the same command again.")
    assert rows(main, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("notes",)]
    file.write_text("CREATE TABLE more (id int);")
    assert apply(main, folder)[0] == {"0002_more.sql": 1, "0003_last.sql": 1}
    file.write_text("CREATE TABLE more (id bigint);")
    with pytest.raises(AppError, match=r"0002_more\.sql was changed after it was applied"):
        apply(main, folder)


def test_one_migrates_at_a_time(main, folder):
    with psycopg.connect(main.admin) as other:  # in a transaction, as another one that migrates
        other.execute("SELECT pg_advisory_xact_lock(hashtext('headway.migrate'))")
        with pytest.raises(Conflict, match="database main is being migrated already"):
            apply(main, folder)
    assert apply(main, folder)[0] == {"0001_notes.sql": 1}


def test_neither_backup_nor_restore_meets_a_migration(main, folder, tmp_path_factory):
    place, stop = tmp_path_factory.mktemp("backup") / "b", threading.Event()

    def restore() -> None:
        restore_plain("main", main.admin, place, replace=True, say=lambda _line: None, stop=stop)

    apply(main, folder)
    take_plain("shop", "main", main.admin, place, say=lambda _line: None, stop=stop)
    with psycopg.connect(main.admin) as other:  # as one that is at work
        other.execute("SELECT pg_advisory_xact_lock_shared(hashtext('headway.backup'))")
        with pytest.raises(Conflict, match="the migration has to wait: a backup of the database is being taken"):
            apply(main, folder)
    with targets("main", (main,)):
        with pytest.raises(Conflict, match="the backup has to wait: main is being migrated"):
            take_plain("shop", "main", main.admin, place.with_name("c"), say=lambda _line: None, stop=stop)
        with pytest.raises(Conflict, match="the restore has to wait: main is being migrated"):
            restore()
    (folder / "0002_more.sql").write_text("CREATE TABLE more (id int);")
    assert apply(main, folder)[0] == {"0002_more.sql": 1}
    restore()  # with the ledger as it was then
    assert rows(main, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("notes",)]
    assert apply(main, folder)[0] == {"0002_more.sql": 1}


def test_a_migration_right_after_a_backup_or_a_restore_is_not_refused(main, folder, tmp_path_factory, monkeypatch):
    """Their connections end a moment later, and a server that is busy is late to see that."""
    place, stop, ending = tmp_path_factory.mktemp("backup") / "b", threading.Event(), []

    def late(conninfo: str, name: str) -> contextlib.nullcontext[Connection]:
        ending.append(connect(conninfo, name))
        return contextlib.nullcontext(ending[-1])

    for module in ("take", "restore_plain"):
        monkeypatch.setattr(f"headway.sharding.backup.{module}.connect", late)
    take_plain("shop", "main", main.admin, place, say=lambda _line: None, stop=stop)
    assert apply(main, folder)[0] == {"0001_notes.sql": 1}
    restore_plain("main", main.admin, place, replace=True, say=lambda _line: None, stop=stop)
    assert apply(main, folder)[0] == {"0001_notes.sql": 1}
    for connection in ending:
        connection.close()


def test_who_may_create_no_schema_has_the_ledger_beside_the_tables(main, folder):
    name = main.database
    with psycopg.connect(main.admin, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {main.role} IN DATABASE {name} SET search_path = place")  # type: ignore[call-overload]
        connection.execute("CREATE SCHEMA place")
        connection.execute(f"REVOKE CREATE ON DATABASE {name} FROM {main.role}")  # type: ignore[call-overload]
    assert apply(main, folder)[0] == {"0001_notes.sql": 1}
    found = rows(main, "SELECT schemaname, tablename FROM pg_tables WHERE tableowner = current_user ORDER BY 2")
    assert found == [("place", "headway_ledger"), ("place", "notes")]
    assert apply(main, folder) == ({}, [])


def test_files_that_were_applied_without_headway_are_recorded_and_those_behind_them_applied(main, folder):
    (folder / "0002_more.sql").write_text("ALTER TABLE notes ADD COLUMN more text;")
    (folder / "0003_last.sql").write_text("CREATE TABLE last (id int);")
    with pytest.raises(AppError, match="database main holds no table: no migration was applied to it"):
        apply(main, folder, stamp="0001_notes.sql")
    rows(main, "CREATE TABLE notes (id int PRIMARY KEY, more text)")
    with pytest.raises(AppError, match='relation "notes" already exists') as caught:
        apply(main, folder)
    assert "? headway db migrate main --stamp 0001_notes.sql records that." in caught.value.hint
    for name in ("0009_nix.sql", "nix", "9", ""):
        with pytest.raises(AppError, match=f"there is no migration {name}") as caught:
            apply(main, folder, stamp=name)
        assert caught.value.hint == "There is 0001_notes.sql, 0002_more.sql, 0003_last.sql, and head for all."
    both = {"0001_notes.sql": 1, "0002_more.sql": 1}
    assert apply(main, folder, stamp="0002_more.sql", dry_run=True) == (both, [*both])
    assert apply(main, folder, stamp="2")[0] == both
    assert apply(main, folder, stamp="0002_more") == ({}, [])
    assert apply(main, folder)[0] == {"0003_last.sql": 1}
    assert apply(main, folder, stamp="head") == ({}, [])
    (folder / "0001_notes.sql").write_text("CREATE TABLE notes (id bigint PRIMARY KEY);")
    with pytest.raises(AppError, match="was changed after it was applied"):
        apply(main, folder, stamp="head")


# -- Alembic ----------------------------------------------------------------------------------------------------------

SETS = """
import os
config.set_main_option("sqlalchemy.url", os.environ["URL"].replace("postgresql:", "postgresql+psycopg:"))
"""


@pytest.mark.parametrize("template", ["generic", "async"])
def test_the_apps_revisions_bring_it_to_the_head(main, template, tmp_path):
    app = App(tmp_path, template)
    app.revision("aa01", NOTES)
    assert app.migrate(main, dry_run=True) == ({"aa01": 1}, ["aa01"])
    assert app.migrate(main) == ({"aa01": 1}, ["Alembic: done"])
    assert rows(main, "SELECT version_num FROM public.alembic_version") == [("aa01",)]
    assert rows(main, "SELECT FROM pg_tables WHERE tablename LIKE 'headway%'") == []  # its own table says all
    assert app.migrate(main) == ({}, [])
    file = app.revision("aa02", 'op.drop_column("notes", "nix")')
    with pytest.raises(AppError) as caught:
        app.migrate(main)
    told = 'database main: upgrade aa01 -> aa02: column "nix" of relation "notes" does not exist'
    assert caught.value.message.startswith(told)
    file.unlink()


def test_an_env_py_that_takes_the_address_from_the_environment_is_right_where_it_is_this_one(main, tmp_path, engines):
    app = App(tmp_path, "generic")
    app.revision("aa01", NOTES)
    env = tmp_path / "migrations" / "env.py"
    env.write_text(env.read_text().replace("config = context.config\n", f"config = context.config\n{SETS}", 1))
    other = main.admin.replace(main.database, "postgres")
    with pytest.raises(AppError, match=r"env\.py connects to another place"):
        app.migrate(main, URL=other)
    assert rows(main, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []
    assert app.migrate(main, URL=main.admin)[0] == {"aa01": 1}
    assert rows(main, "SELECT tablename FROM pg_tables WHERE tablename = 'notes'") == [("notes",)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("template", ["generic", "async"])
@pytest.mark.parametrize("schema", [None, "shop"])
def test_the_version_table_is_the_one_that_env_py_names(main, template, schema, tmp_path):
    app = App(tmp_path, template)
    app.revision("aa01", NOTES)
    if schema is not None:
        rows(main, f"CREATE SCHEMA {schema}")
    env = tmp_path / "migrations" / "env.py"
    told = f'connection=connection, version_table="my_" + "versions", version_table_schema={schema!r},'
    env.write_text(env.read_text().replace("connection=connection,", told))
    assert app.migrate(main, dry_run=True) == ({"aa01": 1}, ["aa01"])
    assert rows(main, "SELECT FROM pg_tables WHERE schemaname IN ('public', 'shop')") == []
    rows(main, f"CREATE TABLE {schema or 'public'}.my_versions (version_num varchar(32) PRIMARY KEY)")
    with pytest.raises(AppError, match="database main holds no table"):
        app.migrate(main, stamp="head")
    assert app.migrate(main)[0] == {"aa01": 1}
    assert rows(main, f"SELECT version_num FROM {schema or 'public'}.my_versions") == [("aa01",)]
    assert rows(main, "SELECT to_regclass('alembic_version')::text") == [(None,)]
    assert app.migrate(main) == ({}, [])
    app.revision("aa02", 'op.add_column("notes", sa.Column("more", sa.Text))')
    assert app.migrate(main, stamp="head")[0] == {"aa02": 1}
    assert app.migrate(main) == ({}, [])
    env.write_text(env.read_text() + "raise ValueError('no way')\n")
    with pytest.raises(AppError, match=r"migrations\.alembic: no way") as caught:
        app.migrate(main)
    assert "; alembic current" in caught.value.hint


def test_revisions_that_were_applied_without_headway_are_recorded(main, tmp_path):
    app = App(tmp_path, "generic")
    app.revision("aa01", NOTES)
    app.revision("aa02", 'op.add_column("notes", sa.Column("more", sa.Text))')
    app.revision("aa03", 'op.create_table("last", sa.Column("id", sa.Integer))')
    with pytest.raises(AppError, match="database main holds no table"):
        app.migrate(main, stamp="head")
    rows(main, "CREATE TABLE notes (id int PRIMARY KEY, more text)")
    with pytest.raises(AppError, match='relation "notes" already exists') as caught:
        app.migrate(main)
    assert "? headway db migrate main --stamp aa01 records that." in caught.value.hint
    with pytest.raises(AppError, match="there is no revision aa0") as caught:
        app.migrate(main, stamp="aa0")  # which could be three
    assert caught.value.hint == "There is aa01, aa02, aa03, and head for the last one."
    assert app.migrate(main, stamp="aa02", dry_run=True) == ({"aa01": 1, "aa02": 1}, ["aa01", "aa02"])
    assert rows(main, "SELECT to_regclass('alembic_version')::text") == [(None,)]
    assert app.migrate(main, stamp="aa02")[0] == {"aa01": 1, "aa02": 1}
    assert app.migrate(main, stamp="aa01") == ({}, [])  # it is past that
    assert app.migrate(main)[0] == {"aa03": 1}
    assert rows(main, "SELECT version_num FROM alembic_version") == [("aa03",)]


# -- Django -----------------------------------------------------------------------------------------------------------


def test_a_projects_migrations_are_applied_by_the_alias_that_leads_there_signals_and_all(main, site):
    applied, lines = by_django(main, site, main.admin, dry_run=True)
    assert applied["news.0001_initial"] == applied["auth.0001_initial"] == 1
    assert any(line.strip().startswith('CREATE TABLE "news_entry"') for line in lines)
    assert rows(main, "SELECT FROM pg_tables WHERE schemaname = 'public'") == []
    assert by_django(main, site, main.admin) == (applied, ["Django: done"])
    made = "SELECT count(*) FROM auth_permission WHERE codename = 'add_entry'"  # by post_migrate
    assert rows(main, made) == [(1,)]
    assert by_django(main, site, main.admin) == ({}, [])
    bad = site / "news" / "migrations" / "0002_bad.py"
    bad.write_text(
        "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        '    dependencies = [("news", "0001_initial")]\n    operations = [migrations.RunSQL("SELECT nix")]\n'
    )
    try:
        with pytest.raises(AppError) as caught:
            by_django(main, site, main.admin)
    finally:
        bad.unlink()
    assert caught.value.message.startswith('database main: news.0002_bad: column "nix" does not exist')


def test_settings_without_an_alias_that_leads_there_are_refused(main, site):
    other = main.admin.replace(main.database, "postgres")
    with pytest.raises(AppError) as caught:
        by_django(main, site, other)
    assert caught.value.message.endswith(
        "no alias of the settings leads to database main (default is sqlite; rows is another one)"
    )
    assert 'DATABASE_URL = "{main.url}"' in caught.value.hint


def test_a_projects_migrations_that_were_applied_without_headway_are_recorded(main, site):
    with pytest.raises(AppError, match="database main holds no table"):
        by_django(main, site, main.admin, stamp="news")
    rows(main, "CREATE TABLE news_entry (id bigint PRIMARY KEY, text text NOT NULL)")
    with pytest.raises(AppError, match='relation "news_entry" already exists') as caught:
        by_django(main, site, main.admin)
    assert "? headway db migrate main --stamp news.0001_initial records that." in caught.value.hint
    for name in ("news.0009_nix", "nix", "nix.0001_initial"):
        with pytest.raises(AppError, match=f"there is no migration {name}") as caught:
            by_django(main, site, main.admin, stamp=name)
        assert caught.value.hint.startswith("Write APP.NAME, as of ")
    one = {"news.0001_initial": 1}
    assert by_django(main, site, main.admin, stamp="news", dry_run=True) == (one, ["news.0001_initial"])
    assert by_django(main, site, main.admin, stamp="news.0001_initial")[0] == one
    assert by_django(main, site, main.admin, stamp="news") == ({}, [])
    by_django(main, site, main.admin)
    assert by_django(main, site, main.admin, stamp="head") == ({}, [])
