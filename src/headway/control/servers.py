"""Servers of a sharded database that come while it runs; those that go are in `departing.py`.

The declaration stays the truth: what is added or taken out by hand is kept beside it, like a number of replicas that
was scaled by hand, until it says so itself or something else. A URL is kept as it would be declared, with `{env.…}` or
`{file.…}` for what is secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headway.control.apply import Applying
from headway.control.controller import Controller
from headway.control.status import servers_line
from headway.control.stored import with_servers
from headway.control.tender import Tender
from headway.declaration.references import parse, resolve
from headway.errors import Conflict, DeclarationError, EngineError, HeadwayError
from headway.sharding.catalog import held
from headway.sharding.joining import check_joining
from headway.sharding.reference import gate
from headway.sharding.url import parse_url, without_password

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")

Say = Callable[[str], None]


class Servers:
    """Of all sharded databases of one controller."""

    def __init__(self, controller: Controller, applying: Applying) -> None:
        self._controller = controller
        self._applying = applying

    # -- one more -----------------------------------------------------------------------------------------------------

    def add(
        self, database: str, name: str | None, url: str | None, environ: Mapping[str, str], say: Say
    ) -> dict[str, Any]:
        """Give a database one more server, which holds no shard yet. `environ`: variables that its URL refers to."""
        tender = self.tender(database)
        away = _away_others(tender, database)
        for other, state in away.items():
            say(f"server {other} is {state}: its shards stay there until it answers again")
        if tender.database.map_now().restoring:
            raise held("another server")
        now = self.declared_now(database)
        if isinstance(now, int):
            server = f"s{now + 1}"
            if url is not None or name not in (None, server):
                raise HeadwayError(
                    f"database {database} has embedded servers, which are numbered: the next one is {server}",
                    hint=f"headway db add-server {database}",
                )
            servers: int | dict[str, str] = now + 1
        else:
            server = self._check_name(database, name, url, now)
            given = str(url)
            way = self._resolved(database, server, given, environ)
            say(f"looking at server {server}, {without_password(way)}")
            sharded, wanted = tender.database, tender.database.wanted
            found = check_joining(
                f"databases.{database}.servers.{server}",
                way,
                database,
                [sharded.admin_of(one) for one in sharded.servers if one not in away],
                wanted.idle_max * 4 + wanted.active_max,
                {one: sharded.servers[one].fields["url"] for one in away if sharded.servers[one].fields},
            )
            for one in found:
                if one.level == "warning":
                    say(f"{one.what}: it has {one.found}; {one.change}")
            servers = {**now, server: given}
        say(f"server {server} comes up, and every service hears of it")
        self._applying.set_servers(database, servers, dict(environ))
        line = self.told(database, f"{server} added")
        return {
            "database": database,
            "server": server,
            "servers": list(self._controller.databases.held[database].servers),  # type: ignore[union-attr]
            "away": list(away),
            "write": line,
        }

    def _check_name(self, database: str, name: str | None, url: str | None, now: Mapping[str, str]) -> str:
        example = f"headway db add-server {database} c '{{env.{database.upper()}_C}}'"
        if name is None or url is None:
            raise HeadwayError(
                f"the servers of database {database} are declared by URL: a name and a URL are needed", hint=example
            )
        if name in now:
            raise Conflict(f"database {database} has a server {name} already", hint=f"headway db status {database}")
        if not _NAME.fullmatch(name):
            raise HeadwayError(f"{name!r} is no name for a server", hint=f"letters, digits, _ and -: {example}")
        return name

    def _resolved(self, database: str, server: str, given: str, environ: Mapping[str, str]) -> str:
        path = f"databases.{database}.servers.{server}"
        try:
            if all(isinstance(piece, str) for piece in parse(given)) and parse_url(given, path=path).password:
                raise HeadwayError(
                    f"{path}: a password would be written down with the servers",
                    hint="Put the URL into a variable, '{env.NAME}', or a file, '{file.PATH}'.",
                )
            root = Path(self._controller.applied.root)
            way = resolve(given, databases={}, environment={**os.environ, **environ}, root=root).strip()
            parse_url(way, path=path)
        except DeclarationError as error:
            problem = error.problems[0]
            raise HeadwayError(f"{problem.path}: {problem.message}", hint=problem.hint) from None
        except ValueError as error:
            message, _, hint = str(error).partition("; ")
            raise HeadwayError(f"{path}: {message}", hint=hint) from None
        return way

    # -- also for one that leaves --------------------------------------------------------------------------------------

    def tender(self, database: str) -> Tender:
        found = self._controller.tended().get(database)
        if found is None:
            raise EngineError(f"database {database} is not up", hint="headway status")
        return found

    def declared_now(self, database: str) -> int | dict[str, str]:
        """The servers as they would be declared."""
        by_hand = self._controller.servers_by_hand.get(database)
        return with_servers(self._controller.applied.system.databases[database], by_hand).servers or 1

    def told(self, database: str, what: str) -> str:
        """Journal it; the line to write into the declaration, empty where that says so already."""
        line = servers_line(self._controller.servers_by_hand.get(database))
        told = f"{what} by hand" + (f"; to declare it: {line}" if line else ", as declared")
        self._controller.journal.write(f"database.{database}", "servers", told)
        return line


def _away_others(tender: Tender, database: str) -> dict[str, str]:
    """Servers that a new one can do without, with their states. EngineError where one is away that it needs."""
    held = tender.database
    away = {name: state for name, state, _ in held.served if state != "ready"}
    needed = {next(iter(held.servers)): "which holds the catalog"}
    if held.wanted.reference:
        needed.setdefault(gate(held.map_now().servers), "which writers of reference tables ask first")
    for name, why in needed.items():
        if name in away:
            raise EngineError(
                f"no server can come to database {database} while server {name}, {why}, is {away[name]}",
                hint="headway status; headway logs",
            )
    return away
