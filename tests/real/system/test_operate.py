"""A sharded database is operated: servers come and go while it is written to, load is spread, damage is mended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from harness import Running, wait_for
from sharded_app import Writers, databases, declaration, last, servers, write_app

from headway.sharding import settings


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(write_app(tmp_path_factory.mktemp("operate")), declaration(), detached=True) as running:
        yield running


def is_out(system: Running, server: str) -> bool:
    """Whether it has left. While the servers change, the database is not up for a moment, and nobody tells of it."""
    done = system.run("db", "status", "orders", "--json")
    if done.returncode != 0:
        return False
    found = last(done.stdout)["databases"]["orders"]
    return found["departing"] is None and all(one["name"] != server for one in found["servers"])


@contextmanager
def admin(system: Running, server: str) -> Iterator[psycopg.Connection[Any]]:
    """The superuser's connection to an embedded server."""
    record = json.loads((system.state / "databases" / f"orders.{server}.json").read_text())
    told = (Path(record["data_folder"]) / "postmaster.pid").read_text().splitlines()
    with psycopg.connect(
        host=told[4], port=told[3], user=settings.SUPERUSER, dbname="orders", autocommit=True
    ) as connection:
        yield connection


def test_a_server_is_added_by_hand_and_stays_until_it_is_declared(system):
    with Writers(system, count=2, first=10) as writers:
        wait_for(lambda: writers.count > 20, 30, "orders are written")
        done = last(system.ok("db", "add-server", "orders", "--json", timeout_s=120))
        joined = {"database": "orders", "server": "s3", "servers": ["s1", "s2", "s3"], "away": []}
        assert done == {**joined, "write": "servers = 3"}
        assert servers(system)["s3"] == []
        # Whoever asks is told that it is not declared; a killed controller does not forget it.
        assert "servers of orders by hand, not declared: servers = 3" in system.ok("status")
        system.kill_controller()
        assert list(servers(system)) == ["s1", "s2", "s3"]
        assert "write servers = 3 in [databases.orders]" in system.ok("check")
        # Another key of the declaration leaves it alone.
        declared = system.folder / "headway.toml"
        declared.write_text(declared.read_text().replace("replicas = 1", "replicas = 2"))
        system.ok("up", timeout_s=120)
        assert list(servers(system)) == ["s1", "s2", "s3"]
        system.ok("db", "rebalance", "orders", "--by", "rows", "--yes", timeout_s=120)
        assert servers(system)["s3"]
        before = writers.count
        wait_for(lambda: writers.count > before + 20, 30, "orders are written at the new places")
    assert writers.refused == []
    assert writers.missing() == {}
    declared.write_text(declared.read_text().replace("servers = 2", "servers = 3"))
    system.ok("up", timeout_s=120)
    assert "by hand" not in system.ok("status")
    assert system.status()["databases"]["orders"]["servers_by_hand"] is None
    assert last(system.ok("db", "verify", "orders", "--json"))["complete"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add-server", "orders", "s9"), "embedded servers, which are numbered: the next one is s4"),
        (("add-server", "orders", "c", "postgresql://me@127.0.0.1/x"), "embedded servers, which are numbered"),
        (("add-server", "orders", "c", "postgresql://me:secret@127.0.0.1/x"), "a password on the command line"),
        (("add-server", "orders", "c", "{env.NOT_THERE}"), "the variable NOT_THERE is not set"),
        (("add-server", "nix"), "no sharded database 'nix'"),
        (("remove-server", "orders", "s1"), "s1 holds the catalog of database orders"),
        (("remove-server", "orders", "s2"), "only the last one, s3, can go"),
        (("remove-server", "orders", "s7"), "database orders has no server s7"),
        (("repair", "orders", "--keep", "3"), "'3' says nothing"),
        (("repair", "orders", "--keep", "3=s8"), "has no server s8"),
        (("repair", "orders", "--keep", "nix=s1"), "there is no reference table nix on server s1"),
        (("rebalance", "orders", "--by", "luck"), "'luck' is not one of"),
    ],
)
def test_what_cannot_be_done_is_said(system, arguments, told):
    done = system.run("db", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(servers(system)) == ["s1", "s2", "s3"]


def test_a_server_that_cannot_start_changes_nothing(system):
    in_the_way = system.state / "databases" / "orders.s4"
    in_the_way.write_text("")
    try:
        done = system.run("db", "add-server", "orders", timeout_s=120)
        assert done.returncode == 1
        assert "hint:" in done.stderr
    finally:
        in_the_way.unlink()
    assert list(servers(system)) == ["s1", "s2", "s3"]
    assert system.status()["databases"]["orders"]["servers_by_hand"] is None
    wait_for(lambda: system.status()["state"] == "ready", 30, "all is as it was")
    assert httpx.get(f"{system.url}/10", timeout=30).status_code == 200


def test_load_is_measured_and_shown_beside_what_shards_hold(system):
    with Writers(system, count=3, first=100) as writers:
        wait_for(lambda: writers.count > 20, 30, "orders are written")

        def measured() -> bool:
            """A server counts what is written with a delay of its own: within one second it may be nothing."""
            plan = last(system.ok("db", "rebalance", "orders", "--over", "1", "--json"))
            return sum(server["rows_per_s"][0] for server in plan["servers"]) > 0

        wait_for(measured, 60, "rows are counted")
        shown = system.ok("db", "rebalance", "orders", "--by", "load", "--over", "0")  # another plan than that one
        assert "rows/s" in shown or "nothing to move" in shown
        system.ok("db", "rebalance", "orders", "--over", "1", "--yes", timeout_s=120)
    assert writers.refused == []
    assert writers.missing() == {}


def test_a_server_that_is_away_is_named_and_does_not_go(system):
    pid = system.pid("database.orders.s3")
    os.kill(pid, signal.SIGSTOP)
    try:
        found = last(system.run("db", "repair", "orders", "--json").stdout)
        assert (found["away"], found["mends"], found["complete"]) == (["s3"], [], False)
        wait_for(lambda: system.status()["databases"]["orders"]["state"] == "degraded", 30, "it is seen", every_s=0.1)
        refused = system.run("db", "remove-server", "orders", "s3")
        assert refused.returncode == 1
        assert "s3 is down" in refused.stderr
        assert "hint:" in refused.stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: system.status()["state"] == "ready", 30, "it is back", every_s=0.1)
    assert list(servers(system)) == ["s1", "s2", "s3"]


