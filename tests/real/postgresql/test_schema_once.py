"""A schema file is applied exactly once, whatever is killed and whoever comes at the same time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import psutil
import psycopg
import pytest
from postgresql_place import Place, die_with_parent, stop, wait_for

from headway.errors import AppError, EngineError
from headway.sharding.postgresql import Server, ensure_database
from headway.sharding.schema import apply_schema_once

_numbers = count()


@pytest.fixture
def empty(served: tuple[Place, Server]) -> Server:
    """An empty database of its own on the shared server."""
    server = replace(served[1], database=f"empty_{next(_numbers)}", created=False)
    assert ensure_database(server)
    return server


@pytest.fixture
def files(served: tuple[Place, Server]) -> Iterator[Path]:
    folder = served[0].folder / "schemas"
    folder.mkdir(exist_ok=True)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def _tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        query = "SELECT format('%s.%s', schemaname, tablename) FROM pg_tables WHERE schemaname !~ '^(pg_|information)'"
        return {row[0] for row in connection.execute(query)}


def _file(files: Path, text: str) -> Path:
    file = files / "schema.sql"
    file.write_text(text)
    return file


def test_applied_once_by_the_apps_role_and_changes_are_told(empty: Server, files: Path) -> None:
    file = _file(files, "\ufeffCREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n")
    first = apply_schema_once(empty.url, file, empty.engine)
    assert (first.state, first.note) == ("applied", "")
    again = apply_schema_once(empty.url, file, empty.engine)
    assert (again.state, again.file_sha256) == ("unchanged", first.file_sha256)
    assert again.applied_at.endswith("UTC")
    changed = apply_schema_once(empty.url, _file(files, "CREATE TABLE b (id int);"), empty.engine)
    assert changed.state == "changed"
    assert "use a migration" in changed.note
    assert _tables(empty.url) == {"public.a", "headway.headway_schema"}
    with psycopg.connect(empty.url) as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (1,)
        assert connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'a'").fetchone() == (empty.role,)
        recorded = connection.execute("SELECT file_sha256, applied_at IS NOT NULL FROM headway.headway_schema")
        assert recorded.fetchall() == [(first.file_sha256, True)]


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("CREATE TABLE a (id int);\n\nCREATE TABEL b;\n", ":3: ", 'syntax error at or near "TABEL"', "CREATE TABEL b"),
        ("CREATE TABLE a (id int);\nINSERT INTO b VALUES (1);", ":2: ", 'relation "b" does not exist', "this line"),
        ("CREATE TABLE a (id int);\nVACUUM;\n", ":2: ", "cannot run inside a transaction block", "migration"),
        ("CREATE TABLE a (id int);\nROLLBACK;\n", ":2: ", "ROLLBACK", "out of the file"),
        ("CREATE TABLE a (id int);\nCREATE TABLE a (id int);\n", ":2: ", "already exists", "tables already"),
        ("CREATE TABLE a (id int);\n\\i missing.sql\n", ":2: ", "missing.sql: No such file", "this line"),
        ("CREATE TABLE a (id int);\nSELECT 'open", "", "unterminated", "Nothing of the file was applied"),
    ],
)
def test_a_wrong_file_is_refused_as_a_whole(
    empty: Server, files: Path, text: str, place: str, message: str, hint: str
) -> None:
    file = _file(files, text)
    with pytest.raises(AppError) as caught:
        apply_schema_once(empty.url, file, empty.engine, path="databases.main")
    assert caught.value.message.startswith(f"databases.main.schema: {file}{place}")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert _tables(empty.url) == set()
    assert apply_schema_once(empty.url, _file(files, "CREATE TABLE a ();"), empty.engine).state == "applied"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"SELECT '\xff';", "is not UTF-8")],
)
def test_a_file_that_cannot_be_read(empty: Server, files: Path, content: bytes | None, message: str) -> None:
    file = files / "schema.sql"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AppError, match=message) as caught:
        apply_schema_once(empty.url, file, empty.engine)
    assert caught.value.hint


def test_transactions_of_its_own_are_left_out_and_told(empty: Server, files: Path) -> None:
    text = "BEGIN;\nCREATE TABLE a (id int);\nCOMMIT;\nBEGIN;\nSELECT 1/0;\nCOMMIT;\n"
    with pytest.raises(AppError, match=r":5: division by zero"):
        apply_schema_once(empty.url, _file(files, text), empty.engine)
    assert _tables(empty.url) == set()
    outcome = apply_schema_once(empty.url, _file(files, text.replace("1/0", "1")), empty.engine)
    assert outcome.state == "applied"
    assert "line 1, 3, 4, 6" in outcome.note


def test_what_dumps_and_hand_written_files_hold(empty: Server, files: Path) -> None:
    (files / "more.sql").write_text("INSERT INTO shop.a VALUES (3, 'three');\n")
    file = _file(
        files,
        r"""
