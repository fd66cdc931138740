"""The app's side of a cache when its server, another process or a race stands against it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from statistics import median

import pytest
from cache_apps import (
    PREFIX,
    SOON_SILENT,
    Origin,
    Server,
    environment,
    environment_at,
    heard,
    product_of,
    trusted,
)
from cache_place import listener
from harness import die_with_parent

from headway.caching.client import leases
from headway.caching.client.cache import Cache
from headway.caching.client.link import Away
from headway.caching.place import CACHES_VARIABLE


def test_races_leave_nobody_with_a_value_that_is_overtaken(server: Server) -> None:
    """A write and a void against readers in two processes, over and over; when all is calm, all agree."""
    rounds = 300
    chance = random.Random(7)

    async def run() -> int:
        origin = Origin()
        caches = Cache("hot"), Cache("hot")
        calls = [product_of(each, origin) for each in caches]
        await trusted(*caches)
        wrong = 0
        for number in range(rounds):
            voids = number % 4 // 2
            origin.takes_s = chance.choice((0.0, 0.0005, 0.002))
            readers = [asyncio.ensure_future(call(number % 7)) for call in calls for _ in range(2)]
            await asyncio.sleep(chance.choice((0.0, 0.0002, 0.001)))
            origin.value += 1
            if number % 2:
                await caches[voids].invalidate(f"product:{number % 7}")
            else:
                await caches[voids].forget(calls[voids], number % 7)
            await asyncio.gather(*readers)
            wrong += (await calls[voids](number % 7))["value"] != origin.value  # who made it void knows it at once
            until = time.monotonic() + 30  # a busy machine tells the other later; what is wrong would stay so for long
            while (await calls[1 - voids](number % 7))["value"] != origin.value:
                if time.monotonic() > until:
                    wrong += 1
                    break
                await asyncio.sleep(0.002)
        return wrong

    assert asyncio.run(run()) == 0


def test_a_server_that_is_killed_costs_no_error_and_few_loads(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        for _ in range(2):
            for number in range(10):
                await here(number)
                await there(number)
            await heard(one, two)  # of the other's writes, and of its own
        assert one._parts().near.count == two._parts().near.count == 10, "ten that are known"
        server.send(signal.SIGKILL)
        asked, took_s = origin.asked, []
        for _ in range(25):
            began = time.monotonic()
            for number in range(20):  # ten that are known, ten that are not
                assert (await here(number))["value"] == 1
                assert (await there(number))["value"] == 1
            took_s.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        assert origin.asked - asked <= 20 + 2, "one load a key and process"
        assert median(took_s) < 1.0, "nobody waits for it: not one in forty"
        # What is made void meanwhile is void here at once, and elsewhere when the server is back.
        origin.value = 2
        await one.invalidate("product:1")
        assert (await here(1))["value"] == 2
        server.start()
        async with asyncio.timeout(60):
            while (await there(1))["value"] != 2:
                await asyncio.sleep(0.01)
        await trusted(one, two)
        assert (await here(1))["value"] == (await there(1))["value"] == 2

    asyncio.run(run())


@SOON_SILENT
def test_a_server_that_hangs_is_left_alone_in_a_moment(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        await product(1)
        server.send(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert (await product(2))["value"] == 1
            assert time.monotonic() - began < 10.0
            began = time.monotonic()
            for number in range(3, 50):
                await product(number)
            assert time.monotonic() - began < 10.0, "nobody waits for it a second time: 47 would for 23 s"
        finally:
            server.send(signal.SIGCONT)
        async with asyncio.timeout(60):
            while not (hot._parts().near.is_trusted and hot._parts().loads()._link.is_up):
                await asyncio.sleep(0.05)
        asked = origin.asked
        await product(60)
        await product(60)
        assert origin.asked == asked + 1

    asyncio.run(run())


@SOON_SILENT
def test_what_is_made_void_while_a_new_connection_is_made_is_void(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        assert (await product(1))["value"] == 1
        link = hot._parts().loads()._link
        server.send(signal.SIGSTOP)
        try:
            await product(2)
            async with asyncio.timeout(60):
                while link.is_up:
                    await asyncio.sleep(0.001)
            # The next connection has been greeted by now, and the server is about to answer it.
            await asyncio.sleep(0.02)
            origin.value = 2
            await hot.invalidate("product:1")
        finally:
            server.send(signal.SIGCONT)
        await trusted(hot)
        assert (await product(1))["value"] == 2

    asyncio.run(run())


@SOON_SILENT
def test_a_server_that_hangs_lets_go_of_those_who_wait_for_a_load_elsewhere(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        monkeypatch.setattr(leases, "LEASE_S", 2.0)
        origin = Origin(1, takes_s=4.0)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        first = asyncio.ensure_future(here(1))
        async with asyncio.timeout(30):
            while not origin.asked:
                await asyncio.sleep(0.01)
        waiting = [asyncio.ensure_future(there(1)) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert origin.asked == 1
        server.send(signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert {each["value"] for each in await asyncio.gather(first, *waiting)} == {1}
            assert time.monotonic() - began < 30, "a lease's time, the time-out, and a load"
            assert origin.asked == 2, "one load in each process"
        finally:
            server.send(signal.SIGCONT)

    asyncio.run(run())


def test_a_load_that_takes_too_long_is_waited_for_no_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOAD_MAX_S", 2.0)
    monkeypatch.setattr(leases, "LEASE_S", 1.5)

    async def run() -> None:
        slow, quick = Origin(1, held=asyncio.Event()), Origin(2)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, slow), product_of(two, quick)
        await trusted(one, two)
        began = time.monotonic()
        first = asyncio.ensure_future(here(1))
        async with asyncio.timeout(60):
            while not slow.asked:
                await asyncio.sleep(0.01)
            assert (await there(1))["value"] == 2
        assert time.monotonic() - began > 1.9, "its lease was kept for as long as a load may take"
        assert not first.done()
        assert (await here(1))["value"] == 2, "in its own process neither"
        slow.held.set()
        assert (await first)["value"] == 1, "who began it gets it"
        assert (one._rules["product"].counts.overtaken, slow.asked, quick.asked) == (1, 1, 1)
        assert (await here(1))["value"] == (await there(1))["value"] == 2

    asyncio.run(run())


CHILD = """
import asyncio, sys
from headway import cache
hot = cache("hot")
@hot.cached(ttl=60, name="slow")
async def slow(number: int) -> int:
    print("load", flush=True)
    await asyncio.sleep(float(sys.argv[1]))
    return number
