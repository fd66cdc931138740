"""A restore brings all of a backup back or nothing, keeps the app out meanwhile, and leaves what works on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from backup_place import ACCOUNTS, START, Bank, Transfers, another, before, plain, restore, restorer
from harness import wait_for
from sqlalchemy import text

from headway.errors import AppError, Conflict, DatabaseBusy, EngineError, MachineError
from headway.sharding.backup import restore as restoring
from headway.sharding.backup.manifest import MANIFEST
from headway.sharding.backup.record import open_restore, read_restore
from headway.sharding.backup.restore import Restorer
from headway.sharding.backup.restore_plain import restore_plain
from headway.sharding.backup.take import take_plain
from headway.sharding.migrating import migrate, read_folder
from headway.sharding.move.record import insert_move


@pytest.fixture(scope="module")
def backup(full: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taken while money moved; its sum is known."""
    folder = tmp_path_factory.mktemp("backups") / "one"
    with Transfers(full, ACCOUNTS) as transfers:
        wait_for(lambda: transfers.done > 20, 60, "money moves")
        full.take(folder)
        after = transfers.done
        wait_for(lambda: transfers.done > after + 5, 60, "money moves on")
    assert transfers.failed == []
    return folder


def test_another_system_gets_all_of_it_and_works_on(bank: Bank, backup: Path, tmp_path: Path) -> None:
    ended = restore(bank, backup)
    assert ended.stage == "done"
    assert ended.number("rows") == json.loads((backup / MANIFEST).read_text())["files"][0]["rows"] + bank.total(
        "SELECT (SELECT count(*) FROM {0}.accounts) + (SELECT count(*) FROM {0}.entries)"
    )
    assert bank.total() == START * ACCOUNTS
    assert bank.total("SELECT sum(amount) FROM {}.entries") == 0
    assert bank.total("SELECT count(*) FROM {}.entries") > 0
    assert bank.verify().complete, bank.verify()
    assert before(bank) == []
    assert bank.map().restoring == ""
    assert bank.map().fenced == frozenset()
    drawn = bank.total("SELECT max(id) % 1000000007 FROM {}.entries")
    with Transfers(bank, ACCOUNTS) as transfers:
        wait_for(lambda: transfers.done > 20, 60, "money moves on")
    assert transfers.failed == []
    assert bank.total() == START * ACCOUNTS
    assert bank.total("SELECT max(id) % 1000000007 FROM {}.entries") != drawn

    async def use() -> None:
        database = bank.client()
        async with database.at(1) as connection:
            number = await connection.fetchval("INSERT INTO entries (customer_id, amount) VALUES (1, 0) RETURNING id")
            await connection.execute("INSERT INTO notes (entry_id) VALUES ($1)", number)  # its key by the join
            assert await connection.fetchval("SELECT customer_id FROM notes WHERE entry_id = $1", number) == 1
            assert await connection.fetchval("SELECT state FROM accounts WHERE customer_id = 1") == "open"
            with pytest.raises(Exception, match="too low"):
                await connection.execute("UPDATE accounts SET balance = -2000000 WHERE customer_id = 1")
            with pytest.raises(Exception, match="permission denied"):
                await connection.execute("CREATE TABLE mine (id int)")
        await database.write_reference("INSERT INTO countries VALUES ('at')")
        async with database.at(1) as connection:
            await connection.execute("UPDATE accounts SET country = 'at' WHERE customer_id = 1")
        rows = await database.everywhere("SELECT count(*) AS n FROM accounts")
        assert rows[0]["n"] == ACCOUNTS
        await database.close()

    asyncio.run(use())
    assert bank.verify().complete
    # Laying it out again, as each start does, finds nothing to do.
    bank.lay_out()
    assert bank.verify().complete


