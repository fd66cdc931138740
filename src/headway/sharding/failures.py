"""PostgreSQL that does not start says why in its log, in its own words: turn them into a sentence and a hint. Pure."""

from __future__ import annotations

import re
import shlex

PORT_TAKEN = "its port is taken by another program"
# Pattern in the log -> message, hint; `{…}` are the pattern's groups. What the log says last counts; of several
# patterns that match there the first.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"could not bind[^\n]*: Address already in use|could not create any TCP/IP sockets",
        PORT_TAKEN,
        "Run `headway up` again: it picks another port when it finds its own taken.",
    ),
    (
        r"lock file \"(?P<file>[^\"]+)\" already exists(?:[^\n]*\n[^\n]*PID (?P<pid>\d+))?",
        "another PostgreSQL (process {pid}) already uses {file}",
        "Stop that process first; `headway status` shows whether a system of yours runs here.",
    ),
    (
        r"pre-existing shared memory block",
        "processes of the previous PostgreSQL are still ending",
        "Wait a few seconds and start again; if it stays so, end the postgres processes of this data folder.",
    ),
    (
        r"could not (?:resize|create|open) shared memory segment[^\n]*(?:No space left|Cannot allocate)",
        "the machine's shared memory (/dev/shm) is full",
        "Give it more room, in a container with --shm-size=256m.",
    ),
    (
        r"could not map anonymous shared memory: Cannot allocate memory|could not fork[^\n]*Cannot allocate memory",
        "there is not enough free memory",
        "Free memory, or raise the limit of the container or cgroup.",
    ),
    (
        r"No space left on device|Disk quota exceeded|Check free disk space|wrote only \d+ of \d+ bytes",
        "the disk is full",
        "Free disk space where the data lies; no acknowledged write is lost, and it starts again by itself.",
    ),
    (
        r"Read-only file system",
        "its folder lies on a read-only file system",
        "Give another folder with `--state DIR`.",
    ),
    (
        r"initialized by PostgreSQL version (?P<old>[\d.]+)[^\n]*not compatible with this version (?P<new>[\d.]+)",
        "its data was written by PostgreSQL {old}, and this is PostgreSQL {new}",
        "Install PostgreSQL {old}, or dump the data with it and restore the dump into a new database.",
    ),
    (
        r"execution of the PostgreSQL server is not permitted|cannot be run as root",
        "PostgreSQL refuses to run as root",
        "Create a user for it: useradd --system headway",
    ),
    (
        r"could not look up effective user ID (?P<uid>\d+)",
        "user number {uid} has no name on this machine, and PostgreSQL needs one",
        "Add a line for it to /etc/passwd, or run as a user that has one.",
    ),
    (
        r"data directory \"(?P<file>[^\"]+)\" has (?:wrong ownership|invalid permissions)",
        "its data folder {file} belongs to somebody else or is open to others",
        "Give it back to the user that runs PostgreSQL: chown -R USER {file}; chmod 0700 {file}",
    ),
    (
        r"could not locate (?:a valid|required) checkpoint record|could not read file \"(?:global/)?pg_control\""
        r"|invalid (?:primary )?checkpoint record|incorrect checksum in control file",
        "its data is damaged",
        "Restore a backup; keep a copy of the data folder before you try anything else.",
    ),
    (
        r"could not create semaphores",
        "the machine has no semaphores left",
        "Raise kernel.sem, or end what holds them (`ipcs -s` lists them).",
    ),
    (
        r"Too many open files",
        "it ran out of file descriptors",
        "Raise the limit (ulimit -n) to at least 4096.",
    ),
    (
        r"(?:unrecognized configuration parameter|invalid value for parameter|syntax error in file) (?P<what>[^\n]+)",
        "its configuration is refused: {what}",
        "Correct postgresql.conf or postgresql.auto.conf in the data folder.",
    ),
    (
        r"(?:could not (?:open|access|create|read|change)[^\n]*\"(?P<file>[^\"]+)\"[^\n]*): Permission denied",
        "it may not use {file}",
        "Let the user that runs PostgreSQL enter every folder above it (chmod o+x), or use another with --state DIR.",
    ),
)
_LAST_WORD = re.compile(r"(?:FATAL|PANIC|ERROR|error): +(.+)")
_SINCE = re.compile(r"starting PostgreSQL \d|ready to accept connections")
_TAIL_MAX = 64 * 1024


def explain_failure(log_tail: str) -> tuple[str, str]:
    """Why PostgreSQL did not start, from the end of its log.

    Returns what went wrong (it reads on after "PostgreSQL of main did not start: ") and what to do about it.
    """
    # Only what was said since the last start: a cause that is cured must not be told again.
    text = _SINCE.split(log_tail[-_TAIL_MAX:])[-1]
    latest, explained = -1, ("", "")
    for pattern, message, hint in _CAUSES:
        for match in re.finditer(pattern, text):
            line = text.count("\n", 0, match.start())
            if line > latest:
                groups = {name: value or "unknown" for name, value in match.groupdict().items()}
                quoted = {name: shlex.quote(value) for name, value in groups.items()}  # hints have them in commands
                latest, explained = line, (message.format_map(groups), hint.format_map(quoted))
    if latest >= 0:
        return explained
    words = [word.strip() for word in _LAST_WORD.findall(text)] or [line.strip() for line in text.splitlines()]
    said = [word for word in words if word and "the database system is " not in word]
    return said[-1] if said else "it ended without a word", "The log has the whole story: headway logs"
