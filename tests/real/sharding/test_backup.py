"""A backup is of one moment over all servers, whole or not there, and does not disturb the app."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from backup_place import ACCOUNTS, START, Bank, Transfers, small_disk
from harness import die_with_parent, wait_for
from postgresql_place import Place

from headway.errors import AppError, Conflict, EngineError, MachineError
from headway.sharding.backup import cut
from headway.sharding.backup import take as taking
from headway.sharding.backup.cut import kept_still
from headway.sharding.backup.folder import DumpFile, open_backup
from headway.sharding.backup.manifest import PARTIAL, Manifest
from headway.sharding.backup.take import take_plain
from headway.sharding.keys import shard_of
from headway.sharding.migrating import migrate
from headway.sharding.move.record import insert_move
from headway.sharding.move.sessions import Connection
from headway.sharding.postgresql import Server


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_all_of_it_and_says_so(full: Bank, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = tmp_path / "deep" / "one"
    manifest = full.take(folder, lines.append)
    assert left(folder) == sorted(["manifest.json", "reference.dump", *(f"shard-{n:04d}.dump" for n in range(8))])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())
    assert open_backup(folder) == manifest
    told = json.loads((folder / "manifest.json").read_text())
    assert (told["format"], told["database"], told["shards"], told["key_type"]) == (1, "orders", 8, "int")
    assert told["keys"] == {"accounts": "customer_id", "entries": "customer_id", "notes": "customer_id"}
    assert told["epoch"] == full.map().epoch
    assert told["taken_at"].endswith("Z")
    assert manifest.rows == ACCOUNTS + 2  # and two countries
    for file in manifest.files:
        content = (folder / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
    assert lines[-1].startswith("9 of 9 dumps, ")
    assert left(folder.parent) == ["one"]


def test_no_transfer_is_torn(full: Bank, tmp_path: Path) -> None:
    with Transfers(full, ACCOUNTS) as transfers:
        wait_for(lambda: transfers.done > 20, 60, "money moves")
        manifests = [full.take(tmp_path / str(number)) for number in range(3)]
        after = transfers.done
        wait_for(lambda: transfers.done > after + 20, 60, "money moves on")
    assert transfers.failed == []
    assert full.total() == START * ACCOUNTS
    # Once the machine gives it the time that it needs.
    assert min(manifest.lock_held_ms for manifest in manifests) < 2000
    program = taking.dump_programs()[0].program("pg_restore")
    for number in range(3):
        total = entries = 0
        for shard in range(8):
            file = tmp_path / str(number) / f"shard-{shard:04d}.dump"
            script = subprocess.run(
                [program, "--data-only", "-f", "-", str(file)], capture_output=True, text=True, check=True
            ).stdout
            rows = rows_of(script, "accounts")
            total += sum(int(row[1]) for row in rows)
            entries += sum(int(row[2]) for row in rows_of(script, "entries"))
        assert total == START * ACCOUNTS
        assert entries == 0


def rows_of(script: str, table: str) -> list[list[str]]:
    """The rows of a table in a dump as SQL."""
    lines = iter(script.splitlines())
    for line in lines:
        if line.startswith("COPY ") and f".{table} (" in line:
            return [row.split("\t") for row in itertools.takewhile(lambda one: one != "\\.", lines)]
    raise AssertionError(table)


def test_what_would_tear_it_waits_or_is_waited_for(bank: Bank, tmp_path: Path) -> None:
    first = bank.admins()[0]
    with kept_still("orders", first, "the backup"):
        with bank.at("s1") as catalog, pytest.raises(Conflict, match="the move of shard 3 has to wait: a backup"):
            insert_move(catalog, 3, "s1", "s2")
        with pytest.raises(Conflict, match="the migration has to wait"):
            migrate("orders", (), bank.admins(), say=lambda _line: None)
        with pytest.raises(Conflict, match="backed up or restored already"):
            bank.take(tmp_path / "two")
    with bank.at("s1") as catalog:
        move = insert_move(catalog, 3, "s1", "s2")
        with pytest.raises(Conflict, match="the backup has to wait: shard 3 moves to server s2"):
            bank.take(tmp_path / "two")
        catalog.execute("UPDATE headway.moves SET ended_at = now(), stage = 'aborted' WHERE id = %s", (move,))
        catalog.execute("SELECT pg_advisory_lock(hashtext('headway.migrate'))")
        with pytest.raises(Conflict, match="is being migrated"):
            bank.take(tmp_path / "two")
        catalog.execute("UPDATE headway.catalog SET at_source = true")
        catalog.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(Conflict, match="where they are to be imported from"):
            bank.take(tmp_path / "two")
    assert left(tmp_path) == []


def test_what_begins_right_after_it_is_not_refused(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends a moment later, and a server that is busy is late to see that."""
    connect, ending = cut.connect, []

    def late(conninfo: str, name: str) -> contextlib.nullcontext[Connection]:
        ending.append(connect(conninfo, name))
        return contextlib.nullcontext(ending[-1])

    monkeypatch.setattr(cut, "connect", late)
    with kept_still("orders", bank.admins()[0], "the backup"):
        pass
    with bank.at("s1") as catalog:
        insert_move(catalog, 3, "s1", "s2")
    for connection in ending:
        connection.close()


