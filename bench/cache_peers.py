"""One function, cached by each of the libraries, by its own usual means: what a bench asks, and how it forgets.

All of them reach the same server over the same unix socket. Libraries without an asynchronous form are asked from
threads, as apps under WSGI do.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

TTL_S = 300
THREADS = 500


@dataclass(frozen=True, slots=True)
class Peer:
    """A cached function. `plain` is its form for threads, where it has no other."""

    ask: Callable[[int], Awaitable[Any]]
    forget: Callable[[int], Awaitable[Any]] | None = None
    plain: Callable[[int], Any] | None = None


class Origin:
    """What a cached function takes its values from; it counts."""

    def __init__(self, load_s: float = 0.0, read: Callable[[int], Any] | None = None) -> None:
        self.load_s = load_s
        self.began: list[float] = []
        self._read = read or (lambda key: {"id": key, "name": f"product {key}", "price": 12.5, "tags": ["a", "b"]})
        self._lock = threading.Lock()

    async def load(self, key: int) -> Any:
        self._count()
        value = self._read(key)
        if self.load_s:
            await asyncio.sleep(self.load_s)
        return value

    def load_plainly(self, key: int) -> Any:
        self._count()
        value = self._read(key)
        time.sleep(self.load_s)
        return value

    def _count(self) -> None:
        with self._lock:
            self.began.append(time.monotonic())


def server_url() -> str:
    """Where the server is that all of them share."""
    return os.environ["BENCH_VALKEY"]


async def opened(kind: str, origin: Origin, ttl_s: float = TTL_S) -> Peer:
    """The function, cached as `kind` says: a library, and after a colon how it is used."""
    library, _, how = kind.partition(":")
    return await _OPENERS[library](how, origin, ttl_s)


async def _headway(how: str, origin: Origin, ttl_s: float) -> Peer:
    from headway import cache

    hot = cache("hot")
    stale: dict[str, Any] = {"stale": ttl_s} if how == "stale" else {}

    # The peers' values have none, where nothing is invalidated.
    tags: Any = (lambda key: [f"product:{key}"]) if how == "tagged" else ()

    @hot.cached(ttl=ttl_s, tags=tags, **stale)
    async def product(key: int) -> Any:
        return await origin.load(key)

    return Peer(product, lambda key: hot.invalidate(f"product:{key}"))


async def _redis_py(how: str, origin: Origin, ttl_s: float) -> Peer:
    """GET and SET by hand, and nothing besides."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(server_url(), max_connections=THREADS)

    async def product(key: int) -> Any:
        found = await client.get(f"raw:{key}")
        if found is None:
            found = json.dumps(await origin.load(key))
            await client.set(f"raw:{key}", found, px=int(ttl_s * 1000))
        return found

    return Peer(product, lambda key: client.delete(f"raw:{key}"))


async def _cashews(how: str, origin: Origin, ttl_s: float) -> Peer:
    from cashews import Cache
    from cashews.backends.redis import Redis
    from cashews.backends.redis.client_side import BcastClientSide
    from cashews.picklers import PicklerType
    from cashews.wrapper.backend_settings import register_backend

    def made(client_side: bool = False, **settings: Any) -> Any:
        return (BcastClientSide if client_side else Redis)(**settings)

    register_backend("unix", made, pass_uri=True, pickler=PicklerType.DEFAULT)
    cache = Cache()
    if how == "near":
        cache.setup("mem://")
    elif how == "client side":  # under RESP3 it hears of no change
        cache.setup(server_url(), client_side=True, protocol=2, max_connections=THREADS)
    else:
        cache.setup(server_url(), max_connections=THREADS)
    await cache.init()
    decorated = {
        "early": cache.early(ttl=ttl_s, early_ttl=ttl_s / 2, key="product:{key}"),
        "locked": cache(ttl=ttl_s, lock=True, key="product:{key}"),
    }.get(how) or cache(ttl=ttl_s, key="product:{key}")
    product = decorated(origin.load)
    return Peer(product, lambda key: cache.delete(f"product:{key}"))


