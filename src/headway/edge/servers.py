"""How a replica is watched and fed, in HAProxy's words: written once, used by the file and by the run-time API alike.

A server that is added at run time inherits nothing from the file, so every option is said on each server.

The figures, and what they trade:

- `inter 250ms fastinter 100ms fall 2 rise 1`, `timeout check 650ms`: a replica that hangs is out after at most
  250 + 650 + 100 + 650 ms, and one that is starved of processor time has 650 ms to answer, twice, before it
  counts as dead. The answer comes from the worker's native server without Python, so a busy app never fails it.
- `observe layer4 error-limit 3 on-error sudden-death`: three refused connections in a row make the next check decisive
  and due at once, instead of ejecting on their own. A full backlog therefore never ejects a living replica.
- `on-marked-down shutdown-sessions`: requests that wait on a replica found dead are let go, and repeated elsewhere
  where that is safe.
"""

from __future__ import annotations

from headway.edge.words import word
from headway.model.edge import EdgeReplica

CHECK_INTERVAL_MS = 250
CHECK_INTERVAL_DOUBTED_MS = 100
CHECK_TIMEOUT_MS = 650

_WATCHED = (
    f"check inter {CHECK_INTERVAL_MS}ms fastinter {CHECK_INTERVAL_DOUBTED_MS}ms fall 2 rise 1 "
    "observe layer4 error-limit 3 on-error sudden-death on-marked-down shutdown-sessions"
)


def server_line(replica: EdgeReplica, *, sticky: bool) -> str:
    """Everything after `server NAME` in the file, and after `add server BACKEND/NAME` on the socket."""
    parts = [word(f"unix@{replica.address}"), f"maxconn {max(1, replica.limit)}", _WATCHED]
    if sticky:
        parts.append(f"cookie {word(replica.name)}")
    return " ".join(parts)


def draining_file(run_folder: str) -> str:
    """The list of replicas that their sticky clients leave; HAProxy wants it to exist as a file, empty at its start."""
    return f"{run_folder}/draining.list"
