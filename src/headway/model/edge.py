"""The edge plan: everything the load balancer is to do, as data. Rendered to text by `headway.edge.render`.

Names of HAProxy (frontend, backend, server, maxconn) are used inside `edge/` only; here a plan speaks of services and
replicas.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headway.model.overload import DEFAULT_LEVEL, QueueBound

QUEUE_MAX_UNKNOWN = 1_000_000  # nothing measured yet: nobody is refused


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket that somebody else opened: its address as declared, and the descriptor the edge inherits."""

    address: str  # "127.0.0.1:8000"
    fd: int
    tls: bool = False
    redirect_to_port: int | None = None  # plain listener that only redirects to https on this port


@dataclass(frozen=True, slots=True)
class EdgeReplica:
    """A replica as the edge sees it. `limit` = requests at once; `enabled` = takes new requests."""

    name: str  # "web.1"
    address: str  # path of a unix socket
    limit: int
    enabled: bool


@dataclass(frozen=True, slots=True)
class EdgeClass:
    """Requests of one service that have a queue of their own; the same replicas answer them, with limits of their own.

    `prefixes`: of class SLOW those that were learned, changed at run time through a map; of the others as declared.
    """

    number: int
    prefixes: tuple[str, ...]
    replicas: tuple[EdgeReplica, ...]
    deadline_s: float
    level: int = DEFAULT_LEVEL  # index into CRITICALITIES
    bound: QueueBound = field(default_factory=lambda: QueueBound(QUEUE_MAX_UNKNOWN))
    cancels: bool = False  # who hangs up is done with: in the queue, and at the worker, which is told


@dataclass(frozen=True, slots=True)
class EdgeService:
    """A service that the edge knows: where its requests come from and which replicas answer them."""

    name: str
    routes: tuple[str, ...]  # "/", "/api", "api.example.com", "api.example.com/v2"
    replicas: tuple[EdgeReplica, ...]
    deadline_s: float
    body_max_bytes: int
    sticky: bool = False
    silence_max_s: float = 3600.0  # how long an event stream may say nothing; other answers: the deadline
    level: int = DEFAULT_LEVEL  # criticality of the main class, index into CRITICALITIES
    bound: QueueBound = field(default_factory=lambda: QueueBound(QUEUE_MAX_UNKNOWN))
    classes: tuple[EdgeClass, ...] = ()  # beside the main one, which this is; SLOW is always among them
    refuses: bool = True  # False: overload = "observe", count what would have been refused
    called_at: tuple[Listener, ...] = ()  # where other services call it; none: nobody does
    cancels: bool = False  # of the main class, as in the others
    calls: bool = False  # it calls others itself, and is told with each request how critical that is


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """The whole edge. Paths are absolute; `run_folder` is private and short."""

    system: str
    run_folder: str  # holds edge.sock (run-time API) and haproxy.cfg
    listeners: tuple[Listener, ...]
    services: tuple[EdgeService, ...]
    connections_max: int  # client connections at once, without those of services that call each other
    descriptors_max: int  # RLIMIT_NOFILE of the process
    trusted: tuple[str, ...] = ()
    proxy_protocol: bool = False
    client_rate_per_s: float | None = None
    access_log: bool = True
    exports: bool = False  # spans are sent to a collector: a service's is to be within that of the hop to it
    certificate: str | None = None  # validated PEM copy (chain and key) in run_folder
    header_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    threads: int = 1
    replaced_max_s: float = 300.0  # how long a replaced process may finish the requests and streams that it has
    call_connections_max: int = 0  # of all services that call others, beside `connections_max`

    @property
    def has_calls(self) -> bool:
        """Whether some service is called by another."""
        return any(service.called_at for service in self.services)
