"""The folder of a backup: filled under another name, and given its own when all of it is on the disk.

So a folder of a backup's name is a whole backup. What a killed one left has the name of a part, belongs to nobody (its
lock is free), and is taken away by the next one that goes to the same place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from headway.errors import AppError, Conflict, MachineError
from headway.sharding.backup.manifest import MANIFEST, MANIFEST_MAX_BYTES, PARTIAL, BackupFile, Manifest, read_manifest
from headway.sharding.placement import sync_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BLOCK_BYTES = 1024 * 1024


class DumpFile:
    """A file that is being written, of mode 0600, with its sum."""

    def __init__(self, path: Path, more: Callable[[int], None]) -> None:
        self.path = path
        self.bytes = 0
        self._more = more
        self._sum = hashlib.sha256()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, block: bytes) -> None:
        """Append a block."""
        self._sum.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self.bytes += len(block)
        self._more(len(block))

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()

    def close(self) -> None:
        """It is on the disk for certain."""
        try:
            os.fsync(self._fd)
        finally:
            self.drop()

    def drop(self) -> None:
        """Close it, whatever it holds."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PartialFolder:
    """A backup on its way; a context manager that leaves nothing behind unless `finish` was reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.partial = folder.with_name(folder.name + PARTIAL)
        self._fd = -1

    def __enter__(self) -> PartialFolder:
        with machine_errors(self.partial):
            if os.path.lexists(self.folder) and not _is_empty_folder(self.folder):
                raise AppError(f"{self.folder} is there already", hint="Name another folder: --to FOLDER")
            self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError):
                self.partial.mkdir(mode=0o700)
            self._fd = os.open(self.partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            if not _locked(self._fd):
                os.close(self._fd)
                raise Conflict(f"another backup is being written to {self.folder}", hint="Name another folder.")
            os.fchmod(self._fd, 0o700)
            left = sorted(self.partial.iterdir())
            if foreign := [one.name for one in left if one.suffix != ".dump" and one.name != MANIFEST]:
                os.close(self._fd)
                raise AppError(
                    f"{self.partial} holds {foreign[0]}, which no backup has left", hint="Name another folder."
                )
            for one in left:
                one.unlink()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fd < 0:
            return
        if self.partial.exists():
            shutil.rmtree(self.partial, ignore_errors=True)
        os.close(self._fd)
        self._fd = -1

    def file(self, name: str, more: Callable[[int], None]) -> DumpFile:
        """A new file in it."""
        return DumpFile(self.partial / name, more)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and give the folder its name: from here on it is a backup."""
        with machine_errors(self.partial):
            file = self.file(MANIFEST, lambda _bytes: None)
            try:
                file.write(manifest.text().encode())
                file.close()
            finally:
                file.drop()
            sync_folder(self.partial)
            self.partial.rename(self.folder)
            sync_folder(self.folder.parent)


def sweep(folder: Path, database: str) -> None:
    """Take away what killed backups of a database have left in the default place."""
    for left in folder.glob(f"{database}-*{PARTIAL}"):
        with contextlib.suppress(OSError):
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _locked(fd):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(fd)


def open_backup(folder: Path) -> Manifest:
    """The manifest of a folder. AppError when it is no backup."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_MAX_BYTES).decode()
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            why = "there is no such folder"
        elif folder.name.endswith(PARTIAL):
            why = "it is what an interrupted backup left"
        else:
            why = f"it has no {MANIFEST}"
        raise AppError(
            f"{folder} is no backup: {why}", hint="Name the folder that headway db backup has written."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is no text"
        raise AppError(f"{path} cannot be read: {told}", hint="Name a folder that can be read.") from error
    return read_manifest(text, str(path))


def check_file(folder: Path, file: BackupFile, stop: Callable[[], bool]) -> None:
    """Hold a dump against what the manifest says of it. AppError when it is another one, or gone."""
    path = folder / file.name
    try:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size != file.bytes:
                raise _damaged(path, f"it has {size:,} bytes, and {file.bytes:,} were written")
            total = hashlib.sha256()
            while block := opened.read(_BLOCK_BYTES):
                total.update(block)
                if stop():
                    return
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise AppError(
            f"{path} {what}", hint="Bring it back from where the folder was copied from, or take another backup."
        ) from error
    if total.hexdigest() != file.sha256:
        raise _damaged(path, "its sum is another one than when it was written")


def _damaged(path: Path, why: str) -> AppError:
    return AppError(
        f"{path} is damaged: {why}", hint="Bring it back from where the folder was copied from, or take another backup."
    )


@contextlib.contextmanager
def machine_errors(where: Path) -> Iterator[None]:
    """Whatever the file system refuses, as an error that says where and what."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise MachineError(
                f"the disk of {where.parent} is full; nothing of the backup was kept",
                hint="Make room, or write it to another disk: --to FOLDER",
            ) from error
        raise MachineError(
            f"{error.filename or where} cannot be written: {error.strerror or error}",
            hint="Name a folder that Headway may write: --to FOLDER",
        ) from error


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
