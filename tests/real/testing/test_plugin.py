"""`headway.testing` as an app's tests have it: pytest in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from harness import die_with_parent, wait_for

pytestmark = pytest.mark.timeout(600)  # a run of pytest within, some twice
DECLARATION = """
[system]
name = "shop"
[services.web]
app = "shop:app"
uses = ["main", "orders"]
env = { DATABASE_URL = "{main.url}", GREETING = "hello" }
[databases.main]
schema = "schema.sql"
migrations = { sql = "main" }
[databases.orders]
shards = 4
servers = { a = "postgresql://nobody@db.example.com/real" }
keys = { orders = "customer_id" }
reference = ["countries"]
schema = "orders.sql"
"""
ORDERS = """
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('ch');
CREATE TABLE orders (customer_id bigint, id bigint, country text REFERENCES countries, PRIMARY KEY (customer_id, id));
"""
TESTS = """
import asyncio, os
import psycopg
import pytest
from headway import database
from headway.errors import WrongShard

orders = database("orders")  # as an app does when it is imported
URL = os.environ["DATABASE_URL"]

@pytest.mark.parametrize("customer", range(3))
def test_each_has_its_own_rows(databases, customer):
    assert databases["main"] == URL
    assert os.environ["GREETING"] == "hello"
    with psycopg.connect(URL, autocommit=True) as connection:
        assert connection.execute("INSERT INTO users (id, more) VALUES (1, 'x') RETURNING id").fetchone() == (1,)
    with orders.sync.at(customer) as connection:
        connection.execute("INSERT INTO orders VALUES (%s, 1, 'ch')", (customer,))

    async def count():
        return (await orders.everywhere("SELECT count(*) AS n FROM orders"))[0]["n"]

    assert asyncio.run(count()) == 1

def test_rows_are_held_to_their_shards(databases):
    with pytest.raises(WrongShard), orders.sync.at(1) as connection:
        connection.execute("INSERT INTO orders SELECT n, 1, 'ch' FROM generate_series(1, 20) n")
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "headway.toml").write_text(DECLARATION)
    (tmp_path / "schema.sql").write_text("CREATE TABLE users (id int PRIMARY KEY);")
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "0001_more.sql").write_text("ALTER TABLE users ADD COLUMN more text;")
    (tmp_path / "orders.sql").write_text(ORDERS)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["headway.testing"]\n')
    (tmp_path / "test_app.py").write_text(TESTS)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def run(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=app, env=environ(), capture_output=True, text=True, timeout=250, check=False)


