"""Who the engines run as. PostgreSQL refuses to run as root, and HAProxy should not: as root they get another user."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

# The first that exists; a machine's owner who wants a separate one creates `headway` (useradd --system headway).
_CANDIDATES = ("headway", "nobody")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to run a process as."""

    name: str
    uid: int
    gid: int


def engine_identity() -> Identity | None:
    """The user for engines when we are root; None when we are not (they run as ourselves then)."""
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Identity(name, entry.pw_uid, entry.pw_gid)
    return None
