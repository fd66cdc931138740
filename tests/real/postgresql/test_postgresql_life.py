"""An embedded PostgreSQL from nothing to rows that survive everything: crash, stop, restart, a taken port."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest
from postgresql_place import Place, as_user, die_with_parent, stop, wait_for

from headway.errors import EngineError, MachineError
from headway.process.identity import engine_identity
from headway.sharding.engine import find_engines
from headway.sharding.failures import explain_failure
from headway.sharding.orphans import clear_stale_number, end_orphans
from headway.sharding.postgresql import (
    Server,
    administer,
    ensure_database,
    is_ready,
    prepare,
    server_health,
    wait_until_ready,
)
from headway.sharding.schema import apply_schema_once


def _rows(url: str) -> list[int]:
    with psycopg.connect(url, connect_timeout=60) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM orders ORDER BY id").fetchall()]


def _insert(url: str, number: int) -> None:
    with psycopg.connect(url, connect_timeout=60) as connection:
        connection.execute("INSERT INTO orders VALUES (%s)", (number,))


def test_rows_survive_a_kill_a_stop_and_restarts(place: Place) -> None:
    schema = place.schema("CREATE TABLE orders (id int PRIMARY KEY);\nINSERT INTO orders VALUES (1);\n")
    server, process = place.start()
    assert server.created
    assert apply_schema_once(server.url, schema, server.engine).state == "applied"
    _insert(server.url, 2)

    process.kill()
    process.wait()
    again, process = place.start()
    assert (again.url, again.running_pid, again.created) == (server.url, None, False)
    assert apply_schema_once(again.url, schema, again.engine).state == "unchanged"
    assert _rows(again.url) == [1, 2]

    _insert(again.url, 3)
    stop(process)
    last, process = place.start()
    assert apply_schema_once(last.url, schema, last.engine).state == "unchanged"
    assert (last.url, last.created) == (server.url, False)
    assert _rows(last.url) == [1, 2, 3]
    stop(process)
    assert not is_ready(last)


def test_a_restart_right_after_a_kill_with_open_sessions(place: Place) -> None:
    """As a supervisor does it: the same command again, at once, with no step in between."""
    server, process = place.start()
    sessions = [psycopg.connect(server.url, autocommit=True) for _ in range(5)]
    try:
        for _ in range(3):
            process.kill()
            process.wait()
            process = _spawn_until_ready(place, server)
    finally:
        for session in sessions:
            session.close()
    assert ensure_database(replace(server, created=False)) is False


def test_what_does_not_see_the_end_of_its_server_is_ended(place: Place) -> None:
    """One that makes a slot by SQL may wait for the log for ever; stopped by a signal, it does as well."""
    server, process = place.start()
    with psycopg.connect(server.url) as session:
        stuck = session.info.backend_pid
        os.kill(stuck, signal.SIGSTOP)
        process.kill()
        process.wait()
        wait_for(lambda: _processes(server) == [stuck], "all others end, and it does not")
        left = psutil.Process(stuck)
        try:
            again, process = place.start()  # which would not be possible beside it
            assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        assert again.running_pid is None
        session.close()
    with psycopg.connect(again.url) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert len(_processes(again)) > 3
        assert end_orphans(again.data_folder) == ()  # those of a server that lives are none
        assert session.execute("SELECT 2").fetchone() == (2,)


def _processes(server: Server) -> list[int]:
    """Those that stand in the server's data folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == str(server.data_folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return sorted(found)


