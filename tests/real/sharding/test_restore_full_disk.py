"""A restore onto a disk that becomes full ends with a clear word, and what was there before is there again."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backup_place import ACCOUNTS, START, Bank, another, before, restore, restorer, small_disk
from postgresql_place import Place, wait_for

from headway.errors import AppError, EngineError, MachineError
from headway.sharding.backup.restore_plain import restore_plain
from headway.sharding.backup.take import take_plain
from headway.sharding.postgresql import Server

MIB = 2**20


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small one, that the engine's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="headway-disk-")).resolve()
    folder.chmod(0o755)
    try:
        with small_disk(folder / "disk", "300m") as found:
            yield found
    finally:
        (folder / "disk").rmdir()
        folder.rmdir()


@pytest.fixture
def place(disk: Path) -> Iterator[Place]:
    found = Place(disk, disk / "shared")
    try:
        yield found
    finally:
        found.clear()


@pytest.fixture
def small(place: Place) -> Bank:
    """A system of one server, whose data lies on the small disk."""
    found = Bank(place.folder, {"s1": place.start("orders.s1")[0]}, "small")
    found.create()
    return found


def room(folder: Path) -> int:
    """Bytes that are left."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill_up(folder: Path, left_bytes: int) -> Path:
    """A file that leaves so much of its disk."""
    path = folder / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room(folder) - left_bytes)
    return path


def log_has_room(admin: psycopg.Connection[Any]) -> None:
    """Files of its own that are written anew, so that the rows alone have none."""
    for _ in range(3):
        admin.execute("SELECT pg_create_restore_point('x')")
        admin.execute("SELECT pg_switch_wal()")
    admin.execute("CHECKPOINT")


def log_has_no_room(admin: psycopg.Connection[Any]) -> None:
    """Its file is nearly full, and none has been made for later."""
    later = "SELECT count(*) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name > pg_walfile_name(%s)"
    write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', %s), true)"
    while True:
        admin.execute(write, (100_000,))
        lsn, offset = admin.execute(
            "SELECT l, file_offset FROM pg_current_wal_insert_lsn() l, pg_walfile_name_offset(l)"
        ).fetchone()  # type: ignore[misc]
        if admin.execute(later, (lsn,)).fetchone() == (0,):
            break
        admin.execute("SELECT pg_switch_wal()")
    admin.execute(write, (16 * MIB - offset - 400_000,))


@pytest.fixture(scope="module")
def large(running: tuple[Place, dict[str, Server]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of 12 MB and more in one shard."""
    found = another(running)
    found.open_accounts(ACCOUNTS)
    with found.at(found.map().owners[1]) as admin:
        admin.execute(
            "INSERT INTO orders_0001.entries SELECT n, a.customer_id, 1 "
            "FROM (SELECT customer_id FROM orders_0001.accounts LIMIT 1) a, generate_series(1, 200000) n"
        )
    folder = tmp_path_factory.mktemp("backups") / "large"
    found.take(folder)
    return folder


def test_a_disk_that_is_full_gives_back_what_was_there(small: Bank, large: Path) -> None:
    small.open_accounts(2)
    one = restorer(small)
    number = one.begin(large, replace=True)  # there is room now, and somebody else takes it
    with small.at("s1") as admin:
        log_has_room(admin)
    filler = fill_up(small.folder, 5 * MIB)
    with pytest.raises(AppError, match=r"given up, and orders is as before: server s1: .*its disk is full") as caught:
        one.resume(number)
    assert caught.value.hint == "Make room there, then restore again."
    assert small.total() == 2 * START
    assert (before(small), small.map().restoring) == ([], "")
    assert small.verify().complete
    assert room(small.folder) > 3 * MIB  # what it had brought is gone
    filler.unlink()
    assert restore(small, large, replace=True).stage == "done"
    assert small.total() == START * ACCOUNTS


def test_a_server_without_room_for_its_log_goes_on_when_there_is_some(place: Place, small: Bank, large: Path) -> None:
    small.open_accounts(2)
    one = restorer(small)
    number = one.begin(large, replace=True)
    with small.at("s1") as admin:
        log_has_no_room(admin)
    filler = fill_up(small.folder, 14 * MIB)  # too little for the next file of the log
    with pytest.raises(EngineError, match=r"server s1.* (went away while it was restored|does not answer)"):
        one.resume(number)
    wait_for(lambda: place.processes[-1].poll() is not None, "it has gone down", 60)
    assert "PANIC:  could not write to file" in place.log.read_text()
    with pytest.raises(EngineError, match="server s1 does not answer"):
        one.resume(number)
    filler.unlink()
    place.start_again(small.engines["s1"])
    assert small.map().restoring
    assert one.resume(number).stage == "done"
    assert small.total() == START * ACCOUNTS
    assert (before(small), small.map().restoring) == ([], "")
    assert small.verify().complete


def test_a_plain_database_on_a_full_disk_is_as_before(small: Bank, tmp_path: Path) -> None:
    with small.at("s1") as admin:
        admin.execute("CREATE TABLE public.notes (id int PRIMARY KEY, text text)")
        admin.execute("INSERT INTO public.notes SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 60000) n")
    stop = threading.Event()
    way = small.admins()[0].admin
    take_plain("shop", "main", way, tmp_path / "one", say=lambda _line: None, stop=stop)
    with small.at("s1") as admin:
        admin.execute("DELETE FROM public.notes WHERE id > 1")
        admin.execute("INSERT INTO public.notes VALUES (0, 'later')")
        log_has_room(admin)

    def bring() -> None:
        restore_plain("main", way, tmp_path / "one", replace=True, say=lambda _line: None, stop=stop)

    filler = fill_up(small.folder, 5 * MIB)
    with pytest.raises(MachineError, match="database main: its disk is full") as caught:
        bring()
    assert "Make room there" in caught.value.hint
    with small.at("s1") as admin:
        assert admin.execute("SELECT count(*), max(text) FROM public.notes").fetchone()[0] == 2
    assert room(small.folder) > 3 * MIB
    filler.unlink()
    bring()
    with small.at("s1") as admin:
        assert admin.execute("SELECT count(*) FROM public.notes").fetchone() == (60000,)
