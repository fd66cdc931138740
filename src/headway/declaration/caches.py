"""What is wrong with the declared caches: keys that exclude each other, their URLs, and bounds that make no sense."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from headway.declaration.given import check_given
from headway.errors import Problem
from headway.model.declared import Cache, Sentinel, System
from headway.model.units import format_bytes, format_duration

SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
# An empty server takes about a megabyte of it, and each connection some more.
MEMORY_MIN_BYTES = 8 * 2**20
NEAR_MIN_BYTES = 2**20
# Below, a busy processor is taken for a server that is gone; above, callers would rather load than wait.
TIMEOUT_MIN_S, TIMEOUT_MAX_S = 0.005, 10.0


def check_caches(system: System, environment: Mapping[str, str], broken: frozenset[str]) -> Iterator[Problem]:
    """Every problem of every cache; what is `broken` has been told."""
    for name, cache in system.caches.items():
        path = f"caches.{name}"
        yield from _name(path, name, system)
        yield from _kinds(path, cache)
        yield from _bounds(path, cache)
        if cache.url is not None:
            yield from check_given(f"{path}.url", cache.url, environment, _url)
        if cache.sentinel is not None and not any(each.startswith(f"{path}.sentinel") for each in broken):
            yield from _sentinel(f"{path}.sentinel", cache.sentinel, environment)


def _name(path: str, name: str, system: System) -> Iterator[Problem]:
    """`uses` and references name databases, caches and services alike."""
    if name in ("env", "file"):
        yield Problem(path, f"a cache cannot be called {name}", f"{{{name}.…}} means something else")
    for section, named in (("databases", system.databases), ("services", system.services)):
        if name in named:
            yield Problem(path, f"[{section}.{name}] has the same name", f"call it otherwise: [caches.{name}-cache]")


def _kinds(path: str, cache: Cache) -> Iterator[Problem]:
    """One server, and the keys that belong to it."""
    if cache.url is not None and cache.sentinel is not None:
        yield Problem(f"{path}.sentinel", "says where the server is, and so does url", "keep one of the two")
    if cache.memory_max_bytes is not None and not cache.is_embedded:
        key = "url" if cache.url is not None else "sentinel"
        told = f"bounds an embedded server, and {key} names one that is not ours"
        yield Problem(f"{path}.memory_max", told, f"take out memory_max and set maxmemory there, or take out {key}")


def _bounds(path: str, cache: Cache) -> Iterator[Problem]:
    least = (
        (cache.memory_max_bytes, "memory_max", MEMORY_MIN_BYTES),
        (cache.near_max_bytes, "near_max", NEAR_MIN_BYTES),
    )
    for size_bytes, key, min_bytes in least:
        if size_bytes is not None and size_bytes < min_bytes:
            told = f"{format_bytes(size_bytes)} is too little: {format_bytes(min_bytes)} is the least"
            yield Problem(f"{path}.{key}", told, f'write it like "{128 if key == "memory_max" else 32}MiB"')
    if not TIMEOUT_MIN_S <= cache.timeout_s <= TIMEOUT_MAX_S:
        told = (
            f"{format_duration(cache.timeout_s)} is not between {format_duration(TIMEOUT_MIN_S)} "
            f"and {format_duration(TIMEOUT_MAX_S)}"
        )
        yield Problem(f"{path}.timeout", told, 'write it like "100ms"')


def _sentinel(path: str, sentinel: Sentinel, environment: Mapping[str, str]) -> Iterator[Problem]:
    for index, text in enumerate(sentinel.hosts):
        try:
            parse_host(text)
        except ValueError as error:
            yield Problem(f"{path}.hosts[{index}]", *str(error).split("; ", 1))
    if sentinel.password is not None:
        yield from check_given(f"{path}.password", sentinel.password, environment)
    elif sentinel.user is not None:
        yield Problem(f"{path}.user", "has no password", 'add password = "{env.CACHE_PASSWORD}"')


def parse_host(text: str) -> tuple[str, int]:
    """Host and port of a Sentinel; ValueError "what; what to write"."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port or 26379
    except ValueError:
        host, port = None, 0
    if not host or parts.path or parts.username:
        raise ValueError(f'"{text}" is not host:port; write it like "10.0.0.1:26379"')
    return host, port


def _url(path: str, url: str) -> Iterator[Problem]:
    """A URL of a server. It is never repeated: it may hold a password."""
    example = 'write it like "redis://host:6379/0", "rediss://user:password@host:6379" or "unix:///run/valkey.sock"'
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        yield Problem(path, "is not a URL: its host or port cannot be read", example)
        return
    if parts.scheme not in SCHEMES:
        yield Problem(path, "is not the URL of a Valkey or Redis", example)
    elif parts.query or parts.fragment:
        yield Problem(path, "has options behind a ? or #, which nobody would read", "take them out")
    elif parts.scheme == "unix":
        if parts.netloc or not parts.path.startswith("/"):
            yield Problem(path, "names no socket by its whole path", 'write it like "unix:///run/valkey.sock"')
    elif not parts.hostname:
        yield Problem(path, "names no host", example)
    elif parts.path.strip("/") and not parts.path.strip("/").isdigit():
        yield Problem(path, "names its database by something else than a number", "write /0, or nothing")
