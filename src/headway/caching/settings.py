"""How an embedded Valkey is set up, as text: its configuration file. Pure.

A cache may lose everything at any moment, so nothing is written to disk. It must not take more than it was given,
neither for values nor for clients that ask and do not read, and nobody but this user may ask it.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_BYTES = 128 * 1024 * 1024  # of a cache that declares no `memory_max`
CLIENTS_MAX = 4096  # each process of the app holds two or three connections
DESCRIPTORS_RESERVED = 64  # of the server's own
VALUE_MAX_BYTES = 64 * 1024 * 1024
# A cache goes before PostgreSQL, HAProxy and Headway's own processes (0), and after a replica of the app (500).
OOM_SCORE_ADJ = 250
# What waits to be read by one client before it is cut off: at once, and over seconds.
_OUTPUT_MAX, _OUTPUT_SOFT, _OUTPUT_SOFT_S = "64mb", "16mb", 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs from server to server."""

    socket: str
    folder: str
    memory_max_bytes: int
    numbers: tuple[int, ...]  # the engine's version
    is_valkey: bool = True


def render(settings: Settings) -> str:
    """The text of `valkey.conf`."""
    return f"""\
# Written by Headway at every start; changes here are lost.

# This machine and this user only: one unix socket, no port.
port 0
unixsocket {_quoted(settings.socket)}
unixsocketperm 600
maxclients {CLIENTS_MAX}
timeout 0

# What was used least lately goes when there is no room.
maxmemory {settings.memory_max_bytes}
maxmemory-policy allkeys-lru
lazyfree-lazy-eviction yes
lazyfree-lazy-expire yes
lazyfree-lazy-server-del yes
lazyfree-lazy-user-del yes
lazyfree-lazy-user-flush yes

# A client that asks and does not read is cut off; those that only listen for changes have less to read.
client-output-buffer-limit normal {_OUTPUT_MAX} {_OUTPUT_SOFT} {_OUTPUT_SOFT_S}
client-output-buffer-limit pubsub {_OUTPUT_MAX} {_OUTPUT_SOFT} {_OUTPUT_SOFT_S}
client-query-buffer-limit {2 * VALUE_MAX_BYTES}
proto-max-bulk-len {VALUE_MAX_BYTES}
{_client_memory(settings)}
# Nothing survives the process.
save ""
appendonly no
dir {_quoted(settings.folder)}

# The supervisor starts it and keeps its output.
daemonize no
logfile ""
loglevel notice
databases 1
oom-score-adj absolute
oom-score-adj-values {OOM_SCORE_ADJ} {OOM_SCORE_ADJ} {OOM_SCORE_ADJ}
"""


def _client_memory(settings: Settings) -> str:
    """All buffers of clients together; the least needed goes first. Not known before Redis 7."""
    return "maxmemory-clients 50%\n" if settings.is_valkey or settings.numbers >= (7,) else ""


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
