"""Who the engines run as. PostgreSQL refuses to run as root, and HAProxy should not: as root they get another user."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass

# The first that exists; a machine's owner who wants a separate one creates `headway` (useradd --system headway).
_CANDIDATES = ("headway", "nobody")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user to run a process as."""

    name: str
    uid: int
    gid: int


def engine_identity(
    euid: int | None = None, lookup: Callable[[str], pwd.struct_passwd] = pwd.getpwnam
) -> Identity | None:
    """The user for engines when we are root; None when we are not (they run as ourselves then).

    None as root as well where the machine has no such user: an engine that refuses root then has to say so.
    """
    if (os.geteuid() if euid is None else euid) != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = lookup(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Identity(name, entry.pw_uid, entry.pw_gid)
    return None


def identity_of(uid: int) -> Identity | None:
    """The user with this number; None when the machine knows no name for it."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Identity(entry.pw_name, entry.pw_uid, entry.pw_gid)
