"""Reads what follows a fault, look by look: when the system noticed, when all was as before, when users were. Pure.

Times are seconds since the fault. *Noticed* is the first moment at which the system itself did or said something about
the part: its process was reaped or replaced, its state changed, the journal has an entry. *Recovered* is the later of
two moments: all parts are as before, and the last request has ended that failed, was refused or was slow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headway.lab.fault import Fault, Part

# Without a bad request before it counts as over: as many requests as would show one, but neither long nor a moment.
CALM_S, CALM_MIN_S, CALM_REQUESTS = 2.0, 1.0, 100
HEALTH_S = 2.0  # a database's health is looked at more often than this
PATIENCE_S = 60.0  # after which it is told as not recovered


@dataclass(frozen=True, slots=True)
class Look:
    """The system at one moment. `document` None: nobody answered. `pid` None: no such process lives."""

    at_s: float
    document: Mapping[str, Any] | None
    pid: int | None
    bad: int  # requests ended so far that failed, were refused or slow
    in_flight: int
    told: tuple[tuple[float, str], ...] = ()  # entries of the journal about the part, new since the last look
    released: bool = False  # a hang is over: the process was told to go on


@dataclass(slots=True)
class Aftermath:
    """What is known so far. `in_flight_max` is what is in flight when all is well, at the most."""

    fault: Fault
    before: Mapping[str, Any]
    bad: int
    in_flight_max: int
    calm_s: float = CALM_S
    noticed_s: float | None = None
    noticed_by: str = ""
    out_s: float | None = None  # the system is not whole any more, by its own account: the edge has taken the part out
    restarted_s: float | None = None
    restored_s: float | None = None
    last_bad_s: float | None = None
    _calm: bool = field(default=True)
    _heard: bool = field(default=False)

    def see(self, look: Look) -> None:
        """Take one look into account; looks come in the order of time."""
        self._heard = self._heard or bool(look.told)
        if self.out_s is None and look.document is not None and look.document["state"] != "ready":
            self.out_s = look.at_s
        self._notice(look)
        if self.restarted_s is None and look.pid is not None and look.pid != self.fault.part.pid:
            self.restarted_s = look.at_s
        is_itself = look.pid is not None and (look.pid != self.fault.part.pid or look.released)
        if not (is_itself and self._is_news(look) and _is_whole(look, self.before, self.fault)):
            self.restored_s = None
        elif self.restored_s is None:
            self.restored_s = look.at_s
        if look.bad > self.bad:
            self.bad, self.last_bad_s = look.bad, look.at_s
        self._calm = look.in_flight <= self.in_flight_max

    def is_over(self, at_s: float) -> bool:
        """Whether it has been calm for long enough."""
        return self._calm and self.recovered_s is not None and at_s - self.recovered_s >= self.calm_s

    @property
    def recovered_s(self) -> float | None:
        """When everything was as before, as far as is known; None while it is not."""
        return None if self.restored_s is None else max(self.restored_s, self.last_bad_s or 0.0)

    def _is_news(self, look: Look) -> bool:
        """Whether the document can be believed: the state of an engine is that of the last look at it."""
        return (
            self.fault.part.kind not in ("server", "cache")
            or self._heard
            or self.out_s is not None
            or look.at_s > HEALTH_S
        )

    def _notice(self, look: Look) -> None:
        part = self.fault.part
        if look.told and (self.noticed_s is None or look.told[0][0] < self.noticed_s):
            self.noticed_s, self.noticed_by = look.told[0]
        if self.noticed_s is not None:
            return
        if look.pid is None:
            self.noticed_s, self.noticed_by = look.at_s, "the supervisor saw its process end"
        elif look.pid != part.pid:
            self.noticed_s, self.noticed_by = look.at_s, "it runs as another process"
        elif look.document is not None and (state := _state_of(look.document, part)) != "ready":
            self.noticed_s, self.noticed_by = look.at_s, f"its state became {state}"
        elif part.kind == "replica" and self.out_s is not None:
            self.noticed_s, self.noticed_by = self.out_s, "the edge took it out"


def calm_of(rate_per_s: float) -> float:
    """How long it must have been calm under a load of this rate."""
    return max(CALM_MIN_S, min(CALM_S, CALM_REQUESTS / rate_per_s))


def _state_of(document: Mapping[str, Any], part: Part) -> str:
    match part.kind:
        case "replica":
            replicas = document["services"].get(part.service, {}).get("replicas", ())
            found = next((replica["state"] for replica in replicas if replica["name"] == part.name), "gone")
            return str(found)
        case "edge":
            return str(document["edge"]["state"])
        case "server":
            servers = document["databases"].get(part.name, {}).get("servers", ())
            return next((str(server["state"]) for server in servers if server["state"] != "ready"), "ready")
        case "cache":
            return str(document["caches"].get(part.name, {}).get("state", "gone"))
        case "controller":
            return "ready"  # one that answers is


def _is_whole(look: Look, before: Mapping[str, Any], fault: Fault) -> bool:
    """Everything ready, in the number there was before, and the document speaks of the process that lives now."""
    document = look.document
    if document is None:
        return False
    if document["state"] != "ready" or _state_of(document, fault.part) != "ready":
        return False
    for name, service in before["services"].items():
        now = document["services"].get(name, {"ready": 0, "wanted": 0})
        if now["ready"] < min(service["ready"], now["wanted"]):  # it may have been scaled down meanwhile
            return False
    told = {
        "edge": document["edge"]["pid"],
        "controller": document["controller"]["pid"],
        **{replica["name"]: replica["pid"] for s in document["services"].values() for replica in s["replicas"]},
    }
    return told.get(fault.part.process, look.pid) == look.pid
