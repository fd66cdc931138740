"""The local runtime: replicas as processes of this machine behind one HAProxy, for the control loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from headway.model.action import (
    Action,
    AdmitReplica,
    AssignRoute,
    BoundQueue,
    CapReplica,
    DrainReplica,
    EndReplica,
    ForgetReplica,
    LimitReplica,
    RemoveReplica,
    ReplaceEdge,
    StartReplica,
    SuspendReplica,
    Tell,
)
from headway.model.observed import EdgeObserved, MemoryObserved, Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted
from headway.process.machine import memory_now
from headway.runtimes.local.all_databases import Databases
from headway.runtimes.local.caches import Caches
from headway.runtimes.local.edge import Edge
from headway.runtimes.local.processes import STOP_PATIENCE_S, Processes

# While every replica is ready and no request is under way, nothing about the edge is urgent, and asking it is the
# dearest part of a tick at rest.
_QUIET_S = 0.35
_BUSY_SHARE = 0.5  # of a replica's places taken: memory is looked at more often
_MEMORY_EVERY_S, _MEMORY_EVERY_BUSY_S = 2.0, 0.2


class LocalRuntime:
    """Implements `headway.runtimes.protocol.Runtime` on this machine."""

    def __init__(
        self,
        processes: Processes,
        edge: Edge,
        databases: Databases,
        caches: Caches,
        save: Callable[[Mapping[str, Replica]], None],
    ) -> None:
        self.processes = processes
        self.edge = edge
        self.databases = databases
        self.caches = caches
        self._save = save
        self._edge = EdgeObserved()
        self._edge_at_s = 0.0
        self._memory = MemoryObserved()
        self._memory_at_s = 0.0

    def now_s(self) -> float:
        """The machine's monotonic clock: it goes on over a restart of the controller."""
        return time.monotonic()

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        """One tick's facts."""
        self.processes.refresh()
        edge = self._observe_edge(replicas)
        return Observed(
            replicas=self.processes.observe(replicas),
            edge=edge,
            memory=self._observe_memory(edge),
            ready_databases=self.databases.ready | self.caches.settled,
            can_start=self.processes.can_start,
        )

    def _observe_edge(self, replicas: Mapping[str, Replica]) -> EdgeObserved:
        state = self.processes.table.get("edge")
        pid = state.pid if state and state.alive else None
        now_s = time.monotonic()
        quiet = (
            self._edge.reachable
            and self._edge.pid == pid
            and now_s - self._edge_at_s < _QUIET_S
            and not any(queue.in_flight or queue.queued for queue in self._edge.queues.values())
            and all(replica.phase is Phase.READY and name in self._edge.servers for name, replica in replicas.items())
        )
        if not quiet:
            self._edge = self.edge.observe(pid) if pid is not None else EdgeObserved()
            self._edge_at_s = now_s
        return self._edge

    def _observe_memory(self, edge: EdgeObserved) -> MemoryObserved:
        now_s = time.monotonic()
        if now_s - self._memory_at_s >= (_MEMORY_EVERY_BUSY_S if _is_busy(edge) else _MEMORY_EVERY_S):
            self._memory, self._memory_at_s = MemoryObserved(*memory_now()), now_s
        return self._memory

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Carry one action out; the text of an error when it failed."""
        self._edge_at_s = 0.0  # what was seen of the edge is no longer the present
        match action:
            case StartReplica():
                return self.processes.start(replicas[action.replica])
            case EndReplica():
                service = wanted.service(replicas[action.replica].service) if action.replica in replicas else None
                # A command drains by being asked to end; a worker was drained at the edge before.
                extra_s = service.drain_timeout_s if service and service.kind == "command" else 0.0
                return self.processes.end(action.replica, action.how, STOP_PATIENCE_S + extra_s)
            case ForgetReplica():
                return self.processes.forget(action.replica)
            case AdmitReplica():
                return self.edge.admit(
                    action.service, action.replica, self.processes.socket(action.replica), action.limit, action.number
                )
            case DrainReplica():
                return self.edge.drain(action.service, action.replica)
            case SuspendReplica():
                return self.edge.suspend(action.service, action.replica)
            case RemoveReplica():
                return self.edge.remove(action.service, action.replica)
            case LimitReplica():
                return self.edge.limit(action.service, action.replica, action.limit, action.number)
            case CapReplica():
                return self.processes.cap(action.replica, action.cap)
            case BoundQueue():
                return self.edge.bound(action.service, action.number, action.bound)
            case AssignRoute():
                return self.edge.assign(action.service, action.prefix, action.number)
            case ReplaceEdge():
                return self.edge.replace()
            case Tell():
                return ""

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Store what a restart of the edge or of the controller needs; an error's text when it cannot be."""
        self._save(replicas)
        return self.edge.store(replicas, wanted, self.processes.socket)


def _is_busy(edge: EdgeObserved) -> bool:
    """Whether requests wait, or may in a moment."""
    servers = (*edge.servers.values(), *edge.classes.values())
    return any(queue.queued for queue in edge.queues.values()) or any(
        server.sessions >= _BUSY_SHARE * server.limit for server in servers
    )
