"""What `headway up` says of a running system that is behind: source edited since, migrations that were not applied."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from harness import Running, wait_for

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"version 1"})
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 2
uses = ["main"]
[databases.main]
migrations = { sql = "migrations" }
"""
EDITED = "note: web runs source from before hello.py was edited; what is there now: headway reload\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(APP)
    (tmp_path / "migrations").mkdir()
    return tmp_path


def answer(system: Running) -> bytes:
    with urllib.request.urlopen(system.url, timeout=30) as answered:
        body: bytes = answered.read()
    return body


def test_edited_source_and_migrations_are_told_with_what_brings_them_in(folder: Path) -> None:
    (folder / "migrations" / "0001_notes.sql").write_text("CREATE TABLE notes (id int);")
    with Running(folder, DECLARATION, detached=True) as system:
        lacking = "note: main lacks 1 of 1 migration: headway db migrate main\n"
        assert system.run("up").stderr == f"nothing changed\n{lacking}"
        (folder / "hello.py").write_text(APP.replace("version 1", "version 2"))
        assert system.run("up").stderr == f"nothing changed\n{EDITED}{lacking}"
        assert answer(system) == b"version 1"

        before = {system.pid(one["name"]) for one in system.replicas()}
        assert system.ok("reload") == "web: 2 replicas replaced\n"
        assert {answer(system) for _ in range(8)} == {b"version 2"}
        assert not before & {system.pid(one["name"]) for one in system.replicas()}
        system.ok("db", "migrate", "main")
        assert system.run("up").stderr == "nothing changed\n"


def test_a_migration_that_cannot_be_read_keeps_nobody_from_starting(folder: Path) -> None:
    (folder / "migrations" / "first.sql").write_text("SELECT 1;")
    with Running(folder, DECLARATION, detached=True) as system:
        done = system.run("up")
        assert done.returncode == 0
        assert (
            "note: whether main lacks migrations is not known: databases.main.migrations.sql: first.sql" in done.stderr
        )


def test_source_that_does_not_start_leaves_what_ran_and_is_taken_once_it_is_mended(folder: Path) -> None:
    with Running(folder, DECLARATION, detached=True) as system:
        (folder / "hello.py").write_text("oops(")
        done = system.run("reload")
        assert (done.returncode, done.stdout) == (1, "")
        assert " does not start: importing hello failed: SyntaxError" in done.stderr
        assert "\nhint: headway logs web." in done.stderr
        assert answer(system) == b"version 1"
        (folder / "hello.py").write_text(APP.replace("version 1", "version 3"))
        wait_for(lambda: {answer(system) for _ in range(8)} == {b"version 3"}, 60, "the mended source is taken up")
