"""An ASGI or WSGI app asked once, for a stand-in that aiohttp serves. Its start-up and WebSockets are left out."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import web

_MUTED = frozenset({"content-length", "transfer-encoding", "connection"})  # of the connection: aiohttp's own
Headers = list[tuple[str, str]]


async def answer_of(app: Any, request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """What `app` answers, whole. What it raises is raised, and so answered by 500."""
    if _is_asgi(app):
        status, headers, body = await _ask_asgi(app, request, content)
    else:
        status, headers, body = await asyncio.to_thread(_ask_wsgi, app, request, content)
    kept = [(name, value) for name, value in headers if name.lower() not in _MUTED]
    response = web.Response(status=status, body=body)
    response.headers.popall("content-type", None)
    response.headers.extend(kept)
    return response


def _is_asgi(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


async def _ask_asgi(app: Any, request: web.BaseRequest, content: bytes) -> tuple[int, Headers, bytes]:
    raw, _, query = request.raw_path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": content, "more_body": False}]
    start: dict[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()  # the client's going, which ends this handler
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            parts.append(bytes(message.get("body", b"")))

    await app(scope, receive, send)
    headers = [(bytes(n).decode("latin-1"), bytes(v).decode("latin-1")) for n, v in start.get("headers", ())]
    return int(start["status"]), headers, b"".join(parts)


def _ask_wsgi(app: Any, request: web.BaseRequest, content: bytes) -> tuple[int, Headers, bytes]:
    raw, _, query = request.raw_path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(raw).decode("latin-1"),
        "QUERY_STRING": query,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(content)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(content),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        if name.lower() not in ("content-type", "content-length"):
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    found: list[tuple[int, Headers]] = []
    parts: list[bytes] = []

    def start_response(status: str, headers: Iterable[tuple[str, str]], _error: Any = None) -> Any:
        found.append((int(status.split()[0]), list(headers)))
        return parts.append

    given = app(environ, start_response)
    try:
        parts.extend(given)
    finally:
        if hasattr(given, "close"):
            given.close()
    status, headers = found[-1]
    return status, headers, b"".join(parts)
