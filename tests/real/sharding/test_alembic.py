"""The app's Alembic over shards on two real servers, with env.py as `alembic init` writes it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
from empty_servers import schemas
from postgresql_place import die_with_parent, wait_for

from headway.errors import AppError, Conflict, EngineError
from headway.model.sharding import ShardMap
from headway.sharding.admin import AdminServer, connect
from headway.sharding.alembic import Alembic, migrate_by_alembic, read_revisions, upgrade
from headway.sharding.catalog import read_map
from headway.sharding.keys import shard_of
from headway.sharding.move.record import insert_move
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout

SHARDS = 8
PATH = "databases.orders.migrations.alembic"
FILE = '''"""{title}"""

import sqlalchemy as sa
from alembic import op

revision = "{id}"
down_revision = {before}
branch_labels = None
depends_on = None


def upgrade():
    {body}


def downgrade():
    pass
'''
ORDERS = """op.create_table(
        "orders",
        sa.Column("customer", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.Enum("new", "sent", name="state"), nullable=False, server_default="new"),
    )"""


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `alembic init` writes, by template."""
    found = {}
    for name in ("generic", "async"):
        found[name] = tmp_path_factory.mktemp(name) / "app"
        found[name].mkdir()
        command = [sys.executable, "-m", "alembic", "init", "-t", name, "migrations"]
        subprocess.run(command, cwd=found[name], check=True, capture_output=True)
    return found


