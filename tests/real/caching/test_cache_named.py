"""Values that the app keeps under names of its own, and tags that make them void."""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Any

import pytest
from cache_apps import PREFIX, Server, heard, trusted

from headway.caching.blob import TAGS_MAX
from headway.caching.client import named
from headway.caching.client.cache import Cache
from headway.errors import CacheError


async def until(cache: Cache, key: str, value: Any) -> None:
    async with asyncio.timeout(30):
        while await cache.get(key) != value:
            await asyncio.sleep(0.002)


def test_a_tag_makes_them_void_everywhere(server: Server) -> None:
    big = "word " * 20_000  # large enough to be compressed

    async def run() -> None:
        one, two = Cache("hot"), Cache("hot")
        await trusted(one, two)
        await one.set("rates", {"chf": 1.1}, ttl=60, tags=["rates", "bank"])
        await one.set_many({"a": 1, "big": big, "none": None}, ttl=60, tags=("rates",))
        await one.set("plain", 5, ttl=60)
        names = ["rates", "a", "big", "none", "plain", "nothing"]
        there = {"rates": {"chf": 1.1}, "a": 1, "big": big, "none": None, "plain": 5}
        for each in (one, two):
            for _ in range(2):
                assert await each.get_many(names) == there
                assert await each.get("rates") == {"chf": 1.1}
            await heard(each)
            await each.get_many(names)
            asked = each._named.rule.counts.hits_shared
            assert await each.get_many(names[:5]) == there
            assert each._named.rule.counts.hits_shared == asked, "all are in the process"
        await two.invalidate("bank")
        assert await two.get("rates", "gone") == "gone"
        assert await two.get("a") == 1
        await until(one, "rates", None)
        await one.invalidate("rates")
        assert await one.get_many(names) == {"plain": 5}
        async with asyncio.timeout(30):
            while await two.get_many(names) != {"plain": 5}:
                await asyncio.sleep(0.002)
        # The same name again, without the tag and with another.
        await one.set("a", 2, ttl=60)
        await one.invalidate("rates")
        assert await one.get("a") == 2
        await one.set("a", 3, ttl=60, tags=["other"])
        await until(two, "a", 3)
        await two.clear()
        assert await two.get("a") is None

    asyncio.run(run())


def test_an_invalidation_that_overtakes_one_that_is_set_makes_it_void(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        one, two = Cache("hot"), Cache("hot")
        await trusted(one, two)
        asks = named._generations

        async def overtaken(*arguments: Any) -> list[bytes]:
            found = await asks(*arguments)
            await two.invalidate("t")
            return found

        monkeypatch.setattr(named, "_generations", overtaken)
        await one.set("a", "before", ttl=60, tags=["t"])
        await one.set("b", "before", ttl=60, tags=["u", "t"])
        await one.set("c", "before", ttl=60, tags=["u"])
        monkeypatch.undo()
        assert server.ask("EXISTS", *server.ask("KEYS", f"{PREFIX}v:*")) == 3
        for each in (one, two):
            assert await each.get_many("abc") == {"c": "before"}
        await one.set("a", "after", ttl=60, tags=["t"])
        assert await two.get("a") == "after"

    asyncio.run(run())


def test_races_leave_nobody_with_one_that_is_void(server: Server) -> None:
    chance = random.Random(11)

    async def run() -> None:
        caches = Cache("hot"), Cache("hot")
        await trusted(*caches)
        for number in range(200):
            readers = [asyncio.ensure_future(each.get("a")) for each in caches for _ in range(2)]
            writing = asyncio.ensure_future(caches[number % 2].set("a", number, ttl=60, tags=["t", f"n{number % 3}"]))
            await asyncio.sleep(chance.choice((0.0, 0.0002, 0.001)))
            readers += [asyncio.ensure_future(each.get("a")) for each in caches]
            await writing
            who = caches[number // 2 % 2]
            await who.invalidate("t")
            assert await who.get("a") is None
            await asyncio.gather(*readers)
            await heard(*caches)
            assert [await each.get("a") for each in caches] == [None, None]

    asyncio.run(run())


def test_without_a_server_what_was_there_is_void(server: Server) -> None:
    async def run() -> None:
        hot = Cache("hot")
        await trusted(hot)
        await hot.set("a", 1, ttl=60, tags=["t"])
        await hot.set("b", 1, ttl=60, tags=["u"])
        await hot.get_many("ab")
        await heard(hot)
        assert await hot.get_many("ab") == {"a": 1, "b": 1}
        server.send(signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert await hot.get_many("ab") == {"a": 1, "b": 1}, "for as long as they hold"
        await hot.invalidate("t")
        assert await hot.get_many("ab") == {"b": 1}
        await hot.set("b", 2, ttl=60, tags=["u"])
        assert await hot.get("b") is None

    asyncio.run(run())


def test_the_same_for_code_that_is_not_asynchronous(server: Server) -> None:
    hot = Cache("hot")
    hot.sync.set("a", 1, 60, tags=["t"])
    hot.sync.set_many({"b": 2, "c": 3}, 60, tags=["t", "u"])
    hot.sync.set("d", 4, 60)
    assert hot.sync.get("a") == 1
    hot.sync.invalidate("u")
    assert hot.sync.get_many("abcd") == {"a": 1, "d": 4}
    hot.sync.invalidate("t")
    assert hot.sync.get_many("abcd") == {"d": 4}


def test_what_is_none_of_ours_is_none(server: Server) -> None:
    async def run() -> None:
        hot = Cache("hot")
        await trusted(hot)
        await hot.set("a", {"x": 1}, ttl=60, tags=["t"])
        (name,) = server.ask("KEYS", f"{PREFIX}v:*")
        good = server.ask("GET", name)
        for cut in (*range(0, len(good) - 1, 3), len(good) - 1):
            server.ask("SET", name, good[:cut])
            await asyncio.sleep(0.01)
            assert await hot.get("a", "none") == "none"
        server.ask("SET", name, good)
        await until(hot, "a", {"x": 1})

    asyncio.run(run())


def test_tags_are_several_and_not_too_many(server: Server) -> None:
    async def run() -> None:
        hot = Cache("hot")
        many = [f"t{number}" for number in range(TAGS_MAX + 1)]

        @hot.cached(ttl=60, tags=lambda count: many[:count], name="tagged")
        async def tagged(count: int) -> int:
            return count

        with pytest.raises(TypeError, match="not one text"):
            await hot.set("a", 1, ttl=60, tags="t")
        for call in (lambda: hot.set("a", 1, ttl=60, tags=many), lambda: tagged(TAGS_MAX + 1)):
            with pytest.raises(CacheError, match="33 tags") as refused:
                await call()
            assert "At most 32" in refused.value.hint
        with pytest.raises(CacheError, match="33 tags"):
            hot.cached(ttl=60, tags=many)(tagged)
        await trusted(hot)
        await hot.set("a", 1, ttl=60, tags=many[:-1])
        assert await hot.get("a") == 1
        assert await tagged(TAGS_MAX) == TAGS_MAX
        await hot.invalidate(*many)
        assert await hot.get("a") is None

    asyncio.run(run())
