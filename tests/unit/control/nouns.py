"""Short ways to name replicas and what is seen of them."""

from __future__ import annotations

from dataclasses import replace

from headway.model.observed import EdgeObserved, EdgeServer, Observed, ReplicaObserved
from headway.model.replica import Phase, Replica
from headway.model.wanted import WantedService

WEB = WantedService("web", "app", "one", replicas=2, limit=40, threads=8, is_at_edge=True, memory_max_bytes=100)
UP = EdgeServer("ready", is_up=True, sessions=0, limit=40)
NO_EDGE = EdgeObserved()


def replica(number: int = 1, phase: Phase = Phase.READY, **changes: object) -> Replica:
    """web.<number>, in its phase since 100."""
    made = Replica(f"web.{number}", "web", number, "one", phase, 100.0, ready_once=phase is Phase.READY)
    return replace(made, **changes)  # type: ignore[arg-type]


def seen(**changes: object) -> ReplicaObserved:
    """A process that serves."""
    return replace(ReplicaObserved(7, alive=True, serving=True), **changes)  # type: ignore[arg-type]


def edge(**servers: EdgeServer) -> EdgeObserved:
    """A reachable edge; `web_1=…` is the server web.1."""
    return EdgeObserved(pid=1, reachable=True, servers={n.replace("_", "."): s for n, s in servers.items()})


def all_up(*replicas: Replica) -> Observed:
    """Every replica that is ready serves and is up at the edge."""
    ready = [r.name for r in replicas if r.phase is Phase.READY]
    return Observed(
        replicas={name: seen() for name in ready},
        edge=EdgeObserved(pid=1, reachable=True, servers=dict.fromkeys(ready, UP)),
    )
