"""Lets the engine user run a program that lies where it cannot go, such as a virtual environment below /root.

As root the engines run as another user, and a home folder of mode 0700 is the most usual place for a first try. The
program's folder is copied once per build to a place that everybody may read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from headway.errors import EngineError, MachineError
from headway.process.identity import Identity
from headway.process.run import run

SHARED_FOLDER = Path("/var/lib/headway")


def reachable(program: Path, identity: Identity | None, label: str, shared_folder: Path = SHARED_FOLDER) -> Path:
    """`program`, or its copy, where `identity` can run it. MachineError when neither is possible.

    The whole folder of the program is copied, because its libraries lie beside it. `label` names the copy.
    """
    if identity is None or _runs(program, identity):
        return program
    build = hashlib.sha256(program.read_bytes()).hexdigest()[:8]
    target = shared_folder / "engines" / f"{label}-{build}"
    try:
        if not target.exists():
            _copy(program.parent, target)
    except OSError as error:
        raise MachineError(
            f"{label} cannot be copied to {target}: {error.strerror or error}",
            hint=f"user {identity.name} cannot enter {program.parent}: make room there, or move the environment",
        ) from error
    copied = target / program.name
    if not _runs(copied, identity):
        raise EngineError(
            f"user {identity.name} can run {label} neither in {program.parent} nor in {target}",
            hint=f"check that {shared_folder} is not mounted noexec and that everybody may enter it",
        )
    return copied


def _runs(program: Path, identity: Identity) -> bool:
    """Tried, not computed: folders, access lists, mount options and libraries all have a say."""
    try:
        done = run(
            [str(program), "-v"],
            timeout_s=10,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            identity=identity,
            cwd="/",
        )
    except EngineError:
        return False
    return done.status == 0


def _copy(folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    for parent in (target.parent, target.parent.parent):
        parent.chmod(0o755)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        shutil.copytree(folder, new, symlinks=True, dirs_exist_ok=True)
        for place, _folders, files in os.walk(new):
            os.chmod(place, 0o755)
            for name in files:
                path = os.path.join(place, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
        with contextlib.suppress(FileExistsError):
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
