"""An app whose requests cost what they say: processor, time, memory. It stands in for apps that are too much asked.

`/any/path?cpu=5&wait=10&hold=4`: 5 ms of processor, 10 ms of waiting, 4 MiB held meanwhile. With `pool=4` one of four
places is needed for it, as for a connection to a database, and whoever comes fifth waits in the app.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qs


def _costs(query: str) -> tuple[float, float, int, int]:
    asked = {name: float(values[0]) for name, values in parse_qs(query).items()}
    return (
        asked.get("cpu", 0.0) / 1000,
        asked.get("wait", 0.0) / 1000,
        int(asked.get("hold", 0.0) * 2**20),
        int(asked.get("pool", 0)),
    )


def _burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


_pools: dict[int, asyncio.Semaphore] = {}


async def app(
    scope: dict[str, Any], _receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    assert scope["type"] == "http"
    cpu_s, wait_s, hold_bytes, pool = _costs(scope["query_string"].decode())
    held = bytearray(b"\1") * hold_bytes
    _burn(cpu_s / 2)
    if pool:
        async with _pools.setdefault(pool, asyncio.Semaphore(pool)):
            await asyncio.sleep(wait_s)
    else:
        await asyncio.sleep(wait_s)
    _burn(cpu_s / 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"%d" % len(held)})


def sync(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    cpu_s, wait_s, hold_bytes, _pool = _costs(environ["QUERY_STRING"])
    held = bytearray(b"\1") * hold_bytes
    _burn(cpu_s / 2)
    time.sleep(wait_s)
    _burn(cpu_s / 2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(held)]
