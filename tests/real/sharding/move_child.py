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

_execute = psycopg.Connection.execute


def main() -> None:
    told = json.loads(sys.argv[1])
    move_id = int(sys.argv[2])
    at: str | None = sys.argv[3] if len(sys.argv) > 3 else None
    nth = int(sys.argv[4]) if at else 0
    now = {"stage": "", "count": 0}

    def progress(told: Any) -> None:
        if told.stage != now["stage"]:
            now.update(stage=told.stage, count=0)

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        now["count"] += 1  # type: ignore[operator]
        last = now["stage"] == at and now["count"] == abs(nth)
        if last and nth > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = _execute(self, *arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    if at:
        psycopg.Connection.execute = execute  # type: ignore[method-assign]
    servers = {name: MoveServer(**server) for name, server in told["servers"].items()}
    result = mover.Mover("orders", told["catalog"], servers, progress=progress, stop=threading.Event()).resume(move_id)
    print(json.dumps({"pause_ms": result.write_pause_ms, "verified": result.verified, "rows": result.rows}))


main()