SET client_min_messages = warning;
SELECT pg_catalog.set_config('search_path', '', false);
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE SCHEMA shop;
CREATE TABLE shop.a (id int, name text);
COPY shop.a (id, name) FROM stdin;
1	one; COMMIT;
2	zwei äöü
\.
\ir more.sql
CREATE FUNCTION shop.f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$;
CREATE FUNCTION shop.g() RETURNS int BEGIN ATOMIC SELECT 2; END;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = shop', current_database()); END $$;
""",
    )
    assert apply_schema_once(empty.url, file, empty.engine).state == "applied"
    # Neither the search path that is now another one nor the dropped schema hides the record.
    assert apply_schema_once(empty.url, file, empty.engine).state == "unchanged"
    with psycopg.connect(empty.url) as connection:
        rows = connection.execute("SELECT id, name FROM a ORDER BY id").fetchall()
    assert rows == [(1, "one; COMMIT;"), (2, "zwei äöü"), (3, "three")]


def test_many_at_the_same_time(empty: Server, files: Path) -> None:
    file = _file(files, "CREATE TABLE a (id int); SELECT pg_sleep(0.2); INSERT INTO a VALUES (1);")
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(apply_schema_once, empty.url, file, empty.engine) for _ in range(4)]
        states = sorted(outcome.result().state for outcome in outcomes)
    assert states == ["applied", "unchanged", "unchanged", "unchanged"]


GATE = "SELECT pg_advisory_xact_lock(4711)"  # the test holds it, so that the file waits in its middle


_APPLY = """
import sys; from pathlib import Path
from headway.sharding.engine import find_postgresql; from headway.sharding.schema import apply_schema_once
apply_schema_once(sys.stdin.read(), Path(sys.argv[1]), find_postgresql())
"""


def _begin_to_apply(server: Server, file: Path) -> subprocess.Popen[bytes]:
    """A process that applies a file which sleeps in its middle; returns when it is there."""
    child = subprocess.Popen(
        [sys.executable, "-c", _APPLY, str(file)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    assert child.stdin
    child.stdin.write(server.url.encode())
    child.stdin.close()
    with psycopg.connect(server.url, autocommit=True) as connection:
        query = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND wait_event IN ('PgSleep', 'advisory')"
        )
        wait_for(lambda: connection.execute(query).fetchone(), "the file in its middle")
    return child


@pytest.mark.parametrize(
    ("gate", "state"),
    [
        # psql has nothing to say and ends its work: the next one waits for it, and then has nothing to do.
        (f"DO 'BEGIN PERFORM {GATE.removeprefix('SELECT ')}; END'", "unchanged"),
        # psql finds nobody to tell the result and dies: nothing was applied, the next one does it.
        (GATE, "applied"),
    ],
)
def test_who_applies_is_killed_and_psql_is_left_alone(empty: Server, files: Path, gate: str, state: str) -> None:
    file = _file(files, f"CREATE TABLE a (id int);\n{gate};\nINSERT INTO a VALUES (1);\n")
    with psycopg.connect(empty.url) as keeper:
        keeper.execute(GATE)
        child = _begin_to_apply(empty, file)
        child.kill()
        child.wait()
    assert apply_schema_once(empty.url, file, empty.engine).state == state
    with psycopg.connect(empty.url) as connection:
        assert connection.execute("SELECT count(*) FROM a").fetchone() == (1,)


def test_psql_is_killed_in_the_middle(empty: Server, files: Path) -> None:
    file = _file(files, "CREATE TABLE a (id int);\nSELECT pg_sleep(600);\n")
    child = _begin_to_apply(empty, file)
    for process in psutil.Process(child.pid).children(recursive=True):
        process.kill()
    assert child.wait(60) != 0
    # The server notices by itself that nobody waits for the answer any more, and gives up the lock.
    query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(6%' AND pid <> pg_backend_pid()"
    with psycopg.connect(empty.url, autocommit=True) as connection:
        wait_for(lambda: not connection.execute(query).fetchone(), "the orphaned statement to end")
    assert _tables(empty.url) == set()
    file.write_text("CREATE TABLE a (id int);\n")
    assert apply_schema_once(empty.url, file, empty.engine).state == "applied"


def test_the_server_is_killed_in_the_middle(place: Place) -> None:
    server, process = place.start()
    file = place.schema("CREATE TABLE a (id int);\nSELECT pg_sleep(600);\n")
    child = _begin_to_apply(server, file)
    process.kill()
    process.wait()
    assert child.wait(60) != 0
    server, process = place.start()
    assert _tables(server.url) == set()
    assert apply_schema_once(server.url, place.schema("CREATE TABLE a ();"), server.engine).state == "applied"
    stop(process)


def test_a_database_that_is_not_there(empty: Server, files: Path) -> None:
    with pytest.raises(EngineError, match=r'database "nothing" does not exist'):
        apply_schema_once(replace(empty, database="nothing").url, _file(files, "SELECT 1;"), empty.engine)


def test_tls_without_a_psql_that_knows_it(empty: Server, files: Path) -> None:
    with pytest.raises(EngineError) as caught:
        apply_schema_once(f"{empty.url}?sslmode=require", _file(files, "SELECT 1;"), empty.engine)
    assert "TLS" in caught.value.message or "SSL" in caught.value.message
    assert caught.value.hint


def test_a_role_without_the_right_to_create_schemas(empty: Server, files: Path) -> None:
    with psycopg.connect(empty.url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO public")
    other = replace(empty, role=f"guest_{next(_numbers)}")
    # Another role with another database of its own, let into this one.
    assert ensure_database(replace(other, database=f"{other.role}_own"))
    with psycopg.connect(empty.url, autocommit=True) as connection:
        connection.execute(f"GRANT CONNECT ON DATABASE {empty.database} TO {other.role}")
    file = _file(files, "CREATE TABLE a (id int);")
    assert apply_schema_once(other.url, file, empty.engine).state == "applied"
    assert apply_schema_once(other.url, file, empty.engine).state == "unchanged"
    assert _tables(empty.url) == {"public.a", "public.headway_schema"}
