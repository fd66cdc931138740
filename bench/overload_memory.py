"""An app whose requests hold 4 MiB each while they wait for 100 ms."""

from __future__ import annotations

import asyncio
import os

HELD_BYTES = 4 << 20


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    if scope["type"] != "http":
        return
    held = bytearray(b"\1") * HELD_BYTES
    await asyncio.sleep(0.1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"%d" % (os.getpid() * held[0])})
