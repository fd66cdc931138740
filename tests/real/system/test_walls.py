"""`headway walls` on real systems: what it says of now is so, and what it foretells is near the truth."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness import HEADWAY, Running

from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

APP = """
import time
def app(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"hello"]
"""
DECLARATION = """
[system]
name = "site"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 1
threads = 4
env = { DATABASE_URL = "{main.url}" }
[databases.main]
"""
KEYS = {"what", "now", "limit", "hit_at_per_s", "then", "next", "known"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("walls")
    (folder / "hello.py").write_text(APP)
    with Running(folder, DECLARATION) as running:
        yield running


def walls_of(system: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.ok("walls", "--json").splitlines()[-1])
    assert all(set(wall) >= KEYS for wall in found)
    assert all(wall["known"] in ("measured", "derived", "unknown") for wall in found)
    return found


def named(system: Running, what: str) -> dict[str, Any]:
    return next(wall for wall in walls_of(system) if wall["what"] == what)


def test_without_traffic_nothing_is_foretold(system: Running) -> None:
    found = walls_of(system)
    assert [wall["what"] for wall in found if wall["hit_at_per_s"] is not None] == []
    limits = {wall["what"]: wall["limit"] for wall in found}
    assert limits["web: threads"] == 4
    assert limits["main: PostgreSQL connections"] == 197
    assert limits["edge: client connections"] >= 1000
    points = {wall["what"] for wall in found if wall["kind"] == "single point"}
    assert points >= {"this machine", "the edge's process", "the controller", "the supervisor", "web: one replica"}


def test_the_report_fits_and_says_how_to_measure(system: Running) -> None:
    lines = system.ok("walls").splitlines()
    assert lines[0].startswith("The next wall is not known: ")
    assert lines[1].startswith(f"hint: headway load {system.url} ")
    assert max(map(len, lines)) <= 120
    for column in ("wall", "now", "limit", "hit at", "then", "next"):
        assert column in lines[3]


def test_threads_are_met_where_littles_law_says(system: Running) -> None:
    with SteadyLoad(system.url, 60) as load:
        load.wait_for(offered=60)
        wall = named(system, "web: threads")
    assert load.result.failed == 0
    # An answer takes 20 ms and a little: 4 threads give 200 a second, fewer where the machine is busy.
    assert wall["known"] == "derived"
    assert 60 < wall["hit_at_per_s"] < 230
    assert 0.9 < wall["now"] < 4


def test_what_is_hit_is_measured(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(APP.replace("0.02", "0.05"))
    declaration = DECLARATION.replace("threads = 4", 'threads = 2\nslo = "150ms"').partition("env = ")[0]
    with Running(tmp_path, declaration) as system, SteadyLoad(system.url, 120, deadline_s=5) as load:
        load.wait_for(offered=360)
        first = walls_of(system)[0]
    assert (first["what"], first["known"]) == ("web: threads", "measured")
    assert first["hit_at_per_s"] < 60, "2 threads of 50 ms give 40 a second"


def test_connections_of_a_database_are_counted(system: Running) -> None:
    url = system.ok("run", "web", "--", "printenv", "DATABASE_URL").strip()
    with contextlib.ExitStack() as held:
        for _ in range(5):
            held.enter_context(psycopg.connect(url))
        assert 5 <= named(system, "main: PostgreSQL connections")["now"] <= 8  # looks at its health come and go


def test_what_does_not_run_has_the_walls_of_its_declaration(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(APP)
    (tmp_path / "headway.toml").write_text(DECLARATION.replace("$PORT", "8000"))
    system = Running(tmp_path, "")
    found = walls_of(system)
    assert {wall["what"] for wall in found} >= {"web: threads", "cores", "this machine"}
    assert {wall["known"] for wall in found} <= {"derived", "unknown"}
    assert "nothing runs here" in system.ok("walls").splitlines()[0]
    assert not system.state.exists()


def test_without_a_declaration_there_are_no_walls(tmp_path: Path) -> None:
    done = subprocess.run([*HEADWAY, "walls"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 2
