"""The edge's twin: servers with an administrative state, checks that take a moment, commands that are refused.

It knows what HAProxy does that a control loop must live with: a server with open or idle connections is not deleted, a
dead process is noticed only after some checks, a restart brings back what the file holds and forgets the rest, and a
hung edge answers nobody until it is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from headway.model.observed import EdgeObserved, EdgeServer
from headway.runtimes.memory.processes import Processes

CHECK_FALL_S = 0.4  # two checks in a row without an answer
CHECK_RISE_S = 0.2
_AWAY = "the edge does not answer"


@dataclass(slots=True)
class Server:
    """One replica as the edge has it; `sessions` are kept by the traffic."""

    name: str
    service: str
    limit: int
    admin: Literal["ready", "drain", "maint"] = "ready"
    is_up: bool = True
    sessions: int = 0
    changing_since_s: float | None = None  # checks disagree with `is_up` since then
    idle_ticks: int = 0  # for so many attempts its idle connections keep it from being deleted


@dataclass(slots=True)
class Edge:
    """One edge process and its successors."""

    random: Random
    pid: int | None = 1
    state: Literal["serving", "hung", "starting", "dead"] = "serving"
    servers: dict[str, Server] = field(default_factory=dict)
    file: tuple[tuple[str, str, int], ...] = ()  # name, service, limit: what a restart comes back with
    boot_s: tuple[float, float] = (0.05, 0.3)
    deaths: int = 0
    _since_s: float = 0.0  # since when it has been without an answer, or dead
    _next_s: float = 0.0

    # -- life -------------------------------------------------------------------------------------------------------

    def crash(self, now_s: float) -> None:
        """It is gone; its supervisor starts it again at once."""
        self.servers, self.pid, self.state = {}, None, "dead"
        self.deaths += 1
        self._since_s, self._next_s = now_s, now_s + self.random.uniform(0.05, 0.2)

    def hang(self, now_s: float) -> None:
        """It stands still until somebody replaces or wakes it."""
        if self.state == "serving":
            self.state, self._since_s = "hung", now_s

    def wake(self) -> None:
        """A hung one goes on as if nothing had been."""
        if self.state == "hung":
            self.state = "serving"

    def step(self, now_s: float, processes: Processes) -> None:
        """The time up to `now_s` passes: it comes back when it was gone, and checks its servers."""
        if self.state == "dead" and self._next_s <= now_s:
            self.pid, self.state = 1 + self.deaths, "starting"
            self._since_s, self._next_s = now_s, now_s + self.random.uniform(*self.boot_s)
        elif self.state == "starting" and self._next_s <= now_s:
            self.state = "serving"
            self.servers = {name: Server(name, service, limit) for name, service, limit in self.file}
        if self.state == "serving":
            for server in self.servers.values():
                if server.admin != "maint":
                    self._check(server, now_s, processes)

    def _check(self, server: Server, now_s: float, processes: Processes) -> None:
        process = processes.table.get(server.name)
        answers = process is not None and process.answers_checks(now_s)
        if answers == server.is_up:
            server.changing_since_s = None
        elif server.changing_since_s is None:
            server.changing_since_s = now_s
        elif now_s - server.changing_since_s >= (CHECK_RISE_S if answers else CHECK_FALL_S) - 1e-9:
            server.is_up, server.changing_since_s = answers, None

    # -- commands: the text of an error, or empty --------------------------------------------------------------------

    def admit(self, name: str, service: str, limit: int) -> str:
        """It takes requests from now on; whether it counts as up before its first check is left to chance."""
        if self.state != "serving":
            return _AWAY
        server = self.servers.get(name)
        if server is None:
            server = self.servers[name] = Server(name, service, limit, idle_ticks=self.random.randint(0, 4))
            server.is_up = self.random.random() < 0.5
        elif server.admin == "maint":
            server.is_up = self.random.random() < 0.5
        server.admin, server.limit, server.changing_since_s = "ready", limit, None
        return ""

    def set_admin(self, name: str, admin: Literal["drain", "maint"]) -> str:
        """Drain it, or take it out."""
        if self.state != "serving":
            return _AWAY
        if name not in self.servers:
            return f"no such server: {name}"
        self.servers[name].admin = admin
        return ""

    def set_limit(self, name: str, limit: int) -> str:
        """How many requests it may have at once."""
        if self.state != "serving":
            return _AWAY
        if name not in self.servers:
            return f"no such server: {name}"
        self.servers[name].limit = limit
        return ""

    def remove(self, name: str, processes: Processes) -> str:
        """Delete it: refused while anything is connected to it."""
        if self.state != "serving":
            return _AWAY
        server = self.servers.get(name)
        if server is None:
            return ""
        server.admin = "maint"
        process = processes.table.get(name)
        if server.sessions or (process is not None and process.listens()):
            return f"{name} has connections"
        if server.idle_ticks:
            server.idle_ticks -= 1
            return f"{name} has idle connections"
        del self.servers[name]
        return ""

    def replace(self, now_s: float) -> str:
        """Kill it; it starts again with what its file holds."""
        if self.state != "dead":
            self.crash(now_s)
        return ""

    # -- what is seen of it -----------------------------------------------------------------------------------------

    def observed(self, now_s: float) -> EdgeObserved:
        """What one tick sees: nothing but its pid while it does not answer."""
        if self.state != "serving":
            away_s = now_s - self._since_s
            return EdgeObserved(self.pid, reachable=False, unreachable_s=away_s, answered=self.state != "starting")
        servers = {
            server.name: EdgeServer(
                server.admin, server.is_up and server.admin != "maint", server.sessions, server.limit
            )
            for server in self.servers.values()
        }
        return EdgeObserved(self.pid, reachable=True, servers=servers)

    def candidates(self, service: str) -> Iterable[Server]:
        """Servers of `service` that take requests, full or not."""
        return [s for s in self.servers.values() if s.service == service and s.admin == "ready" and s.is_up]
