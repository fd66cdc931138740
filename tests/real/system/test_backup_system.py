"""A system is backed up by the command while its app writes, and another one restored from the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness import HEADWAY, Running, wait_for
from sharded_app import MIGRATIONS, Writers, declaration, last, write_app

DECLARATION = declaration(MIGRATIONS, "[databases.main]", 'schema = "main.sql"', uses=("orders", "main"))


def _folder(folder: Path) -> Path:
    (folder / "main.sql").write_text("CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY, text text);")
    return write_app(folder)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(_folder(tmp_path_factory.mktemp("one")), DECLARATION, detached=True) as running:
        yield running


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(_folder(tmp_path_factory.mktemp("other")), DECLARATION, detached=True) as running:
        yield running


def test_from_one_system_into_another(system: Running, other: Running) -> None:
    with Writers(system, count=4) as writers:
        wait_for(lambda: writers.count > 20, 60, "orders are written")
        before = {customer: list(numbers) for customer, numbers in writers.acknowledged.items()}
        told = system.ok("db", "backup", "orders", "--to", "kept")
        after = writers.count
        wait_for(lambda: writers.count > after + 20, 60, "orders are written on")
    assert writers.refused == []
    assert writers.missing() == {}
    assert "9 of 9 dumps, " in told
    assert "orders is backed up in " in told
    assert "all servers within" in told
    folder = system.folder / "kept"
    assert (folder / "manifest.json").exists()
    again = system.run("db", "backup", "orders", "--to", "kept")
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "is there already" in again.stderr
    assert "hint: Name another folder" in again.stderr

    done = last(other.ok("db", "restore", "orders", str(folder), "--json"))
    assert done["shards"] == 8
    for customer, numbers in before.items():
        there = httpx.get(f"{other.url}/{customer}", timeout=30).json()
        assert set(numbers) <= set(there)
        assert sorted(there) == list(range(1, max(there) + 1))
    assert last(other.ok("db", "verify", "orders", "--json"))["complete"]
    assert "nothing to apply" in other.ok("db", "migrate", "orders")
    with Writers(other, count=2, first=101) as more:
        wait_for(lambda: more.count > 20, 60, "orders are written there")
    assert more.refused == []
    held = other.run("db", "restore", "orders", str(folder))
    assert (held.returncode, "orders holds rows" in held.stderr, "--replace" in held.stderr) == (1, True, True)
    told = other.ok("db", "restore", "orders", str(folder), "--replace")
    assert "orders is restored from" in told
    assert httpx.get(f"{other.url}/101", timeout=30).json() == []
    nothing = other.run("db", "restore", "orders", "--abort")
    assert "error: database orders is not being restored" in nothing.stderr


def test_a_restore_goes_on_by_itself_when_the_controller_dies(system: Running, other: Running) -> None:
    with Writers(system, count=4, first=201) as writers:
        wait_for(lambda: writers.count > 20, 60, "orders are written")
    folder = system.folder / "second"
    system.ok("db", "backup", "orders", "--to", str(folder))
    begun = len([entry for entry in other.journal() if entry["what"] == "restore"])
    asking = subprocess.Popen(
        [*HEADWAY, "db", "restore", "orders", str(folder), "--replace"],
        cwd=other.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(
        lambda: len([entry for entry in other.journal() if entry["what"] == "restore"]) > begun, 60, "it has begun"
    )
    os.kill(other.pid("controller"), signal.SIGKILL)

    def whole() -> bool:
        done = other.run("db", "status", "orders", "--json")
        return done.returncode == 0 and last(done.stdout)["databases"]["orders"]["restore"] is None  # type: ignore[index]

    wait_for(whole, 120, "it is restored", every_s=0.2)
    _, told = asking.communicate(timeout=120)
    if asking.returncode:  # else it had ended a moment before
        died = ("error: the controller died while it was at work: restore\n", "error: there is no task ")
        assert told.startswith((*died, "error: the controller does not answer\n"))
        assert "headway db status" in told or not told.startswith(died)
    for customer, numbers in writers.acknowledged.items():
        assert sorted(httpx.get(f"{other.url}/{customer}", timeout=30).json()) == numbers
    assert last(other.ok("db", "verify", "orders", "--json"))["complete"]


def test_a_plain_database_and_the_default_place(system: Running, other: Running) -> None:
    insert = ("db", "shell", "main", "-c", "INSERT INTO notes (text) VALUES ('kept') RETURNING id")
    system.ok(*insert)
    found = last(system.ok("db", "backup", "main", "--json"))
    folder = Path(str(found["folder"]))
    assert folder.parent == system.state.resolve() / "backups"
    assert folder.name.startswith("main-20")
    assert folder.name.endswith("Z")
    assert time.strftime("%Y") in folder.name
    other.ok("db", "restore", "main", str(folder))
    assert "kept" in other.ok("db", "shell", "main", "-c", "TABLE notes")
    assert " 2" in other.ok(*insert)
    refused = other.run("db", "restore", "main", str(folder))
    assert "main holds rows" in refused.stderr
    wrong = other.run("db", "restore", "orders", str(folder), "--replace")
    assert "is of a plain database, and orders is sharded" in wrong.stderr
    assert "hint:" in wrong.stderr
    none = other.run("db", "restore", "main", str(other.folder))
    assert "is no backup" in none.stderr
    assert "Traceback" not in none.stderr
    assert other.run("db", "restore", "main").stderr.startswith("error: db restore needs a folder, or --abort")
