"""Where a load goes and what it asks for: a URL and requests, read into what is put on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from headway.errors import HeadwayError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = re.compile(r"[0-9A-Za-z.:\[\]_-]+")
_URL_HINT = "write it like http://127.0.0.1:8000/path, https://shop.example/ or unix:/run/app.sock:/path"
BODY_METHODS = ("POST", "PUT", "PATCH")  # these always say how long their body is
# Set by the generator itself: a second value would make the framing ambiguous.
_OWN_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding", "x-load-id"})


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request. An empty `path` stands for the path of the URL."""

    method: str = "GET"
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    weight: int = 1  # how often, compared with the other requests of a load
    host: str = ""  # of the Host header; "" for that of the target


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load: by host and port, or by the path of a unix socket."""

    host: str
    port: int
    tls: bool
    path: str  # with the query, as sent
    socket_path: str | None = None

    @property
    def authority(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """How an error names it."""
        return self.socket_path or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as bytes: `head` lacks the blank line that ends it, so that an id can be added."""

    method: str
    path: str
    head: bytes
    body: bytes


def parse_target(url: str) -> Target:
    """The target that `url` names; HeadwayError when it is none."""
    if url.startswith("unix:"):
        socket_path, _, path = url.removeprefix("unix:").partition(":")
        if not socket_path.startswith("/"):
            raise HeadwayError(f"{url}: a unix socket needs an absolute path", hint=_URL_HINT)
        return Target("localhost", 80, False, _encoded(path or "/"), socket_path)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:  # UnicodeError is one, too
        raise HeadwayError(f"{url}: not a URL ({error})", hint=_URL_HINT) from error
    if parts.scheme not in ("http", "https"):
        raise HeadwayError(f"{url}: only http, https and unix targets can be loaded", hint=_URL_HINT)
    if not host or port == 0:
        raise HeadwayError(f"{url}: the URL names no host and port to connect to", hint=_URL_HINT)
    if parts.username is not None:
        raise HeadwayError(f"{host}: user and password in the URL are not sent", hint="use a header instead")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(host, port or (443 if tls else 80), tls, _encoded(path))


def wire_request(request: Request, target: Target, *, keep: bool) -> WireRequest:
    """The bytes of `request`; HeadwayError when method, path or a header cannot be sent as given."""
    if not _TOKEN.fullmatch(request.method) or request.method == "CONNECT":
        raise HeadwayError(f"{request.method!r} is not a method that can be loaded", hint="use GET, POST, PUT, …")
    if request.path and not request.path.startswith("/"):
        raise HeadwayError(f"{request.path!r} is not a path of the target", hint='a path begins with "/"')
    path = _encoded(request.path) if request.path else target.path
    if request.host and not _HOST.fullmatch(request.host):
        raise HeadwayError(f"Host: {request.host!r} is no name of a host", hint="write it like api.example.com")
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {request.host or target.authority}"]
    lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
    for name, value in request.headers:
        if not _TOKEN.fullmatch(name) or re.search(r"[\r\n\0]", value):
            raise HeadwayError(f"header {name!r} cannot be sent", hint="a name is one word, a value one line")
        if name.lower() in _OWN_HEADERS:
            raise HeadwayError(f"header {name!r} is set by the load itself", hint="leave it out")
        lines.append(f"{name}: {value}")
    if request.body or request.method in BODY_METHODS:
        lines.append(f"Content-Length: {len(request.body)}")
    return WireRequest(request.method, path, ("\r\n".join(lines) + "\r\n").encode("utf-8"), request.body)


def _encoded(path: str) -> str:
    """Spaces, control and non-ASCII characters percent-encoded; what is encoded already stays."""
    return quote(path, safe="/?%:@!$&'()*+,;=-._~[]|^")
