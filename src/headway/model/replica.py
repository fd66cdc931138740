"""A replica through its life, as the control loop remembers it from tick to tick."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headway.model.observed import Failure


class Phase(StrEnum):
    """Where a replica is in its life. `public` words of `status` are starting, ready, draining, down."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"  # takes no new requests, finishes what it has
    STOPPING = "stopping"  # told to end
    DOWN = "down"  # not running: waits for its next start, or to be forgotten


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica. Times are seconds of the loop's clock.

    `retire` holds the reason why it is to be replaced by another; empty = it stays.
    `failures` counts starts and runs that ended badly since it was last well for a while.
    """

    name: str
    service: str
    number: int
    key: str
    phase: Phase
    since_s: float
    pid: int | None = None
    restarts: int = 0
    failures: int = 0
    start_at_s: float = 0.0  # in DOWN: not before
    retire: str = ""
    leave: bool = False  # once it has ended it is forgotten, not started again
    ready_once: bool = False
    failure: Failure | None = None
    told_loop: bool = False  # the crash loop was reported


def public_state(phase: Phase) -> str:
    """The word `status --json` uses for a phase."""
    return "draining" if phase is Phase.STOPPING else phase.value


def stays_in_edge(replica: Replica) -> bool:
    """Whether the edge's file holds it: it serves, or it served and comes back."""
    return replica.phase is Phase.READY or (replica.ready_once and not replica.leave)