async def main():
    for line in sys.stdin:
        answers = await asyncio.gather(*(slow(int(line)) for _ in range(50)))
        print("got", sorted(set(answers)), flush=True)
asyncio.run(main())
"""


def child(server: Server, takes_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(takes_s)],
        env=os.environ | environment(server),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_processes_share_one_load_and_outlive_its_holder(server: Server) -> None:
    holder = child(server, 60)
    others = [child(server, 0.1) for _ in range(3)]
    try:
        for each in others:
            say(each, "1")
        said = [hear(each) for each in others]
        said += [hear(each) for each, first in zip(others, said, strict=True) if first == "load"]
        assert sorted(said) == ["got [1]", "got [1]", "got [1]", "load"]
        say(holder, "2")
        assert hear(holder) == "load"
        began = time.monotonic()
        for each in others:
            say(each, "2")
        time.sleep(0.3)
        holder.kill()
        said = [hear(each) for each in others]
        said += [hear(each) for each, first in zip(others, said, strict=True) if first == "load"]
        assert sorted(said) == ["got [2]", "got [2]", "got [2]", "load"]
        assert time.monotonic() - began < 30, "its lease runs out two seconds after its last word"
    finally:
        for each in (holder, *others):
            each.kill()
            each.wait()


def test_a_server_that_is_full_and_evicts_nothing_costs_no_error(server: Server) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", 1)

    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        for _ in range(3):
            assert (await product(1))["value"] == 1
        await hot.set("a", 1, ttl=5)
        origin.value = 2
        await hot.invalidate("product:1")
        assert (await product(1))["value"] == 2
        server.ask("CONFIG", "SET", "maxmemory", 0)
        await trusted(hot)
        async with asyncio.timeout(60):
            while server.ask("EXISTS", f"{PREFIX}t:product:1") == 0:
                await asyncio.sleep(0.05)
                await product(1)
        assert (await product(1))["value"] == 2

    asyncio.run(run())


def test_what_a_full_server_cannot_be_told_is_void(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        assert (await product(1))["value"] == (await product(2))["value"] == 1
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG", "SET", "maxmemory", 1)
        origin.value = 2
        await hot.invalidate("product:1")
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert (await product(1))["value"] == 2
            await asyncio.sleep(0.01)
        server.ask("CONFIG", "SET", "maxmemory", 0)
        await trusted(hot)
        assert (await product(1))["value"] == 2

    asyncio.run(run())


def test_what_does_not_decode_is_a_miss_and_replaced(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        await product(1)
        (name,) = server.ask("KEYS", f"{PREFIX}v:product*")
        good = server.ask("GET", name)
        for bad in (b"", b"\x00", b"junk" * 20, good[:-3], good[:27] + b"\xc1\xc1"):
            server.ask("SET", name, bad)
            await heard(hot)
            assert (await product(1))["value"] == 1
            assert (await product(1))["value"] == 1
        assert origin.asked == 6
        server.ask("FLUSHALL")
        await heard(hot)
        assert (await product(1))["value"] == 1
        assert origin.asked == 7

    asyncio.run(run())


def test_a_forked_child_begins_anew(server: Server) -> None:
    hot = Cache("hot")
    import headway.caching.client.cache as module

    module._caches["forked"] = hot

    @hot.cached(ttl=60, name="forked")
    def plain(number: int) -> int:
        return os.getpid()

    try:
        parent = plain(1)
        assert parent == os.getpid()
        read, write = os.pipe()
        if os.fork() == 0:
            try:
                os.write(write, f"{plain(1)} {plain(2) == os.getpid()}".encode())
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 100).decode() == f"{parent} True"
        os.close(read)
        os.wait()
    finally:
        del module._caches["forked"]


def test_a_loop_comes_to_its_end_while_the_server_is_away(server: Server) -> None:
    async def use(turns: int) -> None:
        hot = Cache("hot")
        await trusted(hot)
        server.send(signal.SIGKILL)
        with pytest.raises(Away):
            await hot._parts().loads()._link.call(b"PING")
        for _ in range(turns):  # the end may come at any moment of an attempt to connect
            await asyncio.sleep(0)

    for turns in range(8):
        whole = threading.Thread(target=asyncio.run, args=(use(turns),), daemon=True)
        whole.start()
        whole.join(30)
        assert not whole.is_alive(), f"after {turns} turns"
        server.start()


def test_who_waits_for_a_server_while_the_cache_is_closed_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(lambda sock: time.sleep(60)) as port:
        told = environment_at(f"redis://127.0.0.1:{port}", timeout_s=50.0)
        monkeypatch.setenv(CACHES_VARIABLE, told[CACHES_VARIABLE])

        async def run() -> None:
            hot = Cache("hot")
            call = asyncio.ensure_future(product_of(hot, Origin(1))(1))
            link = hot._parts().loads()._link
            async with asyncio.timeout(30):
                while link._looking is None:
                    await asyncio.sleep(0.01)
                await hot.close()
                assert (await call)["value"] == 1

        asyncio.run(run())
