"""The app under test: answers after five seconds without using the processor."""

import asyncio


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    assert scope["type"] == "http"
    await asyncio.sleep(0 if scope["path"] == "/warm" else 5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"late\n"})
