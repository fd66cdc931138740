"""The load generator against servers that answer in every way a server can: each ending is counted as what it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from headway.errors import HeadwayError, MachineError, NotRunning
from headway.lab.drill.loads import Loads
from headway.lab.load import LoadPlan, LoadResult, Progress, Request, burst, load, run_load
from headway.lab.steady import SteadyLoad

pytestmark = pytest.mark.alone

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def quick(url: str, **changes: Any) -> LoadResult:
    """100 requests in a quarter second, evenly spaced; everything that was opened must be closed again."""
    before = descriptors()
    plan = LoadPlan(**{"url": url, "rate_per_s": 400, "duration_s": 0.25, "pattern": "constant", **changes})
    result = load(plan)
    assert result.ok + result.late + result.refused + result.failed == result.offered
    until_s = time.monotonic() + 5
    while descriptors() > before:  # the origin is in this process and closes its ends a little later
        assert time.monotonic() < until_s, f"{descriptors() - before} descriptors stay open"
        time.sleep(0.005)
    return result


@pytest.mark.parametrize("connections", ["new", "keep"])
def test_a_server_that_answers(origin: Any, fixed: Any, connections: str) -> None:
    server = origin(fixed(OK))
    result = quick(server.url, connections=connections)
    assert (result.offered, result.ok, result.goodput_per_s) == (100, 100, 400.0)
    assert result.statuses == {"200": 100}
    assert len(server.seen) == 100
    assert server.connections == 100 if connections == "new" else server.connections < 50
    assert result.latency_ms["p50"] is not None
    assert 0 < result.latency_ms["p50"] < 100
    assert sum(second.offered for second in result.timeline) == 100
    server.wait_until_unused()


@pytest.mark.parametrize("connections", ["new", "keep"])
@pytest.mark.parametrize(
    ("raw", "counted", "failures"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "ok", {}),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "ok", {}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n", "ok", {}),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, "ok", {}),
        (b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", "refused", {}),
        (b"HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n", "refused", {}),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "failed", {"status 500": 100}),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "failed", {"status 404": 100}),
        (b"This is no HTTP\r\n\r\n", "failed", {"malformed answer": 100}),
    ],
    ids=["204", "302", "chunked", "hints", "503", "429", "500", "404", "junk"],
)
def test_answers(origin: Any, fixed: Any, raw: bytes, counted: str, failures: dict[str, int], connections: str) -> None:
    result = quick(origin(fixed(raw)).url, connections=connections)
    assert getattr(result, counted) == result.offered == 100
    assert result.failures == failures


@pytest.mark.parametrize("connections", ["new", "keep"])
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "closed before answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "truncated answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "truncated answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok", "truncated answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "truncated answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", None),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", None),
    ],
    ids=["nothing", "in-head", "in-body", "in-chunk", "between-chunks", "until-close", "http-1.0"],
)
def test_answers_that_end_with_the_connection(origin: Any, raw: bytes, reason: str | None, connections: str) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter) -> bool:
        writer.write(raw)
        return False

    server = origin(answer)
    result = quick(server.url, connections=connections)
    assert result.failures == ({reason: 100} if reason else {})
    assert result.ok == (0 if reason else 100)
    assert server.connections == 100


def test_a_reset_is_told_from_a_close(origin: Any) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter) -> bool:
        linger_off = b"\x01\0\0\0\0\0\0\0"  # close() sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
        return False

    assert quick(origin(answer).url).failures == {"connection reset": 100}


def test_a_kept_connection_that_the_server_closes_is_not_used_again(origin: Any) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        return bool(seen.on_connection < 2)

    server = origin(answer)
    result = quick(server.url, connections="keep", rate_per_s=50, duration_s=0.6)
    assert result.ok == 30
    assert server.connections == 10


def test_head_and_post_with_a_body_on_kept_connections(origin: Any) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + (b"" if seen.method == "HEAD" else b"123456789"))
        return True

    server = origin(answer)
    requests = (Request("HEAD", "/h"), Request("POST", "/p?q=1", (("X-A", "b"),), b"body" * 10_000))
    result = quick(server.url, requests=requests, connections="keep")
    assert result.ok == 100
    assert server.connections < 50
    assert [(s.method, s.path, len(s.body)) for s in server.seen[:2]] == [("HEAD", "/h", 0), ("POST", "/p?q=1", 40_000)]


def test_a_server_that_hangs_costs_the_deadline_and_no_more(origin: Any) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        if seen.number % 2:
            await seen.hang()
        writer.write(OK)
        return True

    server = origin(answer)
    began_s = time.monotonic()
    result = quick(server.url, deadline_s=0.4)
    assert time.monotonic() - began_s < 2.5
    assert (result.ok, result.failed, result.failures) == (50, 50, {"deadline": 50})


def test_an_answer_after_the_slo_is_late_and_no_goodput(origin: Any) -> None:
    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(0.3 if seen.number % 4 == 0 else 0)
        writer.write(OK)
        return True

    result = quick(origin(answer).url, slo_s=0.2)
    assert (result.ok, result.late, result.goodput_per_s) == (75, 25, 300.0)
    assert result.latency_ms["max"] is not None
    assert 300 <= result.latency_ms["max"] < 600


@pytest.mark.parametrize("connections", ["new", "keep"])
def test_a_stall_is_felt_by_every_request_that_was_meant_to_start_meanwhile(
    origin: Any, fixed: Any, connections: str
) -> None:
    """No coordinated omission: a stall of 1 s delays 100 of 300 requests, by 1 s down to 0, half by over 0.5 s."""
    server = origin(fixed(OK))
    threading.Timer(1.0, server.stall, (1.0,)).start()
    result = quick(server.url, rate_per_s=100, duration_s=3, slo_s=0.5, connections=connections)
    assert (result.offered, result.ok + result.late) == (300, 300)
    assert result.latency_ms["max"] is not None
    assert result.latency_ms["p90"] is not None
    assert result.late >= 45
    assert result.latency_ms["max"] >= 950
    # 30 of the 300 waited longer than this; one client that waits for each answer would have seen a single slow one.
    assert result.latency_ms["p90"] >= 600
    if not result.generator.bottleneck:  # it says so itself when this machine gave it no time to send
        assert result.late <= 60
        assert result.latency_ms["max"] <= 1300
        assert result.latency_ms["p90"] <= 900


def test_too_few_connections_fail_without_waiting(origin: Any) -> None:
    async def answer(_: object, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(1)
        writer.write(OK)
        return True

    server = origin(answer)
    result = quick(server.url, connections_max=30, connections="keep")
    assert (result.ok, result.failures) == (30, {"client connection limit": 70})
    assert (result.generator.bottleneck, result.generator.cause) == (True, "ports or descriptors")
    assert result.generator.made_per_s == pytest.approx(30 / result.duration_s, rel=0.1)
    assert server.connections == 30


def test_a_burst_is_in_flight_at_once(origin: Any) -> None:
    everybody = 1000
    gate: list[asyncio.Event] = []

    async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
        if not gate:
            gate.append(asyncio.Event())
        if seen.number == everybody - 1:
            gate[0].set()  # nobody is answered before everybody has asked
        await gate[0].wait()
        writer.write(OK)
        return True

    server = origin(answer)
    result = load(burst(server.url, everybody))
    assert (result.offered, result.ok) == (everybody, everybody)


def test_a_server_that_dies_in_between_refuses(origin: Any, fixed: Any) -> None:
    server = origin(fixed(OK))
    threading.Timer(0.5, server.stop).start()
    result = load(LoadPlan(server.url, 100, 1, pattern="constant", failures_max=1000))
    assert set(result.failures) <= {"connection refused", "connection reset", "closed before answer"}
    assert result.failures["connection refused"] >= 40
    assert result.ok >= 40
    first, last = result.failed_requests[0], result.failed_requests[-1]
    assert last.at_s - first.at_s == pytest.approx(0.5, abs=0.1)
    assert abs(time.monotonic() - last.at_s) < 2


def test_unix_socket(origin: Any, fixed: Any, tmp_path: Path) -> None:
    server = origin(fixed(OK), socket_path=str(tmp_path / "origin.sock"))
    assert quick(f"unix:{server.socket_path}:/deep?x").ok == 100
    assert {seen.path for seen in server.seen} == {"/deep?x"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.parametrize("connections", ["new", "keep"])
def test_https(
    origin: Any, fixed: Any, tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path, connections: str
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = origin(fixed(OK), tls=tls)
    result = quick(server.url, connections=connections, ca_file=str(tmp_path / "ca.pem"), rate_per_s=60, duration_s=0.5)
    assert result.ok == result.offered == 30
    server.wait_until_unused()


def test_a_certificate_that_cannot_be_trusted_is_an_error_unless_insecure(
    origin: Any, fixed: Any, tls: ssl.SSLContext
) -> None:
    server = origin(fixed(OK), tls=tls)
    with pytest.raises(HeadwayError, match="certificate that cannot be trusted") as caught:
        quick(server.url)
    assert "--insecure" in caught.value.hint
    assert server.seen == []
    assert quick(server.url, insecure=True, rate_per_s=40).ok == 10


def test_tls_towards_a_server_without(origin: Any, fixed: Any) -> None:
    server = origin(fixed(b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n\r\n\r\n"))
    with pytest.raises((HeadwayError, MachineError), match=r"does not speak TLS|does not accept") as caught:
        quick(server.url.replace("http:", "https:"), deadline_s=1)
    assert caught.value.hint


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take the port meanwhile
        port = probe.getsockname()[1]
        with pytest.raises(NotRunning, match=f"nothing listens on 127.0.0.1:{port}") as caught:
            quick(f"http://127.0.0.1:{port}/")
    assert "headway up" in caught.value.hint
    with pytest.raises(NotRunning, match=r"nothing listens on .*none\.sock"):
        quick(f"unix:{tmp_path}/none.sock")


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(HeadwayError, match=r"nowhere\.invalid does not resolve") as caught:
        quick("http://nowhere.invalid/")
    assert caught.value.hint


def test_a_server_that_never_accepts() -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as fillers:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # the queue is full after one or two; further SYNs are dropped
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        with pytest.raises(MachineError, match="does not accept a connection within 1 s"):
            quick(f"http://127.0.0.1:{deaf.getsockname()[1]}/", deadline_s=0.5)


def test_too_few_descriptors_is_said_before_the_first_request(origin: Any, fixed: Any) -> None:
    server = origin(fixed(OK))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 4_000_000:
        pytest.skip("more descriptors than a load can need")
    with pytest.raises(MachineError, match="descriptor limit") as caught:
        load(burst(server.url, hard))
    assert "ulimit -n" in caught.value.hint
    assert server.seen == []


def test_the_soft_descriptor_limit_is_raised(origin: Any, fixed: Any) -> None:
    server = origin(fixed(OK))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert load(burst(server.url, 400)).ok == 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_progress_is_told_while_it_runs(origin: Any, fixed: Any) -> None:
    told: list[Progress] = []
    load(LoadPlan(origin(fixed(OK)).url, 100, 1.3, pattern="constant"), told.append)
    assert len(told) == 2
    assert told[0].offered == pytest.approx(50, abs=15)
    assert told[1].ok > told[0].ok > 0
    assert told[0].duration_s == 1.3


def test_run_load_in_a_plain_event_loop_and_its_cancellation(origin: Any) -> None:
    async def answer(seen: Any, _: asyncio.StreamWriter) -> bool:
        await seen.hang()
        return False

    server = origin(answer)

    async def scenario() -> None:
        before = asyncio.all_tasks()
        running = asyncio.create_task(run_load(LoadPlan(server.url, 100, 10)))
        while len(server.seen) < 20:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(scenario(), 10))
    server.wait_until_unused()


def test_a_generator_that_cannot_keep_up_says_so(origin: Any, fixed: Any) -> None:
    server = origin(fixed(OK))

    async def scenario() -> LoadResult:
        # Somebody else blocks the generator's own event loop: the system is innocent of what follows.
        asyncio.get_running_loop().call_later(0.2, time.sleep, 0.3)
        return await run_load(LoadPlan(server.url, 100, 1, pattern="constant"))

    result = asyncio.run(scenario())
    assert result.ok == 100
    assert result.generator.bottleneck
    assert result.generator.send_lag_ms_p99 > 200


def test_requests_too_late_to_be_sent_are_not_blamed_on_the_server(origin: Any, fixed: Any) -> None:
    server = origin(fixed(OK))

    async def scenario() -> LoadResult:
        asyncio.get_running_loop().call_later(0.2, time.sleep, 0.6)
        return await run_load(LoadPlan(server.url, 100, 1, pattern="constant", deadline_s=0.2))

    result = asyncio.run(scenario())
    assert result.failures["client too slow"] == pytest.approx(40, abs=5)
    assert result.generator.bottleneck


class TestSteadyLoad:
    """A load in the background of somebody who blocks."""

    def test_it_runs_while_its_block_blocks_and_every_request_is_unique(self, origin: Any, fixed: Any) -> None:
        server = origin(fixed(OK))
        with SteadyLoad(server.url, 200, methods=("GET", "POST")) as steady:
            time.sleep(0.5)  # what a blocking caller does
            progress = steady.wait_for(offered=150, timeout_s=10)
            assert progress.offered >= 150
        result = steady.result
        assert result.ok == result.offered == len(server.seen) >= 150
        assert result.failed_requests == ()
        assert set(server.ids().values()) == {1}
        assert {seen.method for seen in server.seen} == {"GET", "POST"}
        assert result.goodput_per_s == pytest.approx(200, rel=0.35)
        server.wait_until_unused()

    def test_each_failure_is_listed_with_what_was_asked(self, origin: Any) -> None:
        async def answer(seen: Any, writer: asyncio.StreamWriter) -> bool:
            if seen.method == "POST":
                return False
            writer.write(OK)
            return True

        server = origin(answer)
        with SteadyLoad(server.url, 100, requests=(Request("GET", "/a"), Request("POST", "/b"))) as steady:
            steady.wait_for(offered=50)
        failures = steady.result.failed_requests
        assert len(failures) == steady.result.failed == steady.result.offered // 2
        assert {(f.method, f.path, f.reason) for f in failures} == {("POST", "/b", "closed before answer")}
        assert {f.load_id for f in failures} == {seen.load_id for seen in server.seen if seen.method == "POST"}

    def test_as_an_async_context(self, origin: Any, fixed: Any) -> None:
        server = origin(fixed(OK))

        async def scenario() -> LoadResult:
            async with SteadyLoad(server.url, 100, connections="keep") as steady:
                while steady.progress().offered < 30:
                    await asyncio.sleep(0.01)
            return steady.result

        assert asyncio.run(asyncio.wait_for(scenario(), 10)).ok >= 30

    def test_it_ends_by_itself_at_its_longest(self, origin: Any, fixed: Any) -> None:
        steady = SteadyLoad(origin(fixed(OK)).url, 100, duration_max_s=0.2)
        with steady, pytest.raises(HeadwayError, match="offered"):
            steady.wait_for(offered=1000, timeout_s=5)
        assert steady.result.ok == steady.result.offered

    def test_nobody_there_is_said_on_entering_and_leaves_no_thread(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            steady = SteadyLoad(f"http://127.0.0.1:{probe.getsockname()[1]}/", 10)
            with pytest.raises(NotRunning), steady:
                pytest.fail("entered")
        assert all(thread.name != "steady-load" for thread in threading.enumerate())
        with pytest.raises(HeadwayError, match="no result yet"):
            _ = steady.result

    def test_an_error_of_its_block_passes_through(self, origin: Any, fixed: Any) -> None:
        server = origin(fixed(OK))
        with pytest.raises(ZeroDivisionError), SteadyLoad(server.url, 100):
            _ = 1 / 0
        server.wait_until_unused()


def _breaks_at(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_arguments: object, **_options: object) -> Any:
        raise ZeroDivisionError(moment)

    if moment == "sending":
        monkeypatch.setattr("headway.lab.engine.Engine._start", fails)
    elif moment == "connecting":
        monkeypatch.setattr("headway.lab.engine.Engine._connect", fails)
    else:
        monkeypatch.setattr("headway.lab.tally.Tally.answered", fails)


@pytest.mark.parametrize("moment", ["sending", "connecting", "answered"])
def test_a_mistake_of_the_generator_ends_the_load_and_is_told(
    origin: Any, fixed: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    server = origin(fixed(OK))
    _breaks_at(moment, monkeypatch)
    before, began_s = descriptors(), time.monotonic()
    with pytest.raises(ZeroDivisionError, match=moment):
        load(LoadPlan(server.url, 50, 20))
    assert time.monotonic() - began_s < 5
    with pytest.raises(ZeroDivisionError, match=moment), SteadyLoad(server.url, 50) as steady:
        steady.wait_for(offered=1_000_000, timeout_s=20)
    server.wait_until_unused()
    until_s = time.monotonic() + 5
    while descriptors() > before:
        assert time.monotonic() < until_s, "descriptors stay open"
        time.sleep(0.005)


def test_every_load_of_a_drill_trusts_the_authority_that_it_was_given(origin: Any, fixed: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = origin(fixed(OK), tls=context)

    async def drilled(ca_file: str | None) -> None:
        loads = Loads(server.url, 1.0, 5.0, ca_file)
        assert (await loads.look()).ok == 1
        assert await loads.calm(5)
        assert (await loads.step(1, 40, 0.25)).failed == 0
        assert (await loads.burst_then(40, 0.1, 20, 0.25)).recovered_s is None  # watched for less than that takes

    asyncio.run(drilled(str(tmp_path / "ca.pem")))
    with pytest.raises(HeadwayError, match="cannot be trusted"):
        asyncio.run(drilled(None))
