"""A supervisor that stands still: what runs goes on, its users hear of it, and commands get it out of the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import HEADWAY, Running, descendants_of_session, die_with_parent, is_alive, wait_for

from headway.process.folders import Folders
from headway.process.hung import end_if_it_hangs
from headway.process.linux import start_ticks

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
"""
ONE = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(ASGI)
    return tmp_path


def told(system: Running) -> list[dict[str, Any]]:
    return [entry for entry in system.journal() if entry["about"] == "supervisor"]


def stand_still(system: Running) -> int:
    """Its pid, once the controller has noticed."""
    pid = system.pid("supervisor")
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: (system.quick_status() or {}).get("supervisor") == "silent", 60, "the controller notices")
    return pid


def test_it_is_told_and_what_dies_meanwhile_comes_when_it_goes_on(folder: Path) -> None:
    with Running(folder, ONE, detached=True) as system:
        replica = system.pid("web.1")
        supervisor = stand_still(system)
        shown = system.ok("status")
        assert "the supervisor does not answer: traffic goes on, nothing can be started" in shown
        assert httpx.get(system.url, timeout=30).status_code == 200
        wait_for(lambda: [entry["what"] for entry in told(system)] == ["silent"], 30, "the journal has it once")
        os.kill(replica, signal.SIGKILL)
        wait_for(lambda: system.replicas()[0]["state"] != "ready", 30, "the death is seen all the same")
        found = system.run("break", "edge", "--yes")
        assert (found.returncode, "the supervisor does not answer" in found.stderr) == (1, True)
        os.kill(supervisor, signal.SIGCONT)
        system.wait_ready()
        wait_for(lambda: [entry["what"] for entry in told(system)] == ["silent", "ready"], 60, "it answers again")
        assert system.pid("supervisor") == supervisor
        assert httpx.get(system.url, timeout=30).status_code == 200


def test_what_it_starts_late_is_no_second_one(folder: Path) -> None:
    with Running(folder, ONE, detached=True) as system:
        supervisor = system.pid("supervisor")
        os.kill(supervisor, signal.SIGSTOP)
        with subprocess.Popen([*HEADWAY, "scale", "web", "2"], cwd=folder, stdout=subprocess.DEVNULL) as scale:
            wait_for(lambda: "start failed" in {entry["what"] for entry in system.journal()}, 60, "nobody answers")
            os.kill(supervisor, signal.SIGCONT)
            assert scale.wait(120) == 0
        assert [each["state"] for each in system.replicas()] == ["ready"] * 2
        assert len(descendants_of_session(system.folders.replicas)) == 2
        assert not any("runs already" in entry["reason"] for entry in system.journal())


def test_up_has_it_go_on_and_applies(folder: Path) -> None:
    with Running(folder, ONE, detached=True) as system:
        supervisor = stand_still(system)
        declared = folder / "headway.toml"
        declared.write_text(declared.read_text().replace("replicas = 1", "replicas = 2"))
        done = system.run("up", "--detach")
        assert done.returncode == 0, done.stderr
        assert "the supervisor does not answer: it is told to go on, or ended" in done.stderr
        assert system.pid("supervisor") == supervisor
        wait_for(lambda: [each["state"] for each in system.replicas()] == ["ready"] * 2, 60, "what is declared")


@pytest.mark.parametrize("detached", [True, False])
def test_down_ends_all(folder: Path, detached: bool) -> None:
    with Running(folder, ONE, detached=detached) as system:
        pids = system.processes()
        os.kill(pids["supervisor"], signal.SIGSTOP)  # not even noticed yet
        assert "has stopped" in system.ok("down")
        wait_for(lambda: not any(is_alive(pid) for pid in pids.values()), 30, "all has ended")
        assert not system.folders.run.exists()


SILENT = """
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
print("listens", flush=True)
time.sleep(600)
"""


def test_one_that_cannot_go_on_is_killed(tmp_path: Path) -> None:
    folders = Folders(tmp_path, tmp_path)
    argv = [sys.executable, "-c", SILENT, str(folders.supervisor_socket)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=die_with_parent) as silent:
        try:
            assert silent.stdout is not None
            assert silent.stdout.readline() == b"listens\n"
            told = {"pid": silent.pid, "ticks": start_ticks(silent.pid), "detached": True}
            assert end_if_it_hangs(folders, {"supervisor": told, "processes": []})
            assert silent.wait(30) == -signal.SIGKILL
        finally:
            silent.kill()


def test_ctrl_c_ends_all(folder: Path) -> None:
    with Running(folder, ONE) as system:
        pids = system.processes()
        os.kill(pids["supervisor"], signal.SIGSTOP)
        assert system.process is not None
        system.process.send_signal(signal.SIGINT)
        system.process.wait(60)
        wait_for(lambda: not any(is_alive(pid) for pid in pids.values()), 30, "all has ended")


@pytest.mark.long
@pytest.mark.parametrize("detached", [True, False])
def test_a_controller_that_hangs_is_replaced_and_nothing_else_notices(folder: Path, detached: bool) -> None:
    with Running(folder, ONE, detached=detached) as system:
        before = system.processes()
        os.kill(before["controller"], signal.SIGSTOP)
        statuses = set()

        def replaced() -> bool:
            statuses.add(httpx.get(system.url, timeout=30).status_code)
            return any(entry["what"] == "replaced" for entry in system.journal())

        wait_for(replaced, 120, "the journal tells of it", every_s=0.2)
        system.wait_ready()
        after = system.processes()
        assert not is_alive(before["controller"])
        assert {name for name in before if after[name] != before[name]} == {"controller"}
        assert statuses == {200}
        os.kill(after["web.1"], signal.SIGKILL)
        wait_for(lambda: system.processes().get("web.1") not in (None, after["web.1"]), 60, "it looks after them")
