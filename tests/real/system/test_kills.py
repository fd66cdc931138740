"""A system from its first start to its end, as a user sees it: one command, then nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from harness import HEADWAY, STOP_S, Running, descendants_of_session, is_alive, wait_for

from headway.lab.load import Request
from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

ASGI = """
import os
async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/post":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
TWO = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hello.py").write_text(ASGI)
    return tmp_path


def test_up_answers_and_ctrl_c_leaves_nothing(folder: Path) -> None:
    with Running(folder, TWO) as system:
        run = system.folders.run
        pids = system.processes()
        assert {"supervisor", "controller", "edge", "web.1", "web.2"} <= set(pids)
        assert httpx.get(system.url).status_code == 200
        assert system.process is not None
        system.process.send_signal(signal.SIGINT)
        assert system.process.wait(STOP_S) == 0
        assert not run.exists()
        assert [pid for pid in pids.values() if is_alive(pid)] == []
        assert descendants_of_session(run) == []
        assert "stopped" in system.output()


def test_module_target_needs_no_file(folder: Path) -> None:
    # The default address may be taken on this machine, so only the declaration's reading is looked at here.
    done = subprocess.run([*HEADWAY, "check", "hello:app"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout


def test_scale_up_and_down_under_load_fails_nothing(folder: Path) -> None:
    with Running(folder, TWO) as system, SteadyLoad(system.url + "/", 100) as load:
        load.wait_for(offered=50)
        system.ok("scale", "web", "4")
        assert len(system.replicas()) == 4
        system.ok("scale", "web", "1")
        assert len(system.replicas()) == 1
        system.ok("scale", "web", "2")
        status = system.status()
        assert status["services"]["web"]["override"] is None
        assert status["edge"]["reloads"] == 0
    assert load.result.failed_requests == ()
    assert load.result.ok > 100


def test_killed_replica_fails_no_get(folder: Path) -> None:
    with Running(folder, TWO) as system, SteadyLoad(system.url + "/", 200) as load:
        load.wait_for(offered=100)
        pid = system.pid("web.1")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: system.processes().get("web.1", pid) != pid, 60, "a new process for web.1")
        system.wait_ready()
        load.wait_for(offered=load.progress().offered + 100)
    assert load.result.failed_requests == ()


def test_stopped_replica_is_out_in_two_seconds(folder: Path) -> None:
    with Running(folder, TWO) as system, SteadyLoad(system.url + "/", 100, deadline_s=5) as load:
        load.wait_for(offered=50)
        pid = system.pid("web.1")
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        wait_for(lambda: system.processes().get("web.1", pid) != pid, 60, "a new process for web.1")
        replaced_s = time.monotonic() - began_s
        system.wait_ready()
        load.wait_for(offered=load.progress().offered + 100)
    assert load.result.failed_requests == ()
    slowest_ms = load.result.as_json()["latency_ms"]["max"]
    assert slowest_ms < 2500, f"slowest answer {slowest_ms} ms, replaced after {replaced_s:.1f} s"


def test_killed_edge_refuses_nobody(folder: Path) -> None:
    with Running(folder, TWO) as system:
        for _ in range(3):
            pid = system.pid("edge")
            os.kill(pid, signal.SIGKILL)
            # Connections made while it is away wait in the kernel and are answered by the next one.
            began_s = time.monotonic()
            assert httpx.get(system.url, timeout=60).status_code == 200
            assert time.monotonic() - began_s < 1.5
            wait_for(lambda pid=pid: system.processes().get("edge", pid) != pid, 60, "another edge")


def test_hanging_edge_is_replaced(folder: Path) -> None:
    with Running(folder, TWO) as system:
        pid = system.pid("edge")
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        assert httpx.get(system.url, timeout=60).status_code == 200
        assert time.monotonic() - began_s < 3.0
        wait_for(lambda: system.processes().get("edge", pid) != pid, 60, "another edge is written down")


def test_killed_controller_is_not_noticed(folder: Path) -> None:
    with Running(folder, TWO) as system, SteadyLoad(system.url + "/", 100) as load:
        load.wait_for(offered=30)
        before = system.processes()
        os.kill(before["controller"], signal.SIGKILL)
        wait_for(
            lambda: system.processes().get("controller", before["controller"]) != before["controller"], 60, "another"
        )
        system.wait_ready()
        after = system.processes()
        assert {name: after[name] for name in ("web.1", "web.2", "edge")} == {
            name: before[name] for name in ("web.1", "web.2", "edge")
        }
        system.ok("scale", "web", "3")
    assert load.result.failed_requests == ()


def test_killed_supervisor_ends_everything_in_the_foreground(folder: Path) -> None:
    with Running(folder, TWO) as system:
        pids = system.processes()
        os.kill(pids["supervisor"], signal.SIGKILL)
        assert system.process is not None
        assert system.process.wait(STOP_S) == 1
        wait_for(lambda: not any(is_alive(pid) for pid in pids.values()), 60, "everything ended")
        assert "error:" in system.output()
        system.start()
        system.wait_ready()
        assert httpx.get(system.url).status_code == 200


def test_killed_command_ends_everything(folder: Path) -> None:
    with Running(folder, TWO) as system:
        pids = system.processes()
        assert system.process is not None
        system.process.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in pids.values()), 60, "everything ended")


