"""Whatever the other side does, a call ends within its deadline, with an error that says what the caller may do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
from call_place import Call, Gone, Start, answer, says

from headway.calls.budget import RetryBudget
from headway.calls.client.service import Service
from headway.errors import (
    BadAnswer,
    CallError,
    CircuitOpen,
    DeadlineExceeded,
    HeadwayError,
    Refused,
    StatusError,
    Unavailable,
)
from headway.model.calls import CALLS_MAX, SERVICES_VARIABLE

SLACK_S = 15.0  # the machine may be busy; what is not ended by its own time ends after twenty seconds


def drips(connection: socket.socket, call: Call) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def drips_its_head(connection: socket.socket, call: Call) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10_000:
        connection.sendall(bytes((byte,)))
        time.sleep(0.05)


def has_no_end(connection: socket.socket, call: Call) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")


def says_that_a_gigabyte_comes(connection: socket.socket, call: Call) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")


def waits(connection: socket.socket, call: Call) -> None:
    connection.settimeout(100)
    if not connection.recv(1):
        raise Gone


def breaks_off(connection: socket.socket, call: Call) -> None:
    raise ConnectionError


def breaks_off_in_the_middle(connection: socket.socket, call: Call) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    raise ConnectionError


def failing(inventory: Service, path: str = "/", method: str = "GET", **options: object) -> tuple[CallError, float]:
    """The error that a call raises, and how long it took."""

    async def use() -> CallError:
        with pytest.raises(CallError) as told:
            await inventory.request(method, path, **options)  # type: ignore[arg-type]
        return told.value

    began_s = time.monotonic()
    return asyncio.run(use()), time.monotonic() - began_s


@contextlib.contextmanager
def one_retry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many as a process with few calls has at first: the next one would come with the next second."""
    take = RetryBudget.take

    def at_first(budget: RetryBudget, now_s: float, *, is_broken: bool = False) -> bool:
        return take(budget, budget._began_s, is_broken=is_broken)

    with monkeypatch.context() as patch:
        patch.setattr(RetryBudget, "take", at_first)
        yield


@pytest.mark.parametrize("do", [waits, drips, drips_its_head])
def test_a_slow_answer_ends_at_the_deadline(start: Start, do: object) -> None:
    leaf, inventory = start(do)  # type: ignore[arg-type]
    error, took_s = failing(inventory, deadline=1.5)
    assert isinstance(error, DeadlineExceeded)
    assert 1.5 <= took_s < 1.5 + SLACK_S
    told = re.match(r"service inventory: no answer within (\d(?:\.\d+)?) s", str(error))  # what of it the attempt had
    assert told is not None
    assert 0 < float(told[1]) <= 1.5
    assert error.retry_after_s == 1
    assert do is not waits or leaf.closed.wait(60)  # the connection is not used any more
    assert int(leaf.calls[0].headers["x-envoy-expected-rq-timeout-ms"]) <= 1500


@pytest.mark.parametrize("do", [has_no_end, says_that_a_gigabyte_comes])
def test_an_answer_has_a_bound(start: Start, do: object) -> None:
    _, inventory = start(do)  # type: ignore[arg-type]
    error, _ = failing(inventory, body_max=3_000_000, deadline=60)
    assert isinstance(error, BadAnswer)
    assert "larger than body_max" in str(error)
    assert "stream" in error.hint


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-encoding: gzip\r\n\r\nhello",
    ],
)
def test_garbage_is_a_bad_answer(start: Start, garbage: bytes) -> None:
    leaf, inventory = start(says(garbage))
    error, _ = failing(inventory, deadline=60)
    assert isinstance(error, BadAnswer)
    assert "what came is no answer" in str(error)
    assert len(leaf.calls) == 1


@pytest.mark.parametrize("do", [breaks_off, breaks_off_in_the_middle])
def test_what_broke_off_is_tried_again_where_that_is_safe(
    start: Start, monkeypatch: pytest.MonkeyPatch, do: object
) -> None:
    leaf, inventory = start(do)  # type: ignore[arg-type]
    error, _ = failing(inventory, method="POST", json={})
    assert type(error) is Unavailable
    assert "it may have been done" in str(error)
    assert len(leaf.calls) == 1
    leaf.calls.clear()
    with one_retry(monkeypatch):
        error, _ = failing(inventory, method="GET")
    assert [call.headers["x-headway-attempt"] for call in leaf.calls] == ["1", "2"]
    assert "it was not tried again, for the budget of retries is used up" in str(error)
    assert (error.has_no_retry, error.retry_after_s) == (True, 1)

    def mends(connection: socket.socket, call: Call) -> None:
        if call.headers["x-headway-attempt"] == "1":
            do(connection, call)  # type: ignore[operator]
        connection.sendall(answer(200, b"ok"))

    leaf.do = mends
    time.sleep(2)
    assert asyncio.run(inventory.get("/")).text == "ok"
    time.sleep(1)
    assert asyncio.run(inventory.post("/", idempotency_key="7")).text == "ok"


