"""The control API of caches: what they hold and how they are used, and how they are emptied.

The few questions go to the server itself, in a thread of their own: the loop never waits for a cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headway.caching import contents, totals
from headway.caching.asking import Asking, Unanswered
from headway.errors import HeadwayError
from headway.runtimes.local.caches import Cache, Caches
from headway.runtimes.local.processes import Tell

Endpoint = Callable[[Request], Awaitable[Response]]
Body = Callable[[Request], Awaitable[dict[str, Any]]]

_TIMEOUT_S = 2.0


def routes(caches: Caches, tell: Tell, body: Body, told: Callable[[Endpoint], Endpoint]) -> list[Route]:
    """Its routes; `body` reads a request, `told` turns errors into answers."""

    async def stats(request: Request) -> Response:
        name = request.query_params.get("cache")
        wanted = [caches.find(name)] if name else list(caches.held.values())
        found = {cache.wanted.name: await asyncio.to_thread(_stats, cache) for cache in wanted}
        return JSONResponse({"caches": found})

    async def inspect(request: Request) -> Response:
        cache = caches.find(str(request.query_params.get("cache")))
        return JSONResponse(await asyncio.to_thread(_inspect, cache, str(request.query_params.get("key", ""))))

    async def flush(request: Request) -> Response:
        data = await body(request)
        cache, tag = caches.find(str(data.get("cache"))), data.get("tag")
        return JSONResponse(await asyncio.to_thread(_flush, cache, None if tag is None else str(tag), tell))

    return [
        Route("/cache", told(stats)),
        Route("/cache/inspect", told(inspect)),
        Route("/cache/flush", told(flush), methods=["POST"]),
    ]


class Counts:
    """What caches and their functions count, for metrics: only ever growing, over the life of the controller."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self._running: dict[str, totals.Running] = {}
        self._one_at_a_time = threading.Lock()

    def look(self) -> dict[str, dict[str, Any]]:
        """Server and functions of each cache; of one that is away only what was known before. Blocks."""
        with self._one_at_a_time:
            return {name: self._of(name, cache) for name, cache in list(self._caches.held.items())}

    def _of(self, name: str, cache: Cache) -> dict[str, Any]:
        running = self._running.setdefault(name, totals.Running())
        server: dict[str, Any] | None = None
        processes: dict[str, dict[str, str]] = {}
        if cache.state == "ready":
            with contextlib.suppress(HeadwayError), Asking(cache.place, _TIMEOUT_S) as asking:
                server = contents.server_told(asking.info())
                processes, _ = contents.counts_of_processes(asking, cache.wanted.prefix)
        return {"server": server, "functions": running.look(processes)}


def _stats(cache: Cache) -> dict[str, Any]:
    away: dict[str, Any] = {"state": "down", "url": cache.place.shown, "server": None, "functions": {}}
    if cache.state != "ready":
        return {**away, "state": cache.state}
    try:
        with Asking(cache.place, _TIMEOUT_S) as asking:
            found = contents.stats(asking, cache.wanted.prefix)
    except Unanswered:  # of this moment; one that is away must not hide the others
        return away
    return {"state": cache.state, "url": cache.place.shown, **found}


@contextlib.contextmanager
def _asked_by_hand(cache: Cache) -> Iterator[Asking]:
    """A connection for somebody who waits. What keeps it from being made says which cache, and what to do."""
    try:
        with Asking(cache.place, _TIMEOUT_S) as asking:
            yield asking
    except Unanswered as error:
        name = cache.wanted.name
        hint = error.hint or f"Apps go on without it; headway explain {name} says what is done about it."
        raise Unanswered(f"cache {name}: {error.message}", hint=hint) from error


def _inspect(cache: Cache, text: str) -> dict[str, Any]:
    with _asked_by_hand(cache) as asking:
        return {"cache": cache.wanted.name, **contents.inspect(asking, cache.wanted.prefix, text)}


def _flush(cache: Cache, tag: str | None, tell: Tell) -> dict[str, Any]:
    if tag is not None:
        contents.check_tag(tag)
    with _asked_by_hand(cache) as asking:
        found = contents.flush(asking, cache.wanted.prefix, tag)
    what = f"all values with tag {tag}" if tag is not None else f"all values, {found['removed']:,} of them removed"
    tell(cache.process, "flushed", f"{what}, asked by hand", "note")
    return {"cache": cache.wanted.name, **found}
