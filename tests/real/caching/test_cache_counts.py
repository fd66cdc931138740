"""What is counted of each function, exactly, and where it is told; values that are too large to be kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cache_apps import PREFIX, Origin, Server, heard, no_lease_is_left, product_of, trusted

from headway.caching.client.cache import Cache
from headway.caching.client.counts import COUNTERS
from headway.errors import CacheError


def counted(cache: Cache, name: str) -> dict[str, int]:
    """All counts that are not 0, without the sum of times."""
    counts = cache._rules[name].counts
    return {each: count for each in COUNTERS if (count := getattr(counts, each)) and each != "load_ms_sum"}


def test_every_way_to_an_answer_is_counted_once(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        await here(1)
        await heard(one, two)
        for _ in range(4):
            await here(1)
        assert counted(one, "product") == {"loads": 1, "hits_shared": 1, "hits_near": 3}
        await there(1)
        await there(1)
        assert counted(two, "product") == {"hits_shared": 1, "hits_near": 1}
        # Ten who come at once: one loads, nine wait for it. It is overtaken, kept nowhere: the next one loads.
        origin.held, asked = asyncio.Event(), origin.asked
        calls = [asyncio.ensure_future(here(2)) for _ in range(10)]
        while origin.asked == asked:
            await asyncio.sleep(0.001)
        await two.invalidate("product:2")
        await heard(one)
        origin.held.set()
        await asyncio.gather(*calls)
        assert counted(one, "product") == {"loads": 2, "waits": 9, "overtaken": 1, "hits_shared": 1, "hits_near": 3}
        await here(2)
        assert counted(one, "product")["loads"] == 3
        assert counted(two, "product") == {"hits_shared": 1, "hits_near": 1}
        two._parts().tracking.close()  # it has the name of the same process

        def told() -> list[Any]:
            processes = server.ask("KEYS", f"{PREFIX}s:*")
            found: list[Any] = server.ask("HMGET", *processes, "product:loads", "product:waits", "product:hits_near")
            return found

        async with asyncio.timeout(30):
            while told() != [b"3", b"9", b"3"]:
                await asyncio.sleep(0.05)

    asyncio.run(run())


def test_failures_and_old_values_are_counted(server: Server) -> None:
    hot, outcomes = Cache("hot"), ["fails", 1, "fails", 2]

    @hot.cached(ttl=3.0, stale=60, name="value")
    async def value() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, str):
            raise LookupError(outcome)
        return outcome

    async def run() -> None:
        await trusted(hot)
        with pytest.raises(LookupError):
            await value()
        assert counted(hot, "value") == {"errors": 1}
        assert await value() == 1
        await heard(hot)
        assert await value() == 1
        assert counted(hot, "value") == {"errors": 1, "loads": 1, "hits_shared": 1}
        await asyncio.sleep(3.1)
        assert await value() == 1  # and sets off a refresh, which fails
        async with asyncio.timeout(30):
            while counted(hot, "value")["errors"] < 2:
                await asyncio.sleep(0.001)
        assert await value() == 1  # and sets off none for a second
        assert counted(hot, "value") == {"errors": 2, "loads": 1, "hits_shared": 1, "stale": 2}
        await asyncio.sleep(1.0)
        assert await value() in (1, 2)
        async with asyncio.timeout(30):
            while await value() != 2:
                await asyncio.sleep(0.01)
        assert counted(hot, "value")["refreshes"] == 1
        assert counted(hot, "value")["loads"] == 2
        assert outcomes == []

    asyncio.run(run())


def test_a_value_that_is_too_large_is_given_and_kept_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    one, two = Cache("hot"), Cache("hot")
    asked = []

    def big_of(cache: Cache) -> Any:
        @cache.cached(ttl=60, name="big")
        async def big(size: int) -> bytes:
            asked.append(size)
            await asyncio.sleep(0.05)
            return b"x" * size

        return big

    here, there = big_of(one), big_of(two)

    async def run() -> None:
        await trusted(one, two)
        size = 16 * 2**20
        answers = await asyncio.gather(*(here(size) for _ in range(5)))
        assert [len(each) for each in answers] == [size] * 5
        assert counted(one, "big") == {"loads": 1, "waits": 4, "too_large": 1}
        assert len(await there(size)) == size
        assert counted(two, "big") == {"loads": 1, "too_large": 1}
        await no_lease_is_left(server)
        assert await here(size) == b"x" * size
        assert len(asked) == 3
        assert server.ask("KEYS", f"{PREFIX}v:*") == []
        await no_lease_is_left(server)
        assert one._parts().near.count == 0
        assert caplog.text.count("too large to be kept") == 2, "once in each process"
        # Just below the bound it is kept as all others.
        asked.clear()
        assert await here(size - 100) == await there(size - 100)
        assert len(asked) == 1
        with pytest.raises(CacheError, match="too large") as refused:
            await one.set("a", b"x" * size, ttl=9)
        assert "at most" in refused.value.hint

    asyncio.run(run())