async def _aiocache(how: str, origin: Origin, ttl_s: float) -> Peer:
    import aiocache
    import redis.asyncio

    kind = aiocache.SimpleMemoryCache if how == "near" else aiocache.RedisCache
    named: dict[str, Any] = {"cache": kind, "ttl": ttl_s, "key_builder": lambda function, key: f"aiocache:{key}"}
    decorate = aiocache.cached_stampede(lease=2, **named) if how == "stampede" else aiocache.cached(**named)
    product: Any = decorate(origin.load)
    if how != "near":
        product.cache.client = redis.asyncio.Redis.from_url(server_url(), max_connections=THREADS)
    return Peer(product, lambda key: product.cache.delete(f"aiocache:{key}"))


async def _fastapi_cache2(how: str, origin: Origin, ttl_s: float) -> Peer:
    import redis.asyncio
    from fastapi_cache import FastAPICache
    from fastapi_cache.backends.inmemory import InMemoryBackend
    from fastapi_cache.backends.redis import RedisBackend
    from fastapi_cache.decorator import cache

    client = redis.asyncio.Redis.from_url(server_url(), max_connections=THREADS)
    backend = InMemoryBackend() if how == "near" else RedisBackend(client)

    def named(*_: Any, args: tuple[Any, ...] = (), **__: Any) -> str:
        return f"fastapi:{args[0]}"

    FastAPICache.reset()
    FastAPICache.init(backend, prefix="bench", key_builder=named)
    product = cache(expire=max(1, int(ttl_s)))(origin.load)
    return Peer(product, lambda key: backend.clear(key=f"fastapi:{key}"))


async def _django(how: str, origin: Origin, ttl_s: float) -> Peer:
    import django.conf

    near = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 100_000}}
    shared = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server_url()}
    if not django.conf.settings.configured:
        django.conf.settings.configure(CACHES={"default": near if how == "near" else shared})
    from django.core.cache import cache

    def product(key: int) -> Any:
        found = cache.get(f"product:{key}")
        if found is None:
            found = origin.load_plainly(key)
            cache.set(f"product:{key}", found, ttl_s)
        return found

    return _in_threads(product, lambda key: cache.delete(f"product:{key}"))


async def _dogpile(how: str, origin: Origin, ttl_s: float) -> Peer:
    from dogpile.cache import make_region

    region = make_region(function_key_generator=lambda *_, **__: lambda key: f"dogpile:{key}")
    if how == "near":
        region.configure("dogpile.cache.memory", expiration_time=ttl_s)
    else:
        locks = {"url": server_url(), "distributed_lock": True, "thread_local_lock": False, "lock_timeout": 30}
        region.configure("dogpile.cache.redis", expiration_time=ttl_s, arguments=locks)

    def load(key: int) -> Any:
        return origin.load_plainly(key)

    product: Any = region.cache_on_arguments()(load)
    return _in_threads(product, product.invalidate)


async def _cachebox(how: str, origin: Origin, ttl_s: float) -> Peer:
    import cachebox

    cached: Any = cachebox.cached(cachebox.LRUCache(100_000))
    return Peer(cached(origin.load))


def _in_threads(product: Callable[[int], Any], forget: Callable[[int], Any]) -> Peer:
    pool = ThreadPoolExecutor(THREADS)
    loop = asyncio.get_running_loop()
    return Peer(
        lambda key: loop.run_in_executor(pool, product, key),
        lambda key: loop.run_in_executor(pool, forget, key),
        product,
    )


_OPENERS: dict[str, Callable[[str, Origin, float], Awaitable[Peer]]] = {
    "headway": _headway,
    "redis-py": _redis_py,
    "cashews": _cashews,
    "aiocache": _aiocache,
    "fastapi-cache2": _fastapi_cache2,
    "django": _django,
    "dogpile": _dogpile,
    "cachebox": _cachebox,
}
