"""Ways to run a system: reloading while its source is edited, detached, beside another, as PID 1, as a plain user."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from harness import (
    HEADWAY,
    READY_S,
    STOP_S,
    Running,
    descendants_of_session,
    die_with_parent,
    free_port,
    is_alive,
    wait_for,
)

from headway.cli.show import journal_line
from headway.lab.steady import SteadyLoad

APP = """
import os
import pty
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"pid", str(os.getpid()).encode())]})
    await send({"type": "http.response.body", "body": b"version 1"})
"""
ONE = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "site_app:app"
replicas = 1
"""
PARENT = """
import os, signal, subprocess, sys

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"

def start():
    deaf = subprocess.Popen([sys.executable, '-c', DEAF], stdout=subprocess.PIPE)
    deaf.stdout.read(1)
    children = [deaf, subprocess.Popen(SLEEP), subprocess.Popen(SLEEP, start_new_session=True)]
    with open(os.environ["CHILDREN"] + "." + str(os.getpid()), "w") as file:
        file.write(" ".join(str(child.pid) for child in children))

start()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
"""


def _folder(path: Path, source: str = APP) -> Path:
    path.mkdir(exist_ok=True)
    (path / "site_app.py").write_text(source)
    return path


def _edit(folder: Path, version: int, tail: str = "") -> None:
    """As an editor saves: in one step."""
    fresh = folder / "site_app.py.tmp"
    fresh.write_text(APP.replace("version 1", f"version {version}") + tail)
    fresh.replace(folder / "site_app.py")


def _says(system: Running, text: str) -> bool:
    return httpx.get(system.url, timeout=60).text == text


