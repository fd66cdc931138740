"""The services that call each other in `python -m bench calls`."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from headway import service

MODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mode")  # what the leaf does now
STARTED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "started")  # a line for each request it began
USUAL_S, SLOW_S, HELD_S = 0.01, 0.2, 0.05


def mode() -> str:
    try:
        with open(MODE) as file:
            return file.read()
    except FileNotFoundError:
        return ""


async def answer(send: Any, status: int, body: bytes = b"ok") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def leaf(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/":  # as little as can be
        await answer(send, 200)
        return
    with open(STARTED, "a") as file:
        file.write(f"{time.time()}\n")
    await asyncio.sleep(SLOW_S if mode() == "slow" else USUAL_S)
    fails = mode() == "half" and random.random() < 0.5
    await answer(send, 503 if fails else 200)


def held(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A leaf with two threads, which holds one for a while."""
    if environ["PATH_INFO"] != "/":
        with open(STARTED, "a") as file:
            file.write(f"{time.time()}\n")
        time.sleep(HELD_S)
    start_response("200 OK", [("content-type", "text/plain")])
    return [b"ok"]


def web(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Eight threads. Each path calls the leaf in another way, and `/plain` does not need it."""
    how = WAYS.get(environ["PATH_INFO"])
    said = how() if how else 200
    status = f"{said} {'OK' if said == 200 else 'Failed'}"
    start_response(status, [("content-type", "text/plain")])
    return [b"ok"]


def by_headway() -> int:
    found = service("leaf").sync.get("/work", deadline=1.0)
    return int(found.status_code)


def by_headway_or_not() -> int:
    found = service("leaf").sync.get("/work", deadline=1.0, fallback=None)
    return 200 if found is None else int(found.status_code)


def by_httpx(tries: int = 1) -> int:
    for _ in range(tries):
        said = _client().get("/work").status_code
        if said < 500:
            break
    return int(said)


def _client() -> Any:
    global _made
    if _made is None:
        import httpx

        _made = httpx.Client(base_url=os.environ["LEAF_URL"])
    return _made


_made: Any = None
WAYS: dict[str, Callable[[], int]] = {
    "/headway": by_headway,
    "/fallback": by_headway_or_not,
    "/httpx": by_httpx,
    "/httpx-3": partial(by_httpx, 3),
}


async def link(scope: Any, receive: Any, send: Any) -> None:
    """One of a chain: asks the next."""
    if scope["type"] != "http":
        return
    await asyncio.sleep(0.002)
    following = os.environ.get("NEXT", "")
    found = (await service(following).get("/")).status_code if following else 200
    await answer(send, found)
