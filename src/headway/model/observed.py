"""What was seen in one tick: processes, their telemetry, the edge, databases. Facts only, no conclusions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from headway.model.overload import Counts, EdgeQueue


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a replica could not serve, in its own words."""

    kind: str  # "import", "attribute", "shape", "startup", "granian", …
    message: str
    hint: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaObserved:
    """One replica's process and what it tells. Ages are seconds since the last sign of life."""

    pid: int
    alive: bool
    exit_status: int | None = None
    serving: bool = False
    beat_age_s: float = 0.0
    loop_beat_age_s: float = 0.0
    stopped: bool = False  # by a signal, so that it will not go on by itself
    is_wsgi: bool = False
    in_flight: int = 0
    streams: int = 0
    completed: int = 0
    rss_bytes: int = 0
    failure: Failure | None = None
    counts: Counts | None = None  # None while it tells nothing, or of another layout
    cpu_s: float = 0.0  # processor time its process has used (a command: with its children)
    cpu_at_s: float = 0.0  # when that was read, on the machine's monotonic clock; 0 = at this look


@dataclass(frozen=True, slots=True)
class EdgeServer:
    """A replica as the edge has it."""

    admin: Literal["ready", "drain", "maint"]
    is_up: bool
    sessions: int
    limit: int


@dataclass(frozen=True, slots=True)
class EdgeObserved:
    """The edge: reachable or not, and its servers by replica name."""

    pid: int | None = None
    reachable: bool = False
    unreachable_s: float = 0.0
    answered: bool = True  # this process has answered at least once; False = it may still be starting
    servers: Mapping[str, EdgeServer] = field(default_factory=dict)
    classes: Mapping[tuple[str, int], EdgeServer] = field(default_factory=dict)  # by replica and class, without main
    queues: Mapping[tuple[str, int], EdgeQueue] = field(default_factory=dict)  # by service and class
    learned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # routes in class SLOW, by service


@dataclass(frozen=True, slots=True)
class MemoryObserved:
    """Memory of the machine, or of our control group where that is less. `stalled_share` is PSI's 10 s average."""

    total_bytes: int = 0
    available_bytes: int = 0
    stalled_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """One tick's facts."""

    replicas: Mapping[str, ReplicaObserved] = field(default_factory=dict)
    edge: EdgeObserved = field(default_factory=EdgeObserved)
    ready_databases: frozenset[str] = frozenset()  # and caches that need not be waited for
    memory: MemoryObserved = field(default_factory=MemoryObserved)
    can_start: bool = True  # False while nobody can start processes (the supervisor is gone)
