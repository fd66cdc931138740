"""What must hold at every moment, whatever happens: checked on each action and after each tick."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headway.control.loop import Loop
from headway.control.placement import SURGE
from headway.model.action import (
    Action,
    AdmitReplica,
    EndReplica,
    ForgetReplica,
    StartReplica,
    Tell,
)
from headway.model.observed import Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted
from headway.runtimes.memory import MemoryRuntime

LEAVING = (Phase.DRAINING, Phase.STOPPING)


@dataclass
class Watch:
    """Implements the runtime's protocol over a world, and looks at everything that passes."""

    world: MemoryRuntime
    never_empty: bool = False  # at most one fault at a time: a service of two or more is never without a server
    starts: Counter[str] = field(default_factory=Counter)
    _draining_since_s: dict[str, float] = field(default_factory=dict)
    _staying: Counter[str] = field(default_factory=Counter)
    _had_server: set[str] = field(default_factory=set)
    _broken: list[str] = field(default_factory=list)

    def now_s(self) -> float:
        return self.world.now_s()

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        return self.world.observe(replicas)

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        return self.world.settle(replicas, wanted)

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        match action:
            case StartReplica(name):
                self._on_start(name)
            case AdmitReplica(name):
                process = self.world.processes.table.get(name)
                self._must(process is not None and process.serving, f"{name} is admitted without serving")
            case EndReplica(name, "ask"):
                self._on_ask(name, wanted)
            case EndReplica(name, "kill"):
                self._on_kill(name, replicas[name])
            case ForgetReplica(name):
                process = self.world.processes.table.get(name)
                self._must(process is None or not process.alive, f"{name} is forgotten while it lives")
            case _:
                pass
        return self.world.act(action, replicas, wanted)

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self._broken.append(otherwise)

    def _on_start(self, name: str) -> None:
        process = self.world.processes.table.get(name)
        self._must(process is None or not process.alive, f"{name} is started beside a living one")
        self.starts[name] += 1

    def _on_ask(self, name: str, wanted: Wanted) -> None:
        """Only what takes no requests is asked to end, or what was given the time to finish."""
        process, server = self.world.processes.table.get(name), self.world.edge.servers.get(name)
        service = wanted.service(name.rpartition(".")[0])
        patience_s = service.drain_timeout_s if service else 30.0
        waited_s = self.now_s() - self._draining_since_s.get(name, self.now_s())
        if process is None or not process.serving or waited_s >= patience_s - 1e-6:
            return
        if server is not None and self.world.edge.state != "dead":
            self._must(server.admin != "ready", f"{name} is asked to end while the edge sends to it")
            self._must(not server.sessions, f"{name} is asked to end with {server.sessions} sessions")

    def _on_kill(self, name: str, replica: Replica) -> None:
        process = self.world.processes.table.get(name)
        if process is None or not process.alive or process.asked_s is not None:
            return
        is_well = process.works(self.now_s()) and replica.phase in (Phase.READY, Phase.STARTING, Phase.DRAINING)
        self._must(not is_well, f"{name} is killed though it works")

    def after_tick(self, loop: Loop, actions: Sequence[Action]) -> None:
        """The checks of a whole tick. AssertionError names what does not hold."""
        self._contradictions(actions)
        now_s = self.now_s()
        for name, replica in loop.replicas.items():
            self._must(name == replica.name == f"{replica.service}.{replica.number}", f"odd name {name}")
            if replica.phase in LEAVING:
                self._draining_since_s.setdefault(name, now_s)
            else:
                self._draining_since_s.pop(name, None)
        for name in set(self._draining_since_s) - set(loop.replicas):
            del self._draining_since_s[name]
        self._numbers(loop, sum(isinstance(action, Tell) and "adopted" in action.reason for action in actions))
        if self.never_empty:
            self._not_empty(loop)
        assert not self._broken, "; ".join(self._broken)

    def _contradictions(self, actions: Sequence[Action]) -> None:
        """For one replica at most one deed on its process and one on its server."""
        deeds: Counter[tuple[str, str]] = Counter()
        for action in actions:
            if not isinstance(action, Tell) and (name := getattr(action, "replica", "")):
                on = "process" if isinstance(action, StartReplica | EndReplica | ForgetReplica) else "server"
                deeds[name, on] += 1
        for (name, on), count in deeds.items():
            self._must(count == 1, f"{count} deeds on the {on} of {name} in one tick: {actions}")

    def _numbers(self, loop: Loop, adopted: int) -> None:
        """Never more than wanted and the surge; what is above (scaled down, adopted) goes, it does not grow."""
        staying = Counter(r.service for r in loop.replicas.values() if not r.leave and r.phase not in LEAVING)
        for service in loop.wanted.services:
            most = max(service.replicas + SURGE, self._staying[service.name]) + adopted
            self._must(staying[service.name] <= most, f"{staying[service.name]} of {service.name}, {most} at most")
        self._staying = staying

    def _not_empty(self, loop: Loop) -> None:
        edge = self.world.edge
        if edge.state != "serving" or loop.wanted.stopping:
            return
        for service in loop.wanted.services:
            if not service.is_at_edge or service.replicas < 2:
                continue
            takes = [s for s in edge.servers.values() if s.service == service.name and s.admin == "ready"]
            processes = [self.world.processes.table.get(server.name) for server in takes]
            working = sum(process is not None and process.works(self.now_s()) for process in processes)
            if working:
                self._had_server.add(service.name)
            else:
                self._must(service.name not in self._had_server, f"{service.name} has no server that works")


def unmet(loop: Loop, world: MemoryRuntime) -> list[str]:
    """What is not exactly as wanted: replicas, their processes, the edge's servers and limits."""
    found: list[str] = []
    expected_servers: set[str] = set()
    found += [f"{name} of no service" for name, r in loop.replicas.items() if loop.wanted.service(r.service) is None]
    for service in loop.wanted.services:
        mine = [replica for replica in loop.replicas.values() if replica.service == service.name]
        if len(mine) != service.replicas:
            found.append(f"{len(mine)} of {service.replicas} {service.name}")
        for replica in mine:
            found += _replica_unmet(replica, service.key)
        if not service.is_at_edge:
            continue
        for replica in mine:
            expected_servers.add(replica.name)
            server, seen = world.edge.servers.get(replica.name), loop.observed.replicas.get(replica.name)
            if server is None or server.admin != "ready" or not server.is_up:
                found.append(f"{replica.name} not up at the edge")
            elif server.limit != service.limit + (seen.streams if seen else 0):
                found.append(f"{replica.name} has limit {server.limit}")
    if world.edge.state != "serving" or set(world.edge.servers) != expected_servers:
        found.append(f"the edge has {sorted(world.edge.servers)}")
    if {name for name, process in world.processes.table.items() if process.alive} != set(loop.replicas):
        found.append(f"processes of {sorted(world.processes.table)}")
    if set(world.processes.table) != set(loop.replicas):
        found.append(f"records of {sorted(world.processes.table)}")
    return found


def _replica_unmet(replica: Replica, key: str) -> list[str]:
    found = []
    if replica.phase is not Phase.READY:
        found.append(f"{replica.name} {replica.phase}")
    if replica.key != key or replica.retire or replica.leave:
        found.append(f"{replica.name} is to be replaced")
    return found
