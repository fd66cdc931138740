"""A process that calls a service, by one client after another: `calls_client.py KIND SOCKET TASK JSON`.

Runs in the environment of a service (`headway run web -- …`); prints what it measured as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

Call = Callable[[], Awaitable[int]]
_WARM_UP = 300


async def caller(stack: AsyncExitStack, kind: str, socket: str, path: str, patience_s: float = 30.0) -> Call:
    """One call by this client, which gives the status."""
    if kind == "headway":
        if socket:
            told = json.loads(os.environ["HEADWAY_SERVICES"])
            told["leaf"]["socket"] = socket
            os.environ["HEADWAY_SERVICES"] = json.dumps(told)
        from headway import service

        leaf = service("leaf")

        async def by_headway() -> int:
            return int((await leaf.get(path, deadline=patience_s)).status_code)

        return by_headway
    socket = socket or json.loads(os.environ["HEADWAY_SERVICES"])["leaf"]["socket"]
    if kind == "httpx":
        import httpx

        client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://leaf", timeout=patience_s
        )
        await stack.enter_async_context(client)

        async def by_httpx() -> int:
            return (await client.get(path)).status_code

        return by_httpx
    import aiohttp

    patience = aiohttp.ClientTimeout(total=patience_s)
    session = aiohttp.ClientSession("http://leaf", connector=aiohttp.UnixConnector(socket, limit=0), timeout=patience)
    await stack.enter_async_context(session)

    async def by_aiohttp() -> int:
        async with session.get(path) as answer:
            await answer.read()
            return answer.status

    return by_aiohttp


async def latency(call: Call, rate_per_s: float, seconds: float) -> dict[str, float]:
    """Open loop: calls begin when they are due, whatever became of those before. From the intended start, in ms."""
    chance, taken, tasks = random.Random(7), list[float](), list[asyncio.Task[None]]()

    async def one(due_s: float) -> None:
        if await call() != 200:
            raise RuntimeError("the leaf did not answer")
        taken.append((time.perf_counter() - due_s) * 1000)

    due_s = time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        pause_s = due_s - time.perf_counter()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        tasks.append(asyncio.create_task(one(due_s)))
        due_s += chance.expovariate(rate_per_s)
    await asyncio.gather(*tasks)
    taken.sort()
    return {"p50_ms": taken[len(taken) // 2], "p99_ms": taken[int(len(taken) * 0.99)], "calls": len(taken)}


async def rate(call: Call, tasks: int, seconds: float) -> dict[str, float]:
    """Closed loop of so many tasks: calls by the second of this process's own processor time."""
    count = 0
    end_s = time.perf_counter() + seconds

    async def turn() -> None:
        nonlocal count
        while time.perf_counter() < end_s:
            await call()
            count += 1

    began_s = time.process_time()
    await asyncio.gather(*(turn() for _ in range(tasks)))
    return {"per_core_s": count / (time.process_time() - began_s), "per_s": count / seconds}


async def gone(call: Call, count: int) -> dict[str, float]:
    """So many at once, and nobody waits longer than the client was told."""

    async def one() -> None:
        try:
            await call()
        except Exception:  # whatever it is: it came too late
            return

    await asyncio.gather(*(one() for _ in range(count)))
    return {"left_at_s": time.time()}


async def main(kind: str, socket: str, task: str, arguments: dict[str, Any]) -> dict[str, float]:
    """Warm up, measure, tell."""
    async with AsyncExitStack() as stack:
        path = arguments.pop("path", "/")
        call = warm = await caller(stack, kind, socket, path, arguments.get("patience_s", 30.0))
        if path != "/":
            warm = await caller(stack, kind, socket, "/")
        for _ in range(_WARM_UP):
            await warm()
        if task == "gone":
            return await gone(call, arguments["count"])
        return await (latency if task == "latency" else rate)(call, **arguments)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))))
