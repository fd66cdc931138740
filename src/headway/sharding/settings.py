"""How an embedded PostgreSQL is set up, as text: its configuration, who may log in, its names and ports. Pure.

Safe before fast: nothing here trades an acknowledged write for speed. Reachable from this machine only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

# The administrator of an embedded server. A system's name never begins with `_`, so no app role can collide with it.
SUPERUSER = "_headway"
CONNECTIONS_MAX = 200
CONFIGURATION_FILE = "headway.conf"
INCLUDE_LINE = f"include = '{CONFIGURATION_FILE}'  # what Headway sets; written anew at every start\n"

_MIB = 1024 * 1024
# Below the ephemeral range (32768 and up on Linux), so that no outgoing connection happens to sit on our port.
_PORT_FIRST = 20_000
_PORT_COUNT = 10_000
_PORTS_TRIED = 200
# The kernel's limit for the path of a unix socket is 108 bytes with its end.
SOCKET_PATH_MAX_BYTES = 107


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs from server to server."""

    cluster_name: str
    port: int
    socket_folder: str
    shared_buffers_bytes: int


def shared_buffers_bytes(memory_bytes: int | None) -> int:
    """How much memory PostgreSQL keeps pages in: a sixteenth of ours, from 128 MiB to 1 GiB.

    A sixteenth, not the quarter of a dedicated machine: the app's replicas live beside it, and the kernel's page cache
    serves what does not fit. On very small machines a quarter at most.
    """
    if memory_bytes is None:
        return 128 * _MIB
    floor = min(128 * _MIB, max(16 * _MIB, memory_bytes // 4))
    return max(floor, min(memory_bytes // 16, 1024 * _MIB)) // _MIB * _MIB


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list_element(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def render_configuration(settings: Settings) -> str:
    """The text of `headway.conf`, included last by `postgresql.conf`."""
    return f"""\
# Written by Headway at every start; changes here are lost.
cluster_name = {_quoted(settings.cluster_name)}

# This machine only: TCP on loopback for the app, a private socket for administration.
listen_addresses = '127.0.0.1'
port = {settings.port}
unix_socket_directories = {_quoted(_list_element(settings.socket_folder))}
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'

max_connections = {CONNECTIONS_MAX}
shared_buffers = {settings.shared_buffers_bytes // _MIB}MB
# Compiling plans costs short queries more than it gives them.
jit = off

# A shard moves to another server while it is written to, by logical replication; a slot that nobody reads any more
# must not keep the log until the disk is full; transactions over two shards are prepared on both.
wal_level = logical
max_replication_slots = 20
max_wal_senders = 20
max_worker_processes = 20
max_logical_replication_workers = 12
max_slot_wal_keep_size = 4GB
max_prepared_transactions = 64

# A statement whose client died is given up instead of keeping its locks to the end.
client_connection_check_interval = 1s

# An acknowledged write survives a crash of the server and of the machine.
fsync = on
full_page_writes = on
synchronous_commit = on
restart_after_crash = on

# Plain English lines on standard error, which the supervisor keeps in a bounded file.
log_destination = 'stderr'
logging_collector = off
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
lc_messages = 'C'
"""


def render_access(superuser: str = SUPERUSER) -> str:
    """The text of `pg_hba.conf`: the administrator by the private socket alone, proven by the kernel; all others by
    password."""
    return f"""\
# Written by Headway at every start; changes here are lost.
# TYPE  DATABASE     USER          ADDRESS         METHOD
local   all          {superuser}                      peer map=headway
local   replication  {superuser}                      peer map=headway
local   all          all                           scram-sha-256
host    all          {superuser}      127.0.0.1/32    reject
host    all          all           127.0.0.1/32    scram-sha-256
"""


def render_users(system_users: tuple[str, ...], superuser: str = SUPERUSER) -> str:
    """The text of `pg_ident.conf`: which users of the machine may administer."""
    lines = ["# Written by Headway at every start; changes here are lost."]
    lines += [f'headway  "{user}"  {superuser}' for user in dict.fromkeys(system_users)]
    return "\n".join(lines) + "\n"


def role_name(system: str) -> str:
    """The app's role: named like the system, unless PostgreSQL keeps that name to itself."""
    return f"app_{system}" if system.startswith("pg_") or system in ("public", "none") else system


def database_name(name: str) -> str:
    """The database: named like the declaration's, unless PostgreSQL keeps that name to itself."""
    return f"app_{name}" if name in ("template0", "template1") else name


def port_candidates(seed: str) -> Iterator[int]:
    """Ports to try, in order. The first follows from `seed`, so that systems on one machine rarely want the same."""
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) % _PORT_COUNT
    for step in range(_PORTS_TRIED):
        yield _PORT_FIRST + (first + step) % _PORT_COUNT
