"""What PostgreSQL's log says, in a sentence that helps."""

from __future__ import annotations

import pytest

from headway.sharding.failures import explain_failure

_START = "2026-01-01 00:00:00 UTC [9] LOG:  starting PostgreSQL 18.4 on x86_64\n"


@pytest.mark.parametrize(
    ("log", "message", "hint"),
    [
        (
            'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use\n'
            "HINT:  Is another postmaster already running on port 20001? If not, wait a few seconds and retry.\n"
            'WARNING:  could not create listen socket for "127.0.0.1"\nFATAL:  could not create any TCP/IP sockets\n',
            "its port is taken",
            "headway up",
        ),
        (
            'FATAL:  lock file "postmaster.pid" already exists\n'
            'HINT:  Is another postmaster (PID 812) running in data directory "/d"?\n',
            "another PostgreSQL (process 812) already uses postmaster.pid",
            "Stop that process",
        ),
        (
            "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use\n",
            "previous PostgreSQL are still ending",
            "Wait",
        ),
        ('PANIC:  could not write to file "pg_wal/x": No space left on device\n', "the disk is full", "Free disk"),
        (
            'FATAL:  could not resize shared memory segment "/P.1" to 1048576 bytes: No space left on device\n',
            "/dev/shm",
            "--shm-size",
        ),
        (
            "FATAL:  database files are incompatible with server\nDETAIL:  The data directory was initialized by "
            "PostgreSQL version 16, which is not compatible with this version 18.4.\n",
            "written by PostgreSQL 16, and this is PostgreSQL 18.4",
            "Install PostgreSQL 16",
        ),
        ('"root" execution of the PostgreSQL server is not permitted.\n', "refuses to run as root", "useradd"),
        (
            "initdb: error: could not look up effective user ID 1234: user does not exist\n",
            "user number 1234",
            "passwd",
        ),
        ("PANIC:  could not locate a valid checkpoint record at 0/0\n", "damaged", "backup"),
        ('FATAL:  data directory "/d" has invalid permissions\n', "/d belongs to somebody else", "chmod 0700 /d"),
        ('FATAL:  data directory "/my d" has wrong ownership\n', "/my d belongs to", "chmod 0700 '/my d'"),
        ('FATAL:  could not open file "/d/x": Permission denied\n', "may not use /d/x", "chmod o+x"),
        ("FATAL:  something new went wrong\n", "something new went wrong", "headway logs"),
        ("FATAL:  real cause\nshop FATAL:  the database system is starting up\n", "real cause", "headway logs"),
        ("", "ended without a word", "headway logs"),
    ],
)
def test_explained(log: str, message: str, hint: str) -> None:
    found = explain_failure(log)
    assert message in found[0]
    assert hint in found[1]


def test_a_cause_that_is_cured_is_not_told_again() -> None:
    log = f'{_START}PANIC: No space left on device\n{_START}FATAL:  lock file "postmaster.pid" already exists\n'
    assert "another PostgreSQL" in explain_failure(log)[0]
    ready = "LOG:  database system is ready to accept connections\n"
    assert explain_failure(f"PANIC: No space left on device\n{_START}{ready}")[0] == "it ended without a word"


def test_a_huge_log_is_read_from_its_end() -> None:
    assert "disk is full" in explain_failure("x" * 10_000_000 + "\nPANIC: No space left on device\n")[0]
