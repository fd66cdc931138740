"""Brings up an embedded Valkey: its folder and configuration, how to spawn it, its bounds while it runs.

The supervisor spawns and restarts the process; it needs nothing that was there before.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

from headway.caching.asking import Asking
from headway.caching.engine import Engine, find_valkey, reachable_engine
from headway.caching.place import Place
from headway.caching.settings import Settings, render
from headway.errors import MachineError
from headway.process.identity import Identity, engine_identity

SOCKET, CONFIGURATION = "valkey.sock", "valkey.conf"
STOP_SIGNAL, STOP_TIMEOUT_S = signal.SIGTERM, 5.0


@dataclass(frozen=True, slots=True)
class Server:
    """A prepared embedded server."""

    name: str
    engine: Engine
    identity: Identity | None  # the user it runs as; None: ourselves
    folder: Path

    @property
    def place(self) -> Place:
        return Place(path=str(self.folder / SOCKET))

    @property
    def argv(self) -> tuple[str, ...]:
        return (str(self.engine.path), str(self.folder / CONFIGURATION))

    @property
    def env(self) -> dict[str, str]:
        """Nothing of ours leaks into the engine."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/nonexistent"}


def place_in(caches_folder: Path, name: str) -> Place:
    """Where the embedded server of a cache is, whether it runs or not."""
    return Place(path=str(caches_folder / name / SOCKET))


def prepare(caches_folder: Path, name: str, memory_max_bytes: int) -> Server:
    """Make everything ready to spawn it; one that runs already is not touched. EngineError where no engine is."""
    identity = engine_identity()
    engine = reachable_engine(find_valkey(), identity)
    folder = caches_folder / name
    server = Server(name, engine, identity, folder)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        if identity:
            os.chown(folder, identity.uid, identity.gid)
    except OSError as error:
        raise _unwritable(server, error) from error
    configure(server, memory_max_bytes)
    return server


def configure(server: Server, memory_max_bytes: int) -> None:
    """Write the file that it reads at its next start."""
    engine = server.engine
    text = render(
        Settings(
            str(server.folder / SOCKET),
            str(server.folder),
            memory_max_bytes,
            engine.numbers,
            engine.flavour == "Valkey",
        )
    )
    try:
        descriptor, new = tempfile.mkstemp(prefix=f".{CONFIGURATION}.", dir=server.folder)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                if server.identity:
                    os.fchown(file.fileno(), server.identity.uid, server.identity.gid)
            os.rename(new, server.folder / CONFIGURATION)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
    except OSError as error:
        raise _unwritable(server, error) from error


def set_memory_max(server: Server, memory_max_bytes: int) -> None:
    """Another bound for a server that runs, at once and after its next start. Unanswered when it is away."""
    configure(server, memory_max_bytes)
    with Asking(server.place) as asking:
        asking.ask("CONFIG", "SET", "maxmemory", memory_max_bytes)


def _unwritable(server: Server, error: OSError) -> MachineError:
    return MachineError(
        f"cache {server.name} cannot be prepared: {server.folder}: {error.strerror or error}",
        hint="Check that the folder is writable and the disk not full.",
    )
