"""Looks before a system starts: what cannot work is refused while nothing has been made, started or changed.

The controller finds the same mistakes again where it matters (ports and certificates may change at any moment); here
they cost nobody a half-started system.
"""

from __future__ import annotations

from pathlib import Path

from headway.caching.engine import find_valkey
from headway.control.exporting import check_exporting
from headway.edge.certificate import load_certificate
from headway.edge.haproxy import find_haproxy
from headway.errors import MachineError
from headway.model.declared import System as Declared
from headway.process.listeners import check_address
from headway.process.machine import DESCRIPTORS_RAISED, descriptors_allowed
from headway.runtimes.local.edge_plan import CONNECTIONS_MIN, addresses
from headway.sharding.engine import find_postgresql

# Each of the fewest connections the edge is made for, and the request it carries at a replica; the rest is sockets,
# logs and pipes. Lower, and the system would start only to fail under its first load.
DESCRIPTORS_MIN = 2 * CONNECTIONS_MIN + 48


def check_start(declared: Declared, *, check_addresses: bool) -> None:
    """Raise MachineError or EngineError for the first thing that would keep `declared` from starting.

    `check_addresses`: not where processes of an earlier system still hold them.
    """
    check_descriptors(descriptors_allowed())
    check_exporting(declared)
    listens = addresses(declared)
    if listens:
        find_haproxy()
    if any(not database.urls for database in declared.databases.values()):
        find_postgresql()
    if any(cache.is_embedded for cache in declared.caches.values()):
        find_valkey()
    check_certificate(declared)
    if check_addresses:
        for address in listens:
            check_address(address)


def check_certificate(declared: Declared) -> None:
    """MachineError or EngineError when the declared certificate could not be served now."""
    if declared.edge.tls is not None:
        key = declared.edge.tls.key
        load_certificate(Path(declared.edge.tls.certificate), Path(key) if key else None)


def check_descriptors(allowed: int) -> None:
    """MachineError when a process may open too few files and sockets for any real load."""
    if allowed < DESCRIPTORS_MIN:
        raise MachineError(
            f"a process may open only {allowed:,} files and sockets here; {DESCRIPTORS_MIN:,} is the least",
            hint=f"raise the limit: ulimit -n {DESCRIPTORS_RAISED}, LimitNOFILE={DESCRIPTORS_RAISED} in a unit, "
            "or nofile in /etc/security/limits.conf",
        )
