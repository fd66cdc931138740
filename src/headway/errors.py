"""The errors a user of Headway can meet, sorted by what the caller may do about them.

    HeadwayError
    ├── DeclarationError     the declaration is wrong: change the file (carries every problem found)
    ├── AppError             the user's own app cannot be served: change the app
    ├── EngineError          HAProxy, PostgreSQL or an interpreter is missing or refuses: install or repair it
    ├── MachineError         the machine refuses: a port, a descriptor limit, a folder, a full disk
    ├── NotRunning           nothing runs here: start it first
    ├── Conflict             somebody else is at it: wait or stop them
    ├── DatabaseError        the app's database, as the app itself meets it
    │   ├── DatabaseBusy     too many transactions at once: answer 503, come again (Headway's worker does so by itself)
    │   ├── ServerDown       the server of these keys does not answer; others may: as above
    │   ├── ShardMoved       the shard went to another server, nothing was committed: do the transaction again
    │   ├── WrongShard       a row of another shard's key: check out the shard of that key
    │   └── CannotScatter    the statement cannot be answered over all shards: what, and what can
    ├── CacheError           the app's cache, as the app itself meets it
    │   ├── WrongCacheKey    an argument says nothing that a value could be found by: give `key=`
    │   ├── CannotCarry      a value would not come back from the cache as it went in: annotate, or give `codec=`
    │   ├── CacheLoop        a function's load waits for itself: call the function that is not cached
    │   └── CacheBusy        no value in time, for others load it or too many do: as DatabaseBusy
    └── CallError            another service, as the app that calls it meets it
        ├── Refused          it has no room now: answer 503, come again (Headway's worker does so by itself)
        ├── DeadlineExceeded nobody waits any longer: go on without, or as above
        ├── Unavailable      it is not there, or broke off: as above
        ├── CircuitOpen      it failed too often and is not asked now: as above
        ├── BadAnswer        what came is no answer that could be read: look at the service
        ├── SocketClosed     a WebSocket has ended: open another
        └── StatusError      its app answered, with a status that is no success (`raise_for_status`)

Every error is one sentence that says where and what, and a hint that says what to run or change.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


class HeadwayError(Exception):
    """An error to show to a person: `message`, and what to do about it in `hint` (may be empty)."""

    # Where the app does not handle it, Headway's worker answers 503 with this Retry-After, in seconds.
    retry_after_s: int = 0
    # That it is not to be repeated by whoever called: the retries for what is behind it are used up.
    has_no_retry: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.come_again()

    def come_again(self) -> None:
        """The request at work meets this error: have the worker know, where it passes by itself."""
        worker = sys.modules.get("headway_worker.asked")
        if worker is not None and self.retry_after_s:
            worker.come_again(self.retry_after_s, *((True,) if self.has_no_retry else ()))  # one of before has no such


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a declaration: the path of the key (`services.web.replicas`), what is wrong, what to do."""

    path: str
    message: str
    hint: str = ""


class DeclarationError(HeadwayError):
    """The declaration cannot be used; `problems` holds all of them, in the order of the file's sections."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(f"{source}: {count} problem{'s' if count != 1 else ''}")
        self.source = source
        self.problems = problems


class AppError(HeadwayError):
    """The app cannot be served; `detail` is the app's own traceback, cut to its own frames (may be empty)."""

    def __init__(self, message: str, *, hint: str = "", detail: str = "") -> None:
        super().__init__(message, hint=hint)
        self.detail = detail


class EngineError(HeadwayError):
    """An engine (HAProxy, PostgreSQL, the app's interpreter) is missing, too old or refuses to start."""


class MachineError(HeadwayError):
    """The machine refuses: port taken, descriptor limit, folder read-only, disk full."""


class NotRunning(HeadwayError):
    """No running system was found where one was expected."""


class Conflict(HeadwayError):
    """The request collides with something under way: a second apply, a system that runs already."""


class DatabaseError(HeadwayError):
    """What the app meets of its database besides the driver's own errors."""


class DatabaseBusy(DatabaseError):
    """No place at the server within the time that this transaction may wait. Nothing was done."""

    retry_after_s = 1


class ServerDown(DatabaseError):
    """The server does not answer. When the connection broke after a statement was sent, whether that was done is not
    known; else nothing was done."""

    retry_after_s = 1


class ShardMoved(DatabaseError):
    """The shard moved during the transaction, of which nothing was committed. `run` repeats it by itself."""

    retry_after_s = 1


class WrongShard(DatabaseError):
    """A row with a key of another shard than the one checked out. Nothing was written."""


class CannotScatter(DatabaseError):
    """The statement cannot be run over all shards with the same answer as over one table."""


class CacheError(HeadwayError):
    """What the app meets of its cache. A server that is away is none of it: the app goes on without."""


class WrongCacheKey(CacheError, TypeError):
    """An argument of a cached function that cannot be part of a key. Nothing was looked up."""


class CannotCarry(CacheError, TypeError):
    """A value of which the cache would give back something else. It was not stored."""


class CacheLoop(CacheError):
    """A load needs the very value that it loads, and would wait for itself for ever."""


class CacheBusy(CacheError):
    """No value within the time that somebody waits for it, or so many calls that wait for a place to load that another
    would only make it worse."""

    retry_after_s = 1


class CallError(HeadwayError):
    """A call to `service` came to nothing. The app meets it unless there is a `fallback`."""

    # Tried as often as may be: retries at each level of a chain would multiply.
    has_no_retry = True

    def __init__(self, service: str, message: str, *, hint: str = "", retry_after_s: int = 0) -> None:
        super().__init__(f"service {service}: {message}", hint=hint)
        self.service = service
        self.retry_after_s = retry_after_s  # not before: as long as it is not raised to the app, no request meets it


class Refused(CallError):
    """No room for the call, at the service or in this process. It was not done; come again in `retry_after_s`."""


class DeadlineExceeded(CallError):
    """Nobody waits for the answer any longer. Whether a call that had been sent was done is not known."""


class Unavailable(CallError):
    """Nobody was there, or the connection broke off. Of methods that may be repeated, after all attempts there are."""


class CircuitOpen(Unavailable):
    """The service failed too often just now and is not asked. Nothing was sent."""


class BadAnswer(CallError):
    """What came back is no HTTP answer, or larger than `body_max`."""


class SocketClosed(CallError):
    """The WebSocket was closed, with `code` and `reason`."""

    def __init__(self, service: str, code: int, reason: str) -> None:
        told = f"the WebSocket is closed ({code}{f', {reason}' if reason else ''})"
        super().__init__(service, told, hint="Open another one; 1012 and 1013 mean that it may be there again soon.")
        self.code = code
        self.reason = reason


class StatusError(CallError):
    """The app's answer is no success; `answer` is it, with `status_code`."""

    def __init__(self, service: str, message: str, answer: Any, *, retry_after_s: int = 0) -> None:
        super().__init__(service, message, hint="answer.text says more.", retry_after_s=retry_after_s)
        self.answer = answer
