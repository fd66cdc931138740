"""`headway break` on a running system: each part is really broken, and what is measured is what happened."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import HEADWAY, Running, is_alive, on_a_terminal, wait_for

pytestmark = pytest.mark.alone

RATE = "200"  # a second: what is measured by the hundred is measured sooner
APP = """
async def app(scope, receive, send):
    status = 404 if scope["path"] == "/missing" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})

async def teapot(scope, receive, send):
    host = dict(scope["headers"])[b"host"]
    await send({"type": "http.response.start", "status": 418 if host == b"pot.example" else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"short and stout"})
"""
DECLARATION = """
[system]
name = "site"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "hello:app"
replicas = 2
routes = ["/"]
uses = ["main", "hot"]
[services.pot]
app = "hello:teapot"
replicas = 1
routes = ["pot.example"]
[databases.main]
[caches.hot]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("break")
    (folder / "hello.py").write_text(APP)
    with Running(folder, DECLARATION) as running:
        yield running


@pytest.fixture(autouse=True)
def _whole(system: Running) -> None:
    system.wait_ready()


def broken(system: Running, *arguments: str) -> dict[str, Any]:
    """One fault, measured; the document."""
    document: dict[str, Any] = json.loads(system.ok("break", *arguments, "--json").splitlines()[-1])
    return document


def process_state(pid: int) -> str:
    """The kernel's letter for it; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.parametrize("part", ["replica web.1", "edge", "controller", "server main", "cache hot"])
def test_a_killed_part_comes_back_as_another_process(system: Running, part: str) -> None:
    name = {"replica web.1": "web.1", "server main": "database.main", "cache hot": "cache.hot"}.get(part, part)
    before = system.processes()
    found = broken(system, *part.split(), "--rate", RATE)
    after = system.processes()
    assert (found["what"], found["how"]) == (part, "kill")
    assert not is_alive(before[name])
    assert after[name] != before[name]
    assert {other for other in before if after.get(other) != before[other]} == {name}
    assert found["noticed_s"] is not None
    assert found["recovered_s"] is not None
    assert found["noticed_s"] <= found["recovered_s"]
    assert found["restarted_s"] <= found["restored_s"] <= found["recovered_s"]
    # The whole time, from the fault until it was calm again, was loaded.
    assert found["offered"] > float(RATE) * found["recovered_s"] / 2
    assert found["offered"] == found["ok"] + found["failed"] + found["refused"] + found["slow"]
    if part != "edge":  # which cuts what is in flight
        assert found["failed"] == 0, found


def test_a_replica_that_hangs_is_taken_out_and_replaced(system: Running) -> None:
    before = system.processes()
    found = broken(system, "replica", "web.2", "--how", "hang", "--for", "60s", "--rate", RATE)
    assert found["failed"] == 0, found
    assert found["out_s"] <= found["restarted_s"]
    assert not is_alive(before["web.2"])
    assert found["watched_s"] < 60, "it was replaced, not continued"


@contextlib.contextmanager
def breaking(system: Running, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One fault by a command that may be ended meanwhile."""
    with subprocess.Popen(
        [*HEADWAY, "break", *arguments],
        cwd=system.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=on_a_terminal,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def family(pid: int) -> list[int]:
    """A process and everything below it."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def states(pids: list[int]) -> set[str]:
    return {process_state(pid) for pid in pids if is_alive(pid)} - {""}


def test_a_server_that_hangs_goes_on_after_its_time(system: Running) -> None:
    pids = family(system.pid("database.main"))
    assert len(pids) > 3, "a server is more than its first process"
    with breaking(system, "server", "main", "--how", "hang", "--for", "1500ms", "--rate", RATE, "--json") as command:
        wait_for(lambda: states(pids) == {"T"}, 30, "all of the server stopped")
        said, errors = command.communicate(timeout=90)
    assert command.returncode == 0, errors
    found = json.loads(said.splitlines()[-1])
    assert "T" not in states(family(pids[0]))
    assert found["restarted_s"] is None
    assert found["recovered_s"] >= 1.5


@pytest.mark.parametrize("part", ["controller", "server main"])
def test_a_stopped_part_goes_on_when_the_command_is_killed(system: Running, part: str) -> None:
    pids = family(system.pid({"server main": "database.main"}.get(part, part)))
    with breaking(system, *part.split(), "--how", "hang", "--for", "5m", "--rate", RATE) as command:
        wait_for(lambda: states(pids) == {"T"}, 30, f"{part} stopped")
        command.kill()
        command.wait(60)
    wait_for(lambda: "T" not in states(pids), 30, f"{part} goes on")


def test_a_stopped_part_goes_on_in_time_when_the_command_hangs_too(system: Running) -> None:
    pid = system.pid("controller")
    with breaking(system, "controller", "--how", "hang", "--for", "1s", "--rate", RATE) as command:
        wait_for(lambda: process_state(pid) == "T", 30, "the controller stopped")
        command.send_signal(signal.SIGSTOP)
        wait_for(lambda: process_state(pid) != "T", 20, "the controller goes on")  # before it is replaced


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130)])
def test_a_stopped_process_goes_on_when_the_command_is_ended(
    system: Running, number: signal.Signals, status: int
) -> None:
    pid = system.pid("controller")
    with breaking(system, "controller", "--how", "hang", "--for", "5m", "--rate", RATE) as command:
        wait_for(lambda: process_state(pid) == "T", 30, "the controller stopped")
        command.send_signal(number)
        said, errors = command.communicate(timeout=90)
    assert process_state(pid) != "T"
    assert command.returncode == status, errors
    assert "was told to go on" in said
    assert "Traceback" not in errors


def test_the_report_says_what_happened_and_what_is_promised(system: Running) -> None:
    said = system.ok("break", "controller", "--rate", RATE, "--expect-none-failed")
    for words in ("controller was killed (SIGKILL, pid ", "noticed", "as before", "promised", "no request notices"):
        assert words in said
    assert said.rstrip().splitlines()[-1].startswith("controller was killed: none of ")


def test_what_fails_before_anything_is_broken_is_not_measured(system: Running) -> None:
    before = system.processes()
    done = system.run("break", "edge", "--path", "/missing", "--rate", RATE)
    assert done.returncode == 1
    assert "before anything is broken" in done.stderr
    assert "status 404" in done.stderr
    assert system.processes() == before


def test_a_service_that_is_known_by_its_host_is_asked_by_that_host(system: Running) -> None:
    done = system.run("break", "replica", "pot.1", "--rate", RATE)
    assert done.returncode == 1
    assert "status 418" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("replica web.9", "there is no replica web.9"),
        ("supervisor", "no part that can be broken"),
        ("cache cold", "there is no cache cold"),
        ("node one", "not available yet"),
        ("edge --how partition", "not available yet"),
        ("edge --for 3s", "stays dead"),
        ("edge --how hang --for 6m", "300 s"),
        ("edge --how hang --for soon", "--for"),
        ("edge --rate 0", "--rate"),
        ("edge --path missing", "path"),
    ],
)
def test_bad_input_breaks_nothing(system: Running, arguments: str, error: str) -> None:
    before = system.processes()
    done = system.run("break", *arguments.split())
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2
    assert system.processes() == before


def test_without_a_system_there_is_nothing_to_break(tmp_path: Path) -> None:
    done = subprocess.run(
        [*HEADWAY, "break", "edge"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "nothing runs here" in done.stderr