def environ() -> dict[str, str]:
    """Without what the tests that run this have of xdist and of pytest."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HEADWAY"))}


def names(family: list[psutil.Process]) -> list[str]:
    """Of those that live: one may have done its work since."""
    found = []
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(each.name())
    return sorted(found)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_each_test_has_the_declared_databases_anew(app, arguments):
    done = run(app, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_its_server_ends_with_a_killed_run(app):
    (app / "test_app.py").write_text(
        "import os, time\ndef test_hold(databases):\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    log = app / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(command, cwd=app, env=environ(), stdout=out, preexec_fn=die_with_parent)
    wait_for(lambda: re.search(r"^\d+$", log.read_text(), re.MULTILINE), 200, "the test is at work")
    family = psutil.Process(child.pid).children(recursive=True)
    assert "postgres" in names(family)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    wait_for(lambda: not any(each.is_running() for each in family), 60, "PostgreSQL has ended")


def test_what_is_wrong_is_said_in_a_line_and_a_hint(app):
    (app / "schema.sql").write_text("CREATE TABEL users (id int);")
    done = run(app)
    assert done.returncode == 4
    assert "schema.sql" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    (app / "headway.toml").unlink()
    done = run(app)
    assert done.returncode == 4
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_costs_nothing_where_it_is_not_named(app):
    (app / "conftest.py").write_text("")
    (app / "test_app.py").write_text("import sys\ndef test_it(): assert 'headway.testing' not in sys.modules\n")
    (app / "headway.toml").unlink()
    assert run(app).returncode == 0


def test_tables_come_from_the_apps_alembic_where_it_is_declared(app):
    text = DECLARATION.replace(
        'reference = ["countries"]\nschema = "orders.sql"', 'migrations = { alembic = "alembic.ini" }'
    )
    (app / "headway.toml").write_text(text)
    command = [sys.executable, "-m", "alembic", "init", "migrations"]
    subprocess.run(command, cwd=app, check=True, capture_output=True)
    (app / "migrations" / "versions" / "aa01.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = 'aa01', None\n"
        "def upgrade():\n    op.create_table('orders', sa.Column('customer_id', sa.BigInteger, primary_key=True))\n"
    )
    (app / "test_app.py").write_text(
        "from headway import database\norders = database('orders')\n"
        "def test_it(databases):\n    with orders.sync.at(4) as connection:\n"
        "        connection.execute('INSERT INTO orders VALUES (4)')\n"
    )
    done = run(app)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_they_come_from_a_django_projects_migrations_where_those_are_declared(app):
    text = DECLARATION.replace(
        'reference = ["countries"]\nschema = "orders.sql"', 'migrations = { django = "manage.py" }'
    ).replace('schema = "schema.sql"\nmigrations = { sql = "main" }', 'migrations = { django = "manage.py" }')
    (app / "headway.toml").write_text(text)
    subprocess.run([sys.executable, "-m", "django", "startproject", "config", "."], cwd=app, check=True)
    settings = app / "config" / "settings.py"
    engine = "headway.sharding.client.django_backend"
    settings.write_text(
        f'{settings.read_text()}INSTALLED_APPS += ["sales"]\n'
        f'DATABASES["default"] = {{"ENGINE": "{engine}", "NAME": "main"}}\n'
        f'DATABASES["orders"] = {{"ENGINE": "{engine}", "NAME": "orders"}}\n'
        'DATABASE_ROUTERS = ["headway.sharding.client.django.ShardRouter"]\n'
    )
    (app / "sales" / "migrations").mkdir(parents=True)
    (app / "sales" / "__init__.py").touch()
    (app / "sales" / "migrations" / "__init__.py").touch()
    (app / "sales" / "models.py").write_text(
        "from django.db import models\nclass Order(models.Model):\n"
        "    customer_id = models.BigIntegerField(primary_key=True)\n    class Meta:\n        db_table = 'orders'\n"
    )
    subprocess.run([sys.executable, "manage.py", "makemigrations", "sales", "-v0"], cwd=app, env=environ(), check=True)
    (app / "test_app.py").write_text(
        "from headway import database\norders, main = database('orders'), database('main')\n"
        "def test_it(databases):\n    with orders.sync.at(4) as connection:\n"
        "        connection.execute('INSERT INTO orders VALUES (4)')\n"
        "    with main.sync.at() as connection:\n"
        "        assert connection.execute('SELECT count(*) > 0 FROM auth_permission').fetchone() == (True,)\n"
    )
    done = run(app)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


CACHED = """
[system]
name = "shop"
[services.web]
app = "shop:app"
uses = ["hot"]
env = { REDIS_URL = "{hot.url}" }
[caches.hot]
memory_max = "16MiB"
[caches.far]
url = "redis://cache.example.com:6379"
"""
CACHED_TESTS = """
import asyncio, os
import pytest
from headway import cache

hot = cache("hot")  # as an app does when it is imported
asked = []

@hot.cached(ttl=60, tags=["all"])
def plain(number: int) -> int:
    asked.append(number)
    return number

@hot.cached(ttl=60, tags=["all"])
async def product(number: int) -> int:
    asked.append(number)
    return number

@pytest.mark.parametrize("turn", range(5))
def test_each_begins_with_an_empty_cache(turn):
    asked.clear()
    for _ in range(3):
        assert plain(7) == 7
    assert asked == [7]
    assert hot.sync.get("named") is None
    hot.sync.set("named", turn, ttl=60)
    assert hot.sync.get("named") == turn

    async def run():
        assert await asyncio.gather(*(product(8) for _ in range(10))) == [8] * 10

    asyncio.run(run())
    assert asked == [7, 8]
    hot.sync.invalidate("all")
    asyncio.run(run())
    assert asked == [7, 8, 8]

def test_their_urls_are_told(caches):
    assert os.environ["REDIS_URL"] == caches["hot"]
    assert set(caches) == {"hot", "far"}
    assert all(url.startswith("unix://") for url in caches.values()), "never the real ones"
    cache("far")
"""


def cached(app: Path) -> Path:
    (app / "headway.toml").write_text(CACHED)
    (app / "test_app.py").write_text(CACHED_TESTS)
    return app


@pytest.mark.parametrize("arguments", [("-W", "error::pytest.PytestUnhandledThreadExceptionWarning"), ("-n", "2")])
def test_each_test_has_the_declared_caches_empty(app, arguments):
    done = run(cached(app), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert "Task was destroyed" not in done.stderr


def test_the_servers_of_caches_end_with_a_killed_run_and_there_is_no_other(app):
    (cached(app) / "test_app.py").write_text(
        "import os, time\ndef test_hold():\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    log = app / "log"
    with log.open("wb") as out:
        child = subprocess.Popen(command, cwd=app, env=environ(), stdout=out, preexec_fn=die_with_parent)
    wait_for(lambda: re.search(r"^\d+$", log.read_text(), re.MULTILINE), 200, "the test is at work")
    family = psutil.Process(child.pid).children(recursive=True)
    assert names(family) == ["valkey-server", "valkey-server"], "no database is declared"
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    wait_for(lambda: not any(each.is_running() for each in family), 60, "they have ended")
