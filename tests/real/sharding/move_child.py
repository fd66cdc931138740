"""A mover in a process of its own, which kills itself at a chosen point: python move_child.py SERVERS MOVE [STAGE NTH].

NTH: the statement of that stage at which it dies, before or (negative) after the server has carried it out. Without a
stage it moves on to the end, and prints the pause.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import psycopg

from headway.sharding.move import mover
from headway.sharding.move.nouns import MoveServer
from headway.sharding.move.work import Work

_execute = psycopg.Connection.execute
_carry_on = mover._carry_on


def main() -> None:
    told = json.loads(sys.argv[1])
    move_id = int(sys.argv[2])
    at: str | None = sys.argv[3] if len(sys.argv) > 3 else None
    nth = int(sys.argv[4]) if at else 0
    works: list[Work] = []
    now: dict[str, Any] = {"stage": "", "count": 0}

    def carry_on(work: Work) -> None:
        works.append(work)
        _carry_on(work)

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        stage = works[0].move.stage if works else ""
        now.update(stage=stage, count=now["count"] + 1 if stage == now["stage"] else 1)
        last = stage == at and now["count"] == abs(nth)
        if last and nth > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = _execute(self, *arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    if at:
        psycopg.Connection.execute = execute  # type: ignore[method-assign]
        mover._carry_on = carry_on
    servers = {name: MoveServer(**server) for name, server in told["servers"].items()}
    result = mover.Mover("orders", told["catalog"], servers, progress=lambda _: None, stop=threading.Event()).resume(
        move_id
    )
    print(json.dumps({"pause_ms": result.write_pause_ms, "verified": result.verified, "rows": result.rows}))


main()
