"""The layer around a WSGI app that gives kept responses before the app is asked.

As around an ASGI app, except that the app is asked in the thread that the request came in: whoever waits for its answer
waits in a thread of its own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from itertools import chain
from typing import Any
from urllib.parse import quote

from headway.caching.client.cached import blocking
from headway.caching.client.responses import KEPT, NOT_IN_TIME, NOTHING_KEPT, Failed, Raised, Shelf, Shelves, wall_ms
from headway.caching.client.want import Found, NotKept, Want
from headway.caching.responses.answer import HOW_HEADER, Answer, How, how_kept, make, to_give
from headway.caching.responses.asked import TAKEN_OUT, Asked, Look, ask, bypasses
from headway.caching.responses.ruling import TAG_HEADER, Ruling, is_failure, rule
from headway.errors import CacheBusy

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Start = Callable[..., Any]
App = Callable[[Environ, Start], Iterable[bytes]]
_BARE = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}


class Layer:
    """Wraps `app`; `routes` as the worker is told of them."""

    def __init__(self, app: App, service: str, routes: Iterable[Mapping[str, Any]]) -> None:
        self._app = app
        self._shelves = Shelves(service, routes)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        found = self._shelves.find(environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"))
        if found is None:
            return self._app(environ, start)
        shelf, places = found
        look, method = _look(environ), environ["REQUEST_METHOD"]
        if bypasses(shelf.route, method, look):
            return self._bypass(shelf, environ, start)
        path, query = quote(environ["PATH_INFO"].encode("latin-1")), environ.get("QUERY_STRING", "")
        asked = ask(shelf.route, self._shelves.service, method, environ["wsgi.url_scheme"], path, query, look)
        answer = shelf.near((asked.key,))
        if answer is not None and answer.suits(asked.look):
            return _give(answer, environ, look, start)
        want = shelf.want(asked, places, (asked.key,))
        run = _Run(self._app, shelf, environ, asked)
        try:
            answer = None if shelf.passes(want) else self._find(shelf, want, asked, environ, run)
        except Exception as error:
            if isinstance(error, NotKept):
                shelf.let_pass(want)
                if run.rest is not None:
                    return run.passed(start)
            elif isinstance(error, Raised):
                raise error.error from None
            elif not run.has_begun and isinstance(error, CacheBusy):
                return _answered(*NOT_IN_TIME, start)
            # Whatever else went wrong is the cache's own matter: the app answers, if it has not yet.
            answer = error.answer if isinstance(error, Failed) else run.own
        if answer is None and asked.only_kept:
            environ[KEPT] = True
            body = _answered(*NOTHING_KEPT, start)
            return [] if asked.is_head else body
        if answer is None:
            return self._bypass(shelf, environ, start)
        if not run.has_begun:
            return _give(answer, environ, look, start)
        return _reply(answer, "miss" if run.own is not None else how_kept(answer, wall_ms()), look, start)

    def _bypass(self, shelf: Shelf, environ: Environ, start: Start) -> Iterable[bytes]:
        shelf.rule.counts.bypassed += 1
        return self._app(environ, _bypassing(start))

    def _find(self, shelf: Shelf, want: Want, asked: Asked, environ: Environ, run: _Run) -> Answer | None:
        """A kept answer, or the run's own; None where none is to be had."""
        answer = self._value(shelf, want, asked, environ, run)
        if answer is None or run.has_begun or answer.suits(asked.look):
            return answer
        answer = self._value(shelf, shelf.other(want, answer, asked), asked, environ, run)
        return answer if answer is None or run.has_begun or answer.suits(asked.look) else None

    def _value(self, shelf: Shelf, want: Want, asked: Asked, environ: Environ, run: _Run) -> Answer | None:
        parts = shelf.cache.parts()

        async def look() -> Answer | None:
            found = await parts.loads().looks.find(want)
            return found.value if isinstance(found, Found) else None

        def again() -> Answer:
            fresh = _Run(self._app, shelf, environ, asked)
            try:
                return fresh.answer()
            except NotKept:
                fresh.close()
                shelf.let_pass(want)
                raise

        if asked.is_head or asked.only_kept:  # they may take what is there, and have nothing to keep
            return parts.block(look())
        answer: Answer = blocking(parts, want, run.answer, again)
        return answer


