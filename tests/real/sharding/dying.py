"""For carriers in a process of their own, which kill themselves at a chosen point of their work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

import psycopg

_execute = psycopg.Connection.execute


def die_at(module: ModuleType, stage: str, nth: int, stage_of: Callable[[Any], str]) -> None:
    """At the nth statement of that stage of what `module` carries. `stage_of`: where the work is that is carried."""
    carry_on = module.carry
    carried: list[Any] = []
    now: dict[str, Any] = {"stage": "", "count": 0}

    def carry(work: Any, *arguments: Any, **options: Any) -> None:
        carried.append(work)
        carry_on(work, *arguments, **options)

    def is_it() -> bool:
        at = stage_of(carried[0]) if carried else ""
        now.update(stage=at, count=now["count"] + 1 if at == now["stage"] else 1)
        return bool(at == stage and now["count"] == abs(nth))

    module.carry = carry  # type: ignore[attr-defined]
    die_when(is_it, before=nth > 0)


def die_when(is_it: Callable[[], bool], *, before: bool) -> None:
    """By SIGKILL at the statement of which `is_it` says so, before or after the server has carried it out."""

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        last = is_it()
        if last and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = _execute(self, *arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    psycopg.Connection.execute = execute  # type: ignore[method-assign]