def test_a_table_that_is_emptied_meanwhile_is_noticed(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older snapshot would find it empty, and nobody would know."""
    bank.open_accounts(4)
    dump = taking.dump

    def slow(*arguments: object) -> object:
        with bank.at("s2") as admin:
            admin.execute("TRUNCATE orders_0007.notes")
        return dump(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(taking, "dump", slow)
    with pytest.raises(Conflict, match="table notes of shard 7 was emptied or rewritten"):
        bank.take(tmp_path / "one")
    assert left(tmp_path) == []


def test_a_decided_transaction_that_stays_open_is_waited_for(bank: Bank, tmp_path: Path) -> None:
    """One part is committed, the other one still prepared: in the cut are both, or none."""
    bank.open_accounts(8)
    map_ = bank.map()
    sent = next(shard for shard in map_.on("s1"))
    got = next(shard for shard in map_.on("s2"))
    url = {name: bank.client_url(name) for name in ("s1", "s2")}
    for name, shard in (("s1", sent), ("s2", got)):
        with psycopg.connect(url[name], autocommit=True) as part:
            part.execute("BEGIN")
            part.execute(f"UPDATE orders_{shard:04d}.accounts SET balance = balance + 1")  # type: ignore[arg-type]
            part.execute(f"PREPARE TRANSACTION 'headway:orders:t1:{name}:{shard}'")  # type: ignore[arg-type]
    with psycopg.connect(url["s1"], autocommit=True) as catalog:
        catalog.execute("INSERT INTO headway.decisions (transaction, decision) VALUES ('t1', 'commit')")
        catalog.execute(f"COMMIT PREPARED 'headway:orders:t1:s1:{sent}'")  # type: ignore[arg-type]
    found: list[object] = []
    taker = threading.Thread(target=lambda: found.append(bank.take(tmp_path / "one")))
    taker.start()
    wait_for(lambda: (tmp_path / f"one{PARTIAL}").exists(), 30, "the backup has begun")
    with psycopg.connect(url["s2"], autocommit=True) as part:
        part.execute(f"COMMIT PREPARED 'headway:orders:t1:s2:{got}'")  # type: ignore[arg-type]
    taker.join(60)
    assert found
    assert left(tmp_path) == ["one"]


def test_where_it_may_not_be_written(full: Bank, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("")
    with pytest.raises(AppError, match="is there already"):
        full.take(tmp_path / "there")
    (tmp_path / f"new{PARTIAL}").mkdir()
    (tmp_path / f"new{PARTIAL}" / "mine").write_text("")
    with pytest.raises(AppError, match="holds mine"):
        full.take(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written"):
        full.take(tmp_path / "file" / "below")
    assert left(tmp_path) == ["file", f"new{PARTIAL}", "there"]
    (tmp_path / "empty").mkdir()
    full.take(tmp_path / "empty")
    assert open_backup(tmp_path / "empty").shards == 8


def test_a_server_that_is_away_or_too_new(full: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = full.admins()
    gone = replace(second, admin="host=127.0.0.1 port=1 dbname=none")
    with pytest.raises(EngineError, match="server s2 does not answer"):
        taking.take("shop", "orders", (first, gone), tmp_path / "one", say=lambda _line: None, stop=threading.Event())
    older = [replace(engine, version="15.1") for engine in taking.dump_programs()]
    monkeypatch.setattr(taking, "dump_programs", lambda: older)
    with pytest.raises(EngineError, match=r"pg_dump 15 cannot read server s1, which runs PostgreSQL \d+"):
        full.take(tmp_path / "one")
    assert left(tmp_path) == []


def test_a_full_disk_leaves_nothing(full: Bank, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32k") as disk:
        with pytest.raises(MachineError, match="is full; nothing of the backup was kept") as caught:
            full.take(disk / "one")
        assert "--to" in caught.value.hint
        assert left(disk) == []


def fill_notes(bank: Bank, shard: int) -> None:
    """So many that no pipe holds them all: who reads the dump's beginning is in the middle of it."""
    customer = next(number for number in range(1000) if shard_of(number, bank.shards, "int") == shard)
    with bank.at(bank.map().owners[shard]) as admin:
        admin.execute(
            f"SET session_replication_role = replica; INSERT INTO orders_{shard:04d}.notes "  # type: ignore[arg-type]
            f"SELECT n, {customer}, repeat(md5(n::text), 20) FROM generate_series(1, 6000) n"
        )


@pytest.mark.parametrize("how", ["the server", "its connections"])
@pytest.mark.parametrize("name", ["s1", "s2"])
def test_a_server_that_dies_in_the_middle_leaves_nothing(
    running: tuple[Place, dict[str, Server]],
    bank: Bank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    how: str,
) -> None:
    """s1 holds the catalog. Once by kill -9 of all of the server, once the server cuts all connections and goes on."""
    place, servers = running
    bank.open_accounts(8)
    shard = bank.map().on(name)[1]
    fill_notes(bank, shard)
    died = threading.Event()
    dump = taking.dump

    def in_the_middle(where: str, conninfo: str, what: list[str], sink: Callable[[bytes], None], *rest: Any) -> Any:
        def read(block: bytes) -> None:
            sink(block)
            if where.endswith(f"shard {shard}") and not died.is_set():
                died.set()
                kill(place, servers[name], whole=how == "the server")

        return dump(where, conninfo, what, read, *rest)

    monkeypatch.setattr(taking, "dump", in_the_middle)
    with pytest.raises(EngineError, match=f"server {name}.* (went away while|does not answer)") as caught:
        bank.take(tmp_path / "one")
    assert died.is_set()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert left(tmp_path) == []
    if how == "the server":
        with pytest.raises(EngineError, match=f"server {name} does not answer"):
            bank.take(tmp_path / "one")
        place.start_again(servers[name])
    wait_for(lambda: is_up(bank, name), 60, "the server is back")
    for server in servers:
        with bank.at(server) as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'headway backup'"
            wait_for(lambda admin=admin, query=query: admin.execute(query).fetchone() == (0,), 30, "sessions end")  # type: ignore[misc]
    manifest = bank.take(tmp_path / "one")
    assert left(tmp_path) == ["one"]
    assert manifest.rows == 6000 + 8 + 2


def kill(place: Place, server: Server, *, whole: bool) -> None:
    """By SIGKILL: all processes of a server, or one that serves us, whereupon the server cuts all connections."""
    port = f"-p {server.port}"
    main = next(
        process
        for process in map(psutil.Process, [one.pid for one in place.processes if one.poll() is None])
        if str(server.data_folder) in " ".join(process.cmdline()) or port in " ".join(process.cmdline())
    )
    if whole:
        main.suspend()  # it would end them in an orderly way
        children = main.children()  # from now on there are no others
    else:
        children = wait_for(lambda: copying(main), 60, "the dump has come to its rows")
    before = main.children()
    for process in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if whole:
        main.kill()
        next(one for one in place.processes if one.pid == main.pid).wait(60)
    else:  # its main process ends all others; who comes before that would be cut off as well
        wait_for(lambda: not any(one.is_running() for one in before), 60, "the server has cut all connections")


def copying(main: psutil.Process) -> list[psutil.Process]:
    """Those of a server that send rows now."""
    found = []
    for process in main.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "COPY" in " ".join(process.cmdline()):
                found.append(process)
    return found


def is_up(bank: Bank, name: str) -> bool:
    try:
        with bank.at(name) as admin:
            return admin.execute("SELECT 1").fetchone() == (1,)
    except (psycopg.Error, EngineError):
        return False


def test_a_plain_database_whose_server_dies_in_the_middle(
    running: tuple[Place, dict[str, Server]], bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, servers = running
    fill_notes(bank, bank.map().on("s2")[0])
    way = next(one.admin for one in bank.admins() if one.name == "s2")
    written, died = DumpFile.write, threading.Event()

    def in_the_middle(self: DumpFile, block: bytes) -> None:
        written(self, block)
        if not died.is_set():
            died.set()
            kill(place, servers["s2"], whole=True)

    def take() -> Manifest:
        return take_plain("shop", "main", way, tmp_path / "one", say=lambda _line: None, stop=threading.Event())

    monkeypatch.setattr(DumpFile, "write", in_the_middle)
    with pytest.raises(EngineError, match="database main went away while it was dumped"):
        take()
    assert left(tmp_path) == []
    place.start_again(servers["s2"])
    assert take().kind == "plain"
    assert left(tmp_path) == ["one"]


CHILD = """
import json, sys, threading, time
from pathlib import Path
from headway.sharding.backup import take as taking
from headway.sharding.admin import AdminServer

dump = taking.dump
def slow(*arguments):
    if taking_done:
        print("now", flush=True)
        time.sleep(600)
    taking_done.append(1)
    return dump(*arguments)
taking_done = []
taking.dump = slow
servers = tuple(AdminServer(**one) for one in json.loads(sys.argv[1]))
taking.take("shop", "orders", servers, Path(sys.argv[2]), say=lambda _line: None, stop=threading.Event())
"""


def test_a_killed_one_is_none_and_the_next_one_clears_up(
    full: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.dumps([{name: getattr(one, name) for name in one.__dataclass_fields__} for one in full.admins()])
    folder = tmp_path / "one"
    argv = [sys.executable, "-c", CHILD, told, str(folder)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("now")
        with pytest.raises(Conflict, match="backed up or restored already"):
            full.take(tmp_path / "two")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(60)
        child.stdout.close()  # type: ignore[union-attr]
    assert left(tmp_path) == [f"one{PARTIAL}"]
    with pytest.raises(AppError, match="what an interrupted backup left"):
        open_backup(tmp_path / f"one{PARTIAL}")
    monkeypatch.setattr("headway.sharding.backup.cut._FREE_S", 60.0)  # until the server has seen its end
    full.take(folder)
    assert left(tmp_path) == ["one"]
    for server in full.engines:
        with full.at(server) as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'headway backup'"
            wait_for(lambda admin=admin, query=query: admin.execute(query).fetchone() == (0,), 30, "sessions end")  # type: ignore[misc]


def test_a_plain_database(bank: Bank, tmp_path: Path) -> None:
    with bank.at("s1") as admin:
        admin.execute("CREATE TABLE notes (id int PRIMARY KEY, text text); INSERT INTO notes VALUES (1, 'a')")
    way = bank.admins()[0].admin
    manifest = take_plain("shop", "main", way, tmp_path / "one", say=lambda _line: None, stop=threading.Event())
    assert left(tmp_path / "one") == ["database.dump", "manifest.json"]
    assert (manifest.kind, manifest.shards, manifest.rows) == ("plain", 0, None)
    with pytest.raises(EngineError, match="database main does not answer"):
        take_plain(
            "shop", "main", "host=127.0.0.1 port=1", tmp_path / "two", say=lambda _line: None, stop=threading.Event()
        )
    assert left(tmp_path) == ["one"]
