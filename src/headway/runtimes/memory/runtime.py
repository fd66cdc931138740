"""The memory runtime: the same protocol as real processes, on a clock that moves only when it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from headway.model.action import (
    Action,
    AdmitReplica,
    DrainReplica,
    EndReplica,
    ForgetReplica,
    LimitReplica,
    RemoveReplica,
    ReplaceEdge,
    StartReplica,
    SuspendReplica,
)
from headway.model.observed import Observed
from headway.model.overload import MAIN
from headway.model.replica import Replica, stays_in_edge
from headway.model.wanted import Wanted
from headway.runtimes.memory.edge import Edge
from headway.runtimes.memory.processes import Behaviour, Processes, observed
from headway.runtimes.memory.traffic import Offer, Tally, Traffic

_UNWATCHED_S = 1.0  # not observed for longer than this: silence in the meantime proves nothing about a replica
_NO_SUPERVISOR = "the supervisor does not answer"


@dataclass(frozen=True, slots=True)
class Stored:
    """What the last `settle` kept: a controller that comes back starts from it."""

    replicas: Mapping[str, Replica] = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)


class MemoryRuntime:
    """A small world from one seed. `advance` moves its time; the other verbs are what may happen in it."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.processes = Processes(self.random)
        self.edge = Edge(self.random)
        self.traffic = Traffic(self.random)
        self.stored = Stored()
        self.databases: dict[str, float] = {}  # ready from this moment on
        self.loses = 0.0  # share of commands that fail, or succeed without the answer arriving
        self.supervisor_back_s = 0.0
        self.full_until_s = 0.0
        self._behaviours: dict[tuple[str, str], Behaviour] = {}
        self._now_s = 0.0
        self._observed_s = 0.0
        self._watching_since_s = 0.0

    # -- what may happen --------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Time passes for everybody."""
        self._now_s = round(self._now_s + seconds, 6)
        self.processes.step(self._now_s, seconds)
        self.edge.step(self._now_s, self.processes)
        self.traffic.step(self._now_s, seconds, self.edge, self.processes)

    def pause(self, seconds: float) -> None:
        """The whole machine stands still; only its clock goes on."""
        self._now_s = round(self._now_s + seconds, 6)

    def behave(self, service: str, behaviour: Behaviour, key: str = "") -> None:
        """How processes of `service` that start from now on behave; with `key`, those of that release alone."""
        self._behaviours[service, key] = behaviour

    def offer(self, service: str, offer: Offer) -> None:
        """What requests arrive for `service` from now on."""
        self.traffic.offer(service, offer, self._now_s)

    def tally(self, service: str) -> Tally:
        """How its requests ended so far."""
        return self.traffic.tallies.setdefault(service, Tally())

    def crash(self, replica: str, status: int = -9) -> None:
        """Its process ends by itself."""
        self.processes.crash(replica, status)

    def freeze(self, replica: str, for_s: float) -> None:
        """Its whole process stands still, as by SIGSTOP."""
        self.processes.table[replica].frozen_until_s = self._now_s + for_s

    def stick(self, replica: str, for_s: float) -> None:
        """Its event loop stands still; the process itself lives."""
        self.processes.table[replica].stuck_until_s = self._now_s + for_s

    def swell(self, replica: str, size_bytes: int) -> None:
        """It holds so much more memory."""
        self.processes.table[replica].rss_bytes += size_bytes

    def crash_edge(self) -> None:
        """The edge ends by itself; what restarts it is not the loop."""
        self.edge.crash(self._now_s)

    def hang_edge(self) -> None:
        """The edge stands still."""
        self.edge.hang(self._now_s)

    def lose_supervisor(self, for_s: float) -> None:
        """Nothing can be started or ended for a while; what runs goes on."""
        self.supervisor_back_s = self._now_s + for_s

    def fill_disk(self, for_s: float) -> None:
        """Nothing can be stored for a while."""
        self.full_until_s = self._now_s + for_s

    # -- the protocol -----------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        """Virtual time."""
        return self._now_s

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        """Facts of this moment; also of processes that nobody remembers."""
        if self._now_s - self._observed_s > _UNWATCHED_S:
            self._watching_since_s = self._now_s
        self._observed_s = self._now_s
        watched_s = self._now_s - self._watching_since_s
        return Observed(
            replicas={
                name: observed(process, self._now_s, watched_s) for name, process in self.processes.table.items()
            },
            edge=self.edge.observed(self._now_s),
            ready_databases=frozenset(name for name, at_s in self.databases.items() if at_s <= self._now_s),
            can_start=self.supervisor_back_s <= self._now_s,
        )

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Carry it out, or lose it on the way."""
        if self.loses and self.random.random() < self.loses:
            if self.random.random() < 0.5:
                return "the command was lost"
            self._do(action, replicas)
            return "the answer was lost"
        return self._do(action, replicas)

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Keep what a restart of the edge or of the controller needs, where there is room."""
        if self.full_until_s > self._now_s:
            return "no space left on device"
        self.stored = Stored(dict(replicas), wanted)
        self.edge.file = tuple(
            (replica.name, service.name, service.limit)
            for replica in replicas.values()
            if (service := wanted.service(replica.service)) and service.is_at_edge and stays_in_edge(replica)
        )
        return ""

    def _do(self, action: Action, replicas: Mapping[str, Replica]) -> str:
        edge, processes = self.edge, self.processes
        match action:
            case StartReplica() | EndReplica() if self.supervisor_back_s > self._now_s:
                return _NO_SUPERVISOR
            case StartReplica(name, service):
                key = replicas[name].key
                behaviour = self._behaviours.get((service, key)) or self._behaviours.get((service, ""), Behaviour())
                return processes.start(name, service, behaviour, self._now_s)
            case EndReplica(name, how):
                return processes.end(name, how, self._now_s)
            case ForgetReplica(name):
                processes.forget(name)
            case AdmitReplica() | LimitReplica() if action.number != MAIN:
                pass  # one class is all that this edge has
            case AdmitReplica(name, service, limit):
                return edge.admit(name, service, limit)
            case DrainReplica(name):
                return edge.set_admin(name, "drain")
            case SuspendReplica(name):
                return edge.set_admin(name, "maint")
            case RemoveReplica(name):
                return edge.remove(name, processes)
            case LimitReplica(name, _, limit):
                return edge.set_limit(name, limit)
            case ReplaceEdge():
                return edge.replace(self._now_s)
            case _:
                pass
        return ""
