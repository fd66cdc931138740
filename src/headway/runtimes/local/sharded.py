"""A sharded database on its way up: several servers, each as a plain one is, and then the shards on them."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import psycopg
from psycopg.conninfo import make_conninfo

from headway.declaration.references import resolve_those_known
from headway.errors import EngineError, HeadwayError
from headway.model.sharding import DATABASES_VARIABLE, RUN_VARIABLE, ShardMap, parse_join
from headway.process.folders import Folders
from headway.process.spec import ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.databases import Database, WantedDatabase
from headway.runtimes.local.engine_process import as_told
from headway.runtimes.local.processes import Spawn, Tell
from headway.sharding import settings
from headway.sharding.admin import AdminServer, connect
from headway.sharding.app_role import app_role
from headway.sharding.app_tool import AppTool
from headway.sharding.app_tools import tables_by
from headway.sharding.catalog import read_map
from headway.sharding.connection import RoleConnections, Uncounted
from headway.sharding.existing import existing_map
from headway.sharding.joining import join
from headway.sharding.reference import gate
from headway.sharding.shards import TablesBy, lay_out
from headway.sharding.url import parse_url, without_password
from headway.sharding.wanted import Layout

_POLL_S = 0.05
_RETRY_S = 2.0
_OTHERS_S = 30.0  # servers that begin at the same moment are ready long before


@dataclass(frozen=True, slots=True)
class WantedSharded:
    """A sharded database as declared, its references resolved."""

    name: str
    system: str
    shards: int
    servers: tuple[tuple[str, str | None], ...]  # by name: the URL; None: embedded
    keys: tuple[tuple[str, str], ...]
    reference: tuple[str, ...]
    schema_file: str | None
    memory_bytes: int
    active_max: int
    idle_max: int
    ids: tuple[tuple[str, str], ...] = ()
    migrations: str | None = None  # the folder of SQL files
    tool: AppTool | None = None  # of the app's, for its migrations; as declared
    import_from: str | None = None  # the plain database that has the rows until they are imported
    joins: tuple[tuple[str, str], ...] = ()  # by table: how its key is found in another one


class Known(Protocol):
    """What is known of all databases of the system."""

    def fields(self) -> Mapping[str, Mapping[str, str]]:
        """What references can name, by database."""

    def access(self) -> Mapping[str, Mapping[str, object]]:
        """What apps are told, by database."""


@dataclass(slots=True)
class ShardedDatabase:
    """Its servers, and what is laid out on them. Read by the loop's thread, written by its own."""

    wanted: WantedSharded
    folders: Folders
    supervisor: SupervisorClient
    spawn: Spawn
    tell: Tell
    is_alive: Callable[[str], ProcessState | None]
    known: Known
    map: ShardMap | None = None
    error: HeadwayError | None = None
    servers: dict[str, Database] = field(default_factory=dict)
    former: ShardedDatabase | None = None  # whose place it takes: with some of its servers, in whatever state they are
    away: frozenset[str] = frozenset()  # servers that were away already when it began
    _stopping: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def process(self) -> str:
        """What the journal calls it."""
        return f"database.{self.wanted.name}"

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of its processes at the supervisor."""
        return tuple(server.process for server in self.servers.values())

    @property
    def state(self) -> Literal["starting", "ready", "degraded", "down", "failed", "stopping"]:
        """Ready when all servers are and the shards are laid out; degraded while some servers are away."""
        if self._stopping:
            return "stopping"
        if self.map is None:
            return "failed" if self.error is not None else "starting"
        ready = sum(server.state == "ready" for server in self.servers.values())
        return "ready" if ready == len(self.servers) else "degraded" if ready else "down"

    @property
    def has_begun(self) -> bool:
        """Whether it is laid out on all its servers; of those that were away before, all others do not wait."""
        if self.map is None or not self.servers.keys() <= self.map.servers.keys():
            return False
        return all(server.state == "ready" or name in self.away for name, server in self.servers.items())

    @property
    def lost(self) -> HeadwayError | None:
        """Why a server that is new cannot be taken in."""
        if self.map is None:
            return None
        new = [server for name, server in self.servers.items() if name not in self.map.servers]
        return next((server.error for server in new if server.error is not None), None)

    @property
    def ready_once(self) -> bool:
        """Whether the shards were laid out since the controller began."""
        return self.map is not None

    @property
    def fields(self) -> dict[str, str]:
        """What references can name: its first server, which holds the catalog."""
        first = next(iter(self.servers.values()), None)
        return first.fields if first is not None and self.map is not None else {}

    @property
    def shown_url(self) -> str:
        """The first server's URL without the password."""
        return without_password(self.fields["url"]) if self.fields else ""

    @property
    def served(self) -> tuple[tuple[str, str, str], ...]:
        """Name, state and URL without the password of its servers."""
        return tuple((name, server.state, server.shown_url) for name, server in self.servers.items())

    @property
    def counted(self) -> RoleConnections | Uncounted:
        """Connections of the server that has the fewest left, or why they are not known."""
        known: list[RoleConnections] = []
        for server in self.servers.values():
            counted = server.counted
            if isinstance(counted, Uncounted):
                return counted
            known.append(counted)
        return min(known, key=lambda one: one.most - one.open) if known else Uncounted.SOON

    def access(self) -> dict[str, object] | None:
        """What the app is told of it; None while it is not laid out. Holds passwords."""
        return self._access() if self.fields else None

    def _access(self) -> dict[str, object]:
        first = next(iter(self.servers.values()))
        return {
            "kind": "sharded",
            "catalog": first.fields["url"],
            "logins": {
                name: {"user": server.fields["user"], "password": server.fields["password"]}
                for name, server in self.servers.items()
                if server.fields
            },
            "active_max": self.wanted.active_max,
            "idle_max": self.wanted.idle_max,
            "reference": list(self.wanted.reference),
            "tables": [table for table, _ in self.wanted.keys],
            "by_code_point": all(url is None for _, url in self.wanted.servers),  # embedded ones are made so
        }

    def map_now(self) -> ShardMap:
        """The map as the catalog has it; the last one that was read while the catalog is away."""
        with contextlib.suppress(HeadwayError, psycopg.Error), connect(self.first) as catalog:
            self.map = read_map(catalog)
        assert self.map is not None
        return self.map

    @property
    def first(self) -> AdminServer:
        """Its first server, which holds the catalog. EngineError while that has never been reached."""
        return self.admin_of(next(iter(self.servers)))

    def admin_of(self, name: str) -> AdminServer:
        """One of its servers, as `admin` has them all."""
        return _admin(self.servers[name])

    def admin(self) -> tuple[AdminServer, ...]:
        """Its servers as Headway gets to them. EngineError while one has never been reached. Holds passwords."""
        return tuple(_admin(server) for server in self.servers.values())

    def reached(self) -> tuple[AdminServer, ...]:
        """As `admin`, of those that were ever reached: after a start one may be away that has been for long."""
        return tuple(_admin(server) for server in self.servers.values() if server.fields)

    def away_now(self) -> dict[str, str]:
        """Servers that do not answer, with their states."""
        return {name: state for name, state, _ in self.served if state != "ready"}

    def give_way(self, other: object) -> None:
        """Let another declaration take over: the servers that it has as well go on, the others end."""
        self._stop.set()
        kept = other.servers if isinstance(other, WantedSharded) else ()
        for name, server in self.servers.items():
            if (name, server.wanted.url) in kept:
                server.leave()
            else:
                server.stop()

    def start(self) -> None:
        """Begin bringing it up, in its own threads."""
        wanted = self.wanted
        first_url = wanted.servers[0][1]
        app = app_role(wanted.system, wanted.name, first_url) if first_url is not None else None
        servers: dict[str, Database] = {}  # which others look through: it comes to them whole
        for name, url in wanted.servers:
            server = WantedDatabase(
                name=f"{wanted.name}.{name}",
                system=wanted.system,
                url=url,
                schema_file=None,
                memory_bytes=wanted.memory_bytes // len(wanted.servers),
                server_of=wanted.name,
                app=app,
            )
            told = (self.folders, self.supervisor, self.spawn, self.tell, self.is_alive)
            servers[name] = Database(server, *told)
            self._inherit(name, servers[name])
        self.servers, self.former = servers, None
        for begun in servers.values():
            begun.start()
        self._thread = threading.Thread(target=self._live, name=self.process, daemon=True)
        self._thread.start()

    def _inherit(self, name: str, server: Database) -> None:
        """What was known of a server stays known: one that is away now could not tell it."""
        before = self.former.servers.get(name) if self.former is not None else None
        if self.former is None or before is None or before.wanted.url != server.wanted.url:
            return
        server.fields, server.server = dict(before.fields), before.server
        if before.state in ("down", "failed") or (name in self.former.away and not before.ready_once):
            self.away |= {name}

    def stop(self) -> None:
        """End its servers, cleanly and all at once; the data stays."""
        self._stopping = True
        self._stop.set()
        ends = [threading.Thread(target=server.stop, daemon=True) for server in self.servers.values()]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def leave(self) -> None:
        """Stop looking; the servers go on."""
        self._stop.set()
        for server in self.servers.values():
            server.leave()

    def _live(self) -> None:
        while not self._stop.is_set():
            try:
                if self._all_ready():
                    self._lay_out()
                    return
                self._take_in()
                self._stop.wait(_POLL_S)
                continue
            except HeadwayError as error:
                self._failed(error)
            except psycopg.Error as error:  # a server that went away in the middle: what was done stays done
                told = str(error).strip().partition("\n")[0] or type(error).__name__
                self._failed(EngineError(f"databases.{self.wanted.name}: {told}", hint="headway status; headway logs"))
            except Exception as error:
                self._failed(as_told(error))
            self._stop.wait(_RETRY_S)

    def _failed(self, error: HeadwayError) -> None:
        if self.error is None or self.error.message != error.message:
            self.tell(self.process, "failed", error.message, "warning")
        self.error = error

    def _all_ready(self) -> bool:
        first = next(iter(self.servers.values()))
        if not first.ready_once and first.error is None:
            return False  # which of the others are needed is known by its catalog
        for name, server in self.servers.items():
            if not server.ready_once:
                is_away = server.error is not None or name in self.away
                if is_away and not self._goes_on_without(name) and server.error is not None:
                    raise server.error
                return False
        return True

    def _take_in(self) -> None:
        """Servers that are new need not wait for one that is away."""
        if self.map is None or self.map.restoring:
            return
        up = {name: server for name, server in self.servers.items() if server.ready_once and server.state == "ready"}
        new = [name for name in up if name not in self.map.servers]
        if new and (not self.wanted.reference or gate(self.map.servers) in up):
            others = [self.admin_of(name) for name in up if name not in new]
            self.map = join(self.layout(), self.first, others, [self.admin_of(name) for name in new])
            self.error = None
            self.tell(self.process, "laid out", f"{', '.join(new)} has joined, and holds no shard yet", "note")

    def _goes_on_without(self, name: str) -> bool:
        """Whether all is laid out except on a server that is away: only its shards must wait for it then."""
        first = next(iter(self.servers.values()))
        if self.map is None and first.ready_once:
            known = existing_map(self.layout(), self.first)
            if known is not None and name in known.servers:
                self.error, self.map = None, known
                told = f"{len(known.on(name))} of {known.shards} shards are on server {name}, which is away"
                self.tell(self.process, "goes on without", told, "warning")
        return self.map is not None

    def layout(self) -> Layout:
        """What is declared of its shards."""
        wanted = self.wanted
        return Layout(
            system=wanted.system,
            name=wanted.name,
            shards=wanted.shards,
            keys=dict(wanted.keys),
            ids=dict(wanted.ids),
            reference=wanted.reference,
            schema_file=Path(wanted.schema_file) if wanted.schema_file else None,
            joins={table: join for table, text in wanted.joins if (join := parse_join(text)) is not None},
            import_from=wanted.import_from,
        )

    def lay_out_restored(self) -> ShardMap:
        """Give the app its rights in shards that were filled from a backup, and the catalog their keys."""
        return lay_out(self.layout(), self.admin(), tables_by=self.tables_by(), restored=True)[0]

    def _lay_out(self) -> None:
        map_, made = lay_out(self.layout(), self.admin(), tables_by=self.tables_by())
        self.error, self.map = None, map_
        if made:
            told = f"{map_.shards} shards on {len(self.servers)} servers"
            self.tell(self.process, "laid out", told, "note")
        if later := [table for table, _ in self.wanted.keys if table not in map_.keys]:
            told = f"{', '.join(later)} is not there yet: headway db migrate {self.wanted.name}"
            self.tell(self.process, "keys", told, "note")
        if self.wanted.import_from is not None and not map_.at_source:
            told = f"its rows are in the shards: import_from can be taken out of [databases.{self.wanted.name}]"
            self.tell(self.process, "import_from", told, "note")

    def take_up(self) -> ShardMap:
        """Bring the catalog, and what is filled in by ids, to tables that were declared before they were there."""
        self.map = lay_out(self.layout(), self.admin(), tables_by=self.tables_by())[0]
        return self.map

    def tables_by(self) -> TablesBy | None:
        """What makes the tables of new shards, beside the schema file."""
        if self.wanted.tool is None:
            return None

        def make(servers: Sequence[AdminServer], shards: Mapping[str, Sequence[int]]) -> None:
            tool = self._tool_when_its_databases_are_there()
            tables_by(self.wanted.name, tool, dict(self.wanted.keys), self.wanted.reference)(servers, shards)

        return make

    def _tool_when_its_databases_are_there(self) -> AppTool:
        """What asks for another database when it is imported has it; after a while it is tried without."""
        assert self.wanted.tool is not None
        asked = self.wanted.tool.after
        until_s = time.monotonic() + _OTHERS_S
        while any(not self.known.fields().get(name) for name in asked) and time.monotonic() < until_s:
            if self._stop.wait(_POLL_S):
                break
        found = self.tool()
        assert found is not None
        return found

    def tool(self) -> AppTool | None:
        """The app's tool for migrations, with what its environment holds now. Holds passwords."""
        declared, first = self.wanted.tool, next(iter(self.servers.values()))
        if declared is None:
            return None
        # Of this one also while its tables are only being made: an app that is imported by env.py asks for its address.
        fields = {**self.known.fields(), self.wanted.name: first.fields}
        access = {**self.known.access(), self.wanted.name: self._access()}
        return with_environment(declared, fields, access, self.folders)

    @property
    def is_counted(self) -> bool:
        """Whether somebody wants to know its connections."""
        return all(server.is_counted for server in self.servers.values())

    @is_counted.setter
    def is_counted(self, value: bool) -> None:
        for server in self.servers.values():
            server.is_counted = value


