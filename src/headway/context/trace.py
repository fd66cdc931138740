"""Spans: what a request spent its time on, for the parts of Headway that the app calls.

Nothing is kept where nobody asked for it: then a span costs a look at a variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Span:
    """One stretch of a request's time."""

    traceparent = ""  # for what goes on within it elsewhere; empty: pass on what came

    def set(self, **attributes: str | int | float | bool) -> None:
        """Say more of it."""

    def fail(self, reason: str) -> None:
        """It came to nothing."""


_NONE = Span()


@contextmanager
def span(name: str, kind: str = "internal", **attributes: str | int | float | bool) -> Iterator[Span]:
    """A stretch of the time of the request at work; kind: "call", "database", "cache" or "internal"."""
    yield _NONE
