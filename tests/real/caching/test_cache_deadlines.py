"""A request waits in the cache for no longer than somebody waits for its answer."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cache_apps import Origin, Server, heard, no_lease_is_left, product_of, trusted

from headway.caching.client.cache import Cache
from headway.errors import CacheBusy, DatabaseBusy
from headway.worker import asked


@pytest.fixture(autouse=True)
def _worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker, which has itself under this name."""
    monkeypatch.setitem(sys.modules, "headway_worker.asked", asked)
    monkeypatch.setattr(asked, "is_used", False)


def request(within_s: float) -> asked.Asked:
    """From here on it is the work of a request of which the answer is due then."""
    found = asked.Asked(int((time.monotonic() + within_s) * 1e9))
    asked.current.set(found)
    return found


async def refused(call: Callable[[], Any], within_s: float = 0.2) -> asked.Asked:
    """Has the call refused at its deadline, in a task as requests have."""

    async def run() -> asked.Asked:
        found, began = request(within_s), time.monotonic()
        with pytest.raises(CacheBusy, match="within the time that this request has") as busy:
            await call()
        assert time.monotonic() - began > within_s - 0.05
        assert busy.value.hint
        return found

    return await asyncio.create_task(run())


def test_whoever_waits_for_others_is_told_to_come_again(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1, held=asyncio.Event())
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin, loads=1), product_of(two, origin)
        await trusted(one, two)
        assert asked.is_used, "the worker takes note of requests from now on"
        first = asyncio.ensure_future(here(1))
        async with asyncio.timeout(60):
            while not origin.asked:
                await asyncio.sleep(0.01)
            told = await asyncio.gather(
                refused(lambda: here(1)),  # for a load in this process
                refused(lambda: there(1)),  # for one in another
                refused(lambda: here(2)),  # for a place to load
            )
        origin.held.set()
        assert [each.retry_after_s for each in told] == [1, 1, 1]
        assert (await first)["value"] == 1
        assert (await there(1))["value"] == 1, "what was waited for is there now"
        await asyncio.sleep(0.1)
        assert origin.asked == 1, "for 2 nobody waits any more: it was not loaded"
        await no_lease_is_left(server)
        assert (await here(2))["value"] == 1

    asyncio.run(run())


def test_ones_own_load_is_the_apps_own_matter(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1, takes_s=4.0)
        hot = Cache("hot")
        product = product_of(hot, origin)
        await trusted(hot)

        async def own() -> int:
            request(2.0)
            found: int = (await product(1))["value"]
            return found

        assert await asyncio.create_task(own()) == 1

    asyncio.run(run())


def test_without_a_server_the_value_before_is_given_where_it_may_be(server: Server) -> None:
    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        product = product_of(hot, origin, ttl=2.0, stale=60, on_error="stale")
        await trusted(hot)
        assert (await product(1))["value"] == 1
        await heard(hot)
        assert (await product(1))["value"] == 1
        server.send(signal.SIGKILL)
        await asyncio.sleep(2.1)
        asked_before, origin.held, origin.value = origin.asked, asyncio.Event(), 2
        first = asyncio.ensure_future(product(1))
        async with asyncio.timeout(30):
            while origin.asked == asked_before:
                await asyncio.sleep(0.01)

        async def other() -> int:
            request(0.2)
            found: int = (await product(1))["value"]
            return found

        assert await asyncio.create_task(other()) == 1
        assert not first.done()
        origin.held.set()
        assert (await first)["value"] == 2
        assert origin.asked == asked_before + 1

    asyncio.run(run())


def test_threads_that_give_up_leave_the_load_to_those_who_wait(server: Server) -> None:
    hot = Cache("hot")
    begun, go_on, loads = threading.Event(), threading.Event(), []
    found: dict[str, Any] = {}

    @hot.cached(ttl=60, name="plain", loads=1)
    def plain(number: int) -> int:
        loads.append((threading.current_thread().name, number))
        if number == 1:
            begun.set()
            assert go_on.wait(60)
        return number

    def call(number: int, within_s: float | None) -> None:
        name = threading.current_thread().name
        if within_s is not None:
            found[f"{name} asked"] = request(within_s)
        try:
            found[name] = plain(number)
        except CacheBusy as error:
            found[name] = error

    def thread(name: str, number: int, within_s: float | None = None) -> threading.Thread:
        made = threading.Thread(target=call, args=(number, within_s), name=name)
        made.start()
        return made

    holder = thread("holder", 1)
    assert begun.wait(60)
    hasty = thread("hasty", 2, 0.3)
    time.sleep(0.1)  # now hasty waits for the place, to load 2
    patient = [thread(f"patient {at}", 2) for at in range(3)]
    hasty.join(60)
    assert isinstance(found["hasty"], CacheBusy)
    assert found["hasty asked"].retry_after_s == 1
    go_on.set()
    for each in (holder, *patient):
        each.join(60)
    assert [found[each.name] for each in (holder, *patient)] == [1, 2, 2, 2]
    assert len(loads) == 2
    assert loads[1][0].startswith("patient")


def test_an_error_that_passes_is_told_to_every_request_that_meets_it(server: Server) -> None:
    async def run() -> None:
        hot = Cache("hot")

        @hot.cached(ttl=60, name="busy")
        async def busy() -> int:
            await asyncio.sleep(0.05)
            raise DatabaseBusy("no place", hint="come again")

        await trusted(hot)

        async def one() -> int:
            found = request(60)
            with pytest.raises(DatabaseBusy):
                await busy()
            return found.retry_after_s

        assert await asyncio.gather(*(asyncio.create_task(one()) for _ in range(3))) == [1, 1, 1]

    asyncio.run(run())
