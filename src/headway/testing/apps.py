"""An ASGI or WSGI app that stands for a service, served by aiohttp. Its start-up (lifespan) is left out."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp import WSMsgType, web
from multidict import CIMultiDict

_OF_THE_CONNECTION = frozenset({"transfer-encoding", "connection"})  # aiohttp's own
_NO_BODY = frozenset({204, 304})
Headers = list[tuple[str, str]]
Message = dict[str, Any]


async def answer_of(app: Any, request: web.BaseRequest, content: bytes) -> web.StreamResponse:
    """What `app` answers. What it raises is raised: that is a 500, or a broken connection where it had begun."""
    if _is_asgi(app):
        is_socket = request.headers.get("upgrade", "").lower() == "websocket"
        talk = _Socket(request) if is_socket else _Request(request, content)
        await app(talk.scope, talk.receive, talk.send)
        return talk.response
    status, headers, body = await asyncio.to_thread(_ask_wsgi, app, request, content)
    return web.Response(status=status, headers=_kept(headers), body=body)


def _is_asgi(app: Any) -> bool:
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


def _kept(headers: Iterable[tuple[str, str]]) -> CIMultiDict[str]:
    kept = CIMultiDict((name, value) for name, value in headers if name.lower() not in _OF_THE_CONNECTION)
    kept.setdefault("content-type", "application/octet-stream")
    return kept


def _texts(headers: Iterable[tuple[Any, Any]]) -> Headers:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]


class _Talk:
    """What the app is told of a request."""

    def __init__(self, request: web.BaseRequest, kind: str, **more: Any) -> None:
        raw, _, query = request.raw_path.partition("?")
        self._request = request
        self.scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
            "raw_path": raw.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.raw_headers],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            "state": {},
            **more,
        }


class _Request(_Talk):
    """A request and its answer, which goes out as it comes."""

    def __init__(self, request: web.BaseRequest, content: bytes) -> None:
        super().__init__(request, "http", method=request.method)
        self._content: bytes | None = content
        self._response: web.StreamResponse | None = None

    @property
    def response(self) -> web.StreamResponse:
        if self._response is None:
            raise RuntimeError("the app that stands for the service gave no answer")
        return self._response

    async def receive(self) -> Message:
        content, self._content = self._content, None
        if content is None:
            await asyncio.Event().wait()  # until the caller goes: that cancels this
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _kept(_texts(message.get("headers", ())))
            self._response = web.StreamResponse(status=message["status"], headers=headers)
            await self._response.prepare(self._request)
        elif message["type"] == "http.response.body":
            body = bytes(message.get("body", b""))
            if body and self._request.method != "HEAD" and self.response.status not in _NO_BODY:
                await self.response.write(body)
            if not message.get("more_body"):
                await self.response.write_eof()


class _Socket(_Talk):
    """A WebSocket."""

    def __init__(self, request: web.BaseRequest) -> None:
        named = request.headers.get("sec-websocket-protocol", "")
        super().__init__(request, "websocket", subprotocols=[name.strip() for name in named.split(",") if name.strip()])
        self._socket: web.WebSocketResponse | None = None
        self._is_told = False

    @property
    def response(self) -> web.StreamResponse:
        return self._socket if self._socket is not None else web.Response(status=403)

    async def receive(self) -> Message:
        if not self._is_told:
            self._is_told = True
            return {"type": "websocket.connect"}
        if self._socket is None:
            return {"type": "websocket.disconnect", "code": 1006}
        came = await self._socket.receive()
        if came.type is WSMsgType.TEXT:
            return {"type": "websocket.receive", "text": came.data}
        if came.type is WSMsgType.BINARY:
            return {"type": "websocket.receive", "bytes": came.data}
        return {"type": "websocket.disconnect", "code": self._socket.close_code or 1006}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            chosen = message.get("subprotocol")
            self._socket = web.WebSocketResponse(protocols=(chosen,) if chosen else ())
            self._socket.headers.extend(_texts(message.get("headers", ())))
            await self._socket.prepare(self._request)
        elif self._socket is None:
            return  # closed before it was accepted: refused
        elif kind == "websocket.close":
            await self._socket.close(code=message.get("code", 1000), message=(message.get("reason") or "").encode())
        elif message.get("text") is not None:
            await self._socket.send_str(message["text"])
        else:
            await self._socket.send_bytes(message["bytes"])


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
