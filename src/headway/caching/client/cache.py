"""`cache(name)`: what the app holds of a declared cache."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from headway.caching.client.cached import Calls, Tags, asynchronous, bounded, synchronous, tag_names
from headway.caching.client.named import TTL_MAX_S, Named
from headway.caching.client.near import Entry
from headway.caching.client.parts import Parts
from headway.caching.client.rule import OnError, Rule
from headway.caching.client.told import told
from headway.caching.client.voids import void_all, void_keys, void_tags
from headway.caching.codec import Codec, codec_for, returned

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
Seconds = float | timedelta
_CALLS = "__headway_calls__"


class Cache:
    """A cache by its declared name. Made once a process by `cache(name)`; nothing is opened before it is used.

    When its server is away, nothing here raises for that: functions are loaded, once at a time in each process, `get`
    finds what is in the process, and what was to be void is told to the server when it is back.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._rules: dict[str, Rule] = {}
        self._functions: dict[str, tuple[Callable[..., Any], Calls]] = {}
        self._tables: list[dict[Any, Entry]] = []
        self._made: Parts | None = None
        self._lock = threading.Lock()
        self._named = Named()
        self._rules[self._named.rule.name] = self._named.rule

    def cached(
        self,
        ttl: Seconds,
        *,
        tags: Tags = (),
        key: Callable[..., object] | None = None,
        stale: Seconds = 0.0,
        on_error: OnError = None,
        copy: bool = False,
        codec: Codec | None = None,
        loads: int = 16,
        version: int | str = 0,
        name: str = "",
    ) -> Callable[[F], F]:
        """Keep what the function gives, by its arguments, for `ttl` seconds; it is loaded once in the whole fleet.

        tags: texts, or a function of the same arguments that gives them; `invalidate(tag)` makes the values void.
        key: a function of the same arguments that says what the value depends on, where the arguments do not.
        stale: so many seconds after its end a value is still given, while one load in the background replaces it.
        on_error: seconds for which a load that raised is not tried again in this process, and its error raised; "stale"
            gives the value before, where it is still kept (`stale`).
        copy: every caller gets an object of its own; otherwise all share one, and must not change it.
        codec: how values become bytes; by default MessagePack, read as the return annotation says.
        loads: how many loads of this function run at once in a process; others wait.
        version: another one makes all values of before void, as does another name of the function.

        Raises ValueError and TypeError for what cannot be, when the function is decorated. Calls raise WrongCacheKey
        for arguments that say nothing a value could be found by, CannotCarry for a value that would come back another,
        and otherwise what the function raises.
        """
        ttl_s = _seconds("ttl", ttl)
        if ttl_s <= 0:
            raise ValueError(f"ttl: {ttl!r} is not a time to keep a value for; give seconds above 0")
        if loads < 1:
            raise ValueError(f"loads: {loads}: at least one load must be allowed")
        if isinstance(on_error, str) and on_error != "stale":
            raise ValueError(f'on_error: {on_error!r}: give seconds, or "stale"')
        stale_s = _seconds("stale", stale)

        def decorate(function: F) -> F:
            rule = Rule(
                name=_name(function, name, version),
                codec=codec or codec_for(returned(function)),
                ttl_s=ttl_s,
                stale_s=stale_s,
                on_error=on_error,
                copy=copy,
                loads_max=loads,
            )
            calls = Calls(function, rule, tags, key)
            self._register(function, calls)
            make = asynchronous if inspect.iscoroutinefunction(function) else synchronous
            made = make(function, calls, self._parts)
            setattr(made, _CALLS, calls)
            return made  # type: ignore[return-value]

        return decorate

    async def forget(self, function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the value of one call of a cached function void: `await hot.forget(product, 7)`."""
        await void_keys(self._parts(), [_calls_of(function).want(args, dict(kwargs)).key])

    async def get(self, key: str, default: Any = None) -> Any:
        """The value that was `set` under `key`; `default` when there is none, or one of its tags was invalidated."""
        return (await self._named.find(self._parts(), (key,))).get(key, default)

    async def set(self, key: str, value: Any, ttl: Seconds, *, tags: Iterable[str] = ()) -> None:
        """Keep a value of plain data under `key` for `ttl` seconds; `invalidate` of one of its `tags` makes it void.

        Raises CannotCarry for a value that would come back another, CacheError for one that is too large or has too
        many tags.
        """
        await self.set_many({key: value}, ttl, tags=tags)

    async def delete(self, *keys: str) -> None:
        """Make what was `set` under these keys void."""
        await void_keys(self._parts(), [self._named.want(key).key for key in keys])

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that have one, by one question to the server; a second one if some have tags."""
        return await self._named.find(self._parts(), list(keys))

    async def set_many(self, values: Mapping[str, Any], ttl: Seconds, *, tags: Iterable[str] = ()) -> None:
        """Keep several values, as `set` does, all with the same tags."""
        ttl_s = _seconds("ttl", ttl)
        if not 0 < ttl_s <= TTL_MAX_S:
            raise ValueError(f"ttl: {ttl!r}: give seconds between 0 and {TTL_MAX_S:.0f}")
        await self._named.store(self._parts(), values, ttl_s, bounded(tag_names(tags)))

    async def invalidate(self, *tags: str) -> None:
        """Make all values void that have one of these tags, in every process and on every machine."""
        await void_tags(self._parts(), tag_names(tags))

    async def clear(self) -> None:
        """Make everything in this cache void."""
        await void_all(self._parts())

    async def close(self) -> None:
        """End this event loop's connection; it opens again when it is needed."""
        if self._made is not None:
            await self._made.close()

    def let_go(self) -> None:
        """Close everything that this process has of it, from any thread; the next use begins anew."""
        made = self._made
        self._begin_anew()
        if made is not None:
            made.end()

    @property
    def sync(self) -> SyncCache:
        """The same for code that is not asynchronous."""
        return SyncCache(self)

    def keep(self, rule: Rule, table: dict[Any, Entry]) -> None:
        """Keep values of a kind of its own; `table` has those that are in the process, by what they are asked for."""
        with self._lock:
            self._rules[rule.name] = rule
            self._tables.append(table)
            if self._made is not None:
                self._made.near.adopt(table)

    def parts(self) -> Parts:
        """What the process holds of it, made at the first use. Raises NotRunning."""
        return self._parts()

    def _register(self, function: Callable[..., Any], calls: Calls) -> None:
        name = calls.rule.name
        with self._lock:
            other = self._functions.get(name)
            if other is not None and function.__closure__ and other[0].__code__ is function.__code__:
                raise ValueError(
                    f"{name} is cached twice, as two functions made by the same lines, and their values would be taken "
                    "for each other; give each a `name=` of its own"
                )
            self._functions[name] = function, calls
            self._rules[name] = calls.rule
            if self._made is not None:
                self._made.near.adopt(calls.table)

    def _parts(self) -> Parts:
        made = self._made
        if made is None:
            with self._lock:
                made = self._made
                if made is None:
                    made = Parts(told(self.name), self._rules)
                    for _function, calls in self._functions.values():
                        made.near.adopt(calls.table)
                    for table in self._tables:
                        made.near.adopt(table)
                    self._made = made
        return made

    def _begin_anew(self) -> None:
        """Forget what is open: in a forked child, it is the parent's."""
        self._made = None
        self._lock = threading.Lock()
        for _function, calls in self._functions.values():
            calls.table.clear()
        for table in self._tables:
            table.clear()
        for table in self._tables:
            table.clear()


class SyncCache:
    """A cache for code that is not asynchronous; the same names, and every call waits."""

    def __init__(self, whole: Cache) -> None:
        self._cache = whole

    def get(self, key: str, default: Any = None) -> Any:
        """As `Cache.get`."""
        return self._do(self._cache.get(key, default))

    def set(self, key: str, value: Any, ttl: Seconds, *, tags: Iterable[str] = ()) -> None:
        """As `Cache.set`."""
        self._do(self._cache.set(key, value, ttl, tags=tags))

    def delete(self, *keys: str) -> None:
        """As `Cache.delete`."""
        self._do(self._cache.delete(*keys))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As `Cache.get_many`."""
        found: dict[str, Any] = self._do(self._cache.get_many(keys))
        return found

    def set_many(self, values: Mapping[str, Any], ttl: Seconds, *, tags: Iterable[str] = ()) -> None:
        """As `Cache.set_many`."""
        self._do(self._cache.set_many(values, ttl, tags=tags))

    def invalidate(self, *tags: str) -> None:
        """As `Cache.invalidate`."""
        self._do(self._cache.invalidate(*tags))

    def forget(self, function: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """As `Cache.forget`."""
        self._do(self._cache.forget(function, *args, **kwargs))

    def clear(self) -> None:
        """As `Cache.clear`."""
        self._do(self._cache.clear())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            parts = self._cache._parts()
        except BaseException:
            work.close()
            raise
        return parts.block(work)


def _seconds(what: str, value: Seconds) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= TTL_MAX_S:
        raise ValueError(f"{what}: {value!r}: give seconds, {TTL_MAX_S:.0f} (40 days) at most")
    return float(seconds)


def _name(function: Callable[..., Any], name: str, version: int | str) -> str:
    name = name or f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")
    if "<lambda>" in name:
        raise ValueError("a lambda has no name that its values could be found by; give `name=`, or use def")
    if len(name) > 100:
        raise ValueError(f"{name}: longer than 100 characters; give a shorter `name=`")
    return f"{name}@{version}" if version else name


def _calls_of(function: Callable[..., Any]) -> Calls:
    calls = getattr(function, _CALLS, None)
    if not isinstance(calls, Calls):
        raise TypeError(f"{function!r} is not a cached function")
    return calls


_caches: dict[str, Cache] = {}
_lock = threading.Lock()


def cache(name: str) -> Cache:
    """The declared cache `name`, the same object each time. Its use raises NotRunning when this process was told of
    none."""
    found = _caches.get(name)
    if found is None:
        with _lock:
            found = _caches.setdefault(name, Cache(name))
    return found


def _in_child() -> None:
    for each in _caches.values():
        each._begin_anew()


os.register_at_fork(after_in_child=_in_child)
