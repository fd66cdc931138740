"""`headway down` ends everything, also where nobody is left who looks after it; and what the next start remembers."""

from __future__ import annotations

import json
import os
import signal

from command_place import Place
from harness import Running, is_alive, wait_for

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


def test_a_changed_declaration_replaces_what_was_scaled_by_hand(place: Place) -> None:
    with Running(place.folder, DECLARATION, detached=True) as system:
        system.ok("scale", "web", "2")
        system.ok("down")
        declaration = place.folder / "headway.toml"
        declaration.write_text(declaration.read_text().replace("replicas = 1", "replicas = 3"))
        web = system.up("--detach")["services"]["web"]
        assert (web["wanted"], web["override"]) == (3, None)
