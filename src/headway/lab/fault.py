"""What can be broken in a running system, and how a word on the command line is told from a mistake. Pure.

A part is named as people name it, `replica web.1`, and broken as the kernel knows it: by a pid together with the moment
that process started, so that nothing else is ever hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headway.declaration.routes import covers
from headway.errors import Conflict, HeadwayError, NotRunning

Kind = Literal["replica", "edge", "controller", "server", "cache"]
How = Literal["kill", "hang"]

RATE_MAX_PER_S = 5000.0
HANG_S = 10.0  # how long a hang lasts that is not given a time
HANG_MAX_S = 300.0
SLOW_S = 1.0  # without an SLO
SLOW_TIMES = 10.0  # an answer so many times as long as the median before is slow, whatever the SLO says
FAILED_BEFORE_MAX = 0.05  # more than this share failing beforehand, and nothing could be told from what fails after

_LATER = {
    "node": "more than one machine is not available yet, so there is no node to break",
}
_PARTITION = "a partition needs more than one machine, which is not available yet"


@dataclass(frozen=True, slots=True)
class Part:
    """One breakable part. `pid` None: it is not running, or its process is somewhere else."""

    kind: Kind
    name: str  # "web.1", "main"; of edge and controller the same word
    process: str  # its name at the supervisor
    pid: int | None
    ticks: int | None = None
    service: str = ""
    ready: int = 0  # of a replica: how many of its service are ready, itself included
    is_embedded: bool = True

    @property
    def label(self) -> str:
        """How the command line names it."""
        return self.name if self.kind in ("edge", "controller") else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A part and what is done to it; `for_s` is how long a hang lasts."""

    part: Part
    how: How
    for_s: float = HANG_S

    @property
    def done(self) -> str:
        """What was done, as a sentence goes on after the part's name."""
        return "was killed" if self.how == "kill" else "was stopped"


def parts_of(document: Mapping[str, Any], record: Mapping[str, Any] | None) -> tuple[Part, ...]:
    """Every part of a system, from its status document and the supervisor's record of its processes."""
    entries = {entry["name"]: entry for entry in (record or {}).get("processes", ())}

    def identity(process: str, pid: int | None) -> tuple[int | None, int | None]:
        """The record's pid, where the document agrees with it: the two may be of different moments."""
        entry = entries.get(process)
        if entry is None or (pid is not None and pid != entry["pid"]):
            return None, None
        return entry["pid"], entry["ticks"]

    found = []
    for service, told in document["services"].items():
        for replica in told["replicas"]:
            pid = replica["pid"]
            known = identity(replica["name"], pid) if pid is not None else (None, None)
            found.append(
                Part("replica", replica["name"], replica["name"], *known, service=service, ready=told["ready"])
            )
    if document["edge"]["url"]:
        found.append(Part("edge", "edge", "edge", *identity("edge", document["edge"]["pid"])))
    found.append(Part("controller", "controller", "controller", *identity("controller", document["controller"]["pid"])))
    for database in document["databases"]:
        process = f"database.{database}"
        known = identity(process, None)
        found.append(Part("server", database, process, *known, is_embedded=process in entries))
    for cache in document["caches"]:
        process = f"cache.{cache}"
        found.append(Part("cache", cache, process, *identity(process, None), is_embedded=process in entries))
    return tuple(found)


def find_part(words: Sequence[str], parts: Sequence[Part]) -> Part:
    """The part that the command line names; HeadwayError with those that there are when it names none."""
    known = ", ".join(part.label for part in parts)
    hint = f"there are: {known}"
    kind, names = (words[0], words[1:]) if words else ("", ())
    if kind in _LATER:
        raise HeadwayError(_LATER[kind], hint=hint)
    if kind in ("edge", "controller"):
        if names:
            raise HeadwayError(f"there is one {kind}, and it has no name {names[0]!r}", hint=f"headway break {kind}")
        part = next((part for part in parts if part.kind == kind), None)
    elif kind in ("replica", "server", "cache"):
        if len(names) != 1:
            raise HeadwayError(f"which {kind}? Give one name after the word", hint=hint)
        database, _, server = names[0].partition("/")
        wanted = database if kind == "server" and server in ("", database) else names[0]
        part = next((part for part in parts if (part.kind, part.name) == (kind, wanted)), None)
    else:
        named = next((part for part in parts if kind in (part.name, part.process)), None)
        raise HeadwayError(
            f"{' '.join(words)!r} is no part that can be broken", hint=f"headway break {named.label}" if named else hint
        )
    if part is None:
        raise HeadwayError(f"there is no {' '.join(words)}", hint=hint)
    if not part.is_embedded:
        raise HeadwayError(
            f"{part.label} runs elsewhere (its declaration has a url, or it is down): it is not ours to break",
            hint="headway status",
        )
    if part.pid is None:
        raise NotRunning(f"{part.label} is not running right now", hint="headway status --watch")
    return part


def check_ready(document: Mapping[str, Any]) -> None:
    """Conflict unless all is well: what something broken does can only be told from a whole system."""
    if document["supervisor"] != "ready":
        what = "is gone" if document["supervisor"] == "gone" else "does not answer"
        raise Conflict(
            f"the supervisor {what}: what breaks now is not started again", hint="headway up --detach brings it back"
        )
    if document["state"] != "ready":
        raise Conflict(
            f"{document['system']} is {document['state']}: break it when all is ready", hint="headway status --watch"
        )


def fault_of(part: Part, how: str, for_s: float | None) -> Fault:
    """The fault asked for; HeadwayError when the options do not fit."""
    if how == "partition":
        raise HeadwayError(_PARTITION, hint="--how kill, or --how hang")
    if how == "kill":
        if for_s is not None:
            raise HeadwayError("what is killed stays dead: --for is how long a hang lasts", hint="--how hang --for 5s")
        return Fault(part, "kill")
    duration_s = HANG_S if for_s is None else for_s
    if not 0 < duration_s <= HANG_MAX_S:
        raise HeadwayError(
            f"--for: a hang lasts from a moment to {HANG_MAX_S:g} s, not {duration_s:g} s", hint="--for 10s"
        )
    return Fault(part, "hang", duration_s)


def check_rate(rate_per_s: float) -> None:
    """HeadwayError when a load at this rate could measure nothing, or would itself be the fault."""
    if not 1 <= rate_per_s <= RATE_MAX_PER_S:
        raise HeadwayError(
            f"--rate: 1 to {RATE_MAX_PER_S:g} requests a second, not {rate_per_s:g}", hint="--rate 50 is the default"
        )


def route_of(part: Part, document: Mapping[str, Any], path: str | None = None) -> tuple[str, str]:
    """Host and path to ask for: a route of the service that is broken, else of the first public one; `path` is given.

    The host is empty where a route is for any; such routes go first, and shorter ones.
    """
    services = document["services"]
    own = [services[part.service]] if part.service else []
    for service in [*own, *services.values()]:
        routes = [route for route in service["routes"] if path is None or covers(route, path)]
        if routes:
            host, slash, rest = min(routes, key=lambda route: (not route.startswith("/"), len(route))).partition("/")
            return host, path or f"{slash}{rest}" or "/"
    return "", path or "/"


def slow_bound_s(slo_s: float | None, median_s: float) -> float:
    """An answer later than this is slow: the SLO (1 s without one), but never less than ten times the median before.

    An app that is slow by nature would else be taken for a broken one.
    """
    return max(slo_s or SLOW_S, SLOW_TIMES * median_s)