def test_damage_is_shown_then_mended(system):
    owner, holds = next((name, shards) for name, shards in servers(system).items() if shards)
    schema = f"orders_{holds[0]:04d}"
    with admin(system, owner) as connection:
        connection.execute(f"REVOKE INSERT ON {schema}.orders FROM shards")
        connection.execute("SELECT pg_create_logical_replication_slot('headway_move_00000000_1', 'pgoutput')")
    shown = system.run("db", "repair", "orders")
    assert shown.returncode == 1
    assert f"mend    the app has not all its rights in shard {holds[0]} on server {owner}" in shown.stdout
    assert "decide  server " in shown.stdout
    assert "headway db repair orders --apply carries out 1; 1 for a person to decide" in shown.stdout
    assert system.run("db", "verify", "orders").returncode == 1
    done = last(system.run("db", "repair", "orders", "--apply", "--json").stdout)
    assert (len(done["applied"]), done["mends"], len(done["decisions"])) == (1, [], 1)
    with admin(system, owner) as connection:
        connection.execute("SELECT pg_drop_replication_slot('headway_move_00000000_1')")
    assert last(system.ok("db", "repair", "orders", "--json"))["complete"]
    assert [entry["what"] for entry in system.journal()].count("repaired") == 1


def fill_last(system: Running, shards: int = 3) -> None:
    """Shards on s3, so that there is something to move away."""
    wait_for(lambda: system.status()["state"] == "ready", 30, "all answers")
    while len(servers(system)["s3"]) < shards:
        fullest = max(("s1", "s2"), key=lambda name: len(servers(system)[name]))
        system.ok("db", "move", "orders", str(servers(system)[fullest][0]), "--to", "s3")


def left(system: Running) -> int:
    """How many shards have left s3 in its whole life."""
    told = [entry["reason"] for entry in system.journal() if entry["what"] == "moved"]
    return sum("s3 → " in message for message in told)


