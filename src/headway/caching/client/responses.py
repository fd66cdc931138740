"""What the layers around an app share: the kept responses of each declared path, in this process.

A path is counted like a function, as `GET /products/{id}`, and its responses are values like any other: found in the
process, at the server, or loaded once in the whole fleet, where to load is to ask the app.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from headway.caching.client.cache import Cache, cache
from headway.caching.client.near import Entry, now
from headway.caching.client.rule import Rule
from headway.caching.client.told import told
from headway.caching.client.want import Want
from headway.caching.codec import MessagePack
from headway.caching.responses.answer import HOW_HEADER, Answer
from headway.caching.responses.asked import Asked, digest, values
from headway.caching.responses.route import Route, Routes, read_routes

# In a request's scope or environ: it was answered from the cache. The worker's layer looks for it, by this name.
KEPT = "headway.kept"
# What the app gave for one client alone it may give so again: for a moment others do not wait for its answer.
_PASSING_S = 5.0
_PASSING_MAX = 1000
# Whoever waited for another's answer to the end of their own time hears this: by then nobody waits for it.
NOT_IN_TIME = 503, [("content-type", "text/plain"), ("retry-after", "1")], b"no answer came in time\n"
# Whoever wants a kept one only hears this where there is none.
NOTHING_KEPT = 504, [("content-type", "text/plain"), (HOW_HEADER, "miss")], b"nothing is kept\n"
_LOADS_MAX = 100_000  # the edge bounds what the app is asked at once


class Failed(Exception):
    """The app answered a request with a failure: it is not kept, and those who waited for the same get it as well."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the app answered {answer.status}")
        self.answer = answer


class Raised(Exception):
    """The app raised before it answered; so it does for those who waited for the same."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


class Shelf:
    """The kept responses of one path."""

    def __init__(self, route: Route, held: Cache) -> None:
        self.route = route
        self.cache = held
        self.table: dict[Any, Entry] = {}
        self.rule = Rule(
            route.name,
            MessagePack(Answer),
            ttl_s=route.ttl_s,
            stale_s=route.stale_s,
            on_error="stale",
            loads_max=_LOADS_MAX,
            times=Answer.times,
            own_tags=Answer.own_tags,
        )
        self._passing: dict[bytes, float] = {}
        held.keep(self.rule, self.table)

    def near(self, arguments: tuple[str, ...]) -> Answer | None:
        """What is in the process and needs no further look."""
        entry = self.table.get(arguments)
        if entry is None or entry.until <= now():
            return None
        self.rule.counts.hits_near += 1
        if entry.freq < 3:
            entry.freq += 1
        answer: Answer = entry.value
        return answer

    def want(self, asked: Asked, places: Mapping[str, str], arguments: tuple[str, ...]) -> Want:
        """The request as what is asked of the cache."""
        key = f"{self.rule.name}{asked.key}".encode()
        return Want(self.rule, key, self.route.tags_of(places), self.table, arguments)

    def other(self, want: Want, answer: Answer, asked: Asked) -> Want:
        """The same for a request that differs from that of `answer` in what the app names in `Vary`."""
        varied = values((name for name, _ in answer.varied), asked.look)
        return Want(self.rule, want.key + b"~" + digest(varied).encode(), want.tags)

    def passes(self, want: Want) -> bool:
        """Whether the app gave an answer for one client alone a moment ago."""
        until = self._passing.get(want.key)
        if until is None:
            return False
        if until > now():
            return True
        self._passing.pop(want.key, None)
        return False

    def let_pass(self, want: Want) -> None:
        """It has given one now."""
        if len(self._passing) >= _PASSING_MAX:
            self._passing.clear()
        self._passing[want.key] = now() + _PASSING_S


class Shelves:
    """All of a service in this process. Raises NotRunning when it was told of none of their caches."""

    def __init__(self, service: str, routes: Iterable[Mapping[str, Any]]) -> None:
        self.service = service
        found = read_routes(routes)
        for route in found:
            told(route.cache)
        self._routes = Routes(found)
        self._shelves = {route.name: Shelf(route, cache(route.cache)) for route in found}

    def find(self, path: str) -> tuple[Shelf, Mapping[str, str]] | None:
        """The shelf of a path, and what stands in its places."""
        found = self._routes.find(path)
        return None if found is None else (self._shelves[found[0].name], found[1])


def wall_ms() -> int:
    """The wall clock."""
    return int(time.time() * 1000)
