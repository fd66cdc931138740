"""Where a cache's server is: a unix socket, an address, or whatever the Sentinels say. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

PORT = 6379
# How a process of the app is told of its caches: a JSON object by name.
CACHES_VARIABLE = "HEADWAY_CACHES"


@dataclass(frozen=True, slots=True)
class Place:
    """One server, and who we are there. `sentinels` know where it is when neither path nor host says so."""

    path: str = ""
    host: str = ""
    port: int = PORT
    user: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: bool = False
    master: str = ""
    sentinels: tuple[tuple[str, int], ...] = ()

    @property
    def shown(self) -> str:
        """As a URL without the password; "master of host:port, …" where Sentinels are asked."""
        if self.sentinels:
            return f"{self.master} of {', '.join(f'{host}:{port}' for host, port in self.sentinels)}"
        return self._spelled(secret=False)

    @property
    def url(self) -> str:
        """As a URL, with the password."""
        return self._spelled(secret=True)

    def _spelled(self, *, secret: bool) -> str:
        if self.path:
            return f"unix://{quote(self.path)}"
        who = quote(self.user, safe="")
        if self.password and secret:
            who += f":{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "rediss" if self.tls else "redis"
        database = f"/{self.database}" if self.database else ""
        return f"{scheme}://{who}{'@' if who else ''}{host}:{self.port}{database}"


def place_of_url(url: str) -> Place:
    """The place that a checked URL names. ValueError when it cannot be read."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return Place(path=unquote(parts.path))
    return Place(
        host=parts.hostname or "",
        port=parts.port or PORT,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=int(parts.path.strip("/") or 0),
        tls=parts.scheme in ("rediss", "valkeys"),
    )


def access(place: Place, prefix: str, near_max_bytes: int, timeout_s: float) -> dict[str, object]:
    """What the app is told of a cache. Holds the password."""
    sentinel = {"master": place.master, "hosts": [list(host) for host in place.sentinels]}
    return {
        "url": place.url,
        "prefix": prefix,
        "near_bytes": near_max_bytes,
        "timeout_s": timeout_s,
        "sentinel": sentinel if place.sentinels else None,
    }


def prefix_of(system: str, cache: str) -> str:
    """What all keys of a cache begin with."""
    return f"hw:{system}:{cache}:"
