"""Processes of a PostgreSQL that outlived it, and keep the next one from starting.

When a server's main process is killed, those that it had forked see it and end. One that makes a replication slot by
SQL does not look: it waits for the end of transactions that ended with the server, for ever, and holds the shared
memory without whose end no server starts on the data again.
"""

from __future__ import annotations

from pathlib import Path

import psutil

_TITLE = "postgres: "  # how each but the main process names itself


def end_orphans(data_folder: Path) -> tuple[int, ...]:
    """Kill what is left of servers on this data that have no main process any more; their numbers.

    With the main process gone nobody uses what they hold, and the next start recovers from the log, as after the kill
    itself.
    """
    ended = []
    for process in psutil.process_iter():
        try:
            if _is_orphan(process, data_folder):
                process.kill()
                process.wait(1.0)
                ended.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return tuple(ended)


def clear_stale_number(data_folder: Path) -> bool:
    """Remove a `postmaster.pid` whose process is gone, where another program has its number by now.

    PostgreSQL itself sees a stale file of a process that is gone, but takes any living process of its own user for a
    server and then refuses to start, for as long as that one lives: after a reboot, and in containers every time, the
    same numbers come back; on a busy machine the number of one that was killed may, as another server's child.
    """
    path = data_folder / "postmaster.pid"
    try:
        text = path.read_text()
        pid = abs(int(text.splitlines()[0]))
    except (OSError, ValueError, IndexError):
        return False  # not there, or half-written: PostgreSQL judges it
    if not psutil.pid_exists(pid) or any(_is_in(other, data_folder) for other in psutil.pids()):
        return False
    try:
        if path.read_text() != text:
            return False  # a new one has begun
        path.unlink()
    except OSError:
        return False
    return True


def _is_in(pid: int, data_folder: Path) -> bool:
    try:
        return works_in(psutil.Process(pid), data_folder)
    except psutil.Error:
        return False


def _is_orphan(process: psutil.Process, data_folder: Path) -> bool:
    if not "".join(process.cmdline()[:1]).startswith(_TITLE) or process.cwd() != str(data_folder):
        return False
    parent = process.parent()
    return parent is None or not works_in(parent, data_folder)


def works_in(process: psutil.Process, data_folder: Path) -> bool:
    """Whether it is one of a server's on this data: they all stand in that folder. One that may not be looked at is
    another user's, and none of them."""
    try:
        return process.cwd() == str(data_folder) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False