def _spawn_until_ready(place: Place, server: Server) -> subprocess.Popen[bytes]:
    """Children of a killed server may hold the next one off for a moment, which then ends and is spawned again."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        process = place.spawn(server)
        try:
            wait_until_ready(server, timeout_s=60, is_alive=lambda process=process: process.poll() is None)
        except EngineError:
            assert "previous PostgreSQL" in explain_failure(place.log.read_text())[0]
            time.sleep(0.05)
            continue
        return process
    raise AssertionError("did not come up again")


def test_a_running_server_is_adopted(place: Place) -> None:
    server, process = place.start()
    found = place.prepare()
    assert found.running_pid == process.pid
    assert (found.url, found.socket_folder) == (server.url, server.socket_folder)
    other = place.folder / "other-run"
    other.mkdir()
    moved = prepare(place.state_folder, other, system="shop", name="main", shared_folder=place.shared_folder)
    place.servers.append(replace(moved, socket_folder=other / "pg-main"))
    assert moved.socket_folder == server.socket_folder
    assert administer(moved, "SELECT 41 + 1").stdout == "42\n"


def test_a_port_that_somebody_took_is_left_to_them(place: Place) -> None:
    server, process = place.start()
    stop(process)
    with socket.create_server(("127.0.0.1", server.port)):
        moved, process = place.start()
        assert moved.port != server.port
        assert moved.password == server.password
        stop(process)
    # The new one stays, also when the old one is free again.
    assert place.prepare().port == moved.port


def test_a_port_taken_between_preparing_and_starting_is_told(place: Place) -> None:
    server = place.prepare()
    with socket.create_server(("127.0.0.1", server.port)):
        assert place.spawn(server).wait(60) != 0
    assert explain_failure(place.log.read_text())[0] == "its port is taken by another program"


def test_two_servers_on_the_same_data_are_refused(place: Place) -> None:
    server, process = place.start()
    assert place.spawn(server).wait(60) != 0
    message, hint = explain_failure(place.log.read_text())
    assert message == f"another PostgreSQL (process {process.pid}) already uses postmaster.pid"
    assert hint


def test_a_number_in_postmaster_pid_that_is_now_somebody_elses(place: Place) -> None:
    server = place.prepare()
    sleeper = subprocess.Popen(
        ["sleep", "600"], preexec_fn=die_with_parent(signal.SIGKILL), cwd="/", **as_user(server.identity)
    )
    try:
        stale = f"{sleeper.pid}\n{server.data_folder}\n1\n{server.port}\n{server.socket_folder}\n127.0.0.1\n\n"
        (server.data_folder / "postmaster.pid").write_text(stale)
        _, process = place.start()
        stop(process)
        # And while it is watched, as after a kill: the number of the killed one may be given to another server's child.
        (server.data_folder / "postmaster.pid").write_text(stale)
        assert place.spawn(server).wait(60) != 0
        assert "another PostgreSQL" in explain_failure(place.log.read_text())[0]
        assert clear_stale_number(server.data_folder)
        process = place.spawn(server)
        wait_until_ready(server, is_alive=lambda: process.poll() is None)
        assert not clear_stale_number(server.data_folder)  # that of one that lives is not stale
        stop(process)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_everything_private_is_private(place: Place) -> None:
    server, process = place.start()
    owner = server.identity.uid if server.identity else os.geteuid()
    for folder in (server.data_folder, server.socket_folder):
        assert (stat.S_IMODE(folder.stat().st_mode), folder.stat().st_uid) == (0o700, owner)
    record = place.state_folder / "databases" / "main.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    running = psutil.Process(process.pid)
    assert running.uids().effective == owner
    if os.geteuid() == 0:
        assert owner not in (0, None)
    addresses = {(c.laddr.ip, c.laddr.port) for c in running.net_connections("inet") if c.status == "LISTEN"}
    assert addresses == {("127.0.0.1", server.port)}
    assert server.password not in " ".join(running.cmdline()) + str(running.environ()) + repr(server)
    assert server.password not in place.log.read_text()


def test_what_was_lost_beside_the_data_is_made_anew(place: Place) -> None:
    server, process = place.start()
    (place.state_folder / "databases" / "main.json").write_text("{ half")
    stop(process)
    again, process = place.start()
    assert again.password != server.password
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(replace(again, password=server.password).url)
    stop(process)


@pytest.mark.parametrize("engine", find_engines(), ids=lambda engine: engine.version)
def test_data_is_opened_by_the_version_that_wrote_it(
    place: Place, engine: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headway.sharding import postgresql

    with monkeypatch.context() as patch:
        patch.setattr(postgresql, "find_postgresql", lambda major: engine)
        server = place.prepare()
    again, process = place.start()
    assert again.engine.version == server.engine.version == getattr(engine, "version", "")
    assert administer(again, "SELECT lower('ÄÖÜ'), 'a' < 'B'").stdout == "äöü|f\n"
    stop(process)


def test_data_of_a_version_that_is_not_here(place: Place) -> None:
    server = place.prepare()
    (server.data_folder / "PG_VERSION").write_text("12\n")
    with pytest.raises(EngineError, match="written by PostgreSQL 12, which is not installed") as caught:
        place.prepare()
    assert "Install PostgreSQL 12" in caught.value.hint


_PREPARE = """
import sys; from pathlib import Path; from headway.sharding.postgresql import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]), system="shop", name="main", shared_folder=Path(sys.argv[3]))
"""


@pytest.mark.parametrize("everything", [True, False], ids=["with initdb", "while initdb goes on"])
def test_a_kill_in_the_middle_of_the_first_start(place: Place, everything: bool) -> None:
    databases = place.state_folder / "databases"
    (place.folder / "run").mkdir()
    argv = [sys.executable, "-c", _PREPARE, place.state_folder, place.folder / "run", place.shared_folder]
    orphans: list[psutil.Process] = []
    while not orphans:  # on a busy machine it may have come to its end before anybody looks
        for former in (databases / "main", *databases.glob(".main.initdb-*")):
            shutil.rmtree(former, ignore_errors=True)
        child = subprocess.Popen(argv, preexec_fn=die_with_parent(signal.SIGKILL))
        try:
            wait_for(
                lambda child=child: any(databases.glob(".main.initdb-*/base/1")) or child.poll() is not None,  # type: ignore[misc]
                "initdb at work",
            )
            assert child.poll() in (None, 0)
            if child.poll() is None:
                child.send_signal(signal.SIGSTOP)  # what it waits for goes on, and it does not
                orphans = psutil.Process(child.pid).children(recursive=True)
        finally:
            child.kill()
            child.wait()
        if (databases / "main").exists():
            orphans = []
    if everything:
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
    assert not (databases / "main").exists()
    server, process = place.start()
    assert server.created
    stop(process)
    psutil.wait_procs(orphans, timeout=60)
    place.prepare()  # whatever an initdb wrote that was still running is cleared away by the next start
    assert [path.name for path in databases.iterdir() if path.name.startswith(".")] == []


def test_a_server_that_hangs_is_seen(place: Place) -> None:
    server, process = place.start()
    assert server_health(server, timeout_s=30).state == "ready"
    process.send_signal(signal.SIGSTOP)
    assert server_health(server, timeout_s=0.3).state == "silent"
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: is_ready(server), "ready again")
    process.kill()
    process.wait()
    # A child that was forked in that moment may have its socket for one more.
    wait_for(lambda: server_health(server).state == "down", "down")


def test_a_folder_that_cannot_be_written(place: Place) -> None:
    (place.folder / "file").write_text("")
    with pytest.raises(MachineError, match="database main cannot be prepared") as caught:
        prepare(place.folder / "file" / "state", place.folder, system="shop", name="main")
    assert caught.value.hint


@pytest.mark.usefixtures("root")
def test_a_full_disk_leaves_nothing_half_done(place: Place) -> None:
    place.state_folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs", str(place.state_folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    try:
        with pytest.raises(EngineError, match="the disk is full"):
            place.prepare()
        assert not (place.state_folder / "databases" / "main").exists()
        assert not list((place.state_folder / "databases").glob(".main.initdb-*"))
    finally:
        subprocess.run(["umount", "--lazy", str(place.state_folder)], check=True)


# Gives root up itself, when all is imported: the other user may not be able to enter the folder of this Python.
_AS_NORMAL_USER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from postgresql_place import Place, stop
import encodings.idna, psycopg
os.setgroups([])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[3]))
folder = Path(sys.argv[2])
place = Place(folder, folder / "shared")
try:
    for _ in range(2):
        server, process = place.start()
        assert server.identity is None
        assert server.data_folder == folder / ".headway/databases/main"
        psycopg.connect(server.url).close()
        stop(process)
finally:
    place.clear()
print("fine")
"""


@pytest.mark.usefixtures("root")
def test_as_a_normal_user(place: Place) -> None:
    """The same without root; a run of the tests as a normal user covers it anyway."""
    identity = engine_identity()
    assert identity is not None
    own = place.folder / "own"
    own.mkdir()
    os.chown(own, identity.uid, identity.gid)
    numbers = [str(identity.uid), str(identity.gid)]
    done = subprocess.run(
        [sys.executable, "-c", _AS_NORMAL_USER, str(Path(__file__).parent), str(own), *numbers],
        capture_output=True,
        text=True,
        timeout=240,
        cwd="/",
    )
    assert done.stdout == "fine\n", done.stderr
