"""The app's side of a cache whose server is taken over by its copy, as Sentinels do it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cache_apps import PREFIX, Origin, environment_at, product_of, trusted
from cache_place import listener, valkey
from harness import wait_for

from headway.caching.asking import Asking, Unanswered
from headway.caching.client.cache import Cache
from headway.caching.place import CACHES_VARIABLE, Place

WITHIN_S = 100.0


@dataclass(frozen=True, slots=True)
class Pair:
    """A server, its copy, and the Sentinel that watches them."""

    leader: int
    copy: int
    sentinel: int


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        leader = stack.enter_context(valkey(tmp_path, "repl-diskless-sync-delay 0"))
        copy = stack.enter_context(valkey(tmp_path, f"replicaof 127.0.0.1 {leader}"))
        watch = [
            f"sentinel monitor shop 127.0.0.1 {leader} 1",
            "sentinel down-after-milliseconds shop 3000",
            "sentinel failover-timeout shop 4000",
        ]
        sentinel = stack.enter_context(valkey(tmp_path, *watch, is_sentinel=True))
        wait_for(lambda: info(copy)["master_link_status"] == "up", 60, "the copy follows")
        wait_for(lambda: told(sentinel, b"num-slaves") == b"1", 60, "the Sentinel knows of the copy", 0.2)
        deaf = stack.enter_context(listener(lambda sock: sock.recv(1) and sock.recv(100_000) and sock.recv(1)))
        # The first that is asked says nothing: it was on the machine that has gone.
        entry = {"master": "shop", "hosts": [["127.0.0.1", deaf], ["127.0.0.1", sentinel]]}
        told_app = environment_at("redis://shop", sentinel=entry, timeout_s=2.0)
        monkeypatch.setenv(CACHES_VARIABLE, told_app[CACHES_VARIABLE])
        yield Pair(leader, copy, sentinel)


def info(port: int) -> dict[str, str]:
    with Asking(Place(host="127.0.0.1", port=port), 60.0) as asking:
        return asking.info()


def ask(port: int, *command: str | bytes | int) -> object:
    with Asking(Place(host="127.0.0.1", port=port), 60.0) as asking:
        return asking.ask(*command)


def told(sentinel: int, field: bytes) -> object:
    found = ask(sentinel, "SENTINEL", "MASTER", "shop")
    return found.get(field) if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))[field]  # type: ignore[index]


async def reached(port: int, *caches: Cache) -> None:
    """Until the caches are where this server is, which leads."""
    async with asyncio.timeout(WITHIN_S):
        while await asyncio.to_thread(is_used_by, port) != len(caches):
            await asyncio.sleep(0.05)
        await trusted(*caches)


def is_used_by(port: int) -> int:
    """How many caches have all their connections there; 0 for a copy, and for one that becomes the leader just now:
    it hangs up on all."""
    try:
        names = ask(port, "CLIENT", "LIST")
        role = info(port)["role"]
    except Unanswered:
        return 0
    assert isinstance(names, bytes)
    if role != "master":
        return 0
    return min(names.count(b"name=headway-changes-"), names.count(b"name=headway-commands-"))


def test_a_copy_takes_over_and_nothing_that_was_void_comes_back(pair: Pair) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        for _ in range(2):
            for call in (here, there):
                assert [(await call(number))["value"] for number in (1, 2)] == [1, 1]
            await asyncio.sleep(0.1)
        await one.set("named", 1, ttl=60)
        assert await asyncio.to_thread(ask, pair.leader, "WAIT", 1, 30_000) == 1
        # The copy gets to know what is made void last too late: it has the former generation again, and can take over.
        name = f"{PREFIX}t:product:1"
        before = await asyncio.to_thread(ask, pair.leader, "GET", name)
        assert isinstance(before, bytes)
        origin.value = 2
        await one.invalidate("product:1")
        await one.set("named", 2, ttl=60)
        wait_for(lambda: ask(pair.copy, "GET", name) != before, 30, "the copy has heard of it")
        ask(pair.copy, "CONFIG", "SET", "replica-read-only", "no")
        ask(pair.copy, "SET", name, before)
        leader = int(info(pair.leader)["process_id"])
        os.kill(leader, signal.SIGKILL)
        # Until it takes over: no error, and in the process that made it void no former value.
        follows = asyncio.ensure_future(reached(pair.copy, one, two))
        while not follows.done():
            assert (await here(1))["value"] == 2
            assert (await there(2))["value"] in (1, 2)
            assert (await there(1))["value"] in (1, 2)
            assert await one.get("named") in (None, 2)
            await asyncio.sleep(0.01)
        await follows
        # From now on in the other one neither.
        async with asyncio.timeout(60):
            while (await there(1))["value"] != 2:
                await asyncio.sleep(0.005)
        assert (await here(1))["value"] == (await there(1))["value"] == 2
        assert await two.get("named") in (None, 2)
        origin.value = 3
        await two.invalidate("product:2")
        async with asyncio.timeout(60):
            while (await here(2))["value"] != 3:
                await asyncio.sleep(0.005)

    asyncio.run(run())


def test_a_leader_that_hung_and_comes_back_as_a_copy_is_not_listened_to(pair: Pair) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        assert (await here(1))["value"] == (await there(1))["value"] == 1
        leader = int(info(pair.leader)["process_id"])
        os.kill(leader, signal.SIGSTOP)
        try:
            follows = asyncio.ensure_future(reached(pair.copy, one, two))
            while not follows.done():
                assert (await here(1))["value"] == (await there(1))["value"] == 1
                await asyncio.sleep(0.02)
            origin.value = 2
            await one.invalidate("product:1")
        finally:
            os.kill(leader, signal.SIGCONT)
        async with asyncio.timeout(WITHIN_S):
            while await asyncio.to_thread(lambda: info(pair.leader)["role"]) != "slave":
                assert (await here(1))["value"] == 2
                await asyncio.sleep(0.05)
        await reached(pair.copy, one, two)
        assert (await here(1))["value"] == (await there(1))["value"] == 2

    asyncio.run(run())
