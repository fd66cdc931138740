"""The app's side of a cache on a bad line: one connection cut or deaf, answers that are late, a line that is thin."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator

import hiredis
import pytest
from cache_apps import PREFIX, SOON_SILENT, Origin, Server, environment_at, heard, product_of, trusted
from cache_wire import CHANGES, COMMANDS, Wire, wire_to

from headway.caching.client.cache import Cache
from headway.caching.client.tracking import Tracking
from headway.caching.place import CACHES_VARIABLE


@pytest.fixture
def wire(server: Server, monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> Iterator[Wire]:
    """Caches made from now on go by this wire."""
    with wire_to(server.port) as made:
        url = f"redis://127.0.0.1:{made.port}"
        monkeypatch.setenv(CACHES_VARIABLE, environment_at(url, timeout_s=timeout_s)[CACHES_VARIABLE])
        yield made


def direct(server: Server, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache of another process, which does not go by the wire."""
    with monkeypatch.context() as patch:
        patch.setenv(CACHES_VARIABLE, environment_at(server.url, timeout_s=10.0)[CACHES_VARIABLE])
        made = Cache("hot")
        made._parts()
    return made


async def until(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def test_without_the_stream_of_changes_nothing_in_the_process_is_believed(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), direct(server, monkeypatch)
        here = product_of(one, origin)
        await trusted(one, two)
        for _ in range(2):
            assert (await here(1))["value"] == 1
            await heard(one)
        near = one._parts().near
        assert near.count == 1
        wire.refused.add(CHANGES)
        assert wire.cut(CHANGES) == 1
        await until(lambda: not near.is_trusted)
        origin.value = 2
        await two.invalidate("product:1")
        for _ in range(50):
            assert (await here(1))["value"] == 2
        assert origin.asked == 2, "the server has it, and is asked each time"
        counts = one._rules["product"].counts
        hits = counts.hits_near
        assert counts.hits_shared >= 49
        wire.refused.clear()
        await trusted(one)
        for _ in range(3):
            assert (await here(1))["value"] == 2
        assert counts.hits_near > hits
        assert origin.asked == 2

    asyncio.run(run())


@SOON_SILENT
def test_a_stream_of_changes_that_falls_silent_is_noticed_by_itself(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), direct(server, monkeypatch)
        here = product_of(one, origin)
        await trusted(one, two)
        for _ in range(2):
            assert (await here(1))["value"] == 1
            await heard(one)
        wire.deaf.add(CHANGES)
        origin.value = 2
        await two.invalidate("product:1")
        began = time.monotonic()
        async with asyncio.timeout(50):  # its time is sixty seconds
            while (await here(1))["value"] != 2:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 30, "a beat, and the time-out"
        wire.deaf.clear()
        await trusted(one)
        assert (await here(1))["value"] == 2
        assert origin.asked == 2

    asyncio.run(run())


def test_a_late_server_is_still_one(wire: Wire) -> None:
    wire.delay_s = 0.05

    async def run() -> None:
        origin = Origin(1, takes_s=0.02)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        answers = await asyncio.gather(*(call(number) for call in (here, there) for number in range(5) for _ in "abc"))
        assert len(answers) == 30
        assert origin.asked == 5, "one load a key in both processes"
        origin.value = 2
        await one.invalidate("product:1")
        await heard(two)
        assert (await there(1))["value"] == 2
        assert (one._rules["product"].counts.away, two._rules["product"].counts.away) == (0, 0)

    asyncio.run(run())


@SOON_SILENT
def test_one_that_is_too_late_is_gone_without_and_taken_up_again(wire: Wire) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        wire.delay_s = 20.0
        slowest = 0.0
        for number in range(100):
            began = time.monotonic()
            assert (await product(number))["value"] == 1
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.01)
        assert slowest < 10.0, "nobody waits as long as it takes"
        assert origin.asked == 100
        for number in range(100):
            assert (await product(number))["value"] == 1
        assert origin.asked == 100, "what was loaded without it is kept in the process"
        wire.delay_s = 0.0
        await trusted(hot)
        await until(lambda: hot._parts().loads()._link.is_up)
        await product(500)
        await product(500)
        assert origin.asked == 101
        assert hot._rules["product"].counts.hits_shared == 1

    asyncio.run(run())


@pytest.mark.alone  # silence is measured: a line that a busy machine does not serve for a moment is silent
@pytest.mark.parametrize("timeout_s", [0.1], ids=["the usual time-out"])
def test_a_large_value_on_a_thin_line_is_not_silence(wire: Wire) -> None:
    big = random.Random(7).randbytes(6_000_000)

    async def run() -> None:
        asked = []

        def made() -> Cache:
            cache = Cache("hot")

            @cache.cached(ttl=60, name="big")
            async def load() -> bytes:
                asked.append(1)
                return big

            calls.append(load)
            return cache

        calls: list = []
        one, two = made(), made()
        await trusted(one, two)
        wire.bytes_per_s = 20e6  # several times the time-out, each way
        assert await calls[0]() == big
        assert await calls[1]() == big
        assert len(asked) == 1
        assert (one._rules["big"].counts.away, two._rules["big"].counts.away) == (0, 0)

    asyncio.run(run())


def test_commands_that_are_cut_are_asked_once_more_and_nobody_sees_it(wire: Wire) -> None:
    async def run() -> None:
        origin = Origin(1, takes_s=0.01)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        for round_ in range(5):
            calls = [asyncio.ensure_future(product(round_ * 10 + number)) for number in range(10)]
            await asyncio.sleep(0.005)
            assert wire.cut(COMMANDS) == 1
            assert [each["value"] for each in await asyncio.gather(*calls)] == [1] * 10
            await until(lambda: hot._parts().loads()._link.is_up)
        assert origin.asked == 50

    asyncio.run(run())


@SOON_SILENT
def test_a_process_that_stood_still_does_not_take_its_server_for_silent(
    server: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads of a change, stands still, and has not looked yet for the answer, which is there."""
    beat, read = Tracking._beat, Tracking._read
    stood_still = threading.Event()
    wire_is_late = threading.Event()

    def late(self: Tracking, sock: socket.socket) -> None:
        if wire_is_late.is_set() and not stood_still.is_set():
            server.ask("SET", f"{PREFIX}v:other", b"")
            time.sleep(0.2)
            wire.delay_s = 0.3
        beat(self, sock)

    def and_stand_still(self: Tracking, sock: socket.socket, parser: hiredis.Reader) -> None:
        read(self, sock, parser)
        if self._expected and wire.delay_s and not stood_still.is_set():
            time.sleep(2.0)
            stood_still.set()
            wire.delay_s = 0.0

    monkeypatch.setattr(Tracking, "_beat", late)
    monkeypatch.setattr(Tracking, "_read", and_stand_still)

    async def run() -> None:
        hot = Cache("hot")
        await trusted(hot)
        near, tracking = hot._parts().near, hot._parts().tracking
        epoch = near.epoch
        wire_is_late.set()
        await until(stood_still.is_set)
        await until(lambda: not tracking._expected)
        await heard(hot)
        assert near.epoch == epoch

    asyncio.run(run())
