"""Long work that was asked for by a command: it runs in a thread, and whoever asks hears how far it is.

Bounded: a few at once, and the last ones stay for a while after their end, so that a command that looks late still
gets its answer.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headway.errors import Conflict, HeadwayError

AT_ONCE_MAX = 8
KEPT = 50
LINES_MAX = 1000

Say = Callable[[str], None]
Work = Callable[[Say, threading.Event], dict[str, Any]]


@dataclass
class Task:
    """One piece of work; `result` or `error` when it has ended."""

    number: int
    what: str
    lines: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: HeadwayError | None = None
    ended_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    def say(self, line: str) -> None:
        """A line for whoever follows; the same one twice is told once."""
        if len(self.lines) < LINES_MAX and (not self.lines or self.lines[-1] != line):
            self.lines.append(line)

    def document(self, after: int) -> dict[str, Any]:
        """What has been said since, and how it ended."""
        error = self.error
        return {
            "task": self.number,
            "what": self.what,
            "lines": self.lines[after:],
            "ended": bool(self.ended_s),
            "result": self.result,
            "failed": {"message": error.message, "hint": error.hint, "kind": type(error).__name__} if error else None,
        }


class Tasks:
    """All of a controller's."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._tasks: dict[int, Task] = {}
        self._lock = threading.Lock()

    def begin(self, what: str, work: Work) -> Task:
        """Start it. Conflict when too much is under way."""
        with self._lock:
            running = [task for task in self._tasks.values() if not task.ended_s]
            if len(running) >= AT_ONCE_MAX:
                raise Conflict(f"{len(running)} commands are at work already", hint="Wait for one of them.")
            ended = sorted((task for task in self._tasks.values() if task.ended_s), key=lambda task: task.ended_s)
            for task in ended[: max(0, len(ended) - KEPT)]:
                del self._tasks[task.number]
            task = Task(next(self._numbers), what)
            self._tasks[task.number] = task
        threading.Thread(target=self._run, args=(task, work), name=f"headway-{what}", daemon=True).start()
        return task

    def find(self, number: int) -> Task:
        """A task by its number. HeadwayError when it is not known: the controller was started again."""
        found = self._tasks.get(number)
        if found is None:
            raise HeadwayError(
                f"there is no task {number}: the controller was started again",
                hint="headway db status shows what goes on by itself. Anything else: run the command again.",
            )
        return found

    def stop(self) -> None:
        """Ask all to come to an end."""
        for task in list(self._tasks.values()):
            task.stop.set()

    def _run(self, task: Task, work: Work) -> None:
        try:
            task.result = work(task.say, task.stop)
        except HeadwayError as error:
            task.error = error
        except Exception as error:
            task.error = HeadwayError(f"{task.what} failed: {error}", hint="headway logs controller")
        task.ended_s = time.monotonic()
