"""A sharded database on servers that Headway did not start: no superuser, the app as a role of its own where one can be
made, and a start while a server is away."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from harness import Running, wait_for
from postgresql_place import Place, in_memory, stop
from shards_by_url import APP, DECLARATION, SCHEMA, SECRET, as_superuser, urls

from headway.model.sharding import schema_name
from headway.sharding.keys import shard_of
from headway.sharding.postgresql import Server, wait_until_ready

SHARDS = 8


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with in_memory() as found:
        yield found


@pytest.fixture(scope="module")
def servers(place: Place) -> dict[str, Server]:
    """Two, as somebody else runs them: one lets its owner make roles, the other does not."""
    found = {name: place.start(name)[0] for name in ("a", "b")}
    for name, more in (("a", "CREATEROLE"), ("b", "")):
        create = f"CREATE ROLE keeper LOGIN {more} PASSWORD '{SECRET}'"
        as_superuser(found[name], create, "CREATE DATABASE shop OWNER keeper")
    return found


@pytest.fixture(scope="module")
def system(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("by-url")
    (folder / "here.py").write_text(APP)
    (folder / "schema.sql").write_text(SCHEMA)
    with Running(folder, DECLARATION, detached=True, env=urls(servers)) as running:
        yield running


def logins(system: Running) -> dict[str, dict[str, str]]:
    told = json.loads(system.ok("run", "web", "--", "printenv", "HEADWAY_DATABASES"))["orders"]
    found: dict[str, dict[str, str]] = told["logins"]
    return found


def as_app(system: Running, servers: dict[str, Server], name: str) -> psycopg.Connection[Any]:
    login = logins(system)[name]
    return psycopg.connect(
        host="127.0.0.1",
        port=servers[name].port,
        dbname="shop",
        autocommit=True,
        **login,  # type: ignore[arg-type]
    )


def states(system: Running) -> dict[str, str]:
    found = system.status()["databases"]["orders"]
    return {"": found["state"]} | {server["name"]: server["state"] for server in found["servers"]}


def test_the_app_is_a_role_of_its_own_where_one_can_be_made(system, servers):
    found = logins(system)
    assert found["a"]["user"] == "shop_orders"
    assert found["a"]["password"] != SECRET
    assert found["b"] == {"user": "keeper", "password": SECRET}
    told = [entry for entry in system.journal() if entry["what"] == "app's login"]
    assert [entry["about"] for entry in told] == ["database.orders.b"]
    assert "ALTER ROLE keeper CREATEROLE" in told[0]["reason"]


def test_the_app_reads_and_writes_rows_and_nothing_else(system, servers):
    schema = schema_name("orders", 0)
    key = next(key for key in range(100) if shard_of(key, SHARDS, "int") == 0)
    other = next(key for key in range(100) if shard_of(key, SHARDS, "int") == 1)
    with as_app(system, servers, "a") as app:
        app.execute(f"SET search_path = {schema}, headway_reference")  # type: ignore[call-overload]
        app.execute("INSERT INTO orders (customer_id) VALUES (%s)", (key,))
        assert app.execute("SELECT customer_id, id, code FROM orders, countries").fetchall() == [(key, 1, "ch")]
        with pytest.raises(psycopg.errors.CheckViolation, match="headway_shard"):
            app.execute("INSERT INTO orders (customer_id) VALUES (%s)", (other,))
        assert app.execute("SELECT shards FROM headway.catalog").fetchone() == (SHARDS,)
        for refused in (
            "CREATE TABLE mine (id int)",
            "ALTER TABLE orders ADD COLUMN more int",
            "DROP TABLE orders",
            "DELETE FROM headway_ledger",
            "UPDATE headway.shard_map SET server = 'b'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(refused)  # type: ignore[call-overload]


def test_no_password_is_shown(system):
    shown = system.ok("status", "--json") + system.ok("db", "status", "--json") + system.ok("explain")
    assert SECRET not in shown
    assert logins(system)["a"]["password"] not in shown
    assert "password" not in shown


def test_a_system_starts_while_a_server_is_away(system, servers, place):
    """Only its shards wait for it."""
    process = place.processes[1]
    stop(process)
    wait_for(lambda: states(system) == {"": "degraded", "a": "ready", "b": "down"}, 30, "b is seen to be away")
    told = json.loads(system.ok("db", "status", "orders", "--json").splitlines()[-1])["databases"]["orders"]["servers"]
    assert [(server["name"], len(server["shards"]), server["rows"] is None) for server in told] == [
        ("a", 4, False),
        ("b", 4, True),
    ]
    assert "down" in system.ok("db", "status")
    system.ok("down")
    done = system.run("up", "--detach")  # though the server stays away
    assert done.returncode == 0, done.stderr
    assert states(system)["a"] == "ready"
    assert states(system)[""] == "degraded"
    assert "4 of 8 shards are on server b, which is away" in system.ok("explain")
    as_superuser_later = place.spawn(servers["b"])
    wait_until_ready(servers["b"], is_alive=lambda: as_superuser_later.poll() is None)
    system.wait_ready()
    assert logins(system)["b"]["user"] == "keeper"


def test_one_that_is_not_up_is_told_as_that(system, servers, place):
    """A controller that begins while the server of the catalog is away knows no shard yet."""
    stop(place.processes[0])
    before = system.pid("controller")
    os.kill(before, signal.SIGKILL)
    wait_for(
        lambda: (found := system.quick_status()) and found["controller"]["pid"] != before, 60, "another controller"
    )
    done = system.run("db", "status", "orders")
    again = place.spawn(servers["a"])
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: database orders cannot be asked yet: its state is \w+\nhint: headway status says why\n",
        done.stderr,
    )
    wait_until_ready(servers["a"], is_alive=lambda: again.poll() is None)
    system.wait_ready()
    assert system.ok("db", "status", "orders").startswith("orders  8 shards")


def test_a_shard_leaves_a_server_only_where_the_app_can_be_kept_out(system, servers):
    for server in servers.values():
        as_superuser(server, "ALTER ROLE keeper REPLICATION", "GRANT pg_create_subscription TO keeper")
    refused = system.run("db", "move", "orders", str(SHARDS - 1), "--to", "a")
    assert refused.returncode == 1
    assert "cannot leave server b: the app logs in there as keeper" in refused.stderr
    system.ok("db", "move", "orders", "0", "--to", "b")
    with as_app(system, servers, "b") as app:
        assert app.execute(f"SELECT id FROM {schema_name('orders', 0)}.orders").fetchall() == [(1,)]  # type: ignore[call-overload]


def test_an_owner_who_may_make_roles_later_gets_the_app_one(system, servers):
    as_superuser(servers["b"], "ALTER ROLE keeper CREATEROLE")
    system.ok("down")
    system.ok("up", "--detach")
    assert logins(system)["b"] == logins(system)["a"]
    schema = schema_name("orders", SHARDS - 2)
    key = next(key for key in range(100) if shard_of(key, SHARDS, "int") == SHARDS - 2)
    with as_app(system, servers, "b") as app:
        app.execute(f"INSERT INTO {schema}.orders (customer_id) VALUES (%s)", (key,))  # type: ignore[call-overload]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"DROP TABLE {schema}.orders")  # type: ignore[call-overload]
    system.ok("db", "move", "orders", "0", "--to", "a")
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]


def test_a_role_that_somebody_else_made_is_left_alone(system, servers):
    as_superuser(servers["b"], "COMMENT ON ROLE shop_orders IS 'of the accountants'")
    system.ok("down")
    system.ok("up", "--detach")
    assert logins(system)["b"]["user"] == "keeper"
    assert "there is a role shop_orders already that Headway did not make" in system.ok("explain")


def test_it_is_backed_up_and_restored_without_a_superuser(system, servers, tmp_path):
    schema = schema_name("orders", 1)
    key = next(key for key in range(100) if shard_of(key, SHARDS, "int") == 1)
    found = logins(system)
    with as_app(system, servers, "a") as app:
        app.execute(f"INSERT INTO {schema}.orders (customer_id, note) VALUES ({key}, 'kept')")  # type: ignore[call-overload]
    folder = tmp_path / "kept"
    done = json.loads(system.ok("db", "backup", "orders", "--to", str(folder), "--json").splitlines()[-1])
    assert done["shards"] == SHARDS
    assert SECRET not in (folder / "manifest.json").read_text()
    with as_app(system, servers, "a") as app:
        app.execute(f"UPDATE {schema}.orders SET note = 'lost'")  # type: ignore[call-overload]
    system.ok("db", "restore", "orders", str(folder), "--replace")
    assert logins(system) == found
    with as_app(system, servers, "a") as app:
        row = app.execute(f"SELECT note FROM {schema}.orders WHERE customer_id = {key}").fetchone()  # type: ignore[call-overload]
        assert row == ("kept",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute(f"CREATE TABLE {schema}.mine (id int)")  # type: ignore[call-overload]
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]