def test_migrations_are_those_of_the_backup(bank: Bank, running, tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_word.sql").write_text("ALTER TABLE accounts ADD COLUMN word text DEFAULT 'x';")
    files = read_folder(tmp_path / "migrations", "migrations")
    migrate("orders", files, bank.admins(), say=lambda _line: None)
    bank.open_accounts(3)
    bank.take(tmp_path / "one")
    other = another(running)
    restore(other, tmp_path / "one")
    assert dict(migrate("orders", files, other.admins(), say=lambda _line: None).applied) == {}
    assert other.verify().complete
    assert other.total("SELECT count(*) FROM {}.accounts WHERE word = 'x'") == 3


def test_shards_go_where_the_map_has_them_now(bank: Bank, backup: Path) -> None:
    with bank.at("s1") as catalog:
        catalog.execute("UPDATE headway.shard_map SET server = 's2' WHERE shard = 0")
    with bank.at("s1") as admin:
        admin.execute("DROP SCHEMA orders_0000 CASCADE")
    bank.lay_out()
    restore(bank, backup)
    assert bank.total() == START * ACCOUNTS
    assert bank.verify().complete


def test_rows_that_are_there_are_replaced_only_when_asked(bank: Bank, backup: Path) -> None:
    bank.open_accounts(2)
    with pytest.raises(Conflict, match="orders holds rows") as caught:
        restore(bank, backup)
    assert "--replace" in caught.value.hint
    assert bank.total() == 2 * START
    with bank.at("s1") as catalog:
        assert open_restore(catalog) is None
    restore(bank, backup, replace=True)
    assert bank.total() == START * ACCOUNTS


def test_a_client_of_before_is_kept_out_and_comes_back(bank: Bank, backup: Path) -> None:
    bank.open_accounts(2)
    one = restorer(bank)

    async def use() -> None:
        database = bank.client()
        get = "SELECT state FROM accounts WHERE customer_id = 1"
        async with database.at(1) as connection:
            assert await connection.fetchval(get) == "open"
        number = await asyncio.to_thread(one.begin, backup, replace=True)
        await asyncio.to_thread(wait_for, lambda: database._places.map.restoring, 30, "it has heard of it")
        refused = []
        for ask in (
            lambda: database.run(1, lambda connection: connection.fetchval(get)),
            lambda: database.everywhere("SELECT count(*) FROM accounts"),
            lambda: database.write_reference("INSERT INTO countries VALUES ('xx')"),
            lambda: asyncio.to_thread(lambda: database.sqlalchemy.run(1, lambda s: s.execute(text(get)).all())),
            lambda: asyncio.to_thread(lambda: database.sync.run(1, lambda c: c.execute(get).fetchone())),
        ):
            with pytest.raises(DatabaseBusy, match="is being restored from a backup") as caught:
                await ask()
            refused.append(caught.value.hint)
        assert all("headway db status" in hint for hint in refused)
        with bank.at("s1") as catalog, pytest.raises(Conflict, match="has to wait: a backup"):
            insert_move(catalog, 3, "s1", "s2")
        with pytest.raises(Conflict, match="the migration has to wait"):
            migrate("orders", (), bank.admins(), say=lambda _line: None)
        with pytest.raises(Conflict, match="is being restored from a backup"):
            bank.take(bank.folder / "never")
        bank.lay_out()  # a start meanwhile leaves it alone
        await asyncio.to_thread(one.resume, number)
        async with database.at(1) as connection:
            assert await connection.fetchval(get) == "open"
        await database.close()

    asyncio.run(use())
    assert bank.total() == START * ACCOUNTS


def copied(backup: Path, folder: Path) -> Path:
    shutil.copytree(backup, folder)
    return folder


def changed(folder: Path, **facts: object) -> Path:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return folder


def test_what_is_no_whole_backup_is_refused_before_anything(bank: Bank, backup: Path, tmp_path: Path) -> None:
    bank.open_accounts(2)
    damaged = copied(backup, tmp_path / "damaged")
    content = bytearray((damaged / "shard-0003.dump").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "shard-0003.dump").write_bytes(content)
    short = copied(backup, tmp_path / "short")
    os.truncate(short / "shard-0004.dump", 100)
    missing = copied(backup, tmp_path / "missing")
    (missing / "shard-0005.dump").unlink()
    unnamed = copied(backup, tmp_path / "unnamed")
    changed(unnamed, files=json.loads((unnamed / MANIFEST).read_text())["files"][:-1])
    newer = changed(copied(backup, tmp_path / "newer"), format=2)
    garbled = copied(backup, tmp_path / "garbled")
    (garbled / MANIFEST).write_text("{")
    (tmp_path / "empty").mkdir()
    for folder, why in (
        (damaged, "shard-0003.dump is damaged: its sum"),
        (short, "shard-0004.dump is damaged: it has 100 bytes"),
        (missing, "shard-0005.dump is missing"),
        (unnamed, "does not name"),
        (newer, "in a format .2. that is newer"),
        (garbled, "is not the manifest of a backup"),
        (tmp_path / "empty", "is no backup: it has no manifest"),
        (tmp_path / "nowhere", "is no backup: there is no such folder"),
        (changed(copied(backup, tmp_path / "of16"), shards=16), "does not name shard-0008"),
        (changed(copied(backup, tmp_path / "text"), key_type="text"), "keys of the backup are of type text"),
        (changed(copied(backup, tmp_path / "keys"), keys={"other": "id"}), "is spread by other.id, and orders by"),
        (changed(copied(backup, tmp_path / "name"), database="sales"), "is of database sales"),
        (changed(copied(backup, tmp_path / "plain"), kind="plain"), "does not name database.dump"),
    ):
        with pytest.raises(AppError, match=why) as caught:
            restore(bank, folder, replace=True)
        assert caught.value.hint
    assert bank.total() == 2 * START
    assert bank.map().restoring == ""


def test_another_number_of_shards(running, backup: Path) -> None:
    other = another(running, shards=4)
    with pytest.raises(AppError, match="the backup has 8 shards, and orders has 4"):
        restore(other, backup)


def test_no_room_and_no_program(bank: Bank, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = json.loads((backup / MANIFEST).read_text())["files"]
    large = changed(copied(backup, tmp_path / "large"), files=[one | {"size_bytes": 10**15} for one in files])
    with pytest.raises(MachineError, match="left, and the backup takes about"):
        restore(bank, large)
    later = changed(copied(backup, tmp_path / "later"), dumped_by=99)
    with pytest.raises(EngineError, match="needs the pg_restore of PostgreSQL 99"):
        restore(bank, later)
    assert bank.map().restoring == ""


def test_what_a_server_refuses_undoes_all_of_it(bank: Bank, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.open_accounts(2)
    epoch = bank.map().epoch
    monkeypatch.setattr(restoring.Refill, "archive", _archive_but_six(restoring.Refill.archive))
    with pytest.raises(AppError, match="was given up, and orders is as before"):
        restore(bank, backup, replace=True)
    monkeypatch.undo()
    assert bank.total() == 2 * START
    assert before(bank) == []
    assert bank.map().epoch > epoch
    assert bank.verify().complete
    restore(bank, backup, replace=True)
    assert bank.total() == START * ACCOUNTS


def _archive_but_six(archive):
    def given(self, path: str) -> None:
        if path.endswith("shard-0006.dump"):
            self.sql("SELECT 1 / 0;")
        archive(self, path)

    return given


def test_it_is_undone_by_hand_while_it_fills(bank: Bank, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.open_accounts(2)
    one = restorer(bank)
    filling = threading.Event()
    fill = Restorer._fill_one

    def slow(self, server, schema, *rest):
        fill(self, server, schema, *rest)
        if schema == "orders_0002":
            filling.set()
            one.interrupted.wait(60)

    monkeypatch.setattr(Restorer, "_fill_one", slow)
    number = one.begin(backup, replace=True)
    failures: list[Exception] = []

    def resume() -> None:
        try:
            one.resume(number)
        except AppError as error:
            failures.append(error)

    thread = threading.Thread(target=resume)
    thread.start()
    assert filling.wait(60)
    assert before(bank) != []
    restorer(bank).abort(number)
    one.interrupted.set()
    thread.join(60)
    assert "aborted by hand" in str(failures[0])
    assert bank.total() == 2 * START
    assert before(bank) == []
    with bank.at("s1") as catalog:
        assert read_restore(catalog, number).stage == "undone"
    assert bank.verify().complete


def test_what_it_has_put_aside_waits_for_readers(bank: Bank, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.open_accounts(2)
    monkeypatch.setattr(restoring, "_DROP_S", 1.0)
    reader = bank.at("s2")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM orders_0007.accounts")
    ended = restore(bank, backup, replace=True)
    assert ended.stage == "opened"
    assert bank.total() == START * ACCOUNTS
    assert bank.map().restoring == ""
    reader.close()
    monkeypatch.setattr(restoring, "_DROP_S", 60.0)
    again = restorer(bank)
    assert again.resume(ended.id).stage == "done"
    assert before(bank) == []


CHILD = """
import itertools, json, os, signal, sys, threading
from pathlib import Path
from headway.sharding.backup import restore as restoring
from headway.sharding.backup.restore import Restorer
from headway.sharding.admin import AdminServer
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout
from headway.model.sharding import Join

told = json.loads(sys.argv[1])
servers = tuple(AdminServer(**one) for one in told["servers"])
nth = int(sys.argv[3])
steps = itertools.count(1)  # several threads count

def counted(function):
    def step(*arguments, **named):
        if next(steps) >= nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)
    return step

layout = Layout("shop", "orders", 8, told["keys"], ("countries",), Path(told["file"]),
                joins={"notes": Join("entry_id", "entries", "id")}, ids={"entries": "id"})
restorer = Restorer("orders", servers, lambda: lay_out(layout, servers, restored=True),
                    say=lambda _line: None, stop=threading.Event())
number = restorer.begin(Path(sys.argv[2]), replace=True)
for name in ("advance", "let_in", "_rename"):
    setattr(restoring, name, counted(getattr(restoring, name)))
restoring.Refill.done = counted(restoring.Refill.done)
restorer.resume(number)
print("done", flush=True)
"""


@pytest.mark.timeout(600)
def test_killed_anywhere_it_goes_on(bank: Bank, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SIGKILL before each of its steps in turn; the app never sees half of it."""
    monkeypatch.setattr("headway.sharding.backup.cut._FREE_S", 60.0)  # until the server has seen its end
    bank.open_accounts(2)
    bank.layout()
    told = json.dumps(
        {
            "servers": [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in bank.admins()],
            "keys": dict(bank.keys),
            "file": str(bank.folder / f"{bank.database_name}.sql"),
        }
    )
    seen: list[str] = []
    for nth in (1, 6, 11, 12, 17, 22, 23, 24):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, told, str(backup), str(nth)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == -signal.SIGKILL, f"{nth}: {done.stdout} {done.stderr}"
        with bank.at("s1") as catalog:
            found = open_restore(catalog)
        assert found is not None
        seen.append(found.stage)
        assert bool(bank.map().restoring) == (found.stage != "opened")
        one = restorer(bank)
        if found.stage != "opened":  # the same command goes on with it
            assert one.begin(backup, replace=True) == found.id
        assert one.resume(found.id).stage == "done"
        assert bank.total() == START * ACCOUNTS
        assert before(bank) == []
    assert seen == ["begun"] * 3 + ["aside"] * 3 + ["filled", "opened"]
    assert bank.verify().complete
    with Transfers(bank, ACCOUNTS) as transfers:
        wait_for(lambda: transfers.done > 10, 60, "money moves on")
    assert transfers.failed == []


def test_a_plain_database_is_restored_in_one_transaction(running, tmp_path: Path) -> None:
    _, servers = running
    names = ("plain_a", "plain_b")
    place, _ = running
    banks = [Bank(place.folder, servers, name) for name in names]
    for one in banks:
        engine = servers["s1"]
        with psycopg.connect(one._way(engine, "postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {one.database_name} OWNER {engine.role}")  # type: ignore[call-overload]
    source, target = banks
    plain(
        source,
        "s1",
        "CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); "
        "CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mood mood, n positive); "
        "CREATE SCHEMA side; CREATE TABLE side.more (id int); "
        "INSERT INTO notes (mood, n) SELECT 'good', n FROM generate_series(1, 100) n; "
        "CREATE VIEW seen AS SELECT id FROM notes; "
        "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2'",
    )
    way = source._way(servers["s1"], source.database_name)
    stop = threading.Event()
    take_plain("shop", "main", way, tmp_path / "one", say=lambda _line: None, stop=stop)
    url = target.client_url("s1")

    def bring(**more: bool) -> None:
        restore_plain("main", url, tmp_path / "one", say=lambda _line: None, stop=stop, replace=False, **more)

    bring()
    with psycopg.connect(url, autocommit=True) as app:
        assert app.execute("SELECT count(*), twice(2) FROM seen").fetchone() == (100, 4)
        assert app.execute("INSERT INTO notes (mood, n) VALUES ('good', 1) RETURNING id").fetchone() == (101,)
        app.execute("CREATE TABLE later (id int)")
        with pytest.raises(Conflict, match="main holds rows"):
            bring()
        restore_plain("main", url, tmp_path / "one", say=lambda _line: None, stop=stop, replace=True)
        assert app.execute("SELECT count(*) FROM notes").fetchone() == (100,)
        assert app.execute("SELECT to_regclass('later')").fetchone() == (None,)
        # A dump that does not end leaves all as it was.
        cut = copied(tmp_path / "one", tmp_path / "cut")
        manifest = json.loads((cut / MANIFEST).read_text())
        content = (cut / "database.dump").read_bytes()[:-200]
        (cut / "database.dump").write_bytes(content)
        import hashlib

        manifest["files"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (cut / MANIFEST).write_text(json.dumps(manifest))
        app.execute("INSERT INTO notes (mood, n) VALUES ('good', 7)")
        with pytest.raises(AppError, match="cannot be read by pg_restore"):
            restore_plain("main", url, cut, say=lambda _line: None, stop=stop, replace=True)
        assert app.execute("SELECT count(*) FROM notes").fetchone() == (101,)


def test_a_plain_backup_does_not_go_into_shards(bank: Bank, tmp_path: Path, backup: Path) -> None:
    way = bank.admins()[0].admin
    stop = threading.Event()
    take_plain("shop", "orders", way, tmp_path / "one", say=lambda _line: None, stop=stop)
    with pytest.raises(AppError, match="is of a plain database, and orders is sharded"):
        restore(bank, tmp_path / "one")
    with pytest.raises(AppError, match="is of a database of 8 shards, and main is a plain one"):
        restore_plain("main", bank.client_url("s1"), backup, replace=False, say=lambda _line: None, stop=stop)


def test_a_server_that_is_away_is_waited_for(bank: Bank, backup: Path) -> None:
    one = restorer(bank)
    number = one.begin(backup, replace=False)
    first, second = bank.admins()
    away = replace(second, admin="host=127.0.0.1 port=1 dbname=none")
    alone = Restorer("orders", (first, away), lambda: None, say=lambda _line: None, stop=threading.Event())
    with pytest.raises(EngineError, match="server s2 does not answer"):
        alone.resume(number)
    assert bank.map().restoring
    assert one.resume(number).stage == "done"
    assert bank.total() == START * ACCOUNTS


def test_a_server_that_dies_while_it_is_filled(running, bank: Bank, backup: Path, monkeypatch) -> None:
    place, servers = running
    bank.open_accounts(2)
    one = restorer(bank)
    number = one.begin(backup, replace=True)
    died: list[subprocess.Popen[bytes]] = []
    archive = restoring.Refill.archive
    lock = threading.Lock()

    def kill_first(self, path: str) -> None:
        with lock:
            if path.endswith("shard-0006.dump") and not died:
                died.append(place.processes[-1])
                died[0].kill()
                died[0].wait(60)
        archive(self, path)

    monkeypatch.setattr(restoring.Refill, "archive", kill_first)
    with pytest.raises(EngineError):
        one.resume(number)
    assert bank.map().restoring
    place.start_again(servers["s2"])
    assert one.resume(number).stage == "done"
    assert bank.total() == START * ACCOUNTS
    assert bank.verify().complete
