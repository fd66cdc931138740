"""Makes a function cached: the quick look while its value is in the process, and the long way otherwise.

The quick look is one look-up by the call's arguments, the end of the value's time, and the kinds of the arguments,
for to a dict 1, 1.0 and True are one. Arguments whose equality says less than that (a list, a float, an object) go
the long way, where the key is written out.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from headway.caching.blob import TAGS_MAX
from headway.caching.client.loads import Flight, Loads, load_span
from headway.caching.client.near import Entry, now
from headway.caching.client.parts import Parts
from headway.caching.client.rule import Rule
from headway.caching.client.want import Found, GaveUp, Missed, Want, inside
from headway.caching.keys import ATOMIC, binder_for, encode_key, signature_of
from headway.context.asked import leave_request, patience_s
from headway.errors import CacheError

Tags = Iterable[str] | Callable[..., Iterable[str]]


class Calls:
    """The calls of one cached function, as what is asked for."""

    def __init__(self, function: Callable[..., Any], rule: Rule, tags: Tags, key: Callable[..., object] | None) -> None:
        self.rule = rule
        self.table: dict[Any, Entry] = {}
        self._bind = binder_for(function)
        signature = signature_of(function)
        self._names = tuple(signature.parameters) if signature is not None else ()
        self._folder = rule.name.encode()
        if not callable(tags) and not isinstance(tags, str):
            tags = tuple(tags)  # read twice, and a generator gives its own once
            _refuse_places(tags, self._names)
        self._tags_of = tags if callable(tags) else None
        self._tags = () if callable(tags) else bounded(tag_names(tags))
        self._key_of = key

    def want(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Want:
        """The call. Raises WrongCacheKey, and TypeError for a call that the function would refuse."""
        bound = self._bind(args, kwargs)
        if self._key_of is None:
            key = self._folder + encode_key(bound, {}, self._names)
        else:
            key = self._folder + encode_key((self._key_of(*args, **kwargs),), {}, ("key",))
        tags = self._tags if self._tags_of is None else bounded(tag_names(self._tags_of(*args, **kwargs)))
        if not kwargs and (type(args[0]) in ATOMIC if len(args) == 1 else ATOMIC.issuperset(map(type, args))):
            return Want(self.rule, key, tags, self.table, args)
        return Want(self.rule, key, tags)


def asynchronous(function: Callable[..., Any], calls: Calls, parts: Callable[[], Parts]) -> Callable[..., Any]:
    """The cached form of an `async def`."""
    look, counts, want, copies = calls.table.get, calls.rule.counts, calls.want, calls.rule.copy

    @functools.wraps(function)
    async def cached(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            try:
                entry = look(args)
            except TypeError:  # what cannot be hashed is written out
                entry = None
            if (
                entry is not None
                and entry.until > now()
                and entry.kinds == (type(args[0]) if len(args) == 1 else tuple(map(type, args)))
            ):
                counts.hits_near += 1
                if entry.freq < 3:
                    entry.freq += 1
                return entry.value
        asked, loads = want(args, kwargs), parts().loads()
        found = await loads.looks.find(asked)
        if type(found) is Found and found.due is None and not copies:
            return found.value
        return await loads.value(asked, lambda: function(*args, **kwargs), found)

    return cached


def synchronous(function: Callable[..., Any], calls: Calls, parts: Callable[[], Parts]) -> Callable[..., Any]:
    """The cached form of a plain function. It is loaded in the thread that calls it."""
    look, counts, want = calls.table.get, calls.rule.counts, calls.want

    @functools.wraps(function)
    def cached(*args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            try:
                entry = look(args)
            except TypeError:
                entry = None
            if (
                entry is not None
                and entry.until > now()
                and entry.kinds == (type(args[0]) if len(args) == 1 else tuple(map(type, args)))
            ):
                counts.hits_near += 1
                if entry.freq < 3:
                    entry.freq += 1
                return entry.value
        return blocking(parts(), want(args, kwargs), lambda: function(*args, **kwargs))

    return cached


def blocking(parts: Parts, want: Want, load: Callable[[], Any], again: Callable[[], Any] | None = None) -> Any:
    """The value of a call, loaded by `load` in this thread when nobody has it. `again`: what refreshes it, in a thread
    of its own, where that is not `load` as well."""
    context = contextvars.copy_context()

    def refresh(missed: Missed) -> None:
        if parts.refreshing.acquire(blocking=False):
            thread = threading.Thread(
                target=context.copy().run, args=(_refresh, parts, want, again or load, missed), daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads: the next one who reads it tries again
                parts.refreshing.release()

    found = parts.block(_in(context, _begin, parts, want))
    if isinstance(found, Found) and found.due is not None:
        refresh(found.due)
    if isinstance(found, Flight):
        with load_span(want):
            found = _load(parts, found, load)
    return want.rule.codec.decode(found.raw) if want.rule.copy and found.raw is not None else found.value


async def _in(context: contextvars.Context, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run in the context of the thread that asks, so that a load within a load is known for one."""
    return await asyncio.get_running_loop().create_task(work(*arguments), context=context.copy())


