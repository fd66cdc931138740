"""A carrier in a process of its own, which kills itself at a chosen point: python import_child.py TOLD [STAGE NTH].

NTH: the statement of that stage at which it dies, before or (negative) after the server has carried it out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import psycopg

from headway.model.sharding import Join
from headway.sharding.importing import importer
from headway.sharding.importing.nouns import ImportServer, Source
from headway.sharding.importing.work import Work

_execute = psycopg.Connection.execute
_carry_on = importer._carry_on


def main() -> None:
    told = json.loads(sys.argv[1])
    at: str | None = sys.argv[2] if len(sys.argv) > 2 else None
    nth = int(sys.argv[3]) if at else 0
    works: list[Work] = []
    now: dict[str, Any] = {"stage": "", "count": 0}

    def carry_on(work: Work) -> None:
        works.append(work)
        _carry_on(work)

    def execute(self: Any, *arguments: Any, **options: Any) -> Any:
        stage = works[0].record.stage if works else ""
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
        importer._carry_on = carry_on
    found = importer.Importer(
        "orders",
        told["catalog"],
        [ImportServer(**server) for server in told["servers"]],
        reference=tuple(told["reference"]),
        joins={table: Join(*join) for table, join in told["joins"].items()},
        progress=lambda _: None,
        stop=threading.Event(),
    ).resume(told["import"], Source("main", told["source"], told["source"]))
    print(found.stage)


main()
