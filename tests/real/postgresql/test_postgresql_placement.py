"""Projects that the engine's user cannot enter, as under /root: the data and the programs go where it can."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from postgresql_place import Place, stop

from headway.errors import EngineError, MachineError
from headway.process.identity import engine_identity
from headway.process.run import run
from headway.sharding.engine import Engine, find_engines, find_postgresql, reachable_engine
from headway.sharding.placement import make_socket_folder, placement

pytestmark = pytest.mark.usefixtures("root")


def _closed(place: Place) -> Place:
    """The same place with a project folder that only root may enter; what is shared lies beside it."""
    project = place.folder / "root" / "project"
    project.mkdir(parents=True)
    project.parent.chmod(0o700)
    return Place(project, place.folder / "shared", place.processes, place.servers)


def test_data_and_socket_outside_a_closed_folder(place: Place) -> None:
    closed = _closed(place)
    server, process = closed.start()
    assert server.data_folder.is_relative_to(place.folder / "shared" / "data")
    assert not server.socket_folder.is_relative_to(closed.folder)
    assert stat.S_IMODE(server.data_folder.stat().st_mode) == 0o700
    note = (closed.state_folder / "databases" / "main.txt").read_text()
    assert str(server.data_folder) in note
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    stop(process)

    # The project is moved: its data is found all the same.
    moved = closed.folder.with_name("moved")
    closed.folder.rename(moved)
    elsewhere = Place(moved, closed.shared_folder, place.processes, place.servers)
    again, process = elsewhere.start()
    assert again.data_folder == server.data_folder
    with psycopg.connect(again.url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)

    # A copy of the project is another system: other data, another port, another password.
    copy = moved.with_name("copy")
    shutil.copytree(moved, copy)
    fresh = Place(copy, closed.shared_folder, place.processes, place.servers).prepare()
    assert fresh.data_folder != server.data_folder
    assert fresh.port != again.port
    assert fresh.password != again.password
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_an_open_folder_keeps_its_data(place: Place) -> None:
    identity = engine_identity()
    place.state_folder.mkdir()
    (place.state_folder / "databases").mkdir()
    own = place.state_folder / "databases" / "main"
    assert placement(place.state_folder, "main", identity, None, place.shared_folder) == own
    assert placement(place.state_folder, "main", None, None, place.shared_folder) == own
    own.mkdir()
    place.state_folder.chmod(0o700)
    with pytest.raises(EngineError, match="cannot enter") as caught:
        placement(place.state_folder, "main", identity, None, place.shared_folder)
    assert "chmod o+x" in caught.value.hint


def test_data_goes_on_as_its_owner(place: Place) -> None:
    server = place.prepare()
    for folder, _, files in os.walk(server.data_folder):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            os.chown(name, 1, 1)
    shutil.rmtree(server.socket_folder)
    again, process = place.start()
    assert again.identity is not None
    assert again.identity.uid == 1
    stop(process)
    os.chown(again.data_folder, 0, 0)
    with pytest.raises(EngineError, match="belongs to root"):
        place.prepare()


def _installed_in(folder: Path) -> Engine:
    """The wheel's tree, as installed in another virtual environment."""
    engine = find_postgresql()
    if engine.origin != "wheel":
        pytest.skip("needs the wheel")
    package = engine.bin_folder.parent.parent
    for name in ("bin", "lib", "share"):
        source = engine.bin_folder.parent / name
        shutil.copytree(source, folder / package.name / engine.bin_folder.parent.name / name, symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), folder / f"{package.name}.libs")
    return replace(engine, bin_folder=folder / package.name / engine.bin_folder.parent.name / "bin")


def test_programs_are_copied_once_when_out_of_reach(place: Place) -> None:
    closed = place.folder / "closed"
    engine = _installed_in(closed / "site-packages")
    identity = engine_identity()
    assert reachable_engine(engine, identity, place.shared_folder) == engine
    closed.chmod(0o700)
    assert reachable_engine(engine, None, place.shared_folder) == engine
    copy = reachable_engine(engine, identity, place.shared_folder)
    assert copy.bin_folder.is_relative_to(place.shared_folder / "engines")
    assert (copy.version, copy.origin) == (engine.version, "copy of the wheel")
    for name in ("postgres", "psql", "initdb"):
        done = run([copy.program(name), "--version"], timeout_s=60, identity=identity, cwd="/", env={})
        assert done.status == 0, done.stderr
    assert copy.bin_folder.stat().st_uid == 0
    made_s = copy.bin_folder.stat().st_ctime
    assert reachable_engine(engine, identity, place.shared_folder) == copy
    assert copy.bin_folder.stat().st_ctime == made_s
    assert len(list((place.shared_folder / "engines").iterdir())) == 1


def test_programs_of_the_system_are_not_copied(place: Place) -> None:
    closed = place.folder / "closed"
    closed.mkdir(mode=0o700)
    engine = Engine(closed / "bin", "18.4", "system")
    with pytest.raises(EngineError, match="cannot run PostgreSQL in"):
        reachable_engine(engine, engine_identity(), place.shared_folder)


def test_a_socket_folder_of_somebody_else_is_not_used(place: Place) -> None:
    folder = place.folder / "a b"  # a command that names it must not be about another one, least of all `rm -r`
    strange = folder / "pg-main"
    strange.mkdir(parents=True)
    os.chown(strange, 4711, 4711)
    with pytest.raises(MachineError, match="belongs to another user") as refused:
        make_socket_folder(folder, "main", engine_identity())
    assert refused.value.hint == f"Remove it: rm -r '{strange}'"
    long = place.folder / ("x" * 100)
    long.mkdir()
    with pytest.raises(Exception, match="too long for a unix socket"):
        make_socket_folder(long, "main", engine_identity())


def test_the_newest_of_the_wheel_comes_first() -> None:
    engines = [engine for engine in find_engines() if engine.origin == "wheel"]
    assert engines
    assert find_postgresql() == max(engines, key=lambda engine: engine.major)
    assert all(find_postgresql(engine.major).major == engine.major for engine in engines)
    with pytest.raises(EngineError, match="written by PostgreSQL 9"):
        find_postgresql(9)