class App:
    """A folder with an alembic.ini, and what is written into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alembic = Alembic(str(folder / "alembic.ini"), sys.executable, str(folder))
        self._last = ""

    def revision(self, number: str, body: str, title: str = "", before: str | None = None) -> Path:
        """One more, after the last one."""
        before = self._last if before is None else before
        file = self.folder / "migrations" / "versions" / f"{number}.py"
        file.write_text(FILE.format(id=number, title=title, before=repr(before or None), body=body))
        self._last = number
        return file

    def tables_by(self, servers: Sequence[AdminServer], shards: Mapping[str, Sequence[int]]) -> None:
        upgrade("orders", self.alembic, servers, shards, say=lambda _: None)

    def lay_out(self, servers: tuple[AdminServer, ...], shards: int = SHARDS) -> ShardMap:
        wanted = Layout("shop", "orders", shards, {"orders": "customer"}, (), None)
        return lay_out(wanted, servers, tables_by=self.tables_by)[0]

    def migrate(
        self, servers: tuple[AdminServer, ...], *, dry_run: bool = False, stamp: str | None = None
    ) -> tuple[dict[str, int], list[str]]:
        lines: list[str] = []
        keys = {"orders": "customer"}
        done = migrate_by_alembic(
            "orders", self.alembic, servers, keys=keys, stamp=stamp, dry_run=dry_run, say=lines.append
        )
        assert done.shards == SHARDS
        return dict(done.applied), lines


@pytest.fixture
def app(templates: dict[str, Path], tmp_path: Path) -> App:
    found = App(tmp_path / "app")
    shutil.copytree(templates["generic"], found.folder)
    found.revision("aa01", ORDERS, "orders")
    return found


def at(servers: tuple[AdminServer, ...], table: str = "alembic_version") -> dict[int, str | None]:
    """By shard, the revision that its own table says."""
    found: dict[int, str | None] = {}
    for server in servers:
        with connect(server) as connection:
            for schema in schemas(server):
                row = connection.execute(f'SELECT version_num FROM {schema}."{table}"').fetchone()  # type: ignore[call-overload]
                found[int(schema[-4:])] = str(row[0]) if row is not None else None
    return found


@pytest.mark.parametrize("template", ["generic", "async"])
def test_new_shards_get_their_tables_from_the_apps_revisions(servers, templates, template, tmp_path):
    app = App(tmp_path / "app")
    shutil.copytree(templates[template], app.folder)
    app.revision("aa01", ORDERS, "orders")
    map_ = app.lay_out(servers)
    assert map_.keys["orders"].kind == "int"
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")
    key = next(key for key in range(1000) if shard_of(key, SHARDS, "int") == 3)
    holder = next(server for server in servers if server.name == map_.owners[3])
    with psycopg.connect(holder.admin, options="-c search_path=orders_0003", autocommit=True) as connection:
        connection.execute(f"SET ROLE {holder.role}")  # type: ignore[call-overload]
        connection.execute("INSERT INTO orders (customer, id) VALUES (%s, 1)", (key,))
        assert connection.execute("SELECT state FROM orders").fetchall() == [("new",)]
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("INSERT INTO orders (customer, id) VALUES (%s, 1)", (key + 1,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE orders")
    with connect(holder) as connection:
        types = connection.execute(
            "SELECT nspname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace WHERE typname = 'state'"
        ).fetchall()
    assert sorted(str(row[0]) for row in types) == schemas(holder)  # each shard has an enum of its own
    assert app.migrate(servers) == ({}, [])
    app.revision("aa02", 'op.add_column("orders", sa.Column("note", sa.Text))', "note")
    assert app.migrate(servers, dry_run=True) == ({"aa02": SHARDS}, ["aa02 (note): 8 of 8 shards"])
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")
    before = map_.epoch
    assert app.migrate(servers)[0] == {"aa02": SHARDS}
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa02")
    with connect(servers[0]) as catalog:
        assert read_map(catalog).epoch > before  # what clients have prepared is of tables as they were


@pytest.mark.parametrize("name", ['"versions of shop"', 'config.get_main_option("versions")'])
def test_each_shard_has_a_version_table_of_the_name_that_env_py_gives_it(servers, app, name):
    env = app.folder / "migrations" / "env.py"
    told = f'target_metadata=target_metadata, version_table={name}, version_table_schema="shop"'
    env.write_text(env.read_text().replace("target_metadata=target_metadata", told))
    ini = app.folder / "alembic.ini"
    ini.write_text(ini.read_text().replace("[alembic]\n", "[alembic]\nversions = versions of shop\n", 1))
    app.lay_out(servers)
    table = "versions of shop"
    assert at(servers, table) == dict.fromkeys(range(SHARDS), "aa01")  # none is in a schema that all shards see
    assert app.migrate(servers) == ({}, [])
    app.revision("aa02", 'op.add_column("orders", sa.Column("note", sa.Text))')
    assert app.migrate(servers, dry_run=True) == ({"aa02": SHARDS}, ["aa02: 8 of 8 shards"])
    assert app.migrate(servers)[0] == {"aa02": SHARDS}
    assert at(servers, table) == dict.fromkeys(range(SHARDS), "aa02")
    app.revision("aa03", 'op.drop_column("orders", "nix")')
    with pytest.raises(AppError, match='upgrade aa02 -> aa03: column "nix" of relation "orders" does not exist'):
        app.migrate(servers)


def test_a_table_that_a_revision_makes_is_held_to_its_key_and_given_to_the_app(servers, app):
    app.revision(
        "aa02",
        'op.create_table("carts", sa.Column("customer", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer))',
    )
    wanted = Layout("shop", "orders", SHARDS, {"orders": "customer", "carts": "customer"}, (), None)
    lay_out(wanted, servers, tables_by=app.tables_by)
    # One more time the same table, as a revision that comes later: what belongs to it is committed with it.
    app.revision("aa03", 'op.drop_table("carts")')
    app.revision(
        "aa04",
        'op.create_table("carts", sa.Column("customer", sa.BigInteger, primary_key=True), sa.Column("m", sa.Integer))',
    )
    app.migrate(servers)
    for server in servers:
        with connect(server) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_constraint o JOIN pg_class c ON c.oid = conrelid "
                "WHERE relname = 'carts' AND conname = 'headway_shard'"
            ).fetchone()
            assert found == (len(schemas(server)),)
            may = connection.execute(
                f"SELECT has_table_privilege(%s, '{schemas(server)[0]}.carts', 'INSERT')",  # type: ignore[arg-type]
                (server.role,),
            ).fetchone()
            assert may == (True,)


def test_nothing_to_do_is_seen_without_running_env_py(servers, app):
    app.lay_out(servers)
    env = app.folder / "migrations" / "env.py"
    env.write_text("raise SystemExit('it was run')\n" + env.read_text())
    assert app.migrate(servers) == ({}, [])


def test_a_shard_that_refuses_a_revision_is_named_and_the_others_have_it(servers, app):
    map_ = app.lay_out(servers)
    key = 5
    bad = shard_of(key, SHARDS, "int")
    holder = next(server for server in servers if server.name == map_.owners[bad])
    with connect(holder) as connection:
        connection.execute(f"INSERT INTO orders_{bad:04d}.orders (customer, id) VALUES (5, 7)")  # type: ignore[call-overload]
    app.revision("aa02", 'op.add_column("orders", sa.Column("note", sa.Text))')
    file = app.revision("aa03", 'op.execute("ALTER TABLE orders ADD CONSTRAINT small CHECK (id < 7)")', "small")
    lines: list[str] = []
    with pytest.raises(AppError) as caught:
        migrate_by_alembic("orders", app.alembic, servers, say=lines.append)
    told = f"shard {bad} on server {holder.name}: upgrade aa02 -> aa03, small: "
    assert caught.value.message.startswith(told)
    assert '"small" of relation "orders" is violated by some row' in caught.value.message
    assert caught.value.message.endswith("(7 have it)")
    assert caught.value.hint == "Correct the revision. Then run the same command again."
    assert any("Running upgrade aa02 -> aa03" in line for line in lines)  # Alembic's own
    assert any("ALTER TABLE orders ADD CONSTRAINT small" in line for line in lines)
    # Alembic's transaction is over all revisions of a run: this one is as it was.
    assert at(servers) == {**dict.fromkeys(range(SHARDS), "aa03"), bad: "aa01"}
    file.write_text(file.read_text().replace("id < 7", "id < 8"))
    assert app.migrate(servers)[0] == {"aa02": 1, "aa03": 1}
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa03")


def test_shards_that_were_made_without_alembic_are_taken_over_by_a_stamp(servers, app, tmp_path):
    schema = tmp_path / "schema.sql"
    schema.write_text(
        "CREATE TYPE state AS ENUM ('new', 'sent'); CREATE TABLE orders (customer bigint, id bigint, "
        "state state NOT NULL DEFAULT 'new', PRIMARY KEY (customer, id));"
    )
    lay_out(Layout("shop", "orders", SHARDS, {"orders": "customer"}, (), schema), servers)
    with pytest.raises(AppError, match="already exists") as caught:
        app.migrate(servers)
    assert "? headway db migrate orders --stamp aa01 records that." in caught.value.hint
    app.revision("aa02", 'op.add_column("orders", sa.Column("note", sa.Text))', "note")
    with pytest.raises(AppError, match="there is no revision zz"):
        app.migrate(servers, stamp="zz")
    assert app.migrate(servers, stamp="aa01", dry_run=True) == ({"aa01": SHARDS}, ["aa01 (orders): 8 of 8 shards"])
    with connect(servers[0]) as connection:
        connection.execute("ALTER TABLE orders_0000.orders DROP CONSTRAINT headway_shard")
    assert app.migrate(servers, stamp="aa01")[0] == {"aa01": SHARDS}
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")
    with connect(servers[0]) as connection:  # what belongs to its tables is made with it
        held = "SELECT count(*) FROM pg_constraint WHERE conname = 'headway_shard'"
        assert connection.execute(held).fetchone() == (SHARDS // 2,)
    assert app.migrate(servers)[0] == {"aa02": SHARDS}
    assert app.migrate(servers, stamp="aa01") == ({}, [])
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa02")


def busy(servers: tuple[AdminServer, ...]) -> bool:
    """Whether somebody else is in one of these databases."""
    others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for server in servers:
        with connect(server) as connection:
            if connection.execute(f"{others} AND backend_type = 'client backend'").fetchone() is not None:
                return True
    return False


CHILD = """
import sys
from headway.sharding.alembic import Alembic, migrate_by_alembic
from headway.sharding.admin import AdminServer
a, b = eval(sys.argv[1]), eval(sys.argv[2])
alembic = Alembic(sys.argv[3], sys.executable, "/")
migrate_by_alembic("orders", alembic, (AdminServer(**a), AdminServer(**b)), say=lambda line: None)
"""


def test_a_kill_in_the_middle_ends_alembic_too_and_the_next_run_goes_on(servers, app):
    app.lay_out(servers)
    app.revision("aa02", 'op.add_column("orders", sa.Column("note", sa.Text))')
    told = [repr({name: getattr(server, name) for name in AdminServer.__slots__}) for server in servers]
    arguments = [sys.executable, "-c", CHILD, *told, app.alembic.file]
    with contextlib.ExitStack() as stack:
        for server in servers:  # its last shard has to wait
            reader = stack.enter_context(psycopg.connect(server.admin))
            reader.execute(f"LOCK TABLE {schemas(server)[-1]}.orders IN ACCESS SHARE MODE")  # type: ignore[call-overload]
        child = subprocess.Popen(arguments, preexec_fn=die_with_parent())
        wait_for(lambda: list(at(servers).values()).count("aa02") == SHARDS - 2, "all but two have it", 100)
        family = psutil.Process(child.pid).children(recursive=True)
        assert len(family) == 2  # one a server
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        wait_for(lambda: not any(each.is_running() for each in family), "Alembic's processes end as well")
        done = [shard for shard, revision in at(servers).items() if revision == "aa02"]
        assert len(done) == SHARDS - 2

    wait_for(lambda: not busy(servers), "what the killed ones were at has ended")
    assert app.migrate(servers)[0]["aa02"] <= SHARDS - len(done)
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa02")


def test_two_heads_are_refused_before_anything_is_done(servers, app):
    app.lay_out(servers)
    app.revision("aa02", "pass", before="aa01")
    app.revision("aa03", "pass", before="aa01")
    with pytest.raises(AppError, match=r"the revisions have 2 heads: aa0[23], aa0[23]") as caught:
        app.migrate(servers)
    assert "alembic merge heads" in caught.value.hint
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")


def test_a_revision_that_is_gone_is_named(servers, app):
    file = app.revision("aa02", "pass")
    app.lay_out(servers)
    file.unlink()
    with pytest.raises(AppError, match="shard 0 is at revision aa02, which is not among the 1"):
        app.migrate(servers)


def test_what_keeps_alembic_from_beginning_is_said(app, tmp_path):
    nowhere = replace(app.alembic, file=str(tmp_path / "alembic.ini"))
    with pytest.raises(AppError, match="there is no file"):
        read_revisions(nowhere, PATH)
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    python = str(bare / "bin" / "python")
    with pytest.raises(EngineError, match=f"{PATH}: {python} has no alembic") as caught:
        read_revisions(replace(app.alembic, python=python), PATH)
    assert caught.value.hint == f"{python} -m pip install alembic"
    with pytest.raises(EngineError, match="cannot be started"):
        read_revisions(replace(app.alembic, python=str(tmp_path / "nix")), PATH)
    broken = app.revision("aa02", "def")
    with pytest.raises(AppError, match=r"aa02\.py:\d+: invalid syntax"):
        read_revisions(app.alembic, PATH)
    broken.unlink()
    app.revision("aa03", "pass", before="gone")
    with pytest.raises(AppError, match="gone"):
        read_revisions(app.alembic, PATH)
    (app.folder / "alembic.ini").write_text("[alembic]\n")
    with pytest.raises(AppError, match="script_location"):
        read_revisions(app.alembic, PATH)


def test_an_env_py_that_goes_elsewhere_is_stopped_before_it_does_anything(servers, app):
    app.lay_out(servers)
    app.revision("aa02", 'op.create_table("lost", sa.Column("id", sa.Integer))')
    env = app.folder / "migrations" / "env.py"
    other = servers[0].admin  # the right server, and not the place of every shard
    with connect(servers[0]) as connection:
        connection.execute("CREATE DATABASE elsewhere")
    parts = psycopg.conninfo.conninfo_to_dict(other)
    url = f"postgresql+psycopg://{parts['user']}@/elsewhere?host={parts['host']}&port={parts['port']}"
    text = env.read_text()
    env.write_text(text.replace("config = context.config\n", f"config = context.config\nURL = {url!r}\n{SETS}", 1))
    with pytest.raises(AppError, match=r"env\.py connects to another place") as caught:
        app.migrate(servers)
    assert '"headway" not in config.attributes' in caught.value.hint
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")
    env.write_text(env.read_text().replace("if True:", 'if "headway" not in config.attributes:'))
    assert app.migrate(servers)[0] == {"aa02": SHARDS}


SETS = 'if True:\n    config.set_main_option("sqlalchemy.url", URL)\n'


def test_nothing_is_migrated_while_a_shard_moves_or_another_one_migrates(servers, app):
    app.lay_out(servers)
    with connect(servers[0]) as catalog:
        catalog.execute("SELECT pg_advisory_lock(hashtext('headway.migrate'))")
        with pytest.raises(Conflict, match="is being migrated already"):
            app.migrate(servers)
        catalog.execute("SELECT pg_advisory_unlock_all()")
        insert_move(catalog, 0, "s1", "s2")
    with pytest.raises(Conflict, match="cannot be migrated while shard 0 moves"):
        app.migrate(servers)


def test_shards_whose_making_was_cut_off_are_finished(servers, app):
    wanted = Layout("shop", "orders", SHARDS, {"orders": "customer"}, (), None)

    def cut_off(servers: Sequence[AdminServer], shards: Mapping[str, Sequence[int]]) -> None:
        some = {name: [shard for shard in of_server if shard < 3] for name, of_server in shards.items()}
        upgrade("orders", app.alembic, servers, some, say=lambda _: None)
        if 1 in shards["s1"]:
            raise EngineError("the machine went away")

    with pytest.raises(EngineError):
        lay_out(wanted, servers, tables_by=cut_off)
    map_ = app.lay_out(servers)
    assert map_.shards == SHARDS
    assert at(servers) == dict.fromkeys(range(SHARDS), "aa01")


def test_revisions_that_do_not_make_the_declared_tables_leave_the_other_shards_alone(servers, app):
    wanted = Layout("shop", "orders", SHARDS, {"orders": "customer", "nix": "customer"}, (), None)
    with pytest.raises(AppError, match="creates no table nix"):
        lay_out(wanted, servers, tables_by=app.tables_by)
    assert schemas(servers[0]) == ["orders_0000"]
    assert schemas(servers[1]) == []
    app.lay_out(servers)