def hold_up(blocker, shards):
    """An open transaction in one of the shards that are still there."""
    for shard in reversed(shards):
        with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            blocker.execute("BEGIN")
            blocker.execute(f"LOCK TABLE orders_{shard:04d}.orders IN ROW EXCLUSIVE MODE; SELECT txid_current()")
            return
        blocker.execute("ROLLBACK")
    raise AssertionError("all shards had left")


def test_a_server_that_is_leaving_stays_when_that_is_wanted(system):
    fill_last(system, 6)  # so many that the first is seen to leave before the last has left
    before, there = left(system), servers(system)["s3"]
    with Writers(system, count=2, first=300) as writers, ExitStack() as stack:
        blocker = stack.enter_context(admin(system, "s3"))
        answers = []
        asked = threading.Thread(target=lambda: answers.append(system.run("db", "remove-server", "orders", "s3")))
        asked.start()
        wait_for(lambda: left(system) > before, 60, "the first shard has left")
        # At once, for the others leave within moments: what has written and stays open holds up every move from here.
        hold_up(blocker, there)
        assert "server s3 of orders is leaving" in system.ok("status")
        for command, told in (
            (("add-server", "orders"), "has to wait: server s3 of database orders is leaving"),
            (("remove-server", "orders", "s2"), "only the last one, s3, can go"),
            (("move", "orders", str(servers(system)["s1"][0]), "--to", "s3"), "a move to server s3 has to wait"),
        ):
            assert told in system.run("db", *command).stderr
        kept = last(system.ok("db", "abort", "orders", "--server", "s3", "--json"))
        blocker.execute("ROLLBACK")
        asked.join(60)
        assert answers[0].returncode == 1
        assert "server s3 of database orders stays" in answers[0].stderr
        assert kept["server"] == "s3"
        assert kept["shards"]
        system.kill_controller()
        wait_for(lambda: not databases(system)["moves"], 60, "no move is under way", every_s=0.2)
        assert servers(system)["s3"] == kept["shards"]
        assert databases(system)["departing"] is None
        refused = system.run("db", "abort", "orders", "--server", "s3")
        assert "server s3 of database orders is not leaving" in refused.stderr
    assert writers.refused == []
    assert writers.missing() == {}


def test_a_server_is_emptied_and_taken_out_and_comes_back(system):
    fill_last(system)
    with Writers(system, count=2, first=200) as writers:
        wait_for(lambda: writers.count > 20, 30, "orders are written")
        # Nobody asks again: controllers that are killed in the middle are followed by one that goes on.
        before = left(system)
        asked = threading.Thread(target=lambda: system.run("db", "remove-server", "orders", "s3"))
        asked.start()
        for moved in (0, 1):
            wait_for(lambda moved=moved: left(system) > before + moved, 60, "a shard has left", every_s=0.05)
            system.kill_controller()
        asked.join(60)
        wait_for(lambda: is_out(system, "s3"), 180, "s3 is out, and nothing is left to do", every_s=0.2)
    assert "servers = 2" in system.status()["databases"]["orders"]["servers_by_hand"]
    told = [entry["reason"] for entry in system.journal() if entry["what"] == "servers"][-1]
    assert told == "s3 taken out, empty by hand; to declare it: servers = 2"
    record = json.loads((system.state / "databases" / "orders.s3.json").read_text())
    assert (Path(record["data_folder"]) / "PG_VERSION").exists()
    assert list(servers(system)) == ["s1", "s2"]
    assert "database.orders.s3" not in system.processes()
    assert writers.refused == []
    assert writers.missing() == {}
    system.kill_controller()
    assert list(servers(system)) == ["s1", "s2"]
    # What it has of reference tables is of then, when it comes back.
    for server in ("s1", "s2"):
        with admin(system, server) as connection:
            connection.execute("INSERT INTO headway_reference.countries VALUES ('li')")
    system.ok("db", "add-server", "orders", timeout_s=120)
    assert list(servers(system)) == ["s1", "s2", "s3"]
    assert last(system.ok("db", "verify", "orders", "--json"))["complete"]
    assert system.status()["databases"]["orders"]["servers_by_hand"] is None  # as declared
    assert httpx.get(f"{system.url}/10", timeout=30).status_code == 200
