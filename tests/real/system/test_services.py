"""What a service may be: a command without a port, a private app, an app in an interpreter of its own, or threads."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, is_alive, wait_for, whole_lines

from headway.control.client import ControlClient

WEB = """
import importlib.util, json, os, sys

async def app(scope, receive, send):
    assert scope["type"] == "http"
    status = 200 if scope["path"] != "/health" or os.path.exists(os.environ["GATE"]) else 503
    seen = {
        "replica": os.environ["HEADWAY_REPLICA"],
        "prefix": sys.prefix,
        "first_path": sys.path[0],
        "folder": os.getcwd(),
        "headway": importlib.util.find_spec("headway") is not None,
        "env": {name: os.environ.get(name) for name in ("FROM_ENV", "FROM_FILE", "BRACES", "NUMBER", "INHERITED")},
    }
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
"""
THREADS = """
import threading, time
lock, now, most = threading.Lock(), 0, 0

def app(environ, start_response):
    global now, most
    with lock:
        now += 1
        most = max(most, now)
    time.sleep(0.1)
    with lock:
        now -= 1
    start_response("200 OK", [])
    return [str(most).encode()]
"""
WORKER = """
import os, signal, sys, time

def note(text):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{os.environ['HEADWAY_REPLICA']} {os.getpid()} {text}\\n")

def end(_number, _frame):
    note("asked")
    time.sleep(1.0)
    note("done")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
note("started " + sys.prefix)
print("printed by the worker", flush=True)
while True:
    time.sleep(0.05)
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "pages:app"
routes = ["/"]
replicas = 1
folder = "src"
python = "own/bin/python"
health = "/health"
[services.web.env]
FROM_ENV = "{env.GIVEN}"
FROM_FILE = "<{file.secrets/token}>"
BRACES = "a{{b}}c"
NUMBER = 7
GATE = "{env.GATE}"
[services.threads]
app = "threads:app"
routes = ["/threads"]
replicas = 1
threads = 3
[services.inner]
app = "threads:app"
[services.worker]
command = ["python", "worker.py"]
python = "own/bin/python"
replicas = 1
drain_timeout = "30s"
env = { NOTES = "{env.NOTES}" }
"""


def _own_interpreter(folder: Path) -> Path:
    """An environment with granian and what that needs, and nothing else: no Headway for a start."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    for name in ("granian", "click"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (packages / name).symlink_to(Path(spec.origin).parent)
    return folder


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("services")
    _own_interpreter(folder / "own")
    (folder / "src").mkdir()
    (folder / "secrets").mkdir()
    (folder / "src" / "pages.py").write_text(WEB)
    (folder / "threads.py").write_text(THREADS)
    (folder / "worker.py").write_text(WORKER)
    (folder / "secrets" / "token").write_text("from-a-file\n")
    (folder / "gate").touch()
    env = {
        "GIVEN": "from-the-environment",
        "GATE": str(folder / "gate"),
        "NOTES": str(folder / "notes"),
        "INHERITED": "as it is",
    }
    with Running(folder, DECLARATION, env=env) as running:
        yield running


def _notes(system: Running) -> list[list[str]]:
    try:
        return [line.split(" ", 2) for line in whole_lines(system.folder / "notes")]
    except FileNotFoundError:
        return []


def test_app_in_its_own_interpreter_and_folder(system: Running) -> None:
    seen = httpx.get(system.url).json()
    assert seen["prefix"] == str(system.folder / "own")
    assert seen["prefix"] != sys.prefix
    assert seen["headway"] is False
    assert seen["folder"] == seen["first_path"] == str(system.folder / "src")


def test_environment_with_references(system: Running) -> None:
    assert httpx.get(system.url).json()["env"] == {
        "FROM_ENV": "from-the-environment",
        "FROM_FILE": "<from-a-file>",
        "BRACES": "a{b}c",
        "NUMBER": "7",
        "INHERITED": "as it is",
    }
    told = json.dumps(system.status()) + system.ok("explain") + json.dumps(system.journal())
    stored = "".join(path.read_text(errors="replace") for path in system.state.glob("*.json"))
    for secret in ("from-a-file", "from-the-environment"):
        assert secret not in told
        assert secret not in stored
        assert secret not in _command_lines(system)
    run = "import os; print(os.environ['FROM_FILE'], os.environ['BRACES'], os.getcwd())"
    assert system.ok("run", "web", "--", "python", "-c", run).split() == [
        "<from-a-file>",
        "a{b}c",
        str(system.folder / "src"),
    ]


