"""Where an embedded database's data and socket lie, and what Headway remembers of it.

The data belongs beside the declaration, in `<state>/databases/<name>`. As root the engine runs as another user, who may
not be able to enter that folder (/root is closed to all others): the data then lies below /var/lib/headway, and a note
in its place says where. Data is never readable for others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shlex
import stat
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from headway.errors import EngineError, MachineError
from headway.process.identity import Identity
from headway.process.run import run
from headway.sharding.engine import SHARED_FOLDER
from headway.sharding.settings import SOCKET_PATH_MAX_BYTES

_RECORD_MAX_BYTES = 16 * 1024
_SOCKETS_FOLDER = Path("/run/headway")


@dataclass(frozen=True, slots=True)
class Record:
    """What has to stay the same from start to start, kept in `<state>/databases/<name>.json` with mode 0600."""

    state_folder: str
    data_folder: str
    password: str = field(repr=False)
    port: int = 0  # 0: not chosen yet


def read_record(state_folder: Path, name: str) -> Record | None:
    """What was remembered; None when there is nothing, or when the state folder is a copy of one still in place."""
    path = _record_path(state_folder, name)
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_RECORD_MAX_BYTES))
        record = Record(
            str(values["state_folder"]), str(values["data_folder"]), str(values["password"]), int(values["port"])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # all of it can be made anew: the port, the password, and the place follows from the state folder
    former = Path(record.state_folder)
    if former != state_folder and _record_path(former, name).exists():
        return None
    return record


def write_record(state_folder: Path, name: str, record: Record) -> None:
    """Remember, atomically and for the owner's eyes alone."""
    write_private(_record_path(state_folder, name), json.dumps(asdict(record), indent=2) + "\n")


def new_password() -> str:
    """192 random bits, in characters that need no quoting anywhere."""
    return secrets.token_urlsafe(24)


def placement(
    state_folder: Path,
    name: str,
    identity: Identity | None,
    record: Record | None = None,
    shared_folder: Path = SHARED_FOLDER,
) -> Path:
    """The data folder of database `name` (it need not exist yet). Data that exists stays where it is."""
    own = state_folder / "databases" / name
    elsewhere = Path(record.data_folder) if record and record.data_folder != str(own) else None
    if elsewhere and not os.path.lexists(own) and not _is_below(elsewhere, Path(record.state_folder if record else "")):
        if identity is None and not os.access(elsewhere, os.W_OK | os.X_OK):
            raise EngineError(
                f"the data of database {name} is in {elsewhere} and belongs to another user",
                hint="Run as root as before, or move the data: "
                f"sudo cp -a {_word(elsewhere)} {_word(own)}; sudo chown -R $(id -u):$(id -g) {_word(own)}",
            )
        return elsewhere
    if identity is None:
        if own.exists() and own.stat().st_uid != os.geteuid():
            raise EngineError(
                f"{own} belongs to another user",
                hint=f"It was made by root or another user: sudo chown -R $(id -u):$(id -g) {_word(state_folder)}",
            )
        return own
    if can_enter(own.parent, identity):
        return own
    if own.exists():
        raise EngineError(
            f"user {identity.name} cannot enter {own.parent}, where the data of database {name} is",
            hint=f"Let others pass through every folder above it: chmod o+x {_word(state_folder)} and its parents.",
        )
    digest = hashlib.sha256(os.fsencode(state_folder)).hexdigest()[:16]
    return shared_folder / "data" / digest / name


def _is_below(path: Path, folder: Path) -> bool:
    """Data inside a state folder moves with it; only what lies outside stays where the record says."""
    return path.is_relative_to(folder)


def can_enter(folder: Path, identity: Identity) -> bool:
    """Whether that user may pass through the folder. Tried, not computed from mode bits: access lists count as well."""
    try:
        done = run(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], timeout_s=10, identity=identity, cwd="/")
    except EngineError:
        return False
    return done.status == 0


def leave_note(state_folder: Path, name: str, data_folder: Path, identity: Identity | None) -> None:
    """Say in the place where one would look that the data lies elsewhere."""
    note = state_folder / "databases" / f"{name}.txt"
    if data_folder == state_folder / "databases" / name:
        note.unlink(missing_ok=True)
        return
    user = identity.name if identity else "the engine's user"
    text = f"The data of database {name} is in\n{data_folder}\nbecause user {user} cannot enter this folder.\n"
    if not note.exists() or note.read_text() != text:
        write_private(note, text, mode=0o644)


def make_databases_folder(state_folder: Path) -> Path:
    """`<state>/databases`, which others may pass through but not list."""
    folder = state_folder / "databases"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o711)
    return folder


def make_data_parent(data_folder: Path, shared_folder: Path = SHARED_FOLDER) -> None:
    """The folders above a data folder outside the project: root's, open for passing through."""
    if not data_folder.is_relative_to(shared_folder):
        return
    data_folder.parent.mkdir(parents=True, exist_ok=True)
    for folder in (data_folder.parent, data_folder.parent.parent, shared_folder):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755 if folder == shared_folder else 0o711)


def make_socket_folder(run_folder: Path, name: str, identity: Identity | None) -> Path:
    """The private folder of the socket (0700, the engine's user's): in `run_folder`, or below /run as root when the
    engine's user cannot enter that."""
    folder = run_folder / f"pg-{name}"
    if identity is not None and not can_enter(run_folder, identity):
        _SOCKETS_FOLDER.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder = _SOCKETS_FOLDER / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if len(os.fsencode(folder)) + len("/.s.PGSQL.65535") > SOCKET_PATH_MAX_BYTES:
        raise MachineError(
            f"the path {folder} is too long for a unix socket",
            hint="Set XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter path.",
        )
    make_private_folder(folder, identity)
    return folder


def make_private_folder(folder: Path, identity: Identity | None) -> None:
    """A folder of mode 0700 that belongs to the engine's user; MachineError when somebody else put one there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Through the descriptor, so that nobody can swap the folder for a link in between.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        uid = identity.uid if identity else os.geteuid()
        owner = os.fstat(descriptor).st_uid
        if owner not in (uid, os.geteuid()):
            raise MachineError(f"{folder} belongs to another user", hint=f"Remove it: rm -r {_word(folder)}")
        if identity and owner != uid:
            os.fchown(descriptor, uid, identity.gid)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str, identity: Identity | None = None, mode: int = 0o600) -> None:
    """Write a file so that it is there whole or not at all, also after a power loss; owned by `identity` when given."""
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if identity:
                os.fchown(file.fileno(), identity.uid, identity.gid)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record_path(state_folder: Path, name: str) -> Path:
    return state_folder / "databases" / f"{name}.json"


def _word(path: Path) -> str:
    """The path as one word of a command: unquoted, `rm -r` and `chown -R` of a folder with a blank are about others."""
    return shlex.quote(str(path))
