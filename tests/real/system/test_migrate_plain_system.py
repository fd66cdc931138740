"""Plain databases whose tables come from migrations: by files, by the app's Alembic, and into shards afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from harness import Running, wait_for

from headway.sharding import settings

APP = """
import os
import psycopg
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

def count(request):
    with psycopg.connect(os.environ["MAIN_URL"]) as main, psycopg.connect(os.environ["STOCK_URL"]) as stock:
        orders = main.execute("SELECT count(*) FROM orders").fetchone()
        return JSONResponse([orders[0], stock.execute("SELECT count(*) FROM items").fetchone()[0]])

app = Starlette(routes=[Route("/count", count)])
"""
DECLARATION = """
[system]
name = "plain"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "plain:app"
routes = ["/"]
replicas = 1
env = { MAIN_URL = "{main.url}", STOCK_URL = "{stock.url}" }
[databases.main]
schema = "schema.sql"
migrations = { sql = "migrations" }
[databases.stock]
migrations = { alembic = "alembic.ini" }
[databases.bare]
[databases.orders]
shards = 4
keys = { orders = "customer_id" }
schema = "shards.sql"
"""
ORDERS = "CREATE TABLE orders (customer_id bigint, id bigint, note text, PRIMARY KEY (customer_id, id));"
REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = {id!r}, {before!r}, None, None
def upgrade():
    {body}
"""
ITEMS = 'op.create_table("items", sa.Column("id", sa.Integer, primary_key=True))'
ENV = """config = context.config
import os
config.set_main_option("sqlalchemy.url", os.environ["STOCK_URL"].replace("postgresql:", "postgresql+psycopg:"))
"""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "plain.py").write_text(APP)
    (tmp_path / "schema.sql").write_text("CREATE TABLE visits (id int);")
    (tmp_path / "shards.sql").write_text(ORDERS)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_orders.sql").write_text(ORDERS)
    (tmp_path / "migrations" / "0002_rows.sql").write_text(
        "INSERT INTO orders SELECT n, 1, 'x' FROM generate_series(1, 50) n;"
    )
    command = [sys.executable, "-m", "alembic", "init", "versions_of_stock"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "versions_of_stock" / "versions" / "aa01.py").write_text(
        REVISION.format(id="aa01", before=None, body=ITEMS)
    )
    env = tmp_path / "versions_of_stock" / "env.py"
    env.write_text(env.read_text().replace("config = context.config\n", ENV, 1))  # as apps have it
    with Running(tmp_path, DECLARATION, detached=True) as running:
        yield running


def test_they_get_their_tables_and_go_into_shards_without_what_says_so(system):
    assert system.ok("db", "migrate", "main", "--dry-run").splitlines() == [
        "0001_orders.sql",
        "0002_rows.sql",
        "2 of 2 migrations would be applied to main",
    ]
    done = json.loads(system.ok("db", "migrate", "main", "--json").splitlines()[-1])
    applied = {"0001_orders.sql": 1, "0002_rows.sql": 1}
    assert done == {"applied": applied, "files": 2, "shards": 0, "dry_run": False}
    assert system.ok("db", "migrate", "main") == "nothing to apply: main has all 2 migrations\n"
    assert "1 of 1 migration applied to stock" in system.ok("db", "migrate", "stock")
    assert system.ok("db", "migrate", "stock") == "nothing to apply: stock has all 1 migrations\n"
    assert httpx.get(f"{system.url}/count", timeout=30).json() == [50, 0]
    told = [entry["reason"] for entry in system.journal() if entry["what"] == "migrated"]
    assert told == ["0001_orders.sql, 0002_rows.sql", "aa01"]

    refused = system.run("db", "migrate", "bare")
    assert refused.returncode == 1
    assert "error: database bare declares no migrations" in refused.stderr
    (system.folder / "migrations" / "0003_bad.sql").write_text("ALTER TABLE orders ADD COLUMN nix nix;")
    refused = system.run("db", "migrate", "main")
    assert refused.returncode == 1
    assert 'error: database main: 0003_bad.sql:1: type "nix" does not exist' in refused.stderr
    (system.folder / "migrations" / "0003_bad.sql").unlink()

    (system.folder / "migrations" / "0003_more.sql").write_text("CREATE TABLE orders (id int);")
    refused = system.run("db", "migrate", "main")
    assert "headway db migrate main --stamp 0003_more.sql records that" in refused.stderr
    refused = system.run("db", "migrate", "main", "--stamp", "0009_nix.sql")
    assert refused.returncode == 1
    assert "error: there is no migration 0009_nix.sql" in refused.stderr
    assert "hint: There is 0001_orders.sql, 0002_rows.sql, 0003_more.sql, and head for all." in refused.stderr
    done = json.loads(system.ok("db", "migrate", "main", "--stamp", "0003_more.sql", "--json").splitlines()[-1])
    assert done == {"stamped": {"0003_more.sql": 1}, "files": 3, "shards": 0, "dry_run": False}
    said = system.ok("db", "migrate", "main", "--stamp", "head")
    assert said == "nothing to record: all up to head are recorded as applied to main\n"
    assert [entry["reason"] for entry in system.journal() if entry["what"] == "stamped"] == ["0003_more.sql"]

    said = system.ok("db", "import", "orders", "--from", "main")
    assert "importing orders: about 50 rows\n" in said  # which nobody has analyzed
    assert "left alone, for they are not declared: visits\n" in said
    (system.folder / "migrations" / "0004_more.sql").write_text("ALTER TABLE orders ADD COLUMN more text;")
    refused = system.run("db", "migrate", "main")
    assert refused.returncode == 1
    assert "the migration has to wait: orders is being imported from main" in refused.stderr
    assert "1 of 4 migrations would be applied to main" in system.ok("db", "migrate", "main", "--dry-run")
    switched = json.loads(system.ok("db", "import", "orders", "--switch", "--json").splitlines()[-1])
    assert (switched["rows"], switched["verified"]) == (50, True)
    assert json.loads(system.ok("db", "verify", "orders", "--json"))["complete"]


