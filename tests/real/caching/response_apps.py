"""What tests of kept responses share: an app that counts and answers as it is told, asked through the layers around it.

Both kinds of app are asked by the same words, so that each rule is held for both.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from headway.caching.client import cache as caches
from headway.caching.client.responses_asgi import Layer as AsgiLayer
from headway.caching.client.responses_wsgi import Layer as WsgiLayer

ROUTE = {
    "path": "/products/{id}",
    "cache": "hot",
    "ttl_s": 60.0,
    "stale_s": 0.0,
    "tags": ["product:{id}"],
    "query": None,
    "vary": [],
    "host": "vary",
    "cookies": "bypass",
    "authorization": "bypass",
    "statuses": [200],
    "body_max_bytes": 1000,
}


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def how(self) -> str:
        return self.headers.get("x-headway-cache", "")


@dataclass
class Shop:
    """What the app answers, and how often it was asked. `parts`: of the body, as they are sent."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/plain"})
    parts: tuple[bytes, ...] | None = None  # None: how often it was asked
    file: str = ""  # instead of a body, where the server can send files (ASGI)
    raises: Exception | None = None
    takes_s: float = 0.0
    held: threading.Event | None = None  # who asks by GET from then on is answered when this is set
    asked: int = 0
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def answer(self, method: str, query: str, headers: dict[str, str]) -> tuple[bytes, ...]:
        self.asked += 1
        self.seen.append((method, query, headers))
        return self.parts if self.parts is not None else (b"%d" % self.asked,)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        parts = self.answer(scope["method"], scope["query_string"].decode(), headers)
        assert (await receive())["type"] == "http.request"
        await asyncio.sleep(self.takes_s)
        while self.held is not None and not self.held.is_set() and scope["method"] == "GET":
            await asyncio.sleep(0.005)
        if self.raises is not None:
            raise self.raises
        raw = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        if self.file:
            await send({"type": "http.response.pathsend", "path": self.file})
            return
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(self, environ: Any, start: Any) -> Iterator[bytes]:
        names = {name[5:].lower().replace("_", "-"): environ[name] for name in environ if name.startswith("HTTP_")}
        parts = self.answer(environ["REQUEST_METHOD"], environ["QUERY_STRING"], names)
        time.sleep(self.takes_s)
        if self.held is not None and environ["REQUEST_METHOD"] == "GET":
            self.held.wait(60)
        if self.raises is not None:
            raise self.raises
        start(f"{self.status} Told", [(name, value.encode().decode("latin-1")) for name, value in self.headers.items()])
        yield from parts


class Client:
    """Asks one app through its layer; each is a process of its own, as far as the cache knows."""

    def __init__(self, kind: str, shop: Shop, **route: Any) -> None:
        self.kind = kind
        caches._caches.clear()
        layer = AsgiLayer if kind == "asgi" else WsgiLayer
        self.layer: Any = layer(shop.asgi if kind == "asgi" else shop.wsgi, "web", [ROUTE | route])
        self.cache = caches.cache("hot")
        self.kept = False  # whether the last one was answered from the cache, as the worker counts it

    async def trusted(self) -> None:
        """Until what is in the process is believed."""
        parts = self.cache.parts()
        async with asyncio.timeout(30):
            while not (parts.near.is_trusted and parts.tracking.generation):
                await asyncio.sleep(0.01)

    async def get(
        self, path: str = "/products/7", headers: dict[str, str] | None = None, method: str = "GET", host: str = "shop"
    ) -> Answered:
        ask = self._asgi if self.kind == "asgi" else self._wsgi
        place, _, query = path.partition("?")
        return await ask(method, place, query, {"host": host} | (headers or {}))

    async def _asgi(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answered:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "scheme": "http",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        await self.layer(scope, receive, send)
        self.kept = "headway.kept" in scope
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        bodies = [f"file {m['path']}".encode() if "path" in m else m.get("body", b"") for m in sent[1:]]
        return Answered(sent[0]["status"], found, b"".join(bodies))

    async def _wsgi(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answered:
        return await asyncio.to_thread(self._wsgi_now, method, path, query, headers)

    def _wsgi_now(self, method: str, path: str, query: str, headers: dict[str, str]) -> Answered:
        began: list[Any] = []

        def start(status: str, found: list[tuple[str, str]], exc_info: Any = None) -> None:
            began[:] = [int(status[:3]), {name.lower(): value for name, value in found}]

        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
        }
        for name, value in headers.items():  # as the gateway's standard has it
            environ["CONTENT_LENGTH" if name == "content-length" else f"HTTP_{name.upper().replace('-', '_')}"] = value
        body = self.layer(environ, start)
        try:
            whole = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
        self.kept = "headway.kept" in environ
        return Answered(began[0], began[1], whole)