def test_detached_outlives_its_supervisor_and_is_adopted(folder: Path) -> None:
    with Running(folder, TWO, detached=True) as system:
        before = system.processes()
        with SteadyLoad(system.url + "/", 100) as load:
            os.kill(before["supervisor"], signal.SIGKILL)
            load.wait_for(offered=50)
            document = system.up("--detach")
            assert document["state"] == "ready"
            after = system.processes()
            assert after["supervisor"] != before["supervisor"]
            assert after["web.1"] == before["web.1"]
            assert after["edge"] == before["edge"]
            os.kill(after["edge"], signal.SIGKILL)
            load.wait_for(offered=load.progress().offered + 100)
            wait_for(lambda: system.processes().get("edge", 0) not in (0, after["edge"]), 60, "another edge")
        refused = [failure for failure in load.result.failed_requests if "refused" in failure.reason]
        assert refused == []
        system.ok("down")
        assert not any(is_alive(pid) for pid in after.values())


def test_detached_without_controller_is_adopted_too(folder: Path) -> None:
    with Running(folder, TWO, detached=True) as system:
        before = system.processes()
        os.kill(before["supervisor"], signal.SIGKILL)
        os.kill(before["controller"], signal.SIGKILL)
        wait_for(lambda: not is_alive(before["controller"]), 60, "controller gone")
        assert httpx.get(system.url).status_code == 200
        system.up("--detach")
        after = system.processes()
        assert (after["web.1"], after["edge"]) == (before["web.1"], before["edge"])
        assert httpx.get(system.url).status_code == 200


def test_posts_are_never_sent_twice(folder: Path) -> None:
    (folder / "hello.py").write_text(
        ASGI.replace(
            'if scope["path"] == "/post":',
            'if scope["path"] == "/post":\n'
            '        identity = dict(scope["headers"])[b"x-load-id"].decode()\n'
            f'        with open("{folder}/seen", "a") as file: file.write(identity + "\\n")',
        )
    )
    with (
        Running(folder, TWO) as system,
        SteadyLoad(system.url, 150, requests=(Request("POST", "/post", body=b"x" * 100),)) as load,
    ):
        for name in ("web.1", "web.2", "web.1"):
            load.wait_for(offered=load.progress().offered + 60)
            os.kill(system.pid(name), signal.SIGKILL)
            system.wait_ready()
        load.wait_for(offered=load.progress().offered + 60)
    seen = (folder / "seen").read_text().split()
    assert len(seen) == len(set(seen))
    assert len(seen) > 200
