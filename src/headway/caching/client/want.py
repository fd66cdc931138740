"""The nouns of a call: what is asked for, what was found, and what is being loaded around it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from headway.caching.client.near import Entry
from headway.caching.client.rule import Rule
from headway.errors import CacheLoop

# What is being loaded around this point of the program, so that a load that needs itself is seen.
_inside: contextvars.ContextVar[tuple[tuple[str, bytes], ...]] = contextvars.ContextVar("headway_inside", default=())


# Made for every call that goes the long way: not frozen, which takes three times as long to make.
@dataclass(slots=True)
class Want:
    """One call: what is asked for."""

    rule: Rule
    key: bytes
    tags: tuple[bytes, ...] = ()
    calls: dict[Any, Entry] | None = None  # where the call is looked up next time
    arguments: Any = None


class Missed:
    """There is no value; `mark` tells which one was there and does no longer hold, `fallback` is it."""

    __slots__ = ("fallback", "mark")

    def __init__(self, mark: bytes | None = None, fallback: Found | None = None) -> None:
        self.mark = mark
        self.fallback = fallback


@dataclass(slots=True)
class Found:
    """A value. `raw` is what it was decoded from, where callers get objects of their own; `due` says that it is to be
    loaded again in the background, as what it replaces."""

    value: Any
    raw: bytes | None = None
    due: Missed | None = None


MISSED = Missed()


class NotKept(Exception):
    """What a load raises when its value is nobody else's: nothing is stored, and those who waited go their own way."""


class GaveUp(Exception):
    """Who was to load waits no longer, and has not begun: those who wait for the load see to it themselves."""


@contextlib.contextmanager
def inside(want: Want) -> Iterator[None]:
    """Around a load: what it calls knows that it is within."""
    token = _inside.set((*_inside.get(), (want.rule.name, want.key)))
    try:
        yield
    finally:
        _inside.reset(token)


def is_within(name: str) -> bool:
    """Whether a load of this function is around this point."""
    return any(other == name for other, _key in _inside.get())


def refuse_loop(want: Want) -> None:
    """CacheLoop where the call would wait for a load that waits for it."""
    if (want.rule.name, want.key) in _inside.get():
        raise CacheLoop(
            f"{want.rule.name} asks for itself with the same arguments while it is loaded",
            hint="Call the function that is not cached there: its `__wrapped__`.",
        )
