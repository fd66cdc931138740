"""A sharded database in a whole system: it comes up, its shards move while it is written to, and nothing gets lost."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import tomllib
from collections.abc import Iterator

import httpx
import pytest
from harness import Running, wait_for
from sharded_app import MIGRATIONS, Writers, databases, declaration, write_app

from headway.sharding.keys import shard_of

SHARDS = 8
DECLARATION = declaration(MIGRATIONS, "active_max = 3", replicas=2, shards=SHARDS)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(write_app(tmp_path_factory.mktemp("shards")), DECLARATION, detached=True) as running:
        yield running


def test_it_is_laid_out_and_told(system):
    document = system.status()["databases"]["orders"]
    assert document["shards"] == SHARDS
    assert document["epoch"] >= 1
    assert [(server["name"], server["state"], server["shards"]) for server in document["servers"]] == [
        ("s1", "ready", 4),
        ("s2", "ready", 4),
    ]
    assert all(server["url"].startswith("postgresql://shards@127.0.0.1:") for server in document["servers"])
    assert databases(system)["keys"] == {"orders": {"column": "customer_id", "type": "int"}}
    assert "4 of 8 shards" in system.ok("status")
    with open(f"/proc/{system.replicas()[0]['pid']}/cmdline", "rb") as line:
        assert b"password" not in line.read()


def test_a_request_that_finds_no_place_is_told_to_come_again(system):
    """The bound is over both replicas; the app does nothing about it."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.get(f"{system.url}/hold/1", timeout=90))

    threads = [threading.Thread(target=ask) for _ in range(9)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) >= 6, 60, "all that found no place have their answer")
    finally:
        (system.folder / "go").touch()
        for thread in threads:
            thread.join()
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 3 + [503] * 6
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_the_map_is_told_to_pgdog(system):
    found = tomllib.loads(system.ok("db", "status", "orders", "--pgdog"))
    assert [each["shard"] for each in found["databases"]] == [0, 1]
    assert len(found["sharded_schemas"]) == SHARDS + 2


def test_a_shell_is_where_the_rows_of_a_key_are(system):
    httpx.post(f"{system.url}/4711/1", timeout=60).raise_for_status()
    ask = ("-c", "SELECT id FROM orders WHERE customer_id = 4711")
    shard = shard_of(4711, SHARDS, "int")
    for place in (("--key", "4711"), ("--shard", str(shard))):
        assert "(1 row)" in system.ok("db", "shell", "orders", *place, *ask)
    assert "(0 rows)" in system.ok("db", "shell", "orders", "--shard", str((shard + 1) % SHARDS), *ask)
    assert " ch" in system.ok("db", "shell", "orders", "--server", "s2", "-c", "TABLE countries")
    # As the app: it creates nothing; and what psql refuses is the command's own status.
    refused = system.run("db", "shell", "orders", "--key", "1", "-c", "CREATE TABLE mine (id int)")
    assert refused.returncode == 1
    assert "permission denied" in refused.stderr


def test_shards_move_while_they_are_written_to(system):
    with Writers(system) as writers:
        wait_for(lambda: writers.count > 50, 30, "orders are written")
        moved = []
        for customer in (1, 2, 3):
            shard = shard_of(customer, SHARDS, "int")
            target = "s2" if shard in databases(system)["servers"][0]["shards"] else "s1"  # type: ignore[index]
            moved.append(
                json.loads(system.ok("db", "move", "orders", str(shard), "--to", target, "--json").splitlines()[-1])
            )
        before = writers.count
        wait_for(lambda: writers.count > before + 50, 30, "orders are written at the new places")
    assert writers.refused == []
    assert writers.missing() == {}
    for move in moved:
        assert move["verified"] is True
        assert set(move) == {"shard", "from", "to", "rows", "copy_s", "write_pause_ms", "verified", "epoch"}
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1]) == {
        "complete": True,
        "missing": [],
        "extra": [],
        "different": [],
    }


