"""Real workers on their unix socket: what they tell, refuse by their cap, and drop, as ASGI and as WSGI."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import die_with_parent, wait_for

from headway.model.overload import Counts
from headway.process.unix_http import UnixConnection
from headway.runtimes.local.counts import read_counts
from headway.worker import telemetry
from headway.worker.telemetry import Slot, Stage

ASGI = """
import asyncio

gate = asyncio.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/held":
        await gate.wait()
    elif scope["path"] == "/go":
        gate.set()
    status = 500 if scope["path"] == "/fails" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"ran"})
"""
WSGI = """
import threading

gate = threading.Event()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        gate.wait()
    elif environ["PATH_INFO"] == "/go":
        gate.set()
    start_response("500 Bad" if environ["PATH_INFO"] == "/fails" else "200 OK", [])
    return [b"ran"]
"""
LATER_MS = int(time.time() * 1000) + 3_600_000


class Worker:
    """One worker as the controller sees it, asked the way the edge asks it."""

    def __init__(self, folder: Path, slots: memoryview) -> None:
        self.socket = str(folder / "web.1.sock")
        self.slots = slots

    def counts(self) -> Counts:
        """A reading that was taken after now."""
        after_s = time.monotonic()

        def read() -> Counts | None:
            counts = read_counts(self.slots)
            return counts if counts is not None and counts.at_s > after_s else None

        found: Counts = wait_for(read, 30, "a reading")
        return found

    def counted(self, done: Callable[[Counts], bool]) -> Counts:
        """The first reading after now of which that is true."""

        def read() -> Counts | None:
            counts = self.counts()
            return counts if done(counts) else None

        found: Counts = wait_for(read, 30, "what was done is counted")
        return found

    def ask(
        self, path: str, number: int = 0, due_ms: int = LATER_MS, body: bytes | None = None
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body."""
        connection = UnixConnection(self.socket, 60)
        try:
            headers = {"Host": "x", "X-Headway-From": f"http 10.0.0.7 51234 - {number} {due_ms}"}
            with contextlib.suppress(BrokenPipeError):  # a refusal does not wait for the body: look at the answer then
                connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("retry-after"), answer.read()
        finally:
            connection.close()


@contextmanager
def running(app: str) -> Iterator[Worker]:
    with tempfile.TemporaryDirectory() as name:  # short: a socket's path is bounded
        folder = Path(name)
        (folder / "app.py").write_text(app)
        (folder / "alive").mkdir()
        settings = {
            "target": "app:app", "folder": name, "interface": "auto", "threads": 4,
            "socket": f"{name}/web.1.sock", "telemetry": f"{name}/web.1.tele", "failure": f"{name}/web.1.failure",
            "oom_score_adj": 500, "alive_route": "/-headway", "alive_folder": f"{name}/alive", "static": {},
            "static_expires_s": 60, "backlog": 128, "connections_max": 1000, "socket_uid": None, "socket_gid": None,
            "body_max_bytes": 1 << 20, "streams_max": 10,
        }  # fmt: skip
        (folder / "web.1.json").write_text(json.dumps(settings))
        boot = str(Path(telemetry.__file__).with_name("boot.py"))
        process = subprocess.Popen([sys.executable, boot, f"{name}/web.1.json"], preexec_fn=die_with_parent)
        try:
            slots = wait_for(lambda: telemetry.attach(f"{name}/web.1.tele"), 60, "the counters")
            wait_for(lambda: slots[Slot.STAGE] == Stage.SERVING and read_counts(slots), 60, "a worker that serves")
            worker = Worker(folder, slots)
            wait_for(lambda: answers(worker), 30, "a first answer")
            yield worker
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(worker: Worker) -> bool:
    try:
        return worker.ask("/", 7)[0] == 200
    except OSError:
        return False


@pytest.fixture(params=[ASGI, WSGI], ids=["asgi", "wsgi"])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    with running(request.param) as found:
        yield found


def test_it_counts_by_class(worker: Worker) -> None:
    for _ in range(5):
        assert worker.ask("/", 2)[0] == 200
    assert worker.ask("/fails", 2)[0] == 500
    assert worker.ask("/", 0)[0] == 200
    # An answer is there a moment before it is counted.
    counts = worker.counted(lambda counts: counts.classes[0].completed == 1 and counts.classes[2].failed == 1)
    assert [(one.completed, one.failed) for one in counts.classes[:3]] == [(1, 0), (0, 0), (5, 1)]
    assert sum(counts.classes[2].histogram) == 5
    assert 0 < counts.classes[2].service_s < 60
    for _ in range(60):
        worker.ask("/reports/7", 0)
    worker.counted(lambda counts: any(one.prefix == "/reports" and one.samples >= 2 for one in counts.routes))


def test_its_cap_refuses_at_once_what_is_above(worker: Worker) -> None:
    worker.slots[Slot.CAP] = 2
    worker.counts()
    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(worker.ask, "/held", 1) for _ in range(2)]
        wait_for(lambda: worker.counts().classes[1].in_flight == 2, 30, "two requests held")
        for body in (None, b"x" * 500_000):
            status, retry_after, text = worker.ask("/", 3, body=body)
            assert (status, retry_after) == (503, "1")
            assert text != b"ran"
        worker.counted(lambda counts: counts.classes[3].refused == 2)
        worker.slots[Slot.CAP] = 0
        worker.counts()
        assert worker.ask("/go", 3)[0] == 200
        assert [request.result()[0] for request in held] == [200, 200]
    worker.counted(lambda counts: [(one.completed, one.in_flight) for one in counts.classes[1:4:2]] == [(2, 0), (1, 0)])


def test_it_does_not_run_what_nobody_waits_for(worker: Worker) -> None:
    worker.counts()
    past_ms = int(time.time() * 1000) - 10
    assert worker.ask("/", 4, past_ms) == (503, "1", b"nobody waits for this any more\n")
    assert worker.ask("/", 4) == (200, None, b"ran")
    counts = worker.counted(lambda counts: counts.classes[4].completed == 1).classes[4]
    assert (counts.dropped, counts.completed, counts.failed) == (1, 1, 0)