def test_nobody_there_is_tried_again_whatever_the_method(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf, inventory = start(says(answer()))
    leaf.end()
    with one_retry(monkeypatch):
        error, _ = failing(inventory, method="POST", json={})
    assert isinstance(error, Unavailable)
    assert "nothing was sent" in str(error)
    assert inventory.caller().target.counts()["attempts"] == 2


def test_what_the_edge_says_is_an_error_and_what_an_app_says_an_answer(start: Start) -> None:
    marked = "x-headway-answered: "
    leaf, inventory = start(says(answer(503, b"", f"{marked}refused", "retry-after: 7")))
    error, _ = failing(inventory)
    assert (type(error), error.retry_after_s, len(leaf.calls)) == (Refused, 7, 1)
    leaf.do = says(answer(504, b"", f"{marked}deadline"))
    error, _ = failing(inventory)
    assert (type(error), len(leaf.calls)) == (DeadlineExceeded, 2)
    leaf.do = says(answer(503, b"", f"{marked}unavailable"))
    error, _ = failing(inventory, method="POST")
    assert (type(error), len(leaf.calls)) == (Unavailable, 3)
    leaf.do = says(answer(503, b"", f"{marked}no-retry", "retry-after: 4"))
    found = asyncio.run(inventory.get("/"))
    assert (found.status_code, len(leaf.calls)) == (503, 4)
    with pytest.raises(StatusError) as told:
        found.raise_for_status()
    assert (told.value.retry_after_s, told.value.has_no_retry) == (4, True)


def test_an_app_that_is_sick_for_a_moment_is_asked_again(start: Start) -> None:
    leaf, inventory = start(says(answer(503), answer(200, b"ok")))
    assert asyncio.run(inventory.get("/")).text == "ok"
    leaf.do = says(answer(502, b"sick"))
    time.sleep(1)
    found = asyncio.run(inventory.get("/"))
    assert (found.status_code, found.text, found.has_no_retry) == (502, b"sick".decode(), True)
    assert asyncio.run(inventory.post("/")).has_no_retry is False


def test_attempts_stay_within_a_fifth_more_while_half_of_them_fail(start: Start) -> None:
    def half(connection: socket.socket, call: Call) -> None:
        connection.sendall(answer(503 if call.number % 2 else 200))

    leaf, inventory = start(half)

    async def use() -> None:
        for _ in range(10):
            await asyncio.gather(*(inventory.get("/") for _ in range(50)))

    asyncio.run(use())
    counts = inventory.caller().target.counts()
    assert counts["calls"] == 500
    assert counts["attempts"] == len(leaf.calls) == 500 + counts["retries"]
    assert 500 < counts["attempts"] <= 600
    assert counts["breaker"] == "closed"  # these are answers


def test_a_timeout_is_one_attempts_own(start: Start) -> None:
    def slow_at_first(connection: socket.socket, call: Call) -> None:
        if call.number == 1:
            waits(connection, call)
        connection.sendall(answer(200, b"ok"))

    leaf, inventory = start(slow_at_first)
    assert asyncio.run(inventory.get("/", timeout=3)).text == "ok"
    assert len(leaf.calls) == 2
    leaf.do = waits
    error, took_s = failing(inventory, method="POST", timeout=0.2)
    assert type(error) is Unavailable
    assert took_s < 0.2 + SLACK_S
    assert "no answer within timeout=0.2" in str(error)


def test_no_time_left_is_told_before_anything_is_sent(start: Start) -> None:
    leaf, inventory = start(says(answer()))
    for deadline in (0, -5):
        error, _ = failing(inventory, deadline=deadline)
        assert isinstance(error, DeadlineExceeded)
        assert "nothing was sent" in str(error)
    assert leaf.calls == []
    assert inventory.caller().target.counts()["deadline"] == 2


def test_a_caller_that_gives_up_closes_its_connection(start: Start) -> None:
    leaf, inventory = start(waits)

    async def use() -> None:
        async def came(count: int) -> None:
            async with asyncio.timeout(60):
                while len(leaf.calls) < count:
                    await asyncio.sleep(0.01)

        async def no_longer(limit: asyncio.Timeout) -> None:
            await came(1)
            limit.reschedule(asyncio.get_running_loop().time())

        async def given_up() -> None:
            async with asyncio.timeout(None) as limit:
                await asyncio.gather(inventory.get("/"), no_longer(limit))

        with pytest.raises(TimeoutError):
            await given_up()
        call = asyncio.create_task(inventory.get("/"))
        await came(2)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        assert call.cancelled()

    asyncio.run(use())
    assert leaf.closed.wait(60)
    counts = inventory.caller().target.counts()
    assert (counts["in_flight"], counts["attempts"], counts["failed"], counts["deadline"]) == (0, 2, 0, 0)


def test_a_fallback_is_given_instead(start: Start) -> None:
    _, inventory = start(waits)

    async def later(error: HeadwayError) -> str:
        await asyncio.sleep(0)
        return f"later: {type(error).__name__}"

    async def use() -> list[object]:
        return [
            await inventory.get("/", deadline=0.1, fallback=None),
            await inventory.get("/", deadline=0.1, fallback=lambda error: type(error)),
            await inventory.get("/", deadline=0.1, fallback=later),
        ]

    assert asyncio.run(use()) == [None, DeadlineExceeded, "later: DeadlineExceeded"]
    assert inventory.sync.get("/", deadline=0.1, fallback=[]) == []  # type: ignore[comparison-overlap]
    assert inventory.sync.get("/", deadline=0.1, fallback=lambda e: e.service) == "inventory"  # type: ignore[comparison-overlap]


def test_a_service_that_is_away_is_not_asked_until_it_is_back(start: Start) -> None:
    leaf, inventory = start(breaks_off)

    async def use() -> None:
        for _ in range(12):
            assert await inventory.post("/", fallback=None) is None
        async with asyncio.timeout(60):
            while True:
                calls = len(leaf.calls)
                with pytest.raises(Unavailable) as told:
                    await inventory.get("/")
                if isinstance(told.value, CircuitOpen):  # where its pause has passed, one is sent to see
                    break
        assert "failed too often just now" in str(told.value)
        assert told.value.retry_after_s >= 1
        assert len(leaf.calls) == calls  # nothing was sent
        leaf.do = says(answer(200, b"ok"))
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s and inventory.caller().target.counts()["breaker"] != "closed":
            await inventory.get("/", fallback=None)
            await asyncio.sleep(0.05)
        assert (await inventory.get("/")).text == "ok"

    asyncio.run(use())


def test_the_declared_number_of_calls_is_the_bound(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf, inventory = start(waits)
    assert inventory.caller().target.counts()["bound_max"] == CALLS_MAX
    told = {"inventory": {"socket": leaf.path, "deadline_s": 20.0, "calls_max": 2}}
    monkeypatch.setenv(SERVICES_VARIABLE, json.dumps(told))
    inventory.let_go()

    async def use() -> None:
        stuck = [asyncio.create_task(inventory.get("/", fallback=None)) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(leaf.calls) < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(Refused, match="2 calls are under way from this process") as refused:
            await inventory.get("/")
        assert refused.value.hint.endswith("; a larger calls_max in [services.web]")
        for one in stuck:
            one.cancel()
        await asyncio.wait(stuck)

    asyncio.run(use())
    counts = inventory.caller().target.counts()
    assert (counts["bound"], counts["bound_max"], counts["refused"]) == (2, 2, 1)


def test_more_than_may_be_under_way_is_refused_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.calls.client.target.threads", lambda: 8)
    leaf, inventory = start(waits)

    async def use() -> None:
        stuck = [asyncio.create_task(inventory.get("/", fallback=None)) for _ in range(4)]
        async with asyncio.timeout(30):
            while len(leaf.calls) < 4:
                await asyncio.sleep(0.01)
        began_s = time.monotonic()
        with pytest.raises(Refused, match="4 calls are under way from this process") as told:
            await inventory.get("/")
        assert (told.value.retry_after_s, time.monotonic() - began_s < SLACK_S) == (1, True)
        for one in stuck:
            one.cancel()
        await asyncio.wait(stuck)

    asyncio.run(use())
    assert inventory.caller().target.counts()["in_flight"] == 0
    leaf.do = says(answer(200, b"ok"))
    for module in ("calls.client.target", "calls.bulkhead"):
        monkeypatch.setattr(f"headway.{module}.WAIT_S", 30.0)
    quick = Service("inventory")

    async def quick_crowd() -> list[str]:
        return [found.text for found in await asyncio.gather(*(quick.get("/") for _ in range(8)))]

    assert asyncio.run(quick_crowd()) == ["ok"] * 8  # four wait a moment for the others
    assert quick.caller().target.counts()["refused"] == 0
