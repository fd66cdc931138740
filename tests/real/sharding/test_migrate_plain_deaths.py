"""Who migrates a plain database is killed in the middle: ledger and tables agree, and the next run goes on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from plain_place import NOTES, App, apply, by_django, rows
from postgresql_place import die_with_parent, wait_for

from headway.errors import AppError, EngineError
from headway.sharding.admin import AdminServer

CHILD = """
import sys
from pathlib import Path
from headway.sharding.admin import AdminServer
from headway.sharding.alembic import Alembic, migrate_by_alembic
from headway.sharding.django import Django, migrate_by_django
from headway.sharding.migrating import migrate, read_folder
main, kind, place, env = AdminServer(**eval(sys.argv[1])), sys.argv[2], sys.argv[3], eval(sys.argv[4])
say = lambda line: None
if kind == "sql":
    migrate("main", read_folder(Path(place), "m"), (main,), say=say)
elif kind == "alembic":
    migrate_by_alembic("main", Alembic(place, sys.executable, "/", env), (main,), say=say)
else:
    migrate_by_django("main", Django(place, sys.executable, "/", env), (main,), keys={}, say=say)
"""
INDEX = "-- headway: no transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS found ON notes (id);"
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('found')"
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


@contextlib.contextmanager
def migrating(main: AdminServer, kind: str, place: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does so, as the controller would, and waits for a lock that the test holds."""
    # As it is on servers that somebody else runs.
    rows(main, f"ALTER DATABASE {main.database} SET client_connection_check_interval = 0")
    told = repr({name: getattr(main, name) for name in AdminServer.__slots__})
    arguments = [sys.executable, "-c", CHILD, told, kind, str(place), repr(tuple(env.items()))]
    child = subprocess.Popen(arguments, preexec_fn=die_with_parent())
    try:
        wait_for(lambda: rows(main, WAITING), "it waits in the middle", 60)
        yield child
    finally:
        child.kill()
        child.wait(30)


def kill(main: AdminServer, child: subprocess.Popen[bytes]) -> None:
    """By SIGKILL. What it was at ends, though the lock is held on: nobody waits for it any more."""
    family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    wait_for(lambda: not any(each.is_running() for each in family), "its tool ends as well", 30)
    wait_for(lambda: not rows(main, WAITING), "its sessions end", 30)


@contextlib.contextmanager
def holding(main: AdminServer, statement: str) -> Iterator[None]:
    with psycopg.connect(main.admin) as connection:
        connection.execute(statement.encode())
        yield
        connection.rollback()


def test_a_file_that_was_cut_off_has_left_nothing_and_is_applied_by_the_next_run(main, tmp_path):
    rows(main, "CREATE TABLE gate ()")
    (tmp_path / "0001_notes.sql").write_text("CREATE TABLE notes (id int);")
    (tmp_path / "0002_more.sql").write_text("CREATE TABLE more (id int);\nSELECT FROM gate;\nCREATE TABLE last ();")
    with holding(main, "LOCK TABLE gate"), migrating(main, "sql", tmp_path) as child:
        kill(main, child)
        assert rows(main, "SELECT name FROM headway.headway_ledger") == [("0001_notes.sql",)]
        assert rows(main, TABLES) == [("gate",), ("notes",)]
    assert apply(main, tmp_path)[0] == {"0002_more.sql": 1}
    assert rows(main, TABLES) == [("gate",), ("last",), ("more",), ("notes",)]


def test_an_index_whose_build_was_cut_off_is_built_by_the_next_run(main, tmp_path):
    (tmp_path / "0001_notes.sql").write_text("CREATE TABLE notes (id int);")
    apply(main, tmp_path)
    (tmp_path / "0002_index.sql").write_text(INDEX)
    with holding(main, "INSERT INTO notes VALUES (1)"), migrating(main, "sql", tmp_path) as child:
        kill(main, child)
        assert rows(main, VALID) == [(False,)]
        assert apply(main, tmp_path, dry_run=True)[0] == {"0002_index.sql": 1}
    assert apply(main, tmp_path)[0] == {"0002_index.sql": 1}
    assert rows(main, VALID) == [(True,)]
    names = "SELECT name FROM headway.headway_ledger ORDER BY 1"
    assert rows(main, names) == [("0001_notes.sql",), ("0002_index.sql",)]
    assert apply(main, tmp_path) == ({}, [])


