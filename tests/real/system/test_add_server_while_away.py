"""Servers come, take shards, and go while another one is dead, also after the controller's death."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from harness import Running, wait_for
from postgresql_place import Place, in_memory, stop
from sharded_app import Writers, databases, declaration, servers, write_app
from shards_by_url import APP, SCHEMA, SECRET, as_superuser, urls
from shards_by_url import DECLARATION as BY_URL

from headway.sharding.keys import shard_of
from headway.sharding.postgresql import Server

# By where the first two servers have them: 0 to 3, and 4 to 7.
FIRST = next(key for key in range(1, 100) if shard_of(key, 8, "int") == 0)
SECOND = next(key for key in range(1, 100) if shard_of(key, 8, "int") == 5)


def states(system: Running) -> dict[str, str]:
    return {server["name"]: server["state"] for server in system.status()["databases"]["orders"]["servers"]}


def orders_of(system: Running, customer: int) -> list[int]:
    """Nothing as long as the replica that answers has no connection to their server."""
    answer = httpx.get(f"{system.url}/{customer}", timeout=60)
    found: list[int] = answer.json() if answer.status_code == 200 else []
    return found


def test_an_embedded_one_joins_beside_one_that_hangs_and_takes_shards(tmp_path):
    with Running(write_app(tmp_path), declaration(replicas=2), detached=True) as system:
        assert httpx.post(f"{system.url}/{SECOND}/1", timeout=30).status_code == 200
        pid = system.pid("database.orders.s2")
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: states(system)["s2"] == "down", 60, "it is seen")
            with Writers(system, count=1, first=FIRST, refused_pause_s=0.05) as writers:
                wait_for(lambda: writers.count > 5, 60, "customers of the other server order")
                done = json.loads(system.ok("db", "add-server", "orders", "--json", timeout_s=180).splitlines()[-1])
                assert (done["server"], done["servers"], done["away"]) == ("s3", ["s1", "s2", "s3"], ["s2"])
                wait_for(lambda: [states(system)[name] for name in ("s1", "s3")] == ["ready"] * 2, 60, "it has joined")
                system.ok("db", "move", "orders", "0", "--to", "s3", timeout_s=120)
                count = writers.count
                wait_for(lambda: writers.count > count + 5 or writers.refused, 60, "they order on the new one")
                assert writers.refused == []
            assert writers.refused == []
            assert servers(system)["s3"] == [0]
            refused = system.run("db", "move", "orders", "5", "--to", "s3")
            assert refused.returncode == 1
            assert "s2" in refused.stderr
            assert httpx.get(f"{system.url}/{SECOND}", timeout=60).status_code >= 500  # as before
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: system.status()["state"] == "ready", 120, "it is back")
        # Of several replicas each hears of it by itself: the next answer may be of another one.
        assert wait_for(lambda: orders_of(system, SECOND), 60, "to the app, too") == [1]
        assert writers.missing() == {}
        system.ok("db", "move", "orders", "5", "--to", "s3", timeout_s=120)
        assert httpx.get(f"{system.url}/{SECOND}", timeout=30).json() == [1]
        assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]


@pytest.fixture
def place() -> Iterator[Place]:
    with in_memory() as found:
        yield found


def start(place: Place, *names: str) -> dict[str, Server]:
    """Servers that somebody else runs, who may make roles there and move shards."""
    found = {}
    for name in names:
        found[name] = place.start(name)[0]
        create = f"CREATE ROLE keeper LOGIN CREATEROLE REPLICATION PASSWORD '{SECRET}'"
        as_superuser(found[name], create, "CREATE DATABASE shop OWNER keeper", "GRANT pg_create_subscription TO keeper")
    return found


def test_one_by_url_joins_by_the_command_and_by_the_declaration_while_one_is_dead(place, tmp_path):
    others = start(place, "a", "b", "c", "d")
    processes = dict(zip(others, place.processes, strict=True))
    env = urls(others)
    (tmp_path / "here.py").write_text(APP)
    (tmp_path / "schema.sql").write_text(SCHEMA)
    with Running(tmp_path, BY_URL, detached=True, env=env) as system:
        stop(processes["b"])
        wait_for(lambda: states(system)["b"] == "down", 60, "its death is seen")
        system.env = {**env, "C_URL": env["B_URL"]}
        refused = system.run("db", "add-server", "orders", "c", "{env.C_URL}")
        assert "it is the same database as server b" in refused.stderr
        system.env = env
        told = system.ok("db", "add-server", "orders", "c", "{env.C_URL}", timeout_s=180)
        assert "server b is down: its shards stay there until it answers again" in told
        assert "hint: headway db rebalance orders moves shards there; those of b stay until it answers again" in told
        system.ok("db", "move", "orders", "1", "--to", "c", timeout_s=120)
        file: Path = system.folder / "headway.toml"
        more = 'b = "{env.B_URL}", c = "{env.C_URL}", d = "{env.D_URL}"'
        file.write_text(file.read_text().replace('b = "{env.B_URL}"', more))
        system.ok("up", "--detach", timeout_s=180)
        wait_for(lambda: states(system).get("d") == "ready", 60, "it is up")
        system.ok("db", "move", "orders", "2", "--to", "d", timeout_s=120)
        processes["b"] = place.start_again(others["b"])
        wait_for(lambda: system.status()["state"] == "ready", 120, "it is back")
        system.ok("db", "move", "orders", "4", "--to", "d", timeout_s=120)
        assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]
        # Without the one that holds the catalog nothing is changed.
        stop(processes["a"])
        wait_for(lambda: states(system)["a"] == "down", 60, "its death is seen")
        refused = system.run("db", "add-server", "orders", "e", "{env.C_URL}")
        assert refused.returncode == 1
        assert "while server a, which holds the catalog, is down" in refused.stderr


def test_replicas_that_began_while_a_server_was_away_log_in_there_when_it_is_back(place, tmp_path):
    others = start(place, "a", "b")
    declared = BY_URL.replace('"here:app"', '"shards:app"')
    env = urls(others)
    with Running(write_app(tmp_path), declared, detached=True, env=env) as system:
        assert httpx.post(f"{system.url}/{SECOND}/1", timeout=30).status_code == 200
        system.ok("down")
        stop(place.processes[1])
        system.ok("up", "--detach")
        assert httpx.post(f"{system.url}/{FIRST}/1", timeout=30).status_code == 200
        assert httpx.post(f"{system.url}/{SECOND}/2", timeout=60).status_code >= 500
        place.start_again(others["b"])
        orders = itertools.count(3)  # what was not acknowledged may have been done, and cannot be done again
        ordered = wait_for(
            lambda: httpx.post(f"{system.url}/{SECOND}/{(number := next(orders))}", timeout=60).is_success and number,
            60,
            "it is back",
        )
        assert set(wait_for(lambda: orders_of(system, SECOND), 60, "what was ordered")) >= {1, ordered}


def test_what_needs_only_servers_that_answer_works_after_the_controllers_death_too(place, tmp_path):
    others = start(place, "a", "b", "c")
    declared = BY_URL.replace('"here:app"', '"shards:app"').replace('"{env.B_URL}"', '"{env.B_URL}", c = "{env.C_URL}"')
    env = urls(others)
    with Running(write_app(tmp_path), declared, detached=True, env=env) as system:
        of_b = servers(system)["b"]
        customers = [next(key for key in range(1, 999) if shard_of(key, 8, "int") == shard) for shard in range(8)]
        for customer in customers:
            assert httpx.post(f"{system.url}/{customer}/1", timeout=30).status_code == 200
        stop(place.processes[1])
        wait_for(lambda: states(system)["b"] == "down", 60, "its death is seen")
        login = json.loads(system.ok("run", "web", "--", "printenv", "HEADWAY_DATABASES"))["orders"]["logins"]["c"]
        at_c = {"host": "127.0.0.1", "port": others["c"].port, "dbname": "shop", **login}
        with psycopg.connect(**at_c, autocommit=True) as app:  # as a process that dies in the middle leaves it
            for statement in ("BEGIN", "SELECT 1", "PREPARE TRANSACTION 'headway:orders:gone:c'"):
                app.execute(statement)  # type: ignore[call-overload]
        before = system.pid("controller")
        os.kill(before, signal.SIGKILL)

        def is_back() -> bool:
            if system.processes().get("controller", before) == before or system.quick_status() is None:
                return False
            now = states(system)
            return now.get("a") == now.get("c") == "ready" and now.get("b") == "failed"

        wait_for(is_back, 60, "another controller, which has never reached that server")

        told = system.ok("db", "status", "orders")
        assert "failed" in told
        shown = next(one for one in databases(system)["servers"] if one["name"] == "b")  # type: ignore[attr-defined]
        assert (shown["shards"], shown["rows"]) == (of_b, None)
        assert shown["url"].endswith(f":{others['b'].port}/shop")
        checked = system.run("db", "check", "orders")
        assert (checked.returncode, "server b" in checked.stdout) == (1, True)
        assert "wal_level" in checked.stdout
        verified = system.run("db", "verify", "orders")
        assert (verified.returncode, "server b does not answer" in verified.stdout) == (1, True)
        for command in (("move", "orders", str(of_b[0]), "--to", "a"), ("move", "orders", "0", "--to", "b")):
            refused = system.run("db", *command)
            assert (refused.returncode, "error: server b " in refused.stderr) == (1, True)
        refused = system.run("db", "rebalance", "orders", "--empty", "b")
        assert "error: server b is failed: its shards cannot be moved while it does not answer" in refused.stderr
        assert "hint: headway status" in refused.stderr

        def is_decided() -> bool:
            with psycopg.connect(**at_c) as app:
                return app.execute("SELECT FROM pg_prepared_xacts").fetchone() is None

        wait_for(is_decided, 90, "what is in doubt there is ended without the server that is away")

        first = servers(system)["a"]
        told = system.ok("db", "rebalance", "orders", "--by", "rows", "--empty", "c", "--yes", timeout_s=180)
        assert f"server b is failed: its {len(of_b)} shards stay there, and none goes there" in told
        assert (servers(system)["b"], servers(system)["c"]) == (of_b, [])
        told = system.ok("db", "rebalance", "orders", "--by", "rows", "--yes", timeout_s=180)
        assert len(servers(system)["c"]) == (8 - len(of_b)) // 2
        assert servers(system)["b"] == of_b
        assert "nothing to move: the servers that answer carry" in system.ok(
            "db", "rebalance", "orders", "--by", "rows"
        )
        refused = system.run("db", "remove-server", "orders", "b", "--yes")
        assert "server b is failed" in refused.stderr
        beside = next(key for key in range(1000, 9999) if shard_of(key, 8, "int") == first[0])
        with Writers(system, count=1, first=beside, refused_pause_s=0.05) as writers:
            done = json.loads(
                system.ok("db", "remove-server", "orders", "c", "--yes", "--json", timeout_s=180).splitlines()[-1]
            )
            assert (done["servers"], servers(system)["b"]) == (["a", "b"], of_b)
            assert len(servers(system)["a"]) == 8 - len(of_b)
            count = writers.count
            wait_for(lambda: writers.count > count + 5, 60, "the app goes on")
        assert writers.refused == []
        with psycopg.connect(env["A_URL"]) as catalog:
            known = catalog.execute("SELECT name FROM headway.servers ORDER BY 1").fetchall()
            assert known == [("a",), ("b",)]

        place.start_again(others["b"])
        wait_for(lambda: system.status()["state"] == "ready", 120, "it is back")

        # Replicas that began while it was away cannot log in there: they are replaced, one after another.
        for customer in customers:
            wait_for(lambda customer=customer: 1 in orders_of(system, customer), 60, f"the order of {customer}")
        assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]
