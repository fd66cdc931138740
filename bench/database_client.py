"""One process that works on a database: `python database_client.py KIND TASKS SECONDS WORK`, started by `headway run`.

It says `ready` when it is warm, begins at a line on its standard input, and ends with one line of JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from headway import database
from headway.model.sharding import DATABASES_VARIABLE
from headway.sharding.client.database import Database
from headway.sharding.client.place import Places
from headway.sharding.client.told import told

HOT_KEY = 42
HOT_ROWS = 5
KEYS_APART = 1_000_003  # of two clients
BARE_EACH = 2  # connections of a shard, where a list of them is all there is
KEYS_EACH = 2_000  # in turn; enough that every shard is met
SELECT = "SELECT note FROM orders WHERE customer_id = $1 AND id = 1"
UPDATE = "UPDATE orders SET count = count + 1 WHERE customer_id = $1 AND id = $2"


async def storm(connection: Any) -> None:
    """Two of five hot rows, always in the same order."""
    first, second = sorted(random.sample(range(HOT_ROWS), 2))
    async with connection.transaction():
        await connection.execute(UPDATE, HOT_KEY, first)
        await connection.execute(UPDATE, HOT_KEY, second)


async def opened(kind: str, work: str, tasks: int) -> Callable[[int], Awaitable[None]]:
    """What does one piece of work for a key."""
    orders = database("orders")
    schema = f"orders_{orders.shard_of(HOT_KEY):04d}"
    url = told("orders").url
    name, _, number = kind.partition("/")[0].partition(":")

    async def by(acquire: Callable[[int], Any], key: int) -> None:
        async with acquire(key) as connection:
            if work == "storm":
                await storm(connection)
            else:
                await connection.fetchrow(SELECT, key)

    if name == "headway":
        held = orders
        if number:  # another number of connections that are kept
            entry = json.loads(os.environ[DATABASES_VARIABLE])
            entry["orders"]["idle_max"] = int(number)
            entry["orders"]["active_max"] = max(8, entry["orders"]["active_max"]) if work == "select" else 4
            held = Database("orders", Places(told("orders", {**os.environ, DATABASES_VARIABLE: json.dumps(entry)})))
        return lambda key: by(lambda key: held.at(HOT_KEY if work == "storm" else key, wait_s=60), key)
    if name == "bare":  # what the server makes of so many sessions, whoever holds them
        kept: dict[int, asyncio.LifoQueue[Any]] = {}

        async def of_shard(key: int) -> None:
            shard = orders.shard_of(key)
            idle = kept.get(shard)
            if idle is None:
                idle = kept[shard] = asyncio.LifoQueue()
                for _ in range(BARE_EACH):
                    settings = {"search_path": f"orders_{shard:04d}"}
                    idle.put_nowait(await asyncpg.connect(url, server_settings=settings))
            connection = await idle.get()
            await connection.fetchrow(SELECT, key)
            idle.put_nowait(connection)

        return of_shard
    if name == "direct":
        # All of them before the clock runs: it is about what they do to each other, not about logging in.
        settings = {"search_path": schema}
        mine = [await asyncpg.connect(url, server_settings=settings, timeout=60) for _ in range(tasks)]

        async def one(key: int) -> None:
            await storm(mine[key // KEYS_APART])

        return one
    size = int(number)

    async def no_reset(connection: Any) -> None:
        """asyncpg's own reset costs a round trip."""

    reset = {"reset": no_reset} if name == "pinned" else {}
    settings = {"search_path": schema}
    pool = await asyncpg.create_pool(url, min_size=size, max_size=size, server_settings=settings, **reset)
    return lambda key: by(lambda _: pool.acquire(), key)


async def main(kind: str, tasks: int, seconds: float, work: str) -> None:
    once = await opened(kind, work, tasks)
    shards = int(kind.partition("/")[2] or 0)  # the keys are those of so many shards, of all where none are said
    shard_of = database("orders").shard_of
    took_s: list[float] = []
    in_time = 0  # those that wait when the time is over are waited for, and no part of the rate
    until_s = 0.0

    def keys_of(number: int) -> list[int]:
        found = (key for key in itertools.count(number * KEYS_APART) if not shards or shard_of(key) < shards)
        return list(itertools.islice(found, KEYS_EACH if work == "select" else 1))

    keys = [keys_of(number) for number in range(tasks)]

    async def worker(number: int, warm: bool) -> None:
        nonlocal in_time
        for key in itertools.cycle(keys[number]):
            if time.monotonic() >= until_s:
                return
            began_s = time.monotonic()
            await once(key)
            if not warm:
                ended_s = time.monotonic()
                took_s.append(ended_s - began_s)
                in_time += ended_s < until_s

    if kind != "direct":
        until_s = time.monotonic() + 1.5
        await asyncio.gather(*(worker(number, True) for number in range(min(tasks, 8))))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    until_s = time.monotonic() + seconds
    await asyncio.gather(*(worker(number, False) for number in range(tasks)))
    took_s.sort()
    p99_s = took_s[int(len(took_s) * 0.99)] if took_s else 0.0
    p50_s = took_s[len(took_s) // 2] if took_s else 0.0
    print(json.dumps({"per_s": in_time / seconds, "p50_ms": p50_s * 1e3, "p99_ms": p99_s * 1e3}))


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
