"""What Headway tells the app of its databases, in two variables of its environment.

`HEADWAY_DATABASES` is a JSON object by database; `HEADWAY_RUN` a folder for files that processes share. A database that
is not in it has not been declared, or the service does not list it in `uses`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from headway.errors import NotRunning
from headway.model.sharding import DATABASES_VARIABLE, RUN_VARIABLE

IDLE_MAX = 16
WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Login:
    """By whom the app logs in to a server."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """The plain database that this one's rows are imported from."""

    name: str
    url: str = field(repr=False)
    active_max: int = 4


@dataclass(frozen=True, slots=True)
class Told:
    """One database: how to get to it, and within which bounds."""

    name: str
    is_sharded: bool
    url: str = field(repr=False)  # of the plain database, or of the catalog
    logins: Mapping[str, Login]  # by server; "" for servers that are not named
    active_max: int  # transactions at work at once on a server, over all processes
    idle_max: int = IDLE_MAX  # connections that a process keeps to a server
    wait_s: float = WAIT_S  # how long a check-out may wait
    reference: tuple[str, ...] = ()  # tables that every server has whole
    tables: tuple[str, ...] = ()  # those that are declared to have a key, there already or about to be made
    by_code_point: bool = False  # texts are ordered as Python orders them
    source: Source | None = None  # where the rows are until they are imported
    folder: Path | None = None  # None: bounds hold in this process alone

    def url_of(self, server: str, url: str) -> str:
        """The URL of a server with the login for it."""
        login = self.logins.get(server) or self.logins.get("")
        if login is None:
            return url
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        return urlunsplit(
            parts._replace(netloc=f"{quote(login.user, safe='')}:{quote(login.password, safe='')}@{place}")
        )


def told(name: str, environ: Mapping[str, str] | None = None) -> Told:
    """What is told of database `name`. NotRunning, with what to do, when nothing is."""
    environ = os.environ if environ is None else environ
    text = environ.get(DATABASES_VARIABLE, "")
    if not text:
        raise NotRunning(
            f"database {name}: this process was not started by Headway",
            hint=f"Start it by `headway up` or `headway run SERVICE -- COMMAND`, in a service with uses = ['{name}'].",
        )
    try:
        databases: dict[str, dict[str, Any]] = json.loads(text)
        if name not in databases:
            raise NotRunning(
                f"database {name} is not among those of this service ({', '.join(databases) or 'it has none'})",
                hint=f'Declare [databases.{name}], and list it in the service: uses = ["{name}"].',
            )
        entry = databases[name]
        is_sharded = entry["kind"] == "sharded"
        run = environ.get(RUN_VARIABLE, "")
        return Told(
            name=name,
            is_sharded=is_sharded,
            url=entry["catalog" if is_sharded else "url"],
            logins={
                server: Login(login["user"], login["password"]) for server, login in entry.get("logins", {}).items()
            },
            active_max=int(entry["active_max"]),
            idle_max=int(entry.get("idle_max", IDLE_MAX)),
            wait_s=float(entry.get("wait_s", WAIT_S)),
            reference=tuple(entry.get("reference", ())),
            tables=tuple(entry.get("tables", ())),
            by_code_point=bool(entry.get("by_code_point", False)),
            source=_source(entry.get("source")),
            folder=Path(run) if run else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotRunning(
            f"{DATABASES_VARIABLE} cannot be read: {type(error).__name__}",
            hint="Headway sets it; an app of another version than Headway may not know its form.",
        ) from None


def _source(entry: Mapping[str, Any] | None) -> Source | None:
    return Source(entry["name"], entry["url"], int(entry["active_max"])) if entry else None
