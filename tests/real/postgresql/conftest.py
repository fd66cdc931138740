"""Real PostgreSQL servers in folders that the engine's user can enter, and that are gone after the test."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from postgresql_place import Place

from headway.sharding.postgresql import Server


def _parent() -> str | None:
    """Memory, where it can hold data and programs: a data folder is a thousand files. None: the usual place."""
    with contextlib.suppress(OSError):
        found = os.statvfs("/dev/shm")
        roomy = found.f_bavail * found.f_frsize > 2 * 2**30
        if roomy and not found.f_flag & getattr(os, "ST_NOEXEC", 0) and os.access("/dev/shm", os.W_OK):
            return "/dev/shm"
    return None


_left: set[str] = set()  # segments that came while a test of this file's projects ran, and are not cleared yet


@contextlib.contextmanager
def _shared_memory_cleared() -> Iterator[None]:
    """A killed PostgreSQL leaves shared memory behind, which its next start takes away; here there may be none.

    A segment does not say whose it is, and a living server's may be mapped by nobody for a while. So what came since is
    removed only when no server is left on the machine: not with another test's, which then does it.
    """
    before = _segments()
    yield
    _left.update(_segments() - before)
    for process in psutil.process_iter(["name", "status"]):
        if process.info["name"] == "postgres" and process.info["status"] != psutil.STATUS_ZOMBIE:
            return
    for segment in _left:
        if segment.startswith("/"):
            Path(segment).unlink(missing_ok=True)
        else:
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)
    _left.clear()


def _segments() -> set[str]:
    """Paths of POSIX segments, and numbers of the small System V ones that nobody is attached to."""
    found = {str(path) for path in Path("/dev/shm").glob("PostgreSQL.*")}
    with contextlib.suppress(OSError):
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            number, size, attached = (int(line.split()[column]) for column in (1, 3, 6))
            if size == 56 and not attached:
                found.add(str(number))
    return found


@contextlib.contextmanager
def _project() -> Iterator[Place]:
    """Not in pytest's own folder: that one is closed to the engine's user."""
    folder = Path(tempfile.mkdtemp(prefix="headway-pg-", dir=_parent())).resolve()
    folder.chmod(0o755)
    place = Place(folder, folder / "shared")
    with _shared_memory_cleared():
        try:
            yield place
        finally:
            place.clear()


@pytest.fixture
def place() -> Iterator[Place]:
    """A fresh project."""
    with _project() as place:
        yield place


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Place, Server]]:
    """A running server that the tests of one file share; they change nothing that another one minds."""
    with _project() as place:
        server, _ = place.start()
        yield place, server


@pytest.fixture
def root() -> None:
    """Skips a test that only root can run."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