def test_a_move_goes_on_by_itself_when_the_controller_dies(system):
    shard = shard_of(11, SHARDS, "int")
    with Writers(system, count=2, first=11) as writers:
        wait_for(lambda: writers.count > 20, 30, "orders are written")
        target = "s2" if shard in databases(system)["servers"][0]["shards"] else "s1"  # type: ignore[index]

        def begun() -> int:
            return sum(entry["what"] == "move" for entry in system.journal())

        before = begun()
        asking = threading.Thread(target=system.run, args=("db", "move", "orders", str(shard), "--to", target))
        asking.start()
        wait_for(lambda: begun() > before, 30, "the move begins")
        os.kill(system.pid("controller"), signal.SIGKILL)

        def there() -> bool:
            done = system.run("db", "status", "orders", "--json")
            if done.returncode:
                return False
            found = json.loads(done.stdout.splitlines()[-1])["databases"]["orders"]
            return not found["moves"] and any(s["name"] == target and shard in s["shards"] for s in found["servers"])

        wait_for(there, 60, "the move has ended", every_s=0.2)
        asking.join(60)
    assert writers.refused == []
    assert writers.missing() == {}
    assert json.loads(system.ok("db", "verify", "orders", "--json").splitlines()[-1])["complete"]


def test_a_killed_server_takes_only_its_own_shards_along(system):
    here = next(
        key for key in range(100, 200) if shard_of(key, SHARDS, "int") in databases(system)["servers"][0]["shards"]
    )  # type: ignore[index]
    there = next(
        key for key in range(100, 200) if shard_of(key, SHARDS, "int") in databases(system)["servers"][1]["shards"]
    )  # type: ignore[index]
    for key in (here, there):
        assert httpx.post(f"{system.url}/{key}/1").status_code == 200
    for child in (pid := system.pid("database.orders.s2"),):
        os.kill(child, signal.SIGSTOP)
    try:
        assert httpx.get(f"{system.url}/{here}", timeout=60).json() == [1]
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    began_s = time.monotonic()
    codes = set()
    while time.monotonic() - began_s < 10:
        answer = httpx.get(f"{system.url}/{there}", timeout=60)
        codes.add(answer.status_code)
        assert httpx.get(f"{system.url}/{here}", timeout=60).json() == [1]
        if answer.status_code == 200 and 503 in codes:
            break
        time.sleep(0.02)
    assert codes <= {200, 503}

    def orders() -> list[int]:
        answer = httpx.get(f"{system.url}/{there}", timeout=60)
        return answer.json() if answer.status_code == 200 else []

    assert wait_for(orders, 60, "it is back") == [1]
    system.wait_ready()


def test_a_server_that_hangs_is_the_only_one_that_is_down(system):
    def states() -> list[str]:
        found = system.status()["databases"]["orders"]
        return [found["state"], *(server["state"] for server in found["servers"])]

    pid = system.pid("database.orders.s2")
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: states() == ["degraded", "ready", "down"], 30, "it is seen to be away", every_s=0.1)
        told = databases(system)
        assert [(server["state"], server["rows"] is None) for server in told["servers"]] == [  # type: ignore[attr-defined]
            ("ready", False),
            ("down", True),
        ]
        assert system.status()["state"] == "degraded"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: states() == ["ready", "ready", "ready"], 30, "it is back", every_s=0.1)


