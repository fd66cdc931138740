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
