"""What is known of a system when its walls are told: nouns, gathered by `headway.lab.wall_look`. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """One service. Of a system that does not run: as declared."""

    name: str
    is_app: bool
    is_at_edge: bool
    is_wsgi: bool
    replicas: int
    limit_each: int | None  # requests at once of a replica, at the very most
    limit_now: int | None = None  # of all replicas together, in force now
    in_flight: float = 0.0  # of all replicas together, on average
    sightings: int = 0  # requests that this average is of
    streams: int = 0
    streams_max: int = 1000  # of a replica
    queued: int = 0
    queue_max: int | None = None  # None: no bound in force
    refused_per_s: float = 0.0
    is_overloaded: bool = False
    refuses: bool = True
    slo_s: float | None = None
    rss_bytes: int | None = None  # of the largest replica
    memory_max_bytes: int | None = None
    cores_each: tuple[float, ...] = ()
    databases: tuple[str, ...] = ()  # that it uses


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """One database; `ports_waiting` are ports of connections to it that were closed lately."""

    name: str
    is_embedded: bool
    connections: int | None = None
    connections_max: int = 0
    ports_waiting: int | None = None


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """One cache and its server."""

    name: str
    is_embedded: bool
    used_bytes: int | None = None
    max_bytes: int | None = None  # None: without a bound, or not known
    evicted: int | None = None


@dataclass(frozen=True, slots=True)
class FilesUsed:
    """Descriptors of a process: those of replicas as one, the fullest."""

    what: str
    now: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One system and its machine, over a window of a few seconds."""

    running: bool
    services: tuple[ServiceFacts, ...]
    cores: float
    memory_bytes: int
    memory_used_bytes: int | None
    memory_free_bytes: int
    disk_free_bytes: int
    somaxconn: int
    ports_max: int
    ports_are_reused: bool
    databases: tuple[DatabaseFacts, ...] = ()
    caches: tuple[CacheFacts, ...] = ()
    files: tuple[FilesUsed, ...] = ()
    url: str | None = None
    has_edge: bool = True
    is_detached: bool = False
    requests_per_s: float = 0.0  # answered by apps, and refused
    busy_cores: float | None = None  # by processes of this system
    others_cores: float = 0.0  # by all others
    edge_cores: float | None = None
    edge_threads: int = 1
    connections: int | None = None
    connections_max: int | None = None
    backlog_now: int | None = None
    replica_bytes: int | None = None  # of the largest replica
    state_bytes: int = 0
    logs_max_bytes: int = 0
