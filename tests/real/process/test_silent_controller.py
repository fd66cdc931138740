"""A controller that stands still is replaced by its supervisor, and what it started goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import die_with_parent, is_alive, wait_for

from headway.process.record import record_in

SUPERVISOR = """
import sys
from pathlib import Path
from headway.process import supervisor
from headway.process.silence import Silence
from headway.process.spec import ProcessSpec
from headway.process.supervisor import Supervisor

folder = Path(sys.argv[1])
supervisor._LAST_WORDS_S = 4.0
controller = ProcessSpec("controller", (sys.executable, str(folder / "controller.py"), str(folder)),
    stdout=str(folder / "controller.log"), stderr=str(folder / "controller.log"), restart=True)
sys.exit(Supervisor(folder, controller, False, silence=Silence(6.0)).run())
"""
CONTROLLER = """
import faulthandler, os, signal, sys, time
from pathlib import Path
from headway.process.spec import FORMER_CONTROLLER, ProcessSpec
from headway.process.supervisor_client import SupervisorClient

faulthandler.register(signal.SIGUSR1)
folder = Path(sys.argv[1])
print("former:", os.environ.get(FORMER_CONTROLLER, "none"), flush=True)
client = SupervisorClient(str(folder / "supervisor.sock"))
client.connect()
if "worker" not in client.processes():
    client.spawn(ProcessSpec("worker", ("sleep", "600")))


def turns():
    while True:
        client.turn()
        client.poll()
        time.sleep(0.1)
        if (folder / "stands").exists():
            (folder / "stands").unlink()
            stands_still()


def stands_still():
    time.sleep(600)


turns()
"""


@dataclass
class Watched:
    """A supervisor of its own, its controller, and what that started."""

    folder: Path
    process: subprocess.Popen[bytes]

    def pid(self, name: str) -> int:
        record = record_in(self.folder) or {"processes": []}
        return next((int(entry["pid"]) for entry in record["processes"] if entry["name"] == name), 0)

    @property
    def said(self) -> str:
        return (self.folder / "controller.log").read_text()

    def await_another(self, than: int) -> None:
        wait_for(lambda: self.pid("controller") not in (0, than), 60, "another controller")
        wait_for(lambda: not is_alive(than), 60, "the former one is gone")
        wait_for(lambda: self.said.count("former:") >= 2, 60, "it has begun")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    (tmp_path / "controller.py").write_text(CONTROLLER)
    with open(tmp_path / "supervisor.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(tmp_path)], stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    found = Watched(tmp_path, process)
    try:
        wait_for(lambda: found.pid("worker"), 60, "all is started")
        yield found
    finally:
        process.terminate()  # "stop" goes to the controller, which knows no such word: asked twice, nobody waits for it
        wait_for(lambda: process.poll() is not None or process.send_signal(signal.SIGTERM), 60, "it ends", every_s=0.3)


def test_one_whose_loop_stands_still_tells_where_and_is_replaced(watched: Watched) -> None:
    controller, worker = watched.pid("controller"), watched.pid("worker")
    (watched.folder / "stands").touch()
    watched.await_another(controller)
    assert "in stands_still" in watched.said
    assert "former: did nothing for 6 s" in watched.said
    assert "did nothing for 6 s" in (watched.folder / "supervisor.log").read_text()
    assert (watched.pid("worker"), is_alive(worker)) == (worker, True)


def test_one_that_is_stopped_is_replaced(watched: Watched) -> None:
    controller = watched.pid("controller")
    os.kill(controller, signal.SIGSTOP)
    watched.await_another(controller)
    assert "former: did nothing for 6 s" in watched.said


def test_one_that_turns_is_left_alone_and_a_death_is_no_silence(watched: Watched) -> None:
    controller = watched.pid("controller")
    with pytest.raises(AssertionError):
        wait_for(lambda: watched.pid("controller") != controller, 7, "another controller")
    os.kill(controller, signal.SIGKILL)
    watched.await_another(controller)
    assert "former: did nothing" not in watched.said


def test_a_supervisor_that_was_away_blames_nobody(watched: Watched) -> None:
    controller = watched.pid("controller")
    os.kill(controller, signal.SIGSTOP)
    os.kill(watched.process.pid, signal.SIGSTOP)
    with pytest.raises(AssertionError):
        wait_for(lambda: not is_alive(controller), 9, "the controller's death")
    os.kill(controller, signal.SIGCONT)
    os.kill(watched.process.pid, signal.SIGCONT)
    with pytest.raises(AssertionError):
        wait_for(lambda: watched.pid("controller") != controller, 7, "another controller")
    assert json.loads((watched.folder / "processes.json").read_text())["supervisor"]["pid"] == watched.process.pid
