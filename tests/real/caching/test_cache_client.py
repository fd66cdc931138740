"""The app's side of a cache on a real server: what is found, loaded, made void, refreshed and refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from cache_apps import Origin, Server, heard, no_lease_is_left, product_of, trusted

from headway.caching.client.cache import Cache
from headway.caching.client.parts import REFRESHES_MAX
from headway.caching.place import CACHES_VARIABLE
from headway.errors import CacheLoop, CannotCarry, NotRunning, WrongCacheKey


def test_without_headway_it_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHES_VARIABLE, raising=False)
    with pytest.raises(NotRunning, match="not started by Headway"):
        asyncio.run(Cache("hot").get("a"))
    with pytest.raises(NotRunning, match="not started by Headway"):
        Cache("hot").sync.get("a")
    monkeypatch.setenv(CACHES_VARIABLE, json.dumps({"other": {"url": "redis://127.0.0.1", "prefix": "x"}}))
    with pytest.raises(NotRunning, match="not among those of this service"):
        asyncio.run(Cache("hot").get("a"))


def test_a_value_is_loaded_once_and_found_everywhere(server: Server) -> None:
    async def run() -> None:
        origin = Origin(7, takes_s=0.05)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        answers = await asyncio.gather(*(call(1) for call in (here, there) for _ in range(200)))
        assert answers == [{"number": 1, "value": 7}] * 400
        assert origin.asked == 1
        assert await here(1) == await there(1) == {"number": 1, "value": 7}
        near = [each._rules["product"].counts.hits_near for each in (one, two)]
        assert await here(number=1) == {"number": 1, "value": 7}
        for _ in range(3):
            await here(1)
            await there(1)
        assert all(each._rules["product"].counts.hits_near > was for each, was in zip((one, two), near, strict=True))
        assert origin.asked == 1

    asyncio.run(run())


def test_arguments_of_other_kinds_are_other_calls(server: Server) -> None:
    hot, asked = Cache("hot"), []

    @hot.cached(ttl=60)
    async def shown(what: object) -> str:
        asked.append(what)
        return repr(what)

    async def run() -> None:
        await trusted(hot)
        for _ in range(4):
            for what in (1, True, 1.0, "1", b"1", None, (1, 2), [1, 2]):
                assert await shown(what) == repr(what)

    asyncio.run(run())
    assert len(asked) == 8


def test_an_invalidation_reaches_every_process_and_what_is_being_loaded(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        for _ in range(2):
            assert (await here(1))["value"] == (await there(1))["value"] == 1
        origin.value = 2
        await one.invalidate("product:1")
        assert (await here(1))["value"] == 2
        async with asyncio.timeout(20):
            while (await there(1))["value"] != 2:
                await asyncio.sleep(0.001)
        origin.value = 3
        await two.forget(there, 1)
        assert (await there(1))["value"] == 3
        async with asyncio.timeout(20):
            while (await here(1))["value"] != 3:
                await asyncio.sleep(0.001)
        # A load under way read what is overtaken: it is given to who asked before, and kept nowhere.
        origin.held, asked = asyncio.Event(), origin.asked
        early = asyncio.ensure_future(here(2))
        while origin.asked == asked:
            await asyncio.sleep(0.001)
        origin.value = 4
        await two.invalidate("product:2")
        await heard(one)
        origin.held.set()
        assert (await early)["value"] == 3
        assert (await here(2))["value"] == (await there(2))["value"] == 4
        asked = origin.asked
        await one.clear()
        assert (await here(2))["value"] == 4
        assert origin.asked == asked + 1

    asyncio.run(run())


def test_an_old_value_is_given_while_one_load_replaces_it(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot, other = Cache("hot"), Cache("hot")
        product = product_of(hot, origin, ttl=0.2, stale=30)
        there = product_of(other, origin, ttl=0.2, stale=30)
        await trusted(hot, other)
        await product(1)
        await there(1)
        await asyncio.sleep(0.3)
        origin.value, origin.held = 2, asyncio.Event()
        asked = origin.asked
        assert (await product(1))["value"] == (await there(1))["value"] == 1, "nobody waits for the load"
        origin.held.set()
        async with asyncio.timeout(20):
            while (await product(1))["value"] != 2:
                await asyncio.sleep(0.02)
        assert origin.asked == asked + 1

    asyncio.run(run())


@pytest.mark.alone  # reads must come often enough for one to fall into the last stretch
def test_who_reads_in_the_last_stretch_refreshes_before_the_end(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1, takes_s=0.05)
        hot = Cache("hot")
        product = product_of(hot, origin, ttl=1.0)
        await trusted(hot)
        await product(1)
        slowest, until = 0.0, time.monotonic() + 2.5
        while time.monotonic() < until:
            began = time.monotonic()
            await product(1)
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.001)
        counts = hot._rules["product"].counts
        assert counts.refreshes >= 2
        assert counts.loads == counts.refreshes + 1, "nobody waited for a load after the first"
        assert counts.loads <= origin.asked <= min(7, counts.loads + 1), "one may be under way at the end"

    asyncio.run(run())


def test_errors_reach_all_who_wait_and_are_kept_only_when_asked(server: Server) -> None:
    asked = []
    hot = Cache("hot")

    @hot.cached(ttl=60, name="fails")
    async def fails(number: int) -> int:
        asked.append(number)
        await asyncio.sleep(0.01)
        raise LookupError(f"no {number}")

    @hot.cached(ttl=60, name="rests", on_error=30)
    async def rests(number: int) -> int:
        asked.append(number)
        raise LookupError(f"no {number}")

    @hot.cached(ttl=0.1, stale=30, on_error="stale", name="leans")
    async def leans(number: int) -> int:
        asked.append(number)
        if len(asked) > 1:
            raise LookupError("gone")
        return number

    async def run() -> None:
        await trusted(hot)
        found = await asyncio.gather(*(fails(1) for _ in range(20)), return_exceptions=True)
        assert [str(each) for each in found] == ["no 1"] * 20
        assert len(asked) == 1
        with pytest.raises(LookupError):
            await fails(1)
        assert len(asked) == 2
        for _ in range(3):
            with pytest.raises(LookupError, match="no 2"):
                await rests(2)
        assert len(asked) == 3
        asked.clear()
        assert await leans(3) == 3
        await asyncio.sleep(0.2)
        async with asyncio.timeout(30):
            while len(asked) < 2:
                assert await leans(3) == 3
                await asyncio.sleep(0.01)
        assert await leans(3) == 3
        await no_lease_is_left(server)

    asyncio.run(run())


def test_a_refresh_that_fails_rests_a_moment(server: Server) -> None:
    asked: list[float] = []
    hot = Cache("hot")

    def fails() -> int:
        asked.append(time.monotonic())
        if len(asked) > 1:
            raise LookupError("gone")
        return 7

    @hot.cached(ttl=0.1, stale=30, name="one")
    async def one() -> int:
        return fails()

    @hot.cached(ttl=0.1, stale=30, name="other")
    def other() -> int:
        return fails()

    async def run() -> None:
        await trusted(hot)
        await one()
        async with asyncio.timeout(30):
            while len(asked) < 3:
                assert await one() == 7
                await asyncio.sleep(0.005)

    asyncio.run(run())
    assert asked[2] - asked[1] > 0.99, "once when its time is over, and once again a second later"
    asked.clear()
    other()
    until = time.monotonic() + 30
    while len(asked) < 3:
        assert time.monotonic() < until
        assert other() == 7
        time.sleep(0.005)
    assert asked[2] - asked[1] > 0.99


def test_a_refresh_for_which_there_is_no_thread_is_made_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hot, values = Cache("hot"), iter((1, 2))

    @hot.cached(ttl=0.1, stale=60, name="plain")
    def plain() -> int:
        return next(values)

    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert plain() == 1
    time.sleep(0.2)
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert [plain() for _ in range(2 * REFRESHES_MAX)] == [1] * 2 * REFRESHES_MAX
    monkeypatch.undo()
    until = time.monotonic() + 30
    while plain() != 2:
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_caller_who_leaves_takes_nothing_from_the_others(server: Server) -> None:
    async def run() -> None:
        origin = Origin(5, takes_s=0.1)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)
        first = asyncio.ensure_future(product(1))
        while not origin.asked:
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(product(1))
        await asyncio.sleep(0.01)
        first.cancel()
        assert (await second)["value"] == 5
        with pytest.raises(asyncio.CancelledError):
            await first
        assert origin.asked == 1

    asyncio.run(run())


def test_what_cannot_be_is_refused_with_what_to_do(server: Server) -> None:
    hot = Cache("hot")

    @hot.cached(ttl=60, name="any")
    async def anything(what: Any) -> Any:
        return what() if callable(what) else what

    @hot.cached(ttl=60, name="itself")
    async def itself(number: int) -> int:
        return int(await itself(number))

    class Repository:
        @hot.cached(ttl=60, name="method")
        async def find(self, number: int) -> int:
            return number

        @hot.cached(ttl=60, name="keyed", key=lambda self, number: number)
        async def keyed(self, number: int) -> int:
            return number

    async def run() -> None:
        with pytest.raises(WrongCacheKey, match="what"):
            await anything(object())
        with pytest.raises(WrongCacheKey, match="self") as refused:
            await Repository().find(1)
        assert "__cache_key__" in refused.value.hint
        assert await Repository().keyed(4) == 4
        with pytest.raises(CannotCarry, match="tuple"):
            await anything((1, 2))
        with pytest.raises(CacheLoop):
            await itself(1)
        with pytest.raises(TypeError, match="number"):
            await itself()  # type: ignore[call-arg]
        with pytest.raises(CannotCarry):
            await hot.set("a", object(), ttl=5)

    asyncio.run(run())
    for wrong in ({"ttl": 0}, {"ttl": -1}, {"ttl": 1, "loads": 0}, {"ttl": 1, "on_error": "never"}, {"ttl": 1e9}):
        with pytest.raises(ValueError):
            hot.cached(**wrong)(lambda: None)
    with pytest.raises(ValueError, match="lambda"):
        hot.cached(ttl=1)(lambda: None)

    def product(number: int, unit: str = "") -> int:
        return number

    with pytest.raises(ValueError, match=r"write tags=lambda number, unit: \[f'product:\{number\}'\]"):
        hot.cached(ttl=1, tags=["shop", "product:{number}"])(product)
    hot.cached(ttl=1, tags=["shop", "{braces}"])(product)  # a text that speaks of no argument is one like any other


def test_tags_of_a_generator_make_void_as_well(server: Server) -> None:
    async def run() -> None:
        origin, hot = Origin(1), Cache("hot")
        product = product_of(hot, origin, tags=(tag for tag in ("shop", "goods")))
        await trusted(hot)
        assert (await product(1))["value"] == 1
        origin.value = 2
        await hot.invalidate("goods")
        assert (await product(1))["value"] == 2

    asyncio.run(run())


def test_values_under_names_of_ones_own(server: Server) -> None:
    async def run() -> None:
        one, two = Cache("hot"), Cache("hot")
        await trusted(one, two)
        await one.set("a", {"x": [1, None, "é"]}, ttl=30)
        await one.set_many({"b": 2, "c": "3" * 100_000}, ttl=30)
        for _ in range(2):
            assert await two.get("a") == {"x": [1, None, "é"]}
            assert await two.get_many(["a", "b", "c", "d"]) == {"a": {"x": [1, None, "é"]}, "b": 2, "c": "3" * 100_000}
        assert await two.get("d", "none") == "none"
        assert await one.get("b") == 2
        await two.set("b", 4, ttl=30)
        await two.delete("a")
        assert await two.get("a") is None
        async with asyncio.timeout(20):
            while await one.get("a") is not None or await one.get("b") != 4:
                await asyncio.sleep(0.001)
        await one.set("short", 1, ttl=0.1)
        await asyncio.sleep(0.2)
        assert await one.get("short") is None
        await one.set("null", None, ttl=30)
        assert await one.get("null", "none") is None
        with pytest.raises(TypeError):
            await one.get(1)  # type: ignore[arg-type]

    asyncio.run(run())


def test_plain_functions_in_threads(server: Server) -> None:
    hot = Cache("hot")
    asked: list[int] = []

    @hot.cached(ttl=60, tags=["all"], name="plain")
    def plain(number: int) -> list[int]:
        asked.append(number)
        others_come()
        if number < 0:
            raise LookupError(number)
        return [number]

    def others_come() -> None:
        """A failure is not kept: only those who came while it was loaded share it, so the load is as long as that."""
        deadline = time.monotonic() + 60
        while threads_waiting() < callers - 1 and time.monotonic() < deadline:
            time.sleep(0.001)

    def threads_waiting() -> int:
        return hot._rules["plain"].counts.waits - waited_before

    found: list[Any] = []

    def call(number: int) -> None:
        try:
            found.append(plain(number))
        except LookupError as error:
            found.append(str(error))

    callers = waited_before = 0
    assert plain(0) == [0]  # the tag has its first generation from now on: no news while the others load
    asked.clear()
    callers = 20
    for number, expected in ((1, [1]), (-1, "-1")):
        found.clear()
        waited_before = hot._rules["plain"].counts.waits
        threads = [threading.Thread(target=call, args=(number,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [expected] * callers
    assert asked == [1, -1]
    callers = 1
    assert plain(1) == plain(1) == [1]
    hot.sync.invalidate("all")
    assert plain(1) == [1]
    assert asked == [1, -1, 1]
    hot.sync.set("a", 1, ttl=9)
    assert hot.sync.get_many(["a", "b"]) == {"a": 1}
    hot.sync.forget(plain, 1)
    plain(1)
    assert asked == [1, -1, 1, 1]


def test_a_copy_is_the_callers_own_and_others_share(server: Server) -> None:
    hot = Cache("hot")

    @hot.cached(ttl=60, name="own", copy=True)
    async def own(number: int) -> list[int]:
        return [number]

    @hot.cached(ttl=60, name="shared")
    async def shared(number: int) -> list[int]:
        return [number]

    async def run() -> None:
        await trusted(hot)
        for _ in range(3):
            (await own(1)).append(2)
        assert await own(1) == [1]
        await shared(1)
        await shared(1)
        assert await shared(1) is await shared(1)

    asyncio.run(run())
