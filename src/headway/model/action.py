"""What the control loop does, as data: decided purely, carried out elsewhere, each with its reason for the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headway.model.overload import MAIN, QueueBound


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start a process for this replica."""

    replica: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndReplica:
    """End its process: "ask" = its stop signal, SIGKILL some seconds later; "kill" = SIGKILL at once."""

    replica: str
    how: Literal["ask", "kill"]
    reason: str


@dataclass(frozen=True, slots=True)
class ForgetReplica:
    """Its process has ended and it leaves for good: remove its socket, telemetry and record."""

    replica: str
    reason: str


@dataclass(frozen=True, slots=True)
class AdmitReplica:
    """Put it into a class of the edge, taking requests: add it when it is not there, else set it ready."""

    replica: str
    service: str
    limit: int
    reason: str
    number: int = MAIN


@dataclass(frozen=True, slots=True)
class DrainReplica:
    """Give it no new requests; those it has go on."""

    replica: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class SuspendReplica:
    """Take it out of the edge at once: its process is gone or hangs."""

    replica: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Delete it from the edge."""

    replica: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class LimitReplica:
    """Set how many requests of a class it may have at once."""

    replica: str
    service: str
    limit: int
    reason: str
    number: int = MAIN


@dataclass(frozen=True, slots=True)
class CapReplica:
    """Tell the worker itself how many requests of all classes it may hold; it refuses what is above."""

    replica: str
    cap: int
    reason: str


@dataclass(frozen=True, slots=True)
class BoundQueue:
    """Set what the edge does with the queue of a class."""

    service: str
    number: int
    bound: QueueBound
    reason: str


@dataclass(frozen=True, slots=True)
class AssignRoute:
    """Let requests below `prefix` queue in a class: SLOW, or MAIN to take them out of it again."""

    service: str
    prefix: str
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReplaceEdge:
    """The edge hangs: kill it, it is started again at once with the servers its file holds."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Nothing to do, something to say: the journal and `explain` show it."""

    about: str
    reason: str
    level: Literal["note", "warning"] = "note"


Action = (
    StartReplica
    | EndReplica
    | ForgetReplica
    | AdmitReplica
    | DrainReplica
    | SuspendReplica
    | RemoveReplica
    | LimitReplica
    | CapReplica
    | BoundQueue
    | AssignRoute
    | ReplaceEdge
    | Tell
)
