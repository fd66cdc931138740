"""Apps that leak, hang, deadlock, crash again and again, or will not end: users of the rest notice nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import Running, is_alive, wait_for

from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

ASGI = """
import asyncio, os, time
held = []

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/leak":
        held.append(bytearray(os.urandom(1 << 20) * 200))
    elif scope["path"] == "/hang":
        time.sleep(3600)
    await asyncio.sleep(0.002)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": os.environ["HEADWAY_REPLICA"].encode()})
"""
WSGI = """
import os, threading, time
lock = threading.Lock()
lock.acquire()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/wsgi/lock":
        lock.acquire(timeout=-1 if os.environ["HEADWAY_REPLICA"] == "wsgi.1" else 0.5)
    if environ["PATH_INFO"] == "/wsgi/slow":
        time.sleep(0.8)
    start_response("200 OK", [])
    return [os.environ["HEADWAY_REPLICA"].encode()]
"""
CRASH = """
import os, threading, time
FUSE = os.environ["FUSE"]

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here for now"})

def burn():
    while not os.path.exists(FUSE):
        time.sleep(0.05)
    time.sleep(1)
    print("that was it", flush=True)
    os._exit(7)

threading.Thread(target=burn, daemon=True).start()
"""
STUBBORN = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(3600)
"""
DECLARATION = """
[edge]
bind = ["127.0.0.1:$PORT"]
[services.web]
app = "web:app"
routes = ["/"]
replicas = 2
memory_max = "150MiB"
hang_timeout = "2s"
[services.wsgi]
app = "threads:app"
routes = ["/wsgi"]
replicas = 2
threads = 2
hang_timeout = "1s"
deadline = "2s"
drain_timeout = "2s"
[services.crash]
app = "crash:app"
routes = ["/crash"]
replicas = 1
env = { FUSE = "{env.FUSE}" }
[services.stubborn]
app = "stubborn:app"
replicas = 1
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("faults")
    for name, source in (("web", ASGI), ("threads", WSGI), ("crash", CRASH), ("stubborn", STUBBORN)):
        (folder / f"{name}.py").write_text(source)
    with Running(folder, DECLARATION, env={"FUSE": str(folder / "fuse")}) as running:
        yield running


@contextmanager
def _unnoticed(system: Running, path: str = "/", rate_per_s: float = 100) -> Iterator[SteadyLoad]:
    """A load under which not one GET may fail."""
    with SteadyLoad(system.url + path, rate_per_s) as load:
        load.wait_for(offered=30)
        yield load
        load.wait_for(offered=load.progress().offered + 50)
    assert load.result.failed_requests == ()
    assert load.result.refused == 0
    assert load.result.ok > 80


def _post(url: str) -> int:
    """The status of a POST; 0 when the connection was cut without an answer."""
    try:
        return httpx.post(url, timeout=60).status_code
    except httpx.RemoteProtocolError:
        return 0


def _pids(system: Running, service: str = "web") -> dict[str, int]:
    return {replica["name"]: replica["pid"] for replica in system.replicas(service) if replica["state"] == "ready"}


def _told(system: Running, about: str) -> str:
    return system.ok("explain", about)


def _replaced(system: Running, service: str, before: dict[str, int], gone: str, timeout_s: float) -> dict[str, int]:
    """Wait until two are ready and the process of `gone` is none of them."""

    def found() -> dict[str, int] | None:
        now = _pids(system, service)
        return now if len(now) == 2 and before[gone] not in now.values() else None

    now: dict[str, int] = wait_for(found, timeout_s, f"another process in place of {gone}")
    return now


def test_standing_event_loop_is_replaced(system: Running) -> None:
    before = _pids(system)
    with _unnoticed(system), ThreadPoolExecutor(1) as pool:
        began_s = time.monotonic()
        stuck = pool.submit(_post, system.url + "/hang")
        wait_for(lambda: not all(is_alive(pid) for pid in before.values()), 60, "the hanging one ended")
        ended_s = time.monotonic() - began_s
        gone = next(name for name, pid in before.items() if not is_alive(pid))
        now = _replaced(system, "web", before, gone, 10)
        replaced_s = time.monotonic() - began_s
        # A POST is not tried again: its sender is told, or cut off.
        assert stuck.result(60) in (0, 502)
    assert 1.8 <= ended_s < 5.0, f"ended after {ended_s:.1f} s"
    assert replaced_s < 8.0, f"replaced after {replaced_s:.1f} s"
    assert {name: pid for name, pid in before.items() if name != gone}.items() <= now.items()
    assert "event loop stands still" in _told(system, gone)


def test_busy_threads_are_no_fault(system: Running) -> None:
    before = _pids(system, "wsgi")
    until_s = time.monotonic() + 4.0  # twice as long as `deadline`, four times `hang_timeout`

    def ask(_number: int) -> list[int]:
        statuses = []
        while time.monotonic() < until_s:
            statuses.append(httpx.get(system.url + "/wsgi/slow", timeout=60).status_code)
        return statuses

    with ThreadPoolExecutor(6) as pool:
        statuses = [status for some in pool.map(ask, range(6)) for status in some]
    assert len(statuses) >= 15
    assert set(statuses) == {200}
    assert _pids(system, "wsgi") == before
    assert all(replica["restarts"] == 0 for replica in system.replicas("wsgi"))


def test_deadlocked_threads_are_replaced(system: Running) -> None:
    before = _pids(system, "wsgi")
    with _unnoticed(system, "/wsgi", 40), ThreadPoolExecutor(4) as pool:
        began_s = time.monotonic()
        asked = [pool.submit(_post, system.url + "/wsgi/lock") for _ in range(4)]
        _replaced(system, "wsgi", before, "wsgi.1", 12)
        replaced_s = time.monotonic() - began_s
        statuses = [each.result(60) for each in asked]
        assert statuses.count(200) == 2, statuses
        assert all(status in (0, 200, 502, 504) for status in statuses)
    assert 2.0 < replaced_s < 8.0, f"replaced after {replaced_s:.1f} s"
    assert _pids(system, "wsgi")["wsgi.2"] == before["wsgi.2"]
    assert "all threads busy and no answer" in _told(system, "wsgi.1")


def test_leaking_replica_is_drained_and_replaced(system: Running) -> None:
    before = _pids(system)
    with _unnoticed(system):
        began_s = time.monotonic()
        gone = httpx.get(system.url + "/leak", timeout=60).text
        wait_for(lambda: before[gone] not in _pids(system).values() and len(_pids(system)) == 2, 60, "replaced")
        replaced_s = time.monotonic() - began_s
    told = _told(system, gone)
    assert "over memory_max 150 MiB" in told
    assert "is replaced" in told
    assert gone not in _pids(system), "another one took its place before it left"
    assert not is_alive(before[gone])
    assert replaced_s < 20.0
    assert all(replica["rss_bytes"] < 150 << 20 for replica in system.replicas())


def test_crash_loop_backs_off_and_a_stubborn_replica_is_killed(system: Running) -> None:
    pid = _pids(system, "stubborn")["stubborn.1"]
    with _unnoticed(system, rate_per_s=50):
        began_s = time.monotonic()
        (system.folder / "fuse").touch()
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(system.ok, "scale", "stubborn", "0")
            wait_for(lambda: not is_alive(pid), 60, "the stubborn one is killed")
            killed_s = time.monotonic() - began_s
            ending.result(60)
        wait_for(lambda: "crash loop" in _told(system, "crash"), 60, "the crash loop is told", every_s=0.3)
        looping_s = time.monotonic() - began_s
        # Each life takes over a second, and pauses come between them.
        assert 2 <= system.replicas("crash")[0]["restarts"] <= looping_s / 1.2
        down: dict[str, Any] = wait_for(lambda: _crashed(system), 60, "the status shows it")
        assert down["state"] in ("down", "starting")
        assert "status 7" in down["failure"]
        assert "ended with status 7" in _told(system, "crash")
        assert "that was it" in system.ok("logs", "crash.1")
    assert 5.0 < killed_s < 10.0, f"killed after {killed_s:.1f} s"
    (system.folder / "fuse").unlink()
    system.ok("scale", "stubborn", "1")
    system.wait_ready()


def test_stopped_controller_stops_no_traffic(system: Running) -> None:
    controller = system.pid("controller")
    before = _pids(system)
    with _unnoticed(system) as load:
        os.kill(controller, signal.SIGSTOP)
        try:
            # Nobody is there to start another one, yet its users are served by the one that is left.
            os.kill(before["web.1"] if "web.1" in before else next(iter(before.values())), signal.SIGKILL)
            load.wait_for(offered=load.progress().offered + 200)
        finally:
            os.kill(controller, signal.SIGCONT)
        wait_for(lambda: len(_pids(system)) == 2, 60, "two again")
    assert system.pid("controller") == controller


def test_broken_source_meets_the_next_start_only(system: Running) -> None:
    source = system.folder / "web.py"
    good = source.read_text()
    before = _pids(system)
    gone = sorted(before)[0]
    with _unnoticed(system):
        source.write_text(good + "\nthis is no python\n")
        os.kill(before[gone], signal.SIGKILL)
        failed: dict[str, Any] = wait_for(
            lambda: next((replica for replica in system.replicas() if replica["failure"]), None), 60, "a failed start"
        )
        wait_for(
            lambda: "importing web failed: SyntaxError" in (_failure(system, gone) or ""), 60, "its reason in status"
        )
        assert failed["name"] == gone
        assert system.status()["state"] == "degraded"
        assert "SyntaxError" in _told(system, gone)
        assert "this is no python" in Path(system.folders.logs / f"{gone}.log").read_text()
        assert len(_pids(system)) == 1
        source.write_text(good)
        wait_for(lambda: len(_pids(system)) == 2, 60, "it comes back by itself once the source is mended")


def _crashed(system: Running) -> dict[str, Any] | None:
    document = system.quick_status()
    assert document is not None
    (replica,) = document["services"]["crash"]["replicas"]
    return replica if document["state"] == "degraded" and replica["failure"] else None


def _failure(system: Running, name: str) -> str | None:
    return next(replica["failure"] for replica in system.replicas() if replica["name"] == name)
