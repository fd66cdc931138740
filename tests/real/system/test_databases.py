"""An app and its database as one system: brought up together, killed under load, stopped cleanly, nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from harness import Running, descendants_of_session, free_port, is_alive, wait_for

APP = """
import os
import psycopg

def app(environ, start_response):
    path, _, value = environ["PATH_INFO"][1:].partition("/")
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=20) as connection:
            if path == "add":
                connection.execute("INSERT INTO items (number) VALUES (%s)", (int(value),))
                connection.commit()
                answer = value
            else:
                answer = connection.execute("SELECT count(*), current_user FROM items").fetchone()
    except psycopg.OperationalError as error:
        start_response("503 Service Unavailable", [("content-type", "text/plain")])
        return [str(error).encode()]
    start_response("200 OK", [("content-type", "text/plain")])
    return [str(answer).encode()]
"""
SCHEMA = """
CREATE TABLE items (number integer PRIMARY KEY);
INSERT INTO items VALUES (-1), (-2);
"""
DECLARATION = """
[system]
name = "records"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "records:app"
replicas = 1
threads = 8
env = { DATABASE_URL = "{main.url}", PLACE = "{main.host}:{main.port}/{main.name}" }
[databases.main]
schema = "schema.sql"
"""
BY_URL = """
[system]
name = "records"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "records:app"
replicas = 1
env = { DATABASE_URL = "{main.url}" }
[databases.main]
url = "{env.MAIN_URL}"
"""


def _folder(path: Path, schema: str = SCHEMA) -> Path:
    path.mkdir(exist_ok=True)
    (path / "records.py").write_text(APP)
    (path / "schema.sql").write_text(schema)
    return path


def _server(document: dict[str, Any] | None) -> dict[str, Any]:
    assert document is not None
    server: dict[str, Any] = document["databases"]["main"]["servers"][0]
    return server


def _url(system: Running) -> str:
    return system.ok("run", "web", "--", "printenv", "DATABASE_URL").strip()


def _numbers(url: str) -> set[int]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("SELECT number FROM items")}


class Writers:
    """Threads that add rows through the app, each some fifty a second."""

    def __init__(self, url: str, count: int = 4) -> None:
        self._url = url
        self._stop = threading.Event()
        self.acknowledged: list[tuple[float, int]] = []
        self.refused: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._write, args=(index,)) for index in range(count)]

    def _write(self, index: int) -> None:
        number = index * 1_000_000
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                number += 1
                status = client.post(f"{self._url}/add/{number}").status_code
                (self.acknowledged if status == 200 else self.refused).append((time.monotonic(), number))
                self._stop.wait(0.01)

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _killed_before(pid: int) -> int:
    """How much earlier than its size alone says the kernel ends a process when memory runs out."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def _replicas_die_before_engines(system: Running) -> None:
    processes = system.processes()
    assert processes.keys() >= {"web.1", "edge", "controller", "supervisor", "database.main"}, processes
    worker = _killed_before(processes["web.1"])
    others = {name: _killed_before(pid) for name, pid in processes.items() if not name.startswith("web.")}
    assert worker > max(0, *others.values()), (worker, others)


