"""A process that runs a tool of the app's over shards, in the app's own interpreter: what it is asked, what it tells.

A plain database is asked for as one shard; it is known by the session that holds its lock.

One process takes all shards of a server, one after the other: what costs time is to import the app. What is asked is a
JSON object on standard input; answers are lines of JSON on standard output. What the tool and the app print goes to a
file instead, whose end is told with a failure.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import traceback
from typing import Any

_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 4096
_TAIL_LINES = 12


class Run:
    """One process's work."""

    def __init__(self, asked: dict[str, Any], answers: Any, printed: int) -> None:
        self.asked = asked
        self.shard: dict[str, Any] = {}  # the one that is worked on
        self.step = ""  # and what of it
        self._answers = answers
        self._printed = printed  # descriptor of the file that standard output and error go to

    def do(self) -> None:
        """What is asked."""
        raise NotImplementedError

    def upgrade_one(self) -> None:
        """Bring the shard at hand to the newest state."""
        raise NotImplementedError

    @property
    def is_this_one(self) -> str:
        """A query that tells whether a connection is to the plain database that is asked for; empty for shards."""
        if not (holder := self.asked.get("holder")):
            return ""
        return (
            f"SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = {int(holder)} "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
        )

    @property
    def schema(self) -> str:
        """The shard's schema as SQL takes it; the name of a database holds no quotes."""
        return f'"{self.shard["schema"]}"'

    @property
    def search_path(self) -> str:
        """Where names are looked for in the shard at hand."""
        return f"{self.schema},{self.asked['behind']}"

    def upgrade(self) -> None:
        """Do it for every shard; one that fails is told, and the next one is tried."""
        for shard in self.asked["shards"]:
            self.shard, self.step = shard, ""
            os.ftruncate(self._printed, 0)
            os.lseek(self._printed, 0, os.SEEK_SET)
            try:
                self.upgrade_one()
            except (Exception, SystemExit) as error:
                self.answer({"shard": shard["shard"], "failed": self._failure(error)})
            else:
                self.answer({"shard": shard["shard"], "failed": None})

    def answer(self, answer: dict[str, Any]) -> None:
        """Tell a line."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def kind_of(self, error: BaseException) -> str:
        """What sort of failure it is, for whoever asked."""
        return type(error).__name__

    def _failure(self, error: BaseException) -> dict[str, Any]:
        sys.stdout.flush()
        sys.stderr.flush()
        size = os.fstat(self._printed).st_size
        printed = os.pread(self._printed, _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        told = "".join(traceback.format_exception_only(type(error), error))
        lines = [line for line in (printed + "\n" + told).splitlines() if line.strip()]
        return {
            "step": self.step,
            "message": said(error),
            "lines": lines[-_TAIL_LINES:],
            "kind": self.kind_of(error),
            "code": _sqlstate(error),
        }

    def failed(self, error: BaseException) -> None:
        """Tell what prevents all of it."""
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        told = said(error)
        if isinstance(error, SyntaxError) and error.filename:
            told = f"{error.filename}:{error.lineno}: {error.msg}"
        self.answer({"failed": {"message": told, "missing": missing, "kind": self.kind_of(error)}})


def _sqlstate(error: BaseException) -> str:
    """What PostgreSQL has called it, by whatever driver and library that has come; empty for others."""
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop(0)
        if one is None:
            continue
        found = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if isinstance(found, str):
            return found
        left += [getattr(one, "orig", None), one.__cause__]
    return ""


def said(error: BaseException) -> str:
    """The first line of an error; of one that SQLAlchemy has wrapped, what the database said."""
    original = getattr(error, "orig", None)
    text = str(original if original is not None else error).strip() or type(error).__name__
    return re.sub(r"^<class '[\w.]+'>: ", "", text.splitlines()[0])


def run_tool(work: type[Run]) -> int:
    """Read what is asked, do it, and tell."""
    asked = json.load(sys.stdin)
    # Whoever asked holds the lock against others that migrate: without him nothing goes on.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != asked["parent"]:
        return 1
    sys.path[:0] = asked["folders"]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with tempfile.TemporaryFile() as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        run = work(asked, answers, file.fileno())
        try:
            run.do()
        except (Exception, SystemExit) as error:
            run.failed(error)
            return 1
    return 0
