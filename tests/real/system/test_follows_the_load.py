"""A number of replicas that follows the load: up within seconds, down after a minute, and nobody notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from harness import Running, wait_for

from headway.lab.steady import SteadyLoad
from headway.process.machine import available_cores, busy_core_seconds

pytestmark = pytest.mark.alone

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "waits:app"
threads = 2
replicas = { min = 1, max = 3 }
"""
POOL = 90
# Two threads that wait: forty requests a second a replica, whatever else the machine does.
WAITS = """
import time

def app(environ, start_response):
    time.sleep(0.05)
    start_response("200 OK", [])
    return [b"waited"]
"""

# Each replica holds more than half of what the database's role may.
HOLDS = f"""
import os, time
import psycopg
pool = [psycopg.connect(os.environ["DATABASE_URL"]) for _ in range({POOL})]

def app(environ, start_response):
    time.sleep(0.05)
    start_response("200 OK", [])
    return [b"waited"]
"""
WAITS_WITH_DATABASE = DECLARATION + 'env = { DATABASE_URL = "{main.url}" }\n[databases.main]\n'
WITH_DATABASE = (
    DECLARATION.replace("waits:app", "holds:app") + 'env = { DATABASE_URL = "{main.url}" }\n[databases.main]\n'
)


def web(system: Running) -> dict[str, Any]:
    found: dict[str, Any] = system.status()["services"]["web"]
    return found


def steps(system: Running) -> list[str]:
    entries = json.loads(system.ok("explain", "web", "--last", "400", "--json").splitlines()[-1])["entries"]
    return [entry["reason"] for entry in entries if entry["what"] == "scale"]


def others_rest() -> bool:
    """Whether a good part of the machine is free: where all of it is, nothing is added, and rightly."""
    began_s, before_s = time.monotonic(), busy_core_seconds()
    time.sleep(2.0)
    after_s = busy_core_seconds()
    if before_s is None or after_s is None:
        return True
    return after_s - before_s < 0.7 * available_cores() * (time.monotonic() - began_s)


def comes(system: Running) -> list[str]:
    """The steps up, as far as they may go, under a load that does not wait."""
    assert web(system)["wanted"] == 1
    assert steps(system) == []
    wait_for(others_rest, 120, "a machine that others leave some of")
    with SteadyLoad(system.url, rate_per_s=70, deadline_s=20) as steady:
        wait_for(lambda: web(system)["ready"] == 3, 60, "three replicas", every_s=0.5)
        so_far = steady.progress().offered
        steady.wait_for(offered=so_far + 70)
    assert steady.result.failed_requests == ()
    up = steps(system)
    assert [step.partition(":")[0] for step in up[:2]] == ["1 → 2 replicas", "2 → 3 replicas"]
    assert "of the limit" in up[0]
    return up


@pytest.mark.timeout(300)
def test_replicas_come_with_the_load(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with Running(tmp_path, DECLARATION, detached=True) as system:
        comes(system)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_replicas_come_with_the_load_and_go_when_it_has_gone(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    with Running(tmp_path, DECLARATION, detached=True) as system:
        up = comes(system)
        # A light load is no reason to stay.
        with SteadyLoad(system.url, rate_per_s=4) as steady:
            wait_for(lambda: web(system)["wanted"] == 1, 150, "one replica", every_s=1.0)
            wait_for(lambda: len(web(system)["replicas"]) == 1, 60, "the others have ended", every_s=0.5)
        assert steady.result.failed_requests == ()
        down = [step.partition(":")[0] for step in steps(system)[len(up) :]]
        assert down == ["3 → 2 replicas", "2 → 1 replicas"]


def test_no_replica_is_added_that_the_database_has_no_connections_for(tmp_path: Path) -> None:
    (tmp_path / "holds.py").write_text(HOLDS)
    with Running(tmp_path, WITH_DATABASE, detached=True) as system:
        with SteadyLoad(system.url, rate_per_s=70, deadline_s=60):
            told = wait_for(lambda: steps(system), 60, "something is told about the number", every_s=0.5)
        assert len(told) == 1
        assert told[0].startswith("more than 1 are needed (")
        assert told[0].endswith(f"{POOL} of 197 connections to database main are open")
        assert web(system)["wanted"] == 1


def test_no_replica_is_added_to_a_database_that_lets_nobody_in(tmp_path: Path) -> None:
    """Not even by a controller that comes when it is so already, and has never seen a number."""
    (tmp_path / "waits.py").write_text(WAITS)
    with Running(tmp_path, WAITS_WITH_DATABASE, detached=True) as system, contextlib.ExitStack() as taken:
        url = system.ok("run", "web", "--", "python", "-c", "import os; print(os.environ['DATABASE_URL'])").strip()
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(url))
        before = system.pid("controller")
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: system.processes().get("controller", before) != before, 60, "another controller")
        with SteadyLoad(system.url, rate_per_s=70, deadline_s=60):
            told = wait_for(lambda: steps(system), 60, "something is told about the number", every_s=0.5)
        assert len(told) == 1
        assert told[0].endswith("but database main is full: it refuses another connection")
        assert web(system)["wanted"] == 1
