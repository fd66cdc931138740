"""A mover in a process of its own, which kills itself at a chosen point: python move_child.py SERVERS MOVE [STAGE NTH].

NTH: the statement of that stage at which it dies, before or (negative) after the server has carried it out. Without a
stage it moves on to the end, and prints the pause.
"""

from __future__ import annotations

import json
import sys
import threading

from dying import die_at

from headway.sharding.move import mover
from headway.sharding.move.nouns import MoveServer


def main() -> None:
    told = json.loads(sys.argv[1])
    move_id = int(sys.argv[2])
    if len(sys.argv) > 3:
        die_at(mover, sys.argv[3], int(sys.argv[4]), lambda carried: carried.work.move.stage)
    servers = {name: MoveServer(**server) for name, server in told["servers"].items()}
    result = mover.Mover("orders", told["catalog"], servers, progress=lambda _: None, stop=threading.Event()).resume(
        move_id
    )
    print(json.dumps({"pause_ms": result.write_pause_ms, "verified": result.verified, "rows": result.rows}))


main()
