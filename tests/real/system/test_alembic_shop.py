"""A system whose tables come from the app's Alembic: new shards, one revision more, a split, and what goes wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness import Running, free_port

from headway.sharding.keys import shard_of

MODELS = """
from headway import database
from sqlalchemy import BigInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

orders = database("orders")  # asks for its address when the module is imported, by env.py too

class Model(DeclarativeBase):
    pass

class Order(Model):
    __tablename__ = "orders"
    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
"""
APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from models import orders

async def write(request):
    customer, number = request.path_params["customer"], request.path_params["number"]
    async def insert(connection):
        await connection.execute("INSERT INTO orders (customer_id, id) VALUES ($1, $2)", customer, number)
    await orders.run(customer, insert)
    return JSONResponse({"shard": orders.shard_of(customer)})

async def read(request):
    customer = request.path_params["customer"]
    async with orders.at(customer) as connection:
        rows = await connection.fetch("SELECT * FROM orders WHERE customer_id = $1", customer)
    return JSONResponse([dict(row.items()) for row in rows])

app = Starlette(routes=[
    Route("/{customer:int}", read),
    Route("/{customer:int}/{number:int}", write, methods=["POST"]),
])
"""
DECLARATION = """
[system]
name = "shop"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "shop:app"
routes = ["/"]
replicas = 1
env = { GREETING = "hello" }
uses = ["orders"]
[databases.orders]
shards = 4
servers = 2
keys = { orders = "customer_id" }
migrations = { alembic = "alembic.ini" }
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "{id}", {before!r}, None, None
def upgrade():
    {body}
"""
ENV = """
import os
assert os.environ["GREETING"] == "hello"
from models import Model
target_metadata = Model.metadata
SETTINGS = {"version_table": "shop_versions", "version_table_schema": "public"}
"""
ORDERS = """op.create_table("orders", sa.Column("customer_id", sa.BigInteger), sa.Column("id", sa.BigInteger),
                    sa.PrimaryKeyConstraint("customer_id", "id"))"""


def revision(folder: Path, number: str, body: str, before: str | None) -> Path:
    file = folder / "migrations" / "versions" / f"{number}.py"
    file.write_text(REVISION.format(id=number, before=before, body=body))
    return file


def write_app(folder: Path) -> Path:
    (folder / "models.py").write_text(MODELS)
    (folder / "shop.py").write_text(APP)
    command = [sys.executable, "-m", "alembic", "init", "-t", "async", "migrations"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    env = folder / "migrations" / "env.py"
    text = env.read_text().replace("target_metadata = None", ENV)
    env.write_text(text.replace("target_metadata=target_metadata", "target_metadata=target_metadata, **SETTINGS"))
    revision(folder, "aa01", ORDERS, None)
    return folder


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(write_app(tmp_path_factory.mktemp("shop")), DECLARATION, detached=True) as running:
        yield running


def test_tables_are_there_when_it_is_up_and_revisions_reach_all_shards_also_moved_and_split_ones(system):
    for customer in range(10):
        assert httpx.post(f"{system.url}/{customer}/1", timeout=30).json()["shard"] == shard_of(customer, 4, "int")
    assert system.ok("db", "migrate", "orders", timeout_s=180) == "nothing to apply: 4 shards have all 1 migrations\n"
    revision(system.folder, "aa02", 'op.add_column("orders", sa.Column("note", sa.Text))', "aa01")
    assert "aa02: 4 of 4 shards" in system.ok("db", "migrate", "orders", "--dry-run", timeout_s=180)
    done = json.loads(system.ok("db", "migrate", "orders", "--json", timeout_s=180).splitlines()[-1])
    assert done == {"applied": {"aa02": 4}, "files": 2, "shards": 4, "dry_run": False}
    assert httpx.get(f"{system.url}/4", timeout=30).json() == [{"customer_id": 4, "id": 1, "note": None}]
    assert [entry["reason"] for entry in system.journal() if entry["what"] == "migrated"] == ["aa02"]
    moved = json.loads(system.ok("db", "move", "orders", "0", "--to", "s2", "--json", timeout_s=120).splitlines()[-1])
    assert moved["rows"] == sum(shard_of(customer, 4, "int") == 0 for customer in range(10))  # the app's, and no others
    system.ok("db", "split", "orders", timeout_s=180)
    assert "nothing to apply: 8 shards" in system.ok("db", "migrate", "orders", timeout_s=180)
    revision(system.folder, "aa03", 'op.add_column("orders", sa.Column("more", sa.Text))', "aa02")
    done = json.loads(system.ok("db", "migrate", "orders", "--json", timeout_s=180).splitlines()[-1])
    assert done["applied"] == {"aa03": 8}
    for customer in range(10):
        assert len(httpx.get(f"{system.url}/{customer}", timeout=30).json()) == 1
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]


def test_what_goes_wrong_is_said_and_the_app_goes_on(system):
    last = max((system.folder / "migrations" / "versions").glob("aa*.py")).stem
    file = revision(system.folder, "zz", 'op.drop_column("orders", "nix")', last)
    failed = system.run("db", "migrate", "orders", timeout_s=180)
    assert failed.returncode == 1
    assert f"Running upgrade {last} -> zz" in failed.stdout  # Alembic's own last lines
    told = rf'error: shard 0 on server s[12]: upgrade {last} -> zz: column "nix" of relation "orders" does not exist'
    assert re.search(rf"{told} \([48] shards refused it, 0 have it\)\n", failed.stderr)
    assert "hint: Correct the revision. Then run the same command again." in failed.stderr
    assert "Traceback" not in failed.stderr
    file.unlink()
    (system.folder / "alembic.ini").rename(system.folder / "elsewhere.ini")
    gone = system.run("db", "migrate", "orders", timeout_s=180)
    assert gone.returncode == 1
    assert "there is no file" in gone.stderr
    assert "hint:" in gone.stderr
    assert httpx.get(f"{system.url}/4", timeout=30).status_code == 200


def test_a_first_start_whose_revision_fails_says_so(tmp_path):
    folder = write_app(tmp_path)
    revision(folder, "aa01", 'op.drop_table("nix")', None)
    running = Running(folder, DECLARATION)
    (folder / "headway.toml").write_text(DECLARATION.replace("$PORT", str(free_port())))
    try:
        done = running.run("up", "--detach", timeout_s=180)
        assert done.returncode == 1
        assert 'shard 0 on server s1: upgrade  -> aa01: table "nix" does not exist' in done.stderr
        assert "hint: Correct the revision." in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        running.run("down")
        running.kill_leftovers()