@pytest.mark.parametrize(("statement", "done"), [("CREATE INDEX CONCURRENTLY {}", True), ("DROP INDEX {}", False)])
def test_what_was_done_outside_of_a_transaction_and_not_recorded_is_recorded_by_the_next_run(
    main,
    tmp_path,
    statement,
    done,
):
    (tmp_path / "0001_notes.sql").write_text("CREATE TABLE notes (id int);")
    rows(main, "CREATE TABLE notes (id int); CREATE INDEX found ON notes (id)")
    apply(main, tmp_path, stamp="head")
    text = "-- headway: no transaction\n" + statement.format("found ON notes (id)" if done else "found")
    (tmp_path / "0002_index.sql").write_text(text)
    if not done:
        rows(main, "DROP INDEX found")
    with pytest.raises(AppError, match="already exists" if done else "does not exist"):
        apply(main, tmp_path)  # nobody was cut off: it is told, again and again
    with pytest.raises(AppError, match="already exists" if done else "does not exist"):
        apply(main, tmp_path)
    # As a run leaves it that dies when it has done it.
    rows(main, "INSERT INTO headway.headway_ledger VALUES ('begun:0002_index.sql', '')")
    assert apply(main, tmp_path)[0] == {"0002_index.sql": 1}
    assert rows(main, "SELECT name FROM headway.headway_ledger WHERE name LIKE 'begun%'") == []
    assert rows(main, VALID) == ([(True,)] if done else [])
    assert apply(main, tmp_path) == ({}, [])


def test_an_index_that_is_refused_leaves_nothing_that_the_next_run_would_meet(main, tmp_path):
    (tmp_path / "0001_notes.sql").write_text("CREATE TABLE notes (id int);\nINSERT INTO notes VALUES (1), (1);")
    (tmp_path / "0002_index.sql").write_text(INDEX)
    with pytest.raises(AppError, match="could not create unique index"):
        apply(main, tmp_path)
    assert rows(main, VALID) == []
    rows(main, "DELETE FROM notes")
    assert apply(main, tmp_path)[0] == {"0002_index.sql": 1}
    assert rows(main, VALID) == [(True,)]


@pytest.mark.parametrize("killed", ["controller", "tool"])
def test_revisions_that_were_cut_off_are_applied_by_the_next_run(main, tmp_path, killed):
    rows(main, "CREATE TABLE gate ()")
    app = App(tmp_path, "generic")
    app.revision("aa01", NOTES)
    app.migrate(main)
    app.revision("aa02", 'op.add_column("notes", sa.Column("more", sa.Text)); op.execute("SELECT FROM gate")')
    with holding(main, "LOCK TABLE gate"):
        with migrating(main, "alembic", tmp_path / "alembic.ini") as child:
            if killed == "controller":
                kill(main, child)
            else:
                psutil.Process(child.pid).children()[0].kill()
                assert child.wait(60) != 0  # it tells so, and does not wait for what is gone
                wait_for(lambda: not rows(main, WAITING), "its session ends", 30)
        assert rows(main, "SELECT version_num FROM alembic_version") == [("aa01",)]
        assert rows(main, "SELECT FROM pg_attribute WHERE attrelid = 'notes'::regclass AND attname = 'more'") == []
    assert app.migrate(main)[0] == {"aa02": 1}
    assert rows(main, "SELECT version_num FROM alembic_version") == [("aa02",)]


LINKED = """
from django.db import migrations, models
class Migration(migrations.Migration):
    dependencies = [("news", "0001_initial")]
    operations = [migrations.CreateModel("Link", fields=[
        ("id", models.BigAutoField(primary_key=True)),
        ("entry", models.ForeignKey("news.entry", on_delete=models.CASCADE)),
    ])]
"""


def test_a_projects_migration_and_its_row_are_one_even_where_the_row_cannot_be_written(main, site):
    by_django(main, site, main.admin)
    file = site / "news" / "migrations" / "0002_link.py"
    file.write_text(LINKED)
    try:
        with (
            holding(main, "LOCK TABLE django_migrations IN EXCLUSIVE MODE"),
            migrating(main, "django", site / "manage.py", URL=main.admin) as child,
        ):
            kill(main, child)
            assert rows(main, "SELECT to_regclass('news_link')::text") == [(None,)]
        assert by_django(main, site, main.admin)[0] == {"news.0002_link": 1}
        assert rows(main, "SELECT to_regclass('news_link')::text") == [("news_link",)]
    finally:
        file.unlink()


def test_an_ended_tool_is_told(main, tmp_path):
    app = App(tmp_path, "generic")
    app.revision("aa01", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(EngineError, match="database main: Alembic's process ended by signal 9"):
        app.migrate(main)
