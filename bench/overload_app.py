"""An app that computes and waits. `/set?cpu=0.006&wait=0.1&after=2` changes it (seconds), `/pid` tells its process."""

from __future__ import annotations

import asyncio
import os
import time
from urllib.parse import parse_qsl

PACE = {"cpu": 0.002, "wait": 0.010}


def _burn(cpu_s: float) -> None:
    until_s = (
        time.thread_time() + cpu_s
    )  # the thread's own time: a core that is shared gives less work, not less effort
    while time.thread_time() < until_s:
        pass


def _set(query: bytes) -> None:
    given = {name: float(value) for name, value in parse_qsl(query.decode())}
    after_s = given.pop("after", 0.0)
    if after_s:  # by its own clock: under load nobody else would get through to change it
        asyncio.get_running_loop().call_later(after_s, PACE.update, given)
    else:
        PACE.update(given)


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/set":
        _set(scope["query_string"])
    elif scope["path"] != "/pid":
        _burn(PACE["cpu"] / 2)
        await asyncio.sleep(PACE["wait"])
        _burn(PACE["cpu"] / 2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