async def _begin(parts: Parts, want: Want) -> Found | Flight:
    """The value, or the right to load it."""
    loads = parts.loads()
    found = await loads.looks.find(want)
    if isinstance(found, Found):
        return found
    while True:
        flight = loads.under_way(want)
        if flight is None:
            return await _take(loads, loads.start(want, found))
        try:
            with load_span(want) as told:
                told.set(shared=True)
                return await loads.outcome(flight)
        except GaveUp:
            continue


async def _take(loads: Loads, flight: Flight) -> Found | Flight:
    limit_s = patience_s(math.inf)
    try:
        async with asyncio.timeout(limit_s if limit_s < math.inf else None):
            found = await loads.begin(flight)
    except TimeoutError:
        await loads.fail(flight, GaveUp())
        return loads.too_late(flight)
    except BaseException as error:
        await loads.fail(flight, error)
        raise
    if found is None:
        return flight
    loads.land(flight, found)
    return found


def _load(parts: Parts, flight: Flight, load: Callable[[], Any]) -> Found:
    try:
        with inside(flight.want):
            value = load()
    except BaseException as error:
        parts.block(_end(parts, flight, error=error))
        if flight.future.exception() is error:
            raise
        found: Found = flight.future.result()
        return found
    stored: Found = parts.block(_end(parts, flight, value))
    return stored


async def _end(parts: Parts, flight: Flight, value: Any = None, error: BaseException | None = None) -> Any:
    loads = parts.loads()
    if error is not None:
        await loads.fail(flight, error)
        return None
    await loads.end(flight, value)
    return flight.future.result()


def _refresh(parts: Parts, want: Want, load: Callable[[], Any], missed: Missed) -> None:
    """In a thread: load what is still given meanwhile. What fails is told in the log by the load itself."""
    leave_request()

    async def begin() -> Found | Flight | None:
        loads = parts.loads()
        if not loads.may_refresh(want):
            return None
        return await _take(loads, loads.start(want, missed, is_refresh=True))

    try:
        flight = parts.block(begin())
        if isinstance(flight, Flight):
            _load(parts, flight, load)
    except Exception:
        return
    finally:
        parts.refreshing.release()


def _refuse_places(tags: Iterable[str], names: Sequence[str]) -> None:
    """ValueError for a tag that speaks of an argument: it would stand as it is, and no `invalidate` would find it."""
    for tag in tags:
        spoken = [name for name in names if f"{{{name}}}" in tag]
        if spoken:
            raise ValueError(
                f"tags: {tag!r} is the same text for all calls, and nothing is put in the place of "
                f"{{{spoken[0]}}}; write tags=lambda {', '.join(names)}: [f{tag!r}]"
            )


def tag_names(tags: Iterable[str]) -> tuple[bytes, ...]:
    """Tags as the server knows them."""
    if isinstance(tags, str):
        raise TypeError("tags are several: give a list of them, not one text")
    return tuple(dict.fromkeys(tag.encode() for tag in tags))


def bounded(tags: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The tags of one value. CacheError when they are too many."""
    if len(tags) > TAGS_MAX:
        raise CacheError(f"{len(tags)} tags on one value", hint=f"At most {TAGS_MAX}; give several values one tag.")
    return tags
