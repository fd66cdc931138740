"""What a caller asks for: a path, its query and a body, by the arguments that httpx has for them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from headway.calls.retry import is_repeatable

Params = Mapping[str, Any] | Sequence[tuple[str, Any]] | str | bytes
Body = bytes | AsyncIterable[bytes] | None
Headers = Mapping[str, str] | Sequence[tuple[str, str]]
NOTHING: Any = type("Nothing", (), {"__repr__": lambda _: "nothing", "__bool__": lambda _: False})()
_FORM = "application/x-www-form-urlencoded"


class Outgoing:
    """A request on its way to a service."""

    __slots__ = ("body", "headers", "is_repeatable", "is_replayable", "method", "path", "where")

    def __init__(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        json: Any = NOTHING,
        data: Any = None,
        content: Any = None,
        headers: Headers | None = None,
        idempotency_key: str = "",
    ) -> None:
        self.method = method.upper()
        self.path = path
        self.where = target_of(path, params)
        self.headers: dict[str, str] = {}
        self.body: Body = None
        if json is not NOTHING or data is not None or content is not None:
            self.body, kind = body_of(json, data, content)
            if kind:
                self.headers["content-type"] = kind
        if headers:
            pairs = headers.items() if isinstance(headers, Mapping) else headers
            self.headers.update((name.lower(), value) for name, value in pairs)
        if idempotency_key:
            self.headers["idempotency-key"] = idempotency_key
        self.is_repeatable = is_repeatable(self.method, "idempotency-key" in self.headers)
        self.is_replayable = self.body is None or isinstance(self.body, bytes)


def target_of(path: str, params: Params | None) -> str:
    """Path and query. ValueError for what is no path."""
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is no path of a service; it begins with a slash, and names no host")
    if not params:
        return path
    if isinstance(params, bytes):
        params = params.decode()
    if not isinstance(params, str):
        pairs = params.items() if isinstance(params, Mapping) else params
        params = urlencode([(name, _word(one)) for name, value in pairs for one in _several(value)])
    bare, hash_, _ = path.partition("#")
    path = bare if hash_ else path
    return f"{path}{'&' if '?' in path else '?'}{params}"


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _word(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def body_of(json_: Any, data: Any, content: Any) -> tuple[Any, str]:
    """The body and its type. TypeError when more than one is given, or something that is none."""
    if (json_ is not NOTHING) + (data is not None) + (content is not None) > 1:
        raise TypeError("give one of json, data and content")
    if json_ is not NOTHING:
        text = json.dumps(json_, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode(), "application/json"
    if isinstance(data, Mapping) or (isinstance(data, list | tuple) and data):
        pairs = data.items() if isinstance(data, Mapping) else data
        return urlencode([(name, _word(one)) for name, value in pairs for one in _several(value)]).encode(), _FORM
    body = content if content is not None else data
    if isinstance(body, str):
        return body.encode(), ""
    if isinstance(body, bytearray | memoryview):
        return bytes(body), ""
    if body is None or isinstance(body, bytes | AsyncIterable):
        return body, ""
    if isinstance(body, Iterable):
        return _pieces(body), ""
    raise TypeError(f"a body is bytes, text, or an iterable of bytes, and not {type(body).__name__}")


async def _pieces(body: Iterable[bytes]) -> Any:
    for piece in body:
        yield piece