def test_migrations_reach_every_shard_or_say_which_refused(system):
    folder = system.folder / "migrations"
    assert "nothing to apply" in system.ok("db", "migrate", "orders")
    (folder / "0001_note.sql").write_text("ALTER TABLE orders ADD COLUMN note text;\nCREATE INDEX ON orders (note);")
    assert "0001_note.sql: 8 of 8 shards" in system.ok("db", "migrate", "orders", "--dry-run")
    done = json.loads(system.ok("db", "migrate", "orders", "--json").splitlines()[-1])
    assert done == {"applied": {"0001_note.sql": 8}, "files": 1, "shards": 8, "dry_run": False}
    assert httpx.post(f"{system.url}/5000/1").status_code == 200
    # Shard of customer 5000 has a row without a note: it alone refuses this one.
    refusing = shard_of(5000, SHARDS, "int")
    (folder / "0002_strict.sql").write_text(
        "ALTER TABLE orders ADD CONSTRAINT noted CHECK (note IS NOT NULL OR customer_id <> 5000);"
    )
    failed = system.run("db", "migrate", "orders")
    assert failed.returncode == 1
    assert f"shard {refusing} on server" in failed.stderr
    assert "(7 have it)" in failed.stderr
    found = json.loads(system.run("db", "verify", "orders", "--json").stdout.splitlines()[-1])
    assert found["different"] == [f"the tables of shard {refusing} differ from those of most others"]
    (folder / "0001_note.sql").write_text("SELECT 1;")
    changed = system.run("db", "migrate", "orders")
    assert changed.returncode == 1
    assert "0001_note.sql was changed after it was applied" in changed.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("move", "orders", "99", "--to", "s2"), "database orders has no shard 99"),
        (("move", "orders", "0", "--to", "s9"), "database orders has no server s9"),
        (("move", "nix", "0", "--to", "s1"), "there is no sharded database 'nix' that is up"),
        (("move", "orders", "zero", "--to", "s1"), "not a valid integer"),
        (("abort", "orders", "0"), "shard 0 of database orders is not moving"),
        (("rebalance", "orders", "--empty", "s7"), "database orders has no server s7"),
        (("migrate", "orders", "--folder", "nowhere"), "cannot be read"),
        (("shell", "orders"), "database orders has 8 shards"),
        (("shell", "nix"), "there is no database 'nix'"),
        (("status", "--pgdog"), "--pgdog is about one database"),
        (("shell", "orders", "--key", "one"), "'one' is not a whole number"),
        (("shell", "orders", "--key", "1", "--shard", "1"), "--key and --shard say the same thing"),
        (("shell", "orders", "--shard", "99"), "there is no shard 99"),
        (("shell", "orders", "--server", "s9"), "there is no server 's9'"),
    ],
)
def test_what_cannot_be_done_is_said(system, arguments, told):
    done = system.run("db", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_number_of_shards_is_fixed(system):
    declared = system.folder / "headway.toml"
    text = declared.read_text()
    try:
        declared.write_text(text.replace("shards = 8", "shards = 16"))
        done = system.run("up")
        assert done.returncode == 1
        assert "databases.orders.shards: it has 8, and 16 are declared" in done.stderr
    finally:
        declared.write_text(text)
    assert system.status()["databases"]["orders"]["shards"] == SHARDS


def test_a_server_is_added_filled_and_emptied_again(system):
    declared = system.folder / "headway.toml"
    text = declared.read_text()
    with Writers(system, count=3, first=300) as writers:
        declared.write_text(text.replace("servers = 2", "servers = 3"))
        system.ok("up")
        counts = [server["shards"] for server in system.status()["databases"]["orders"]["servers"]]
        assert counts[2] == 0
        system.ok("db", "rebalance", "orders", "--yes", timeout_s=120)
        assert min(len(server["shards"]) for server in databases(system)["servers"]) >= 2  # type: ignore[attr-defined]
        declared.write_text(text)
        refused = system.run("up")
        assert refused.returncode == 1
        assert "databases.orders.servers: s3 holds" in refused.stderr
        system.ok("db", "rebalance", "orders", "--empty", "s3", "--yes", timeout_s=120)
        system.ok("up")
    assert [server["name"] for server in system.status()["databases"]["orders"]["servers"]] == ["s1", "s2"]
    wait_for(lambda: "database.orders.s3" not in system.processes(), 60, "its process ends")
    assert writers.refused == []
    assert writers.missing() == {}
