"""`headway down` ends everything, also where nobody is left who looks after it; and what the next start remembers."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from command_place import Place
from harness import Running, is_alive, wait_for

from headway.cli.start import stop_and_wait, system_of

DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "good:app"
replicas = 1
"""


def test_down_ends_what_lost_its_supervisor(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        pids = system.processes()
        os.kill(pids["supervisor"], signal.SIGKILL)
        wait_for(lambda: (system.quick_status() or {}).get("supervisor") == "gone", 30, "the controller notices")
        assert "has stopped" in system.ok("down")
        assert [name for name, pid in pids.items() if is_alive(pid)] == []
    place.assert_nothing_left()


def test_down_ends_what_lost_supervisor_and_controller(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        pids = system.processes()
        os.kill(pids["supervisor"], signal.SIGKILL)
        os.kill(pids["controller"], signal.SIGKILL)
        wait_for(lambda: not is_alive(pids["controller"]), 30, "the controller is gone")
        found = place.refused("status")
        assert found.error == "supervisor and controller are gone, and edge, web.1 run on by themselves"
        assert "headway down" in found.hint
        assert json.loads(system.ok("down", "--json"))["stopped"] is True
        assert [name for name, pid in pids.items() if is_alive(pid)] == []
    place.assert_nothing_left()


def test_down_passes_a_controller_over_that_hangs(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        pids = system.processes()
        os.kill(pids["controller"], signal.SIGSTOP)
        assert "has stopped" in system.ok("down")
        assert [name for name, pid in pids.items() if is_alive(pid)] == []
    place.assert_nothing_left()


def waiting_signals(pid: int) -> set[int]:
    """What a process that stands still will be told when it goes on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = int(next(line for line in lines if line.startswith("ShdPnd:")).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_down_ends_all_where_the_supervisor_stands_still_for_a_moment_too(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        pids = system.processes()
        for name in ("controller", "supervisor"):
            os.kill(pids[name], signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(stop_and_wait, system_of(None, place.folder), None, 90.0)
            try:
                asked_twice = {signal.SIGTERM, signal.SIGINT}
                wait_for(lambda: waiting_signals(pids["supervisor"]) >= asked_twice, 60, "it is asked, and asked again")
            finally:
                os.kill(pids["supervisor"], signal.SIGCONT)
            assert stopping.result(120)
        assert [name for name, pid in pids.items() if is_alive(pid)] == []
    place.assert_nothing_left()


def test_a_changed_declaration_replaces_what_was_scaled_by_hand(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        system.ok("scale", "web", "2")
        system.ok("down")
        declaration = place.folder / "headway.toml"
        declaration.write_text(declaration.read_text().replace("replicas = 1", "replicas = 3"))
        web = system.up("--detach")["services"]["web"]
        assert (web["wanted"], web["override"]) == (3, None)
