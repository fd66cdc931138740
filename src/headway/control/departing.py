"""Carries a server out of its database while the controller lives: its shards move away, then it goes.

That a server is to leave is in a file of the state folder until it has left, so the next controller goes on after a
death. Every step can be done twice: what has moved is not planned again, and a server that is not among the servers
any more is only ended. What is in the way, a split, an import, its own silence, is waited for; what the servers refuse
ends it, and the server stays. Others that do not answer are passed over: its shards go to those that do.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

from headway.control.apply import Applying
from headway.control.controller import Controller
from headway.control.servers import Servers
from headway.control.stored import Departure
from headway.control.tender import Tender, told_move
from headway.errors import Conflict, EngineError, HeadwayError, MachineError
from headway.runtimes.local.engine_process import as_told
from headway.sharding.admin import connect
from headway.sharding.catalog import drop_server
from headway.sharding.move.record import done_from, newest, open_moves
from headway.sharding.survey import sizes

_LOOK_S = 1.0
_AGAIN_S = 5.0
_POLL_S = 0.05
_ENDED_S = 60.0

Say = Callable[[str], None]


@dataclass
class _Carrier:
    """Who works on a departure, and how it ended."""

    departure: Departure
    stop: threading.Event = field(default_factory=threading.Event)  # the server is to stay
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_going: bool = False  # it is empty, and services hear of it
    line: str = ""
    told: str = ""
    result: dict[str, Any] | None = None
    error: HeadwayError | None = None
    thread: threading.Thread | None = None
    not_before_s: float = 0.0


class Departures:
    """Of all sharded databases of one controller, one at a time of each."""

    def __init__(self, controller: Controller, applying: Applying, servers: Servers) -> None:
        self._controller = controller
        self._applying = applying
        self._servers = servers
        self._carriers: dict[str, _Carrier] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._live, name="headway-departures", daemon=True).start()

    # -- by itself ----------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        while not self._controller.finished.wait(_LOOK_S):
            for database in list(self._controller.departures):
                try:
                    self._look(database)
                except Exception as error:  # as while the loop is busy: the next look comes in a moment
                    as_told(error)

    def _look(self, database: str) -> None:
        if database not in self._controller.applied.system.databases:
            self._forget(database)
            self._tell(database, "departure ended", "the database is not declared any more")
        elif database in self._controller.tended():
            self._carry(database)

    def _carry(self, database: str) -> _Carrier | None:
        """Have a thread work on what is to leave, unless one does."""
        with self._lock:
            departure = self._controller.departures.get(database)
            if departure is None or self._controller.loop.wanted.stopping:
                return self._carriers.get(database)
            carrier = self._carriers.get(database)
            if carrier is None or carrier.departure != departure:
                carrier = self._carriers[database] = _Carrier(departure)
            if carrier.stop.is_set():  # aborted, and about to be forgotten: nobody may begin it anew meanwhile
                return carrier
            is_at_work = carrier.thread is not None and carrier.thread.is_alive()
            if not is_at_work and carrier.result is None and time.monotonic() >= carrier.not_before_s:
                name = f"headway-departure-{database}"
                carrier.thread = threading.Thread(target=self._work, args=(database, carrier), name=name, daemon=True)
                carrier.thread.start()
            return carrier

    def _work(self, database: str, carrier: _Carrier) -> None:
        server = carrier.departure.server
        try:
            found = self._depart(database, carrier)
        except (HeadwayError, psycopg.Error) as problem:
            error = problem if isinstance(problem, HeadwayError) else EngineError(str(problem).strip())
            carrier.not_before_s = time.monotonic() + _AGAIN_S
            if carrier.stop.is_set() or self._controller.loop.wanted.stopping:
                return
            if isinstance(error, (Conflict, EngineError)):
                carrier.line = f"waiting: {error.message}"
                if carrier.told != error.message:
                    self._tell(database, "departure waits", f"server {server}: {error.message}", "warning")
                carrier.told = error.message
                return
            self._forget(database)
            self._tell(database, "departure failed", f"server {server} stays: {error.message}", "warning")
            carrier.error = error
        else:
            carrier.result = found

    def _depart(self, database: str, carrier: _Carrier) -> dict[str, Any] | None:
        """All that is left to do. None when the server is to stay after all."""
        server = carrier.departure.server
        while server in self._servers.tender(database).database.servers:
            self._empty(database, carrier)
            with carrier.lock:
                if carrier.stop.is_set():
                    return None
                if self._servers.tender(database).database.map_now().on(server):
                    continue  # somebody has moved one there meanwhile
                carrier.is_going = True
            try:
                self._let_go(database, server, carrier)
            except HeadwayError:
                carrier.is_going = False
                raise
            break
        return self._gone(database, carrier)

    def _empty(self, database: str, carrier: _Carrier) -> None:
        """Move its shards to the others, until it has none."""
        server = carrier.departure.server
        tender = self._servers.tender(database)

        def say(line: str) -> None:
            carrier.line = line

        while not carrier.stop.is_set():
            with connect(tender.database.first) as catalog:
                begun = [move for move in open_moves(catalog) if move.source == server]
            if begun:  # by the controller that died, or by hand: it goes on by itself
                say(f"shard {begun[0].shard} is moving to {begun[0].target}")
                carrier.stop.wait(_POLL_S * 4)
                continue
            planned = self.plan(database, server)
            if not planned:
                return
            step = planned[0]
            say(f"{len(planned)} left: shard {step['shard']}, {step['from']} → {step['to']}")
            tender.move(step["shard"], step["to"], say, carrier.stop)

    def _let_go(self, database: str, server: str, carrier: _Carrier) -> None:
        now = self._servers.declared_now(database)
        left: int | dict[str, str] = now - 1 if isinstance(now, int) else {k: v for k, v in now.items() if k != server}
        carrier.line = f"server {server} goes, and every service hears of it"
        self._applying.set_servers(database, left, {})

    def _gone(self, database: str, carrier: _Carrier) -> dict[str, Any]:
        """It is among the servers no more: its process ends, and nothing is left to remember."""
        departure = carrier.departure
        tender = self._servers.tender(database)
        if departure.process:
            self._end(departure.process)
        with connect(tender.database.first) as catalog:
            # While another server is away no start has taken it out of the map, and writers of reference tables would
            # still look for it.
            drop_server(catalog, departure.server)
            moves = [told_move(move.result()) for move in done_from(catalog, departure.server, departure.after_move)]
        line = self._servers.told(database, f"{departure.server} taken out, empty")
        self._forget(database)
        return {
            "database": database,
            "server": departure.server,
            "moves": moves,
            "servers": list(tender.database.servers),
            "data_folder": departure.data_folder or None,
            "write": line,
        }

    def _end(self, process: str) -> None:
        """Wait for the end of an embedded server. One whose end a controller could not ask for any more is asked."""
        until_s = time.monotonic() + _ENDED_S
        asked_s = time.monotonic() + _AGAIN_S
        while time.monotonic() < until_s:
            state = self._controller.processes.table_entry(process)
            if state is None or not state.alive:
                return
            if time.monotonic() > asked_s:
                asked_s = until_s
                self._controller.supervisor.stop(process, signal.SIGINT, _ENDED_S)
            time.sleep(_POLL_S)
        raise EngineError(f"{process} is still stopping after {_ENDED_S:.0f} s", hint=f"headway logs {process}")

    def _forget(self, database: str) -> None:
        def forget() -> None:
            self._controller.departures.pop(database, None)
            self._controller.store.save_departures(self._controller.departures)

        self._controller.call(forget)

    def _tell(self, database: str, what: str, told: str, level: str = "note") -> None:
        self._controller.journal.write(f"database.{database}", what, told, level)

    # -- asked for ----------------------------------------------------------------------------------------------------

    def plan(self, database: str, server: str) -> list[dict[str, Any]]:
        """Which shards would go where if a server went. HeadwayError with what keeps it from going."""
        tender = self._servers.tender(database)
        self._check(tender, database, server)
        names = list(tender.database.servers)
        others = [name for name in names if name != server]
        counted = sizes(database, tender.database.map_now(), [tender.database.admin_of(server)])
        return [
            {
                "shard": move.shard,
                "from": move.source,
                "to": move.target,
                "rows": counted.get(move.shard, (0, 0))[0],
                "bytes": counted.get(move.shard, (0, 0))[1],
            }
            for move in tender.plan((server,))[0]
            if move.source == server and move.target in others
        ]

    def remove(self, database: str, server: str, say: Say, stop: threading.Event) -> dict[str, Any]:
        """Have a server leave, and wait for it; whoever asks again for the same one waits with the first."""
        self._begin(database, server)
        while not (stop.is_set() or self._controller.finished.is_set()):
            carrier = self._carry(database)
            if carrier is None or carrier.departure.server != server or carrier.stop.is_set():
                raise Conflict(f"server {server} of database {database} stays: its departure was aborted")
            if carrier.result is not None:
                return carrier.result
            if carrier.error is not None:
                raise carrier.error
            if carrier.line:
                say(carrier.line)
            time.sleep(_POLL_S)
        raise Conflict(
            f"the departure of server {server} is not waited for any more", hint="It goes on: headway db status"
        )

    def _begin(self, database: str, server: str) -> None:
        """Record it, unless it is under way. HeadwayError with what stands against it."""
        now = self._controller.departures.get(database)
        if now is not None and now.server == server:
            return
        self.refuse_others(database, f"the departure of server {server}")
        planned = self.plan(database, server)
        tender = self._servers.tender(database)
        for step in planned[:1]:  # what keeps one of its shards there keeps all
            tender.check_source(step["shard"])
        held = tender.database.servers[server]
        with connect(tender.database.first) as catalog:
            last = newest(catalog)
        is_embedded = held.server is not None
        folder = str(held.server.data_folder) if held.server is not None else ""
        departure = Departure(server, last, held.process if is_embedded else "", folder)

        def record() -> None:
            departures = {**self._controller.departures, database: departure}
            if not self._controller.store.save_departures(departures):
                raise MachineError(
                    f"{self._controller.folders.state} cannot be written to, and nothing would remember that server "
                    f"{server} leaves",
                    hint="Free room on that disk.",
                )
            self._controller.departures = departures

        with self._lock:
            self._carriers.pop(database, None)
        self._controller.call(record)
        self._tell(database, "departure", f"server {server} is to leave: {len(planned)} shards move to others")

    def abort(self, database: str, server: str) -> dict[str, Any]:
        """Let a server stay, with the shards that it still has. Conflict when it has none and is going."""
        now = self._controller.departures.get(database)
        if now is None or now.server != server:
            raise HeadwayError(f"server {server} of database {database} is not leaving", hint="headway db status")
        tender = self._servers.tender(database)
        carrier = self._carry(database)
        if carrier is not None:
            with carrier.lock:
                if carrier.is_going or carrier.result is not None:
                    raise Conflict(
                        f"server {server} is empty and going", hint=f"headway db add-server {database} brings it back"
                    )
                carrier.stop.set()
        try:
            self._forget(database)
        except HeadwayError:  # it is not aborted after all, and goes on
            with self._lock:
                self._carriers.pop(database, None)
            raise
        with connect(tender.database.first) as catalog:
            begun = [move for move in open_moves(catalog) if move.source == server]
        for move in begun:
            try:
                tender.abort(move.shard)
            except Conflict:
                continue  # past its commit point
        kept = tender.database.map_now().on(server)
        self._tell(database, "departure aborted", f"server {server} stays, with {len(kept)} shards")
        return {"server": server, "shards": list(kept)}

    def status(self, database: str) -> dict[str, Any] | None:
        """What is leaving a database, for people and programs."""
        departure = self._controller.departures.get(database)
        if departure is None:
            return None
        carrier = self._carriers.get(database)
        left = len(self._servers.tender(database).database.map_now().on(departure.server))
        return {"server": departure.server, "left": left, "told": carrier.line if carrier is not None else ""}

    def server(self, database: str) -> str:
        """The one that is leaving; empty: none is."""
        departure = self._controller.departures.get(database)
        return departure.server if departure is not None else ""

    def refuse_others(self, database: str, what: str) -> None:
        """Conflict while a server is leaving."""
        if (departure := self._controller.departures.get(database)) is not None:
            raise Conflict(
                f"{what} has to wait: server {departure.server} of database {database} is leaving",
                hint=f"headway db status {database}; or headway db abort {database} --server {departure.server}",
            )

    def refuse_moves_to(self, database: str, target: str) -> None:
        """Conflict for a shard that is to go where all others leave."""
        departure = self._controller.departures.get(database)
        if departure is not None and departure.server == target:
            self.refuse_others(database, f"a move to server {target}")

    def _check(self, tender: Tender, database: str, server: str) -> None:
        held = tender.database.servers
        names = list(held)
        if server not in held:
            raise HeadwayError(
                f"database {database} has no server {server}", hint=f"Its servers are {', '.join(names)}."
            )
        if len(names) == 1:
            raise HeadwayError(
                f"server {server} is the only one of database {database}", hint=f"headway db add-server {database}"
            )
        if server == names[0]:
            raise HeadwayError(
                f"server {server} holds the catalog of database {database}, which stays where it is",
                hint=f"Its shards can leave: headway db rebalance {database} --empty {server}",
            )
        if isinstance(self._servers.declared_now(database), int) and server != names[-1]:
            raise HeadwayError(
                f"embedded servers are numbered: of database {database} only the last one, {names[-1]}, can go",
                hint=f"headway db remove-server {database} {names[-1]}",
            )
        if held[server].state != "ready":
            raise EngineError(
                f"server {server} is {held[server].state}: its shards cannot be moved while it does not answer",
                hint="headway status; headway logs",
            )
        if tender.splits.now() is not None:
            raise Conflict(
                f"the shards of database {database} are being split",
                hint=f"Wait until that has ended: headway db status {database}",
            )
        tender.imports.refuse_others(f"the end of server {server}")
        with connect(tender.database.first) as catalog:
            row = catalog.execute(
                "SELECT shard FROM headway.moves WHERE ended_at IS NULL AND target = %s LIMIT 1", (server,)
            ).fetchone()
        if row is not None:
            raise Conflict(
                f"shard {row[0]} is moving to server {server}",
                hint=f"Wait until it has ended, or undo it: headway db abort {database} {row[0]}",
            )