@contextlib.contextmanager
def admin(system: Running, database: str) -> Iterator[psycopg.Connection[Any]]:
    """The superuser's connection."""
    record = json.loads((system.state / "databases" / f"{database}.json").read_text())
    told = (Path(record["data_folder"]) / "postmaster.pid").read_text().splitlines()
    with psycopg.connect(
        host=told[4], port=told[3], user=settings.SUPERUSER, dbname=database, autocommit=True
    ) as connection:
        yield connection


WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
    "AND query LIKE '%gate%'"
)
LACKING = {"main": "0003_half.sql", "stock": "aa02"}


def test_a_controller_that_is_killed_in_the_middle_has_left_nothing_half_done(system):
    for name in LACKING:
        system.ok("db", "migrate", name)
    (system.folder / "migrations" / "0003_half.sql").write_text("CREATE TABLE half (id int);\nSELECT FROM gate;")
    body = 'op.create_table("half", sa.Column("id", sa.Integer)); op.execute("SELECT FROM gate")'
    more = REVISION.format(id="aa02", before="aa01", body=body)
    (system.folder / "versions_of_stock" / "versions" / "aa02.py").write_text(more)
    with contextlib.ExitStack() as stack:
        at, holding = ({name: stack.enter_context(admin(system, name)) for name in LACKING} for _ in range(2))
        for one in holding.values():
            one.execute("CREATE TABLE gate (); GRANT SELECT ON gate TO PUBLIC")
            one.execute("BEGIN; LOCK TABLE gate")
        with ThreadPoolExecutor(len(LACKING)) as pool:
            commands = [pool.submit(system.run, "db", "migrate", name, timeout_s=120) for name in LACKING]
            for name, one in at.items():
                wait_for(lambda one=one: one.execute(WAITING).fetchone() == (1,), 60, f"{name} waits in the middle")
            pid = system.pid("controller")
            os.kill(pid, signal.SIGKILL)
            told = [command.result() for command in commands]
        assert [one.returncode for one in told] == [1, 1]
        assert all("error: " in one.stderr and "hint: " in one.stderr for one in told), told
        for name, one in at.items():  # though the lock is held on: nobody waits for it any more
            wait_for(lambda one=one: one.execute(WAITING).fetchone() == (0,), 60, f"the session in {name} ends")
            holding[name].execute("COMMIT")
        wait_for(lambda: (system.quick_status() or {}).get("state") == "ready", 60, "another controller")
        for name, one in at.items():
            assert one.execute("SELECT to_regclass('half')").fetchone() == (None,)
            assert LACKING[name] in system.ok("db", "migrate", name, "--dry-run")
            done = json.loads(system.ok("db", "migrate", name, "--json").splitlines()[-1])
            assert done["applied"] == {LACKING[name]: 1}
            assert one.execute("SELECT to_regclass('half')::text").fetchone() == ("half",)
            assert system.ok("db", "migrate", name).startswith("nothing to apply")
