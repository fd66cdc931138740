"""The local runtime: replicas as processes of this machine behind one HAProxy, for the control loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

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
    Tell,
)
from headway.model.observed import EdgeObserved, Observed
from headway.model.replica import Replica
from headway.model.wanted import Wanted
from headway.runtimes.local.databases import Databases
from headway.runtimes.local.edge import Edge
from headway.runtimes.local.processes import Processes


class LocalRuntime:
    """Implements `headway.runtimes.protocol.Runtime` on this machine."""

    def __init__(
        self,
        processes: Processes,
        edge: Edge,
        databases: Databases,
        save: Callable[[Mapping[str, Replica]], None],
    ) -> None:
        self.processes = processes
        self.edge = edge
        self.databases = databases
        self._save = save

    def now_s(self) -> float:
        """The machine's monotonic clock: it goes on over a restart of the controller."""
        return time.monotonic()

    def observe(self, replicas: Mapping[str, Replica]) -> Observed:
        """One tick's facts."""
        self.processes.refresh()
        state = self.processes.table.get("edge")
        edge = self.edge.observe(state.pid) if state and state.alive else EdgeObserved()
        return Observed(
            replicas=self.processes.observe(replicas),
            edge=edge,
            ready_databases=self.databases.ready,
            can_start=self.processes.can_start,
        )

    def act(self, action: Action, replicas: Mapping[str, Replica], wanted: Wanted) -> str:
        """Carry one action out; the text of an error when it failed."""
        match action:
            case StartReplica():
                return self.processes.start(replicas[action.replica])
            case EndReplica():
                return self.processes.end(action.replica, action.how)
            case ForgetReplica():
                return self.processes.forget(action.replica)
            case AdmitReplica():
                return self.edge.admit(
                    action.service, action.replica, self.processes.socket(action.replica), action.limit
                )
            case DrainReplica():
                return self.edge.drain(action.service, action.replica)
            case SuspendReplica():
                return self.edge.suspend(action.service, action.replica)
            case RemoveReplica():
                return self.edge.remove(action.service, action.replica)
            case LimitReplica():
                return self.edge.limit(action.service, action.replica, action.limit)
            case ReplaceEdge():
                return self.edge.replace()
            case Tell():
                return ""

    def settle(self, replicas: Mapping[str, Replica], wanted: Wanted) -> None:
        """Store what a restart of the edge or of the controller needs."""
        self._save(replicas)
        self.edge.store(replicas, wanted, self.processes.socket)
