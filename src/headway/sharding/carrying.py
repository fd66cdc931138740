"""The loop around the steps of long work whose stage is recorded: a move, an import, a split.

Every failure is answered here: a connection that breaks is made anew and the step done again; what cannot be cured
undoes the work while that is possible. Whoever carries it again after a kill gets the same outcome.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import psycopg

from headway.errors import Conflict, EngineError, HeadwayError
from headway.sharding.move.sessions import Connection, connect
from headway.sharding.stages import Staged

_AGAIN_S, _AGAIN_MAX_S = 0.05, 2.0
_LOCKED_S = 5.0


class Stopped(Exception):
    """Told to stop in between."""


class GivenUp(Exception):
    """The work cannot go on and is to be undone: why, and what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotYet(Exception):
    """The moment was not right; everything is as it was before the attempt."""


class CopyLost(Exception):
    """A copy cannot go on for ever: which, for people. All is to be undone and begun again.

    A copy's last step removes its slot at the source and then commits. A target that dies in between has a copy that
    is not finished, asks for a slot that is gone, and goes on asking.
    """


class StageChanged(Exception):
    """The record says something else than this carrier thinks: read it again."""


class Carried(Protocol):
    """Work that `carry` brings to its end."""

    @property
    def what(self) -> str:
        """For people: "the move of shard 3"."""

    @property
    def record(self) -> Staged:
        """As it was last seen."""

    @property
    def needed(self) -> str:
        """Who has to answer for it to go on, a sentence's subject: "both servers"."""

    def attempt(self, given_up: GivenUp | None, passed: Callable[[], None]) -> None:
        """Become the only one at it, record that it is given up if it is, and go on to the end.

        `passed` is to be called after each step; what a step raises is answered by `carry`.
        """

    def broken(self, waiting: str) -> None:
        """A connection broke: close all; say what is waited for."""


def carry(
    work: Carried, stop: threading.Event, *, away_max_s: float, stuck_max_s: float | None, again_hint: str
) -> None:
    """Carry the work to its end, or as far as it goes until `stop` is set.

    While servers do not answer it is tried again: for `stuck_max_s` where it can still be undone, which then happens,
    else for `away_max_s`; EngineError after that: come again. `stuck_max_s` None: servers that stay away undo nothing.
    EngineError also where it cannot be undone any more and something else than a server is wrong; Conflict when
    another one is at it.
    """
    failing_s = 0.0  # since when
    pause_s = _AGAIN_S
    given_up: GivenUp | None = None

    def passed() -> None:
        nonlocal failing_s, pause_s
        failing_s, pause_s = 0.0, _AGAIN_S

    while True:
        try:
            work.attempt(given_up, passed)
            return
        except Stopped:
            return
        except StageChanged:
            if stop.wait(_AGAIN_S):
                return
        except GivenUp as error:
            if not work.record.can_be_undone and not work.record.has_ended:
                raise _stuck(work, error.message, error.hint) from error
            given_up = error
        except (psycopg.OperationalError, psycopg.InternalError) as error:
            failing_s = failing_s or time.monotonic()
            away_s = time.monotonic() - failing_s
            said = first_line(error)
            if isinstance(error, psycopg.errors.DiskFull):
                said = f"a disk is full: {said}"
            if stuck_max_s is not None and work.record.can_be_undone:
                if away_s > stuck_max_s:
                    given_up = GivenUp(f"a server does not answer: {said}", again_hint)
            elif away_s > away_max_s:
                raise EngineError(
                    f"{work.what} waits at stage {work.record.stage}: {said}",
                    hint=f"It goes on by itself when {work.needed} can be reached again.",
                ) from error
            work.broken(f"trying again: {said}")
            if stop.wait(pause_s):
                return
            pause_s = min(_AGAIN_MAX_S, pause_s * 1.6)
        except Conflict:
            raise
        except (psycopg.Error, HeadwayError) as error:
            message, hint = (error.message, error.hint) if isinstance(error, HeadwayError) else (str(error), "")
            if not work.record.can_be_undone:
                raise _stuck(work, message, hint or "") from error
            given_up = GivenUp(message, hint or "")


def _stuck(work: Carried, message: str, hint: str) -> EngineError:
    return EngineError(
        f"{work.what} cannot go on at stage {work.record.stage}: {message}",
        hint=hint or "Correct that, and it goes on from there.",
    )


def become_carrier(try_lock: Callable[[], bool], what: str, stop: threading.Event) -> None:
    """Conflict when another one does not let go; a killed one's connection takes a moment to end."""
    deadline_s = time.monotonic() + _LOCKED_S
    while not try_lock():
        if time.monotonic() > deadline_s:
            raise Conflict(f"another one is at work on {what}", hint="headway db status shows it.")
        if stop.wait(0.05):
            raise Stopped


@contextlib.contextmanager
def reached(what: str, conninfo: str, application: str) -> Iterator[Connection]:
    """A connection for a few questions. EngineError when nobody answers, or does so no more."""
    try:
        with connect(conninfo, application) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise away(what, error) from error


def away(what: str, error: psycopg.Error) -> EngineError:
    """The error for a server that cannot be asked."""
    return EngineError(f"{what} does not answer: {first_line(error)}", hint="headway status shows what runs.")


def first_line(error: BaseException) -> str:
    """What there is to say of an error, on one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