class _Run:
    """The app, asked once for an answer that may be kept."""

    def __init__(self, app: App, shelf: Shelf, environ: Environ, asked: Asked) -> None:
        self._app = app
        self._shelf = shelf
        self._environ = environ
        self._asked = asked
        self._status = ""
        self._headers: Headers = []
        self._has_started = False
        self._body: Iterable[bytes] = ()
        self._written: list[bytes] = []
        self.has_begun = False
        self.own: Answer | None = None  # what it answered, where that is kept
        self.rest: Iterator[bytes] | None = None  # what passes to this client alone

    def answer(self) -> Answer:
        """Ask it. Raises NotKept, Failed and Raised."""
        self.has_begun = True
        try:
            return self._ask()
        except (NotKept, Failed):
            raise
        except BaseException as error:
            self.close()
            raise Raised(error) from error

    def passed(self, start: Start) -> Iterable[bytes]:
        """The answer that is not kept, as it comes."""
        _bypassing(start)(self._status, self._headers)
        assert self.rest is not None
        return _Passing(self.rest, self.close)

    def close(self) -> None:
        """The app is done with it."""
        body, self._body = self._body, ()
        close = getattr(body, "close", None)
        if close is not None:
            close()

    def _ask(self) -> Answer:
        self._body = self._app(_clean(self._environ, self._asked), self._start)
        rest = iter(self._body)
        first = self._first(rest)
        whole = chain(first, rest)
        ruling = self._rule(whole)
        parts: list[bytes] = []
        size_bytes = 0
        for part in whole:
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > self._shelf.route.body_max_bytes:
                self._pass(chain(parts, whole))
        self.close()
        status = int(self._status[:3])
        answer = make(
            status,
            [(name.lower(), value) for name, value in self._headers],
            b"".join(parts),
            ruling or Ruling(0.0, 0.0),
            self._asked.look,
            wall_ms(),
        )
        if ruling is None:
            raise Failed(answer)
        self.own = answer
        return answer

    def _first(self, rest: Iterator[bytes]) -> list[bytes]:
        """What the app wrote by hand, and the first part: by then it has said what the answer is."""
        first = next(rest, None)
        return self._written + ([first] if first is not None else [])

    def _start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[[bytes], Any]:
        self._status, self._headers, self._has_started = status, list(headers), True
        return self._written.append

    def _rule(self, rest: Iterator[bytes]) -> Ruling | None:
        """Whether it may be kept; None is a failure that others may get as well."""
        if not self._has_started:
            raise RuntimeError("the app gave a body before it called start_response")
        status, headers = int(self._status[:3]), [(name.lower(), value) for name, value in self._headers]
        stated = next((value for name, value in headers if name == "content-length"), "0")
        found = rule(self._shelf.route, status, headers, wall_ms() / 1000)
        is_small = stated.isdigit() and int(stated) <= self._shelf.route.body_max_bytes
        if not is_small or (found is None and not is_failure(status, headers)):
            self._pass(rest)
        return found

    def _pass(self, rest: Iterator[bytes]) -> None:
        self.rest = rest
        raise NotKept


class _Passing:
    """The rest of an answer, and the app's own end of it."""

    def __init__(self, rest: Iterator[bytes], close: Callable[[], None]) -> None:
        self._rest = rest
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._rest


def _give(answer: Answer, environ: Environ, look: Look, start: Start) -> list[bytes]:
    environ[KEPT] = True
    body = _reply(answer, how_kept(answer, wall_ms()), look, start)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else body


def _reply(answer: Answer, how: How, look: Look, start: Start) -> list[bytes]:
    return _answered(*to_give(answer, how, look, wall_ms()), start)


def _answered(status: int, headers: Headers, body: bytes, start: Start) -> list[bytes]:
    phrase = ""
    with contextlib.suppress(ValueError):
        phrase = HTTPStatus(status).phrase
    start(f"{status} {phrase}", headers)
    return [body]


def _bypassing(start: Start) -> Start:
    """Passes on what the app says, with word of it in the head."""

    def started(status: str, headers: Headers, exc_info: Any = None) -> Any:
        kept = [header for header in headers if header[0].lower() not in (HOW_HEADER, TAG_HEADER)]
        return start(status, [*kept, (HOW_HEADER, "bypass")], exc_info)

    return started


@lru_cache(256)
def _variable(name: str) -> str:
    return _BARE.get(name) or "HTTP_" + name.upper().replace("-", "_")


def _look(environ: Environ) -> Look:
    def look(name: str) -> str | None:
        value = environ.get(_variable(name))
        return None if value is None else str(value)

    return look


def _clean(environ: Environ, asked: Asked) -> Environ:
    """The request as the app is asked: with what is in the key and no more."""
    cleaned = {**environ, "QUERY_STRING": asked.query, "wsgi.input": io.BytesIO()}
    cleaned.pop("CONTENT_LENGTH", None)
    for name in (*TAKEN_OUT, "cookie", "accept-encoding"):
        variable, value = _variable(name), asked.look(name)
        if value is None:
            cleaned.pop(variable, None)
        else:
            cleaned[variable] = value
    return cleaned