def test_embedded_database_from_first_start_to_the_next(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    with Running(folder, DECLARATION) as system:
        assert httpx.get(system.url, timeout=30).text == "(2, 'records')"
        url = _url(system)
        server = _server(system.status())
        assert server["state"] == "ready"
        _replicas_die_before_engines(system)
        password = psycopg.conninfo.conninfo_to_dict(url)["password"]
        assert password
        assert str(password) not in json.dumps(system.status())
        assert str(password) not in system.ok("explain")
        seen = system.ok("run", "web", "--", "python", "-c", "import os; print(os.environ['PLACE'])").strip()
        assert seen in url

        # Its server is killed while rows are written: each that was acknowledged is there afterwards.
        postmaster = system.pid("database.main")
        with Writers(system.url) as writers:
            wait_for(lambda: len(writers.acknowledged) > 50, 60, "writing")
            os.kill(postmaster, signal.SIGKILL)
            wait_for(lambda: system.processes().get("database.main", postmaster) != postmaster, 60, "another one runs")
            count = len(writers.acknowledged)
            wait_for(lambda: len(writers.acknowledged) > count + 50, 60, "writing on")
            system.wait_ready()
        assert system.pid("database.main") != postmaster
        there = _numbers(url)
        lost = {number for _at_s, number in writers.acknowledged} - there
        assert lost == set()
        assert len(writers.acknowledged) > 100

        def explained() -> str:
            found = system.ok("explain", "database.main")
            return found if "answers again" in found or "another one answers already" in found else ""

        told = wait_for(explained, 60, "its death is told, and that it is back")
        assert system.ok("explain", "main") == told

        # A clean stop, and the next start finds all of it and applies nothing again.
        pid = system.pid("database.main")
        log = system.folders.logs / "database.main.log"
        size = log.stat().st_size
        system.stop()
        assert not is_alive(pid)
        assert "database system is shut down" in log.read_text()[size:]
        system.start()
        system.wait_ready()
        assert httpx.get(system.url, timeout=30).text == f"({len(there)}, 'records')"
        assert "not properly shut down" not in log.read_text()[size:]
        assert _numbers(_url(system)) == there
        applied = [entry for entry in system.journal() if entry["what"] == "schema"]
        assert [entry["reason"].split()[0] for entry in applied] == ["applied"]

        _another_system_uses_it_by_url(tmp_path, _url(system))


def _another_system_uses_it_by_url(tmp_path: Path, url: str) -> None:
    folder = _folder(tmp_path / "other")
    with Running(folder, BY_URL, env={"MAIN_URL": url}) as other:
        assert httpx.post(other.url + "/add/-77", timeout=30).text == "-77"
        assert -77 in _numbers(url)
        assert set(other.processes()) == {"supervisor", "controller", "edge", "web.1"}
        assert _server(other.status())["state"] == "ready"
    assert -77 in _numbers(url)

    secret = str(psycopg.conninfo.conninfo_to_dict(url)["password"])
    for wrong, says in (
        (url.replace(secret, "wrong-secret"), "password"),
        (url.replace("/main", "/elsewhere"), "elsewhere"),
        (f"postgresql://main:{secret}@127.0.0.1:{free_port()}/main", "nothing listens"),
    ):
        failed = Running(folder, BY_URL, env={"MAIN_URL": wrong}, port=other.port)
        done = failed.run("up")
        assert done.returncode != 0
        assert "error: databases.main" in done.stderr, done.stderr
        assert says in done.stderr
        assert "hint: " in done.stderr
        assert "Traceback" not in done.stderr
        assert secret not in done.stderr + done.stdout
        assert "wrong-secret" not in done.stderr + done.stdout
        assert descendants_of_session(failed.folders.run) == []


@pytest.mark.parametrize("detached", [False, True])
def test_wrong_schema_is_told_by_file_and_line_and_leaves_nothing(tmp_path: Path, detached: bool) -> None:
    folder = _folder(tmp_path, "CREATE TABLE items (number integer PRIMARY KEY);\n\nCREATE TABEL things (x int);\n")
    system = Running(folder, DECLARATION, port=free_port())
    (folder / "headway.toml").write_text(DECLARATION.replace("$PORT", str(system.port)))
    try:
        done = system.run("up", *(["--detach"] if detached else []))
        assert done.returncode != 0
        assert "schema.sql:3" in done.stderr
        assert "TABEL" in done.stderr
        assert "hint: " in done.stderr
        assert descendants_of_session(system.folders.run) == []
        assert descendants_of_session(system.state) == []
        assert not system.folders.run.exists()
        if detached:
            return
        # Mended, the same folder comes up, and the schema is whole.
        (folder / "schema.sql").write_text(SCHEMA)
        system.start()
        system.wait_ready()
        assert httpx.get(system.url, timeout=30).text == "(2, 'records')"
    finally:
        system.stop()
        system.run("down")
        system.kill_leftovers()


def test_what_does_not_see_the_end_of_its_server_does_not_keep_the_next_one_from_starting(tmp_path: Path) -> None:
    with Running(_folder(tmp_path), DECLARATION) as system, psycopg.connect(_url(system)) as session:
        stuck = session.info.backend_pid
        os.kill(stuck, signal.SIGSTOP)
        os.kill(system.pid("database.main"), signal.SIGKILL)
        try:
            wait_for(lambda: not is_alive(stuck), 30, "it has been ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGKILL)
        wait_for(lambda: _answers(_url(system)), 30, "the next one answers")
        told = [entry["reason"] for entry in system.journal() if entry["what"] == "orphans"]
        (said,) = told  # of those that a busy machine keeps from ending, too
        assert re.fullmatch(r"\d+ of the killed server's processes did not end by themselves, and were killed", said)
        session.close()


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
