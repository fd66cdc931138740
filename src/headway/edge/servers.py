"""How a replica is watched and fed, in HAProxy's words: written once, used by the file and by the run-time API alike.

A server that is added at run time inherits nothing from the file, so every option is said on each server.

The figures, and what they trade:

- `inter 250ms fastinter 100ms fall 2 rise 1`, `timeout check 650ms`: a replica that hangs is out after at most
  250 + 650 + 100 + 650 ms, and one that is starved of processor time has 650 ms to answer, twice, before it
  counts as dead. The answer comes from the worker's native server without Python, so a busy app never fails it.
- `observe layer4 error-limit 3 on-error sudden-death`: three refused connections in a row make the next check decisive
  and due at once, instead of ejecting on their own. A full backlog therefore never ejects a living replica.
- `inter 1s fastinter 200ms` in the other classes of a service: the same replicas are checked once more there, and that
  costs at rest. A dead one is found by its refused connections all the same, a stopped one a second later.
- `on-marked-down shutdown-sessions`: requests that wait on a replica found dead are let go, and repeated elsewhere
  where that is safe.
"""

from __future__ import annotations

import re

from headway.edge.words import word
from headway.model.edge import EdgeReplica
from headway.model.overload import class_of

CHECK_INTERVAL_MS = 250
CHECK_INTERVAL_DOUBTED_MS = 100
CHECK_TIMEOUT_MS = 650

CLASS_INTERVAL_MS = 1000
CLASS_INTERVAL_DOUBTED_MS = 200

_MAIN_CHECK = f"check inter {CHECK_INTERVAL_MS}ms fastinter {CHECK_INTERVAL_DOUBTED_MS}ms"
_CLASS_CHECK = f"check inter {CLASS_INTERVAL_MS}ms fastinter {CLASS_INTERVAL_DOUBTED_MS}ms"
_WATCHED = "fall 2 rise 1 observe layer4 error-limit 3 on-error sudden-death on-marked-down shutdown-sessions"

_BACKEND_OR_SERVER = re.compile(r"^(?:backend (\S+)|    server (\S+) .* maxconn (\d+) check )", re.MULTILINE)


def server_line(replica: EdgeReplica, *, sticky: bool, main: bool = True) -> str:
    """Everything after `server NAME` in the file, and after `add server BACKEND/NAME` on the socket."""
    check = _MAIN_CHECK if main else _CLASS_CHECK
    parts = [word(f"unix@{replica.address}"), f"maxconn {max(1, replica.limit)}", check, _WATCHED]
    if sticky:
        parts.append(f"cookie {word(replica.name)}")
    return " ".join(parts)


def draining_file(run_folder: str) -> str:
    """The list of replicas that their sticky clients leave; HAProxy wants it to exist as a file, empty at its start."""
    return f"{run_folder}/draining.list"


def learned_file(run_folder: str, service: str) -> str:
    """The list of a service's routes that were found to be slow, each with a slash at its end; it must exist too."""
    return f"{run_folder}/{service}.slow.list"


def read_limits(text: str) -> dict[tuple[str, int], int]:
    """The limits that a file holds, by replica and class: what `server_line` wrote, the other way round."""
    limits: dict[tuple[str, int], int] = {}
    number = 0
    for backend, server, limit in _BACKEND_OR_SERVER.findall(text):
        if server:
            limits[server, number] = int(limit)
        elif not backend.startswith("headway."):
            number = class_of(backend)[1]
    return limits