def test_reload_follows_the_source_and_keeps_what_works(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    with (
        Running(folder, ONE, arguments=("--reload",)) as system,
        SteadyLoad(system.url + "/", 50, deadline_s=60) as load,
    ):
        load.wait_for(offered=20)
        _edit(folder, 2)
        wait_for(lambda: _says(system, "version 2"), 30, "the new code answers")
        system.ok("up", "--reload", "--detach")  # what is so already can be asked for
        wait_for(lambda: [r["state"] for r in system.replicas()] == ["ready"], 30, "the old one is gone")

        # A mistake while editing: what worked goes on, and the reason is told.
        pid = system.replicas()[0]["pid"]
        _edit(folder, 3, "\nthis is no python\n")
        wait_for(lambda: "SyntaxError" in system.output(), 30, "the mistake is told where `up` runs")
        assert "SyntaxError" in system.ok("explain", "web")
        assert _says(system, "version 2")
        assert pid in [replica["pid"] for replica in system.replicas()]

        _edit(folder, 4)
        wait_for(lambda: _says(system, "version 4"), 30, "the repair answers")
        wait_for(lambda: [r["state"] for r in system.replicas()] == ["ready"], 30, "the old one is gone")
        load.wait_for(offered=load.progress().offered + 50)
    assert load.result.failed_requests == ()
    assert load.result.refused == 0


def test_two_systems_side_by_side_and_a_changed_file(tmp_path: Path) -> None:
    first, second = _folder(tmp_path / "first"), _folder(tmp_path / "second", APP.replace("version 1", "the other"))
    with Running(first, ONE, detached=True) as one, Running(second, ONE) as two:
        assert one.folders.run != two.folders.run
        before = one.processes()
        assert not set(before.values()) & set(two.processes().values())
        with SteadyLoad(one.url + "/", 50, deadline_s=60) as load:
            load.wait_for(offered=20)
            os.kill(two.pid("web.1"), signal.SIGKILL)
            os.kill(two.pid("edge"), signal.SIGKILL)
            two.wait_ready()

            # `up` on the running one applies the changed file.
            (first / "headway.toml").write_text(ONE.replace("$PORT", str(one.port)).replace("= 1", "= 2"))
            document = one.up("--detach")
            assert document["services"]["web"]["declared"] == document["services"]["web"]["ready"] == 2
            assert one.up("--detach")["services"]["web"]["ready"] == 2
            after = one.processes()
            assert {name: after[name] for name in before} == before, "nothing was restarted for it"
            assert "web.2" in after

            # The other one ends, and takes nothing along.
            two.stop()
            assert _says(one, "version 1")
            load.wait_for(offered=load.progress().offered + 30)
        assert load.result.failed_requests == ()
        assert one.processes() == after
        assert one.status()["edge"]["reloads"] == 0


def test_sigterm_stops_in_order(tmp_path: Path) -> None:
    held = "    import asyncio\n    while not os.path.exists('go'):\n        await asyncio.sleep(0.02)\n    await send"
    slow = APP.replace("    await send", held, 1)
    with Running(_folder(tmp_path, slow), ONE) as system, ThreadPoolExecutor(1) as pool:
        run, pids = system.folders.run, system.processes()
        answer = pool.submit(httpx.get, system.url, timeout=60)
        wait_for(lambda: system.replicas()[0]["in_flight"] == 1, 30, "a request is at work")
        assert system.process is not None
        system.process.send_signal(signal.SIGTERM)
        wait_for(lambda: ("controller", "stop") in _told(system), 60, "the stop has begun")
        (tmp_path / "go").touch()
        assert answer.result(60).text == "version 1", "what was at work is answered"
        assert system.process.wait(STOP_S) == 0
        assert not any(is_alive(pid) for pid in pids.values())
        assert not run.exists()
        told = _told(system)
        order = [("controller", "stop"), ("web.1", "drain"), ("web.1", "end"), ("controller", "stopped")]
        places = [told.index(entry) for entry in order]
        assert places == sorted(places)


def _told(system: Running) -> list[tuple[str, str]]:
    return [(entry["about"], entry["what"]) for entry in system.journal()]


def test_down_from_elsewhere_before_it_is_ready(tmp_path: Path) -> None:
    system = Running(_folder(tmp_path, f"import time\ntime.sleep(600)\n{APP}"), ONE, port=free_port())
    (tmp_path / "headway.toml").write_text(ONE.replace("$PORT", str(system.port)))
    try:
        system.start()
        wait_for(lambda: system.processes().get("web.1"), READY_S, "a replica starts")
        pids = system.processes()
        system.ok("down")
        assert system.process is not None
        assert system.process.wait(STOP_S) == 1
        assert "error: stopped before it was ready, from elsewhere\nhint: headway up\n" in system.output()
        assert not any(is_alive(pid) for pid in pids.values())
    finally:
        system.stop()
        system.kill_leftovers()


def test_pid_1_of_a_container_ends_on_sigterm(tmp_path: Path) -> None:
    """In a PID namespace of its own, as in a container: signals without a handler would be ignored there."""
    unshare = shutil.which("unshare")
    inside = [unshare or "", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if unshare is None or subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no PID namespaces here (needs unshare and the right to use it)")
    folder = _folder(tmp_path)
    system = Running(folder, ONE, port=free_port())
    (folder / "headway.toml").write_text(ONE.replace("$PORT", str(system.port)))
    with open(folder / "up.log", "wb") as log:
        outer = subprocess.Popen(
            [*inside, *HEADWAY, "up"], cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        wait_for(lambda: (system.quick_status() or {}).get("state") == "ready", READY_S, "ready")
        assert _says(system, "version 1")
        (first,) = _children(outer.pid)
        assert _inner_pid(first) == 1
        os.kill(first, signal.SIGTERM)
        assert outer.wait(STOP_S) == 0, system.output()
        assert "stopped" in system.output()
        assert not system.folders.run.exists()
    finally:
        outer.kill()
        outer.wait()


def _children(pid: int) -> list[int]:
    with suppress(OSError):  # it has just ended
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _descendants(pid: int) -> list[int]:
    return [found for child in _children(pid) for found in (child, *_descendants(child))]


def _owner(pid: int) -> int | None:
    with suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}").stat().st_uid
    return None


def _inner_pid(pid: int) -> int:
    found = re.search(r"^NSpid:.*?(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_children_of_an_app_do_not_outlive_it(tmp_path: Path) -> None:
    folder = _folder(tmp_path, PARENT)
    declaration = ONE + 'env = { CHILDREN = "{env.CHILDREN}" }\n'
    with Running(folder, declaration, env={"CHILDREN": str(folder / "children")}) as system:

        def children(pid: int) -> list[int]:
            return [int(child) for child in (folder / f"children.{pid}").read_text().split()]

        killed = system.pid("web.1")
        left = children(killed)
        assert len(left) == 3
        assert all(is_alive(pid) for pid in left)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: not any(is_alive(pid) for pid in left), 30, "what the killed one had started has ended")
        wait_for(lambda: system.processes().get("web.1", killed) != killed, 30, "it is started again")
        system.wait_ready()
        mine = children(system.pid("web.1"))
        assert all(is_alive(pid) for pid in mine), "what the new one has started goes on"
        system.stop()
        assert not any(is_alive(pid) for pid in mine)


PLAIN_USER = """
import json, os
import psycopg

async def app(scope, receive, send):
    assert scope["type"] == "http"
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        user = connection.execute("SELECT current_user").fetchone()[0]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps([os.getuid(), user]).encode()})
"""
WITH_DATABASE = """
[system]
name = "plain"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "site_app:app"
replicas = 2
env = { DATABASE_URL = "{main.url}" }
[databases.main]
"""
NOBODY = 65534


@contextmanager
def _as_nobody() -> Iterator[list[str]]:
    """What to put before a command to run it as a plain user; folders that are closed to it are opened in a view of the
    file system that only the command has."""
    if os.geteuid() != 0:
        pytest.skip("every other test runs as a plain user already")
    needed = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[3]]
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        for above in reversed([path, *path.parents]):
            if not above.stat().st_mode & 0o001:
                closed.setdefault(above, []).append(path)
                break
    if any(above in paths for above, paths in closed.items()):
        pytest.skip(f"{', '.join(map(str, closed))} cannot be opened to another user")
    with tempfile.TemporaryDirectory(prefix="headway-view-") as view:
        lines = ["set -e", f"mount -t tmpfs -o mode=755 tmpfs {view}"]
        for number, (above, paths) in enumerate(closed.items()):
            for index, path in enumerate(paths):
                lines += [f"mkdir {view}/{number}.{index}", f"mount --bind {path} {view}/{number}.{index}"]
            lines.append(f"mount -t tmpfs -o mode=755 tmpfs {above}")
            for index, path in enumerate(paths):
                lines += [f"mkdir -p {path}", f"mount --bind {view}/{number}.{index} {path}"]
        lines.append(f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"')
        before = ["unshare", "--mount", "sh", "-c", "\n".join(lines), "sh"]
        try:
            tried = subprocess.run([*before, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("needs unshare")
        if tried.returncode != 0:
            pytest.skip(f"no view of the file system of one's own here: {tried.stderr.strip()}")
        yield before


def test_everything_runs_as_a_plain_user() -> None:
    with _as_nobody() as before, tempfile.TemporaryDirectory(prefix="headway-plain-") as name:
        folder = _folder(Path(name), PLAIN_USER)
        os.chown(folder, NOBODY, NOBODY)
        port = free_port()
        (folder / "headway.toml").write_text(WITH_DATABASE.replace("$PORT", str(port)))
        environ = {key: value for key, value in os.environ.items() if key not in ("HOME", "XDG_RUNTIME_DIR")}
        command = [*before, *HEADWAY, "up"]
        with open(folder / "up.log", "wb") as log:
            up = subprocess.Popen(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        try:

            def answer() -> list[object] | None:
                assert up.poll() is None, (folder / "up.log").read_text()
                try:
                    found = httpx.get(f"http://127.0.0.1:{port}", timeout=60)
                except httpx.TransportError:
                    return None
                return found.json() if found.status_code == 200 else None

            assert wait_for(answer, READY_S, "an answer") == [NOBODY, "plain"]
            asked = [*before, *HEADWAY, "status", "--json"]
            told = subprocess.run(asked, cwd=folder, env=environ, capture_output=True, text=True, check=True).stdout
            assert '"ready"' in told
            pids = _descendants(up.pid)
            # Supervisor, controller, HAProxy, PostgreSQL and two replicas at the least.
            assert len(pids) >= 6
            assert {owner for pid in pids if (owner := _owner(pid)) is not None} == {NOBODY}
        finally:
            up.send_signal(signal.SIGINT)
            try:
                status = up.wait(STOP_S)
            finally:
                up.kill()
        assert status == 0, (folder / "up.log").read_text()
        assert not any(is_alive(pid) for pid in pids)
        assert descendants_of_session(folder) == []


def test_the_foreground_tells_the_whole_end_however_quick_it_is(tmp_path: Path) -> None:
    for number in range(3):
        with Running(_folder(tmp_path / f"end-{number}"), ONE) as system:
            system.stop()
            written = [journal_line(entry) for entry in system.journal()]
            printed = system.output()
        assert written[-1].endswith("stopped: everything has ended")
        assert [line for line in printed.splitlines() if line in written] == written
        assert printed.endswith("\nstopped\n")


def test_on_a_terminal_the_end_stands_last_and_no_picture_that_says_otherwise(tmp_path: Path) -> None:
    (_folder(tmp_path) / "headway.toml").write_text(ONE.replace("$PORT", str(free_port())))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execv(HEADWAY[0], [*HEADWAY, "up"])
    shown = bytearray()

    def says(text: bytes) -> bool:
        """Whether the terminal has shown it, once more of what it is sent is read."""
        if select.select([terminal], [], [], 0.2)[0]:
            with suppress(OSError):  # its other end is closed
                shown.extend(os.read(terminal, 1 << 16))
        return text in shown

    try:
        wait_for(lambda: says(b"admit to the edge: ready"), READY_S, "it is ready")
        os.write(terminal, b"\x03")
        wait_for(lambda: says(b"stopped\r\n"), READY_S, "it has stopped")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pid = 0
        says(b"")
    finally:
        if pid:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        os.close(terminal)
    end = bytes(shown).rpartition(b"Ctrl-C stops everything in order")[2]
    assert b"stopped: everything has ended\r\nstopped\r\n" in end


def test_a_controller_that_is_asked_where_it_stands_tells_it_and_goes_on(tmp_path: Path) -> None:
    with Running(_folder(tmp_path), ONE) as system:
        before = system.pid("controller")
        os.kill(before, signal.SIGUSR1)
        log = system.folders.logs / "controller.log"
        wait_for(lambda: "most recent call first" in log.read_text(), 30, "the stack of each thread")
        assert system.wait_ready()["controller"]["pid"] == before