def with_environment(
    tool: AppTool,
    fields: Mapping[str, Mapping[str, str]],
    access: Mapping[str, Mapping[str, object]],
    folders: Folders,
) -> AppTool:
    """A tool of an app's with what its environment holds now. Holds passwords."""
    env = resolve_those_known(dict(tool.env), fields, os.environ, Path(tool.root))
    env |= {
        DATABASES_VARIABLE: json.dumps({name: access[name] for name in tool.uses if name in access}),
        RUN_VARIABLE: str(folders.app),
    }
    return replace(tool, env=tuple(env.items()))


def _admin(server: Database) -> AdminServer:
    fields, embedded = server.fields, server.server
    name = server.wanted.name.rpartition(".")[2]
    if not fields:
        why = f": {server.error.message}" if server.error is not None else ""
        raise EngineError(f"server {name} has not been reached yet{why}", hint="headway status")
    url = without_password(fields["url"])
    if embedded is None:
        way = server.wanted.url or fields["url"]
        owner = parse_url(way).user or getpass.getuser()
        return AdminServer(name, way, way, url, fields["user"], owner, fields["name"], is_ours=False)
    way = make_conninfo(
        host=str(embedded.socket_folder), port=embedded.port, user=settings.SUPERUSER, dbname=embedded.database
    )
    return AdminServer(name, way, way, url, embedded.role, settings.SUPERUSER, embedded.database, is_ours=True)
