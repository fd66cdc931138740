"""Processes of the app that are not alike at one server: other code, another clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from cache_apps import Origin, Server, environment, heard, product_of, trusted
from harness import die_with_parent

from headway.caching.client.cache import Cache


@dataclass
class Old:
    number: int
    name: str


@dataclass
class WithDefault:
    number: int
    name: str
    price: float = 0.0


@dataclass
class Without:
    number: int
    name: str
    price: float


@dataclass
class Renamed:
    number: int
    title: str


@pytest.mark.parametrize(
    ("made", "loads"),
    [(WithDefault(1, "lamp", 2.5), 1), (Without(1, "lamp", 2.5), 2), (Renamed(1, "lamp"), 10)],
    ids=["a field with a default", "a field without", "a field renamed"],
)
def test_two_versions_at_one_server_get_what_their_code_says(server: Server, made: object, loads: int) -> None:
    asked: list[str] = []

    def version(kind: type, value: object, options: dict[str, int]) -> tuple[Cache, Callable[[int], Awaitable[object]]]:
        cache = Cache("hot")

        async def load(number: int) -> object:
            asked.append(kind.__name__)
            return value

        load.__annotations__["return"] = kind
        return cache, cache.cached(ttl=60, name="product", tags=["products"], **options)(load)

    async def run() -> None:
        before, old = version(Old, Old(1, "lamp"), {})
        after, new = version(type(made), made, {})
        await trusted(before, after)
        for _ in range(5):
            for call, kind in ((old, Old), (new, type(made))):
                found = await call(1)
                assert type(found) is kind
                assert found.number == 1  # type: ignore[attr-defined]
            await heard(before, after)
        # What is not there has its default, what is too much is left out; else each replaces what the other stored.
        assert asked == (["Old", type(made).__name__] * 5)[:loads]
        await before.invalidate("products")
        await heard(before, after)
        assert await new(1) == made
        # With a version of its own neither sees the other's.
        asked.clear()
        third, apart = version(type(made), made, {"version": 2})
        await trusted(third)
        for _ in range(3):
            assert await apart(1) == made
            await heard(third)
            await new(1)
        assert asked == [type(made).__name__]
        await before.invalidate("products")
        await heard(third)
        assert await apart(1) == made
        assert asked == [type(made).__name__] * 2, "a tag is the tag of all versions"

    asyncio.run(run())


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_costs_a_load_and_no_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    ahead_s, wall = 0.0, time.time
    monkeypatch.setattr(time, "time", lambda: wall() + ahead_s)

    async def run() -> None:
        nonlocal ahead_s
        origin = Origin(1)
        one, two = Cache("hot"), Cache("hot")
        here, there = product_of(one, origin), product_of(two, origin)
        await trusted(one, two)
        await here(1)
        await heard(one)
        for _ in range(2):
            assert (await here(1))["value"] == 1
        ahead_s = step_s
        assert (await here(1))["value"] == 1
        assert origin.asked == 1, "what is in the process goes by a clock that nobody sets"
        assert (await there(1))["value"] == 1
        assert origin.asked == 2, "what is at the server cannot be dated"
        await heard(one, two)
        for _ in range(3):
            assert (await here(1))["value"] == (await there(1))["value"] == 1
        assert origin.asked == 2
        origin.value = 2
        await two.invalidate("product:1")
        await heard(one)
        assert (await here(1))["value"] == (await there(1))["value"] == 2

    asyncio.run(run())


CHILD = """
import asyncio, sys, time
wall, ahead_s = time.time, float(sys.argv[1])
time.time = lambda: wall() + ahead_s
from headway import cache
hot = cache("hot")
@hot.cached(ttl=60, name="product", tags=lambda number: [f"product:{number}"])
async def product(number: int) -> dict:
    print("load", flush=True)
    return {"number": number, "value": -1}
async def main():
    for line in sys.stdin:
        print((await product(int(line)))["value"], flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0])
def test_a_machine_with_a_wrong_clock_disturbs_no_other(server: Server, ahead_s: float) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(ahead_s)],
        env=os.environ | environment(server),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )

    def there() -> list[str]:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("1\n")
        child.stdin.flush()
        said = [child.stdout.readline().strip()]
        while said[-1] == "load":
            said.append(child.stdout.readline().strip())
        return said

    async def run() -> None:
        origin = Origin(1)
        hot = Cache("hot")
        here = product_of(hot, origin)
        await trusted(hot)
        for round_ in range(3):
            asked = origin.asked
            assert (await here(1))["value"] in (1, -1)
            assert origin.asked <= asked + 1
            assert await asyncio.to_thread(there) in (["1"], ["-1"], ["load", "-1"])
            await heard(hot)
            await hot.invalidate("product:1")
            await heard(hot)
            assert (await here(1))["value"] == 1, "what was void is loaded"
            assert origin.asked >= round_ + 1

    try:
        asyncio.run(run())
    finally:
        child.kill()
        child.wait()
