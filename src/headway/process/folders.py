"""Where a system keeps its things: the state folder beside the declaration, and a short private run folder for sockets.

HAProxy refuses socket paths over 97 bytes, so sockets cannot live in a state folder of any depth; the run folder's name
is derived from the state folder's path, so that every command finds it without being told.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from headway.errors import MachineError
from headway.process.identity import Identity, engine_identity

SOCKET_PATH_MAX_BYTES = 97


@dataclass(frozen=True, slots=True)
class Folders:
    """The paths of one system. `state` survives, `run` goes when the system stops."""

    state: Path
    run: Path

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def traces(self) -> Path:
        """What requests spent their time on, a file a replica."""
        return self.state / "traces"

    @property
    def edge(self) -> Path:
        """The edge's own corner: its configuration, certificate copy and run-time socket; owned by the engine user."""
        return self.run / "edge"

    @property
    def replicas(self) -> Path:
        """Sockets and telemetry of replicas."""
        return self.run / "r"

    @property
    def alive(self) -> Path:
        """The folder whose one file the worker's native server answers health checks with."""
        return self.run / "alive"

    @property
    def databases(self) -> Path:
        """Private socket folders of database servers."""
        return self.run / "d"

    @property
    def caches(self) -> Path:
        """Private folders of cache servers: configuration and socket."""
        return self.run / "c"

    @property
    def app(self) -> Path:
        """Files that the app's processes share with each other."""
        return self.run / "app"

    @property
    def calls(self) -> Path:
        """Sockets at which services are called by others."""
        return self.run / "s"

    @property
    def ports(self) -> Path:
        """The ports at which services are called by URL, by service."""
        return self.run / "ports.json"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def control_socket(self) -> Path:
        return self.run / "control.sock"

    @property
    def journal(self) -> Path:
        return self.state / "journal.jsonl"


# Below it lie the sockets, whose paths are short, and words in HAProxy's commands: those end at a blank, unquoted.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]{1,39}")


def folders_for(state: Path, environ: dict[str, str] | None = None) -> Folders:
    """The folders of the system whose state is kept in `state`; nothing is created."""
    state = Path(os.path.abspath(state))
    name = hashlib.sha256(str(state).encode()).hexdigest()[:10]
    uid = os.getuid()
    runtime = Path((environ if environ is not None else os.environ).get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    if uid == 0 and os.access("/run", os.W_OK):
        parent = Path("/run")
    elif _PLAIN.fullmatch(str(runtime)) and runtime.is_dir() and os.access(runtime, os.W_OK):
        parent = runtime
    else:
        parent = Path("/tmp")
    return Folders(state, parent / f"headway-{uid}-{name}")


def _private(path: Path, mode: int, owner: Identity | None = None) -> None:
    try:
        path.mkdir(mode=mode, parents=False, exist_ok=True)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner.uid if owner else os.geteuid()):
            raise MachineError(
                f"{path} exists and is not a folder of ours",
                hint=f"look who made it, then remove it: rm -r {shlex.quote(str(path))}",
            )
        path.chmod(mode)
        if owner:
            os.chown(path, owner.uid, owner.gid)
    except (FileExistsError, NotADirectoryError) as error:
        raise MachineError(
            f"{path} is no folder, or lies in what is none", hint="name a folder: headway up --state DIR"
        ) from error
    except OSError as error:
        raise MachineError(
            f"the folder {path} cannot be created: {error.strerror}",
            hint="make its parent writable, or keep the state elsewhere: headway up --state DIR",
        ) from error


def create(folders: Folders) -> None:
    """Create both folders, private to us; as root the engine user gets its own corner. MachineError when it cannot."""
    engine = engine_identity()
    through = 0o711 if engine else 0o700
    if not folders.state.parent.is_dir():
        raise MachineError(f"{folders.state.parent} is no folder", hint="give an existing one: --state DIR")
    _private(folders.state, through)
    _private(folders.logs, 0o700)
    _private(folders.traces, 0o700)
    _private(folders.run, through)
    for path in (folders.replicas, folders.alive, folders.databases, folders.caches):
        _private(path, through)
    _private(folders.app, 0o700)
    _private(folders.calls, 0o700)
    _private(folders.edge, 0o700, engine)
    (folders.alive / "alive").write_text("ok\n")
    if len(os.fsencode(folders.replicas / ("x" * 40))) > SOCKET_PATH_MAX_BYTES:
        raise MachineError(f"the run folder {folders.run} is too deep for sockets", hint="unset XDG_RUNTIME_DIR")


def remove_run(folders: Folders) -> None:
    """Remove the run folder after a clean stop."""
    shutil.rmtree(folders.run, ignore_errors=True)