def _command_lines(system: Running) -> str:
    return " ".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in system.processes().values())


def test_threads_bound_requests_at_once(system: Running) -> None:
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda _n: httpx.get(system.url + "/threads", timeout=60), range(18)))
    assert {answer.status_code for answer in answers} == {200}
    assert max(int(answer.text) for answer in answers) == 3


def test_private_service_runs_and_is_not_served(system: Running) -> None:
    (replica,) = system.replicas("inner")
    assert replica["state"] == "ready"
    assert replica["limit"] is None
    with httpx.Client(transport=httpx.HTTPTransport(uds=replica["address"])) as client:
        assert client.get("http://localhost/").text == "1"
    config = (system.folders.edge / "haproxy.cfg").read_text()
    assert "threads.1" in config
    assert "inner" not in config
    assert Path(replica["address"]).stat().st_mode & 0o077 == 0


def test_health_path_gates_a_new_replica(system: Running) -> None:
    gate = system.folder / "gate"
    gate.unlink()
    try:
        ControlClient(system.folders).ask("POST", "/scale", {"service": "web", "replicas": 2})
        fresh: dict[str, Any] = wait_for(
            lambda: next((r for r in system.replicas() if r["name"] == "web.2" and r["pid"]), None), 60, "it starts"
        )
        began_s = time.monotonic()
        while time.monotonic() < began_s + 1.5:
            assert httpx.get(system.url).json()["replica"] == "web.1"
            assert {r["name"]: r["state"] for r in system.replicas()} == {"web.1": "ready", "web.2": "starting"}
        assert is_alive(fresh["pid"])
    finally:
        gate.touch()
    wait_for(lambda: [r["state"] for r in system.replicas()] == ["ready", "ready"], 30, "both ready")
    assert {httpx.get(system.url).json()["replica"] for _ in range(20)} == {"web.1", "web.2"}
    system.ok("scale", "web", "1")


def test_command_is_started_again_scaled_and_asked_to_end(system: Running) -> None:
    (note,) = wait_for(lambda: _notes(system), 60, "it has begun")  # ready is a command that lives
    assert note == ["worker.1", str(system.pid("worker.1")), f"started {system.folder / 'own'}"]
    (replica,) = system.replicas("worker")
    assert (replica["state"], replica["address"], replica["limit"]) == ("ready", "", None)
    wait_for(lambda: "printed by the worker" in system.ok("logs", "worker.1"), 60, "what it prints")

    pid = system.pid("worker.1")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(_notes(system)) == 2, 60, "it is started again")
    assert _notes(system)[1][0] == "worker.1"
    wait_for(lambda: system.replicas("worker")[0]["state"] == "ready", 30, "ready again")
    assert system.replicas("worker")[0]["restarts"] == 1
    assert "was killed by SIGKILL while it was ready; it starts again at once" in system.ok("explain", "worker.1")

    system.ok("scale", "worker", "3")
    three = {"worker.1", "worker.2", "worker.3"}
    wait_for(lambda: {note[0] for note in _notes(system)} == three, 60, "all have begun")
    system.ok("scale", "worker", "2")
    gone = [note[2] for note in _notes(system) if note[0] == "worker.3"]
    assert gone[1:] == ["asked", "done"], "it had the time to finish its work"


def test_down_lets_commands_finish(system: Running) -> None:
    pids = {name: system.pid(name) for name in ("worker.1", "worker.2")}
    system.stop()
    for name, pid in pids.items():
        assert not is_alive(pid)
        mine = [note[2] for note in _notes(system) if note[:2] == [name, str(pid)]]
        assert mine[-2:] == ["asked", "done"]
