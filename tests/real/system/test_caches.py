"""Caches in a whole system: an embedded Valkey is started, watched and replaced; one by URL may be away, not unfit."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, descendants_of_session, die_with_parent, free_port, is_alive, wait_for

from headway.caching.asking import Asking, Unanswered
from headway.caching.engine import find_valkey
from headway.caching.place import place_of_url

APP = """
import os

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": os.environ.get(scope["path"][1:], "").encode()})
"""
HEAD = """
[system]
name = "cached"
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "cached:app"
replicas = 1
uses = ["hot"]
"""
EMBEDDED = HEAD + 'env = { REDIS_URL = "{hot.url}" }\n[caches.hot]\nmemory_max = "16MiB"\n'


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    (path / "cached.py").write_text(APP)
    return path


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = _folder(tmp_path_factory.mktemp("caches"))
    with Running(folder, EMBEDDED, detached=True) as running:
        yield running
    assert not descendants_of_session(running.folders.run)


def asking(system: Running) -> Asking:
    return Asking(place_of_url(system.wait_ready()["caches"]["hot"]["url"]), timeout_s=30.0)


def state(system: Running) -> str:
    document = system.quick_status()
    return str(document["caches"]["hot"]["state"]) if document else ""


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def told(system: Running, variable: str) -> str:
    return httpx.get(f"{system.url}/{variable}", timeout=30).text


def journal(system: Running, what: str) -> list[dict[str, Any]]:
    return [entry for entry in system.journal() if entry["about"] == "cache.hot" and entry["what"] == what]


def test_the_app_is_told_where_its_cache_is_and_may_use_it(system: Running) -> None:
    cache = json.loads(told(system, "HEADWAY_CACHES"))["hot"]
    assert (cache["prefix"], cache["near_bytes"], cache["timeout_s"]) == ("hw:cached:hot:", 32 << 20, 0.1)
    assert told(system, "REDIS_URL") == cache["url"] == system.status()["caches"]["hot"]["url"]
    script = "import os; print(os.environ['REDIS_URL'], os.environ['HEADWAY_CACHES'])"
    ran = system.ok("run", "web", "--", sys.executable, "-c", script)
    assert ran.split()[0] == cache["url"]
    assert json.loads(ran.partition(" ")[2])["hot"] == cache


def test_it_is_this_users_alone_bounded_and_goes_before_postgresql(system: Running) -> None:
    socket_path = Path(place_of_url(system.status()["caches"]["hot"]["url"]).path)
    assert socket_path.stat().st_mode & 0o777 == 0o600
    assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    pid = system.pid("cache.hot")
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "250"
    if os.geteuid() == 0:
        assert Path(f"/proc/{pid}").stat().st_uid != 0
    with asking(system) as server:
        info = server.info()
        assert (info["maxmemory"], info["maxmemory_policy"], info["tcp_port"]) == (str(16 << 20), "allkeys-lru", "0")


def test_a_killed_one_is_back_empty_and_no_replica_with_it(system: Running) -> None:
    with asking(system) as server:
        server.ask("SET", "a", "b")
    before = system.processes()
    os.kill(before["cache.hot"], signal.SIGKILL)
    wait_for(lambda: system.processes().get("cache.hot", before["cache.hot"]) != before["cache.hot"], 30, "restart")

    def keys() -> tuple[int] | None:
        try:
            with asking(system) as server:
                return (int(server.ask("DBSIZE")),)
        except Unanswered:  # its process is there before its socket is
            return None

    assert wait_for(keys, 30, "it answers") == (0,)
    wait_for(
        lambda: journal(system, "ready")[-1]["reason"] == "answers again" or journal(system, "restarted"), 30, "told"
    )
    assert system.processes()["web.1"] == before["web.1"]


def test_one_that_hangs_is_replaced(system: Running) -> None:
    system.wait_ready()
    before = system.processes()["cache.hot"]
    seen, told = set(), len(journal(system, "down"))
    os.kill(before, signal.SIGSTOP)

    def replaced() -> bool:
        document = system.quick_status() or {"state": "", "caches": {"hot": {"state": ""}}}
        seen.add((document["state"], document["caches"]["hot"]["state"]))
        return bool(system.processes().get("cache.hot", before) != before)

    wait_for(replaced, 60, "replaced")
    assert not is_alive(before)
    assert len(journal(system, "down")) > told
    assert "silent for 3 s" in journal(system, "replaced")[-1]["reason"]
    assert not {whole for whole, cache in seen if cache == "down"} - {"degraded"}
    system.wait_ready()


def test_another_bound_holds_at_once_and_after_a_restart(system: Running) -> None:
    system.wait_ready()
    before = system.processes()
    text = (system.folder / "headway.toml").read_text()
    (system.folder / "headway.toml").write_text(text.replace("16MiB", "24MiB"))
    assert "caches.hot.memory_max: 16 MiB → 24 MiB; applies at once" in system.ok("check")
    system.up("--detach")

    def bound() -> str:
        try:
            with asking(system) as server:
                return server.info()["maxmemory"]
        except Unanswered:  # its process is there before its socket is
            return ""

    wait_for(lambda: bound() == str(24 << 20), 30, "the new bound")
    assert system.processes() == before
    os.kill(before["cache.hot"], signal.SIGKILL)
    wait_for(lambda: system.processes().get("cache.hot", before["cache.hot"]) != before["cache.hot"], 30, "restart")

    assert wait_for(bound, 30, "it answers") == str(24 << 20)


def test_a_full_one_evicts_and_says_so(system: Running) -> None:
    max_bytes = system.wait_ready()["caches"]["hot"]["max_bytes"]
    with asking(system) as server:
        for start in range(0, 40_000, 1000):
            server.ask_all([("SET", f"hw:cached:hot:v:{start + n}", "x" * 1000) for n in range(1000)])
        info = server.info()
    assert int(info["used_memory"]) < max_bytes + (1 << 20)
    wait_for(lambda: journal(system, "full"), 30, "told")
    wait_for(lambda: system.wait_ready()["caches"]["hot"]["evicted"] > 0, 30, "told")
    assert "evicted" in system.ok("status")
    flushed = json.loads(system.ok("cache", "flush", "hot", "--json").splitlines()[-1])
    assert flushed["removed"] > 5_000
    assert flushed["complete"]


def test_the_commands_tell_it_to_people_and_programs(system: Running) -> None:
    with asking(system) as server:
        server.ask("HSET", "hw:cached:hot:s:host:1", "shop.top:hits_near", 3, "shop.top:loads", 1)
        server.ask("SET", "hw:cached:hot:v:shop.top()", "of another version")
    found = json.loads(system.ok("cache", "stats", "hot", "--json").splitlines()[-1])["caches"]["hot"]
    assert found["functions"]["shop.top"]["hit_ratio"] == 0.75
    shown = system.ok("cache", "stats")
    assert "75.0 %" in shown
    assert "shop.top" in shown
    assert "shop.top()" in system.ok("cache", "inspect", "hot", "top")
    assert "nothing in hot has a key" in system.ok("cache", "inspect", "hot", "absent")
    system.ok("cache", "flush", "hot", "--tag", "product:7")
    refused = system.run("cache", "flush", "cold")
    assert (refused.returncode, refused.stderr) == (1, "error: there is no cache 'cold'\nhint: There is: hot.\n")
    assert system.run("cache", "flush", "hot", "--tag", "").returncode == 1


def test_its_numbers_are_served_for_prometheus(system: Running) -> None:
    system.wait_ready()
    page = system.ok("metrics")
    assert 'headway_cache_up{cache="hot"} 1.0' in page
    max_bytes = system.status()["caches"]["hot"]["max_bytes"]
    assert f'headway_cache_memory_max_bytes{{cache="hot"}} {max_bytes / 1e7}e+07' in page
    port = free_port()
    address = f"127.0.0.1:{port}"
    argv = [sys.executable, "-m", "headway.cli.main", "metrics", "--listen", address]
    serving = subprocess.Popen(argv, cwd=system.folder, preexec_fn=die_with_parent, stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline() == f"metrics on http://{address}/metrics\n"
        wait_for(lambda: listens(port), 30, "it takes connections")
        answer = httpx.get(f"http://{address}/metrics", timeout=30)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'headway_cache_up{cache="hot"} 1.0' in answer.text
        assert httpx.get(f"http://{address}/status", timeout=30).status_code == 404
        taken = system.run("metrics", "--listen", address)
        assert taken.returncode == 1
        assert f"error: --listen: {address} is in use" in taken.stderr
        assert "hint: " in taken.stderr
    finally:
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=60)
    assert serving.returncode == 130  # as any command that Ctrl-C ends
    wrong = system.run("metrics", "--listen", "9464")
    assert (wrong.returncode, "hint: " in wrong.stderr) == (1, True)


def test_it_outlives_the_supervisor_and_is_adopted_with_what_it_holds(system: Running) -> None:
    with asking(system) as server:
        server.ask("SET", "kept", "yes")
    before = system.processes()
    os.kill(before["supervisor"], signal.SIGKILL)
    wait_for(lambda: not is_alive(before["supervisor"]), 30, "the supervisor's end")
    system.up("--detach")
    assert system.processes()["cache.hot"] == before["cache.hot"]
    with asking(system) as server:
        assert server.ask("GET", "kept") == b"yes"
    os.kill(before["cache.hot"], signal.SIGKILL)  # and it is started again from now on
    wait_for(lambda: system.processes().get("cache.hot", before["cache.hot"]) != before["cache.hot"], 30, "restart")
    system.wait_ready()


def test_a_cache_that_is_no_longer_declared_ends(system: Running) -> None:
    pid = system.pid("cache.hot")
    text = (system.folder / "headway.toml").read_text()
    (system.folder / "headway.toml").write_text(
        text.partition("[caches.hot]")[0].replace('uses = ["hot"]', "").replace('env = { REDIS_URL = "{hot.url}" }', "")
    )
    assert "caches.hot: removed" in system.ok("check")
    assert system.up("--detach")["caches"] == {}
    wait_for(lambda: not is_alive(pid), 30, "its end")
    (system.folder / "headway.toml").write_text(text)
    assert "hot" in system.up("--detach")["caches"]
    assert system.wait_ready()["caches"]["hot"]["state"] == "ready"


def test_in_the_foreground_it_ends_with_the_supervisor(tmp_path: Path) -> None:
    with Running(_folder(tmp_path), EMBEDDED) as running:
        processes = running.processes()
        os.kill(processes["supervisor"], signal.SIGKILL)
        wait_for(lambda: not is_alive(processes["cache.hot"]), 30, "its end")
        assert running.process is not None
        running.process.wait(60)


# -- by URL -----------------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_keeps_nobody_from_starting_and_is_found_when_it_comes(tmp_path: Path) -> None:
    port = free_port()
    declaration = HEAD + '[caches.hot]\nurl = "{env.CACHE_URL}"\n'
    env = {"CACHE_URL": f"redis://:sesame@127.0.0.1:{port}"}
    with Running(_folder(tmp_path), declaration, detached=True, env=env) as running:
        document = running.status()
        assert (document["state"], document["caches"]["hot"]["state"]) == ("degraded", "down")
        assert json.loads(told(running, "HEADWAY_CACHES"))["hot"]["url"] == env["CACHE_URL"]
        shown = running.ok("status") + running.ok("cache", "stats")
        assert f"redis://127.0.0.1:{port}" in shown
        for command in (("inspect", "hot", "x"), ("flush", "hot")):
            done = running.run("cache", *command)
            assert done.returncode == 1
            assert done.stderr == (
                f"error: cache hot: redis://127.0.0.1:{port} does not answer: Connection refused\n"
                "hint: Apps go on without it; headway explain hot says what is done about it.\n"
            )
        server = subprocess.Popen(
            [str(find_valkey().path), "--port", str(port), "--requirepass", "sesame", "--save", ""],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        try:
            running.wait_ready()
            assert "sesame" not in running.ok("status", "--json") + json.dumps(running.journal())
            assert running.run("break", "cache", "hot", "--yes").stderr.startswith("error: cache hot runs elsewhere")
        finally:
            server.kill()
            server.wait()
        wait_for(lambda: state(running) == "down", 30, "away again")


def test_a_server_that_cannot_be_one_ends_the_start_with_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    server = subprocess.Popen(
        [str(find_valkey().path), "--port", str(port), "--requirepass", "sesame", "--save", ""],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    folder = _folder(tmp_path / "app")
    try:
        wait_for(lambda: listens(port), 30, "it takes connections")
        text = HEAD + f'[caches.hot]\nurl = "redis://:wrong@127.0.0.1:{port}"\n'
        (folder / "headway.toml").write_text(text.replace("$PORT", str(free_port())))
        found = Running(folder, "").run("up", "--detach")
        assert found.returncode == 1
        assert f"error: caches.hot: redis://127.0.0.1:{port} does not let us in" in found.stderr
        assert "hint: look after user and password of the url" in found.stderr
        assert "wrong" not in found.stderr
    finally:
        Running(folder, "").run("down")
        server.kill()
        server.wait()
