"""All databases of a system, plain and sharded: which are wanted, which are up, and what apps are told of them.

What brings them up takes long to import, and a system without databases must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headway.errors import EngineError, HeadwayError
from headway.process.folders import Folders
from headway.process.spec import ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.processes import Spawn, Tell

if TYPE_CHECKING:
    from headway.runtimes.local.databases import Database, WantedDatabase
    from headway.runtimes.local.sharded import ShardedDatabase, WantedSharded
    from headway.sharding.admin import AdminServer
    from headway.sharding.app_tool import AppTool
    from headway.sharding.importing.nouns import Source


@dataclass(slots=True)
class Databases:
    """All databases of a system."""

    folders: Folders
    supervisor: SupervisorClient
    spawn: Spawn
    tell: Tell
    is_alive: Callable[[str], ProcessState | None]
    held: dict[str, Database | ShardedDatabase] = field(default_factory=dict)

    def want(self, wanted: Mapping[str, WantedDatabase | WantedSharded]) -> None:
        """Bring up what is new, stop what is no longer declared; a changed URL is a new database."""
        if not wanted and not self.held:
            return
        from headway.runtimes.local.databases import Database
        from headway.runtimes.local.sharded import ShardedDatabase, WantedSharded

        former: dict[str, ShardedDatabase] = {}
        for name in [name for name in self.held if wanted.get(name) != self.held[name].wanted]:
            left = self.held.pop(name)
            left.give_way(wanted.get(name))  # what follows adopts the servers that go on
            if isinstance(left, ShardedDatabase):
                former[name] = left
        for name, declared in wanted.items():
            if name not in self.held:
                arguments = (self.folders, self.supervisor, self.spawn, self.tell, self.is_alive)
                if isinstance(declared, WantedSharded):
                    self.held[name] = ShardedDatabase(declared, *arguments, self, former=former.get(name))
                else:
                    self.held[name] = Database(declared, *arguments)
                self.held[name].start()

    @property
    def ready(self) -> frozenset[str]:
        """Those that were ready at least once: who waited for them may start."""
        return frozenset(name for name, database in self.held.items() if database.ready_once)

    def fields(self) -> dict[str, dict[str, str]]:
        """What references can name, by database."""
        return {name: database.fields for name, database in list(self.held.items()) if database.fields}

    def logins(self) -> dict[str, tuple[str, ...]]:
        """By sharded database the servers that apps can be told how to log in to: one that was away comes later."""
        known: dict[str, tuple[str, ...]] = {}
        for name, held in list(self.held.items()):
            servers = getattr(
                held, "servers", None
            )  # of a sharded one; told apart without an import, ten times a second
            if servers and held.fields:
                known[name] = tuple(server for server, one in servers.items() if one.fields)
        return known

    def access(self) -> dict[str, dict[str, object]]:
        """What apps are told, by database: those whose addresses are known. Holds passwords."""
        if not (held := list(self.held.items())):  # other threads ask, too
            return {}
        from headway.runtimes.local.sharded import ShardedDatabase

        told = {name: database.access() for name, database in held}
        for name, database in held:
            access, source = told[name], database.wanted.import_from if isinstance(database, ShardedDatabase) else None
            if access is not None and source is not None and (of_source := told.get(source)) is not None:
                access["source"] = {"name": source, "url": of_source["url"], "active_max": of_source["active_max"]}
        return {name: access for name, access in told.items() if access is not None}

    def plain_source(self, name: str) -> Source:
        """A plain database as an import reads it. HeadwayError when there is none that answers. Holds passwords."""
        from psycopg.conninfo import make_conninfo

        from headway.runtimes.local.databases import Database
        from headway.sharding import settings
        from headway.sharding.importing.nouns import Source

        found = self.held.get(name)
        if not isinstance(found, Database):
            names = ", ".join(each for each, one in self.held.items() if isinstance(one, Database))
            hint = f"There is: {names}. Or give a URL." if names else "Give a URL: --from '{env.SOURCE_URL}'"
            raise HeadwayError(f"no plain database {name!r} is declared", hint=hint)
        if not found.fields:
            raise EngineError(f"database {name} has not been reached yet", hint="headway status")
        if found.server is None:
            way = found.wanted.url or found.fields["url"]
        else:
            server = found.server
            way = make_conninfo(
                host=str(server.socket_folder), port=server.port, user=settings.SUPERUSER, dbname=server.database
            )
        return Source(name, way, way)

    def plain_server(self, name: str) -> AdminServer:
        """A plain database as its migrations get to it: as the app, whose tables they are to be. HeadwayError when
        there is none that answers. Holds passwords."""
        from headway.sharding.admin import plain_server

        self.plain_source(name)  # which tells whether it is there
        return plain_server(name, self.fields()[name])

    def equipped(self, tool: AppTool) -> AppTool:
        """A tool of an app's with what its environment holds now. Holds passwords."""
        from headway.runtimes.local.sharded import with_environment

        return with_environment(tool, self.fields(), self.access(), self.folders)

    def stop(self) -> None:
        """End all embedded servers."""
        for database in self.held.values():
            database.stop()

    @property
    def stopped(self) -> bool:
        """Whether no embedded server runs any more."""
        processes = (process for database in self.held.values() for process in database.processes)
        states = (self.is_alive(process) for process in processes)
        return not any(state is not None and state.alive for state in states)
