"""Carries autoscaling round: gathers what was measured of each service with a range, asks the rule, keeps its state.

The rule is `headway.overload.scaling`. A service that somebody scaled or holds by hand is left alone; given back, it
goes on from the number that it has then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from headway.control.admission import open_streams
from headway.model.declared import ReplicaRange, System
from headway.model.observed import Observed
from headway.model.overload import MAIN
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedService
from headway.overload.scaling import Bounds, Connections, Scaling, Seen, begin, scale
from headway.sharding.connection import RoleConnections, Uncounted

LOOK_EVERY_S = 0.5
COUNT_PATIENCE_S = 12.0  # for a count of connections after another replica is ready; after that it is not known

Tell = Callable[[str, str, str, str], None]  # about, what, reason, level: a line for the journal
Counted = Mapping[str, RoleConnections | Uncounted]  # by database

_UNCOUNTED = {
    Uncounted.FULL: "database {} is full: it refuses another connection",
    Uncounted.AWAY: "database {} is not ready",
    Uncounted.UNTOLD: "the connections to database {} can no longer be counted",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at one look, to tell what happened until the next."""

    at_s: float
    cpu: Mapping[str, tuple[int, float]] = field(default_factory=dict)  # by replica: its process, and seconds used
    refused: Mapping[str, int] = field(default_factory=dict)  # by service
    read_at_s: Mapping[str, float] = field(default_factory=dict)  # when `cpu` was read, where not at this look
    cores: Mapping[str, float] = field(default_factory=dict)  # by replica, between the last two readings that differ
    busy_s: float | None = None  # that our cores have worked, for whomever


class Scaler:
    """Numbers of replicas that follow the load, for all services that declare a range."""

    def __init__(self, cores: float, tell: Tell, busy_core_seconds: Callable[[], float | None] = lambda: None) -> None:
        self._cores = cores
        self._tell = tell
        self._busy_core_seconds = busy_core_seconds
        self._states: dict[str, Scaling] = {}
        self._last: Look | None = None
        self._counted_once: set[str] = set()  # databases whose connections were known at some time

    def look(
        self,
        system: System,
        wanted: Wanted,
        replicas: Mapping[str, Replica],
        observed: Observed,
        counted: Counted,
        now_s: float,
        *,
        by_hand: Collection[str],
    ) -> dict[str, int]:
        """The number of replicas of each service with a range, from now on."""
        last = self._last
        if last is not None and now_s - last.at_s < LOOK_EVERY_S:
            return {name: state.replicas for name, state in self._states.items()}
        follows = any(isinstance(service.replicas, ReplicaRange) for service in system.services.values())
        busy_s = self._busy_core_seconds() if follows else None
        self._last = this = _look(wanted, observed, now_s, last, busy_s)
        self._counted_once |= {name for name, held in counted.items() if isinstance(held, RoleConnections)}
        self._counted_once &= set(counted)
        states: dict[str, Scaling] = {}
        for service in wanted.services:
            declared = system.services.get(service.name)
            if declared is None or not isinstance(declared.replicas, ReplicaRange):
                continue
            if service.name in by_hand or wanted.stopping:
                states[service.name] = begin(service.replicas)
                continue
            bounds = Bounds(declared.replicas.min, declared.replicas.max, self._cores)
            state = self._states.get(service.name) or begin(service.replicas)
            seen = None
            if last is not None and not awaits_count(service, wanted, replicas, counted, now_s):
                seen = gather(service, wanted, replicas, observed, counted, last, this)
                seen = replace(seen, uncounted=self._uncounted(service, counted))
            states[service.name], count, reason = scale(state, seen, bounds, now_s)
            # The services after this one share what it leaves.
            wanted = _with_number(wanted, service.name, count)
            if reason:
                self._tell(service.name, "scale", reason, "note" if count != state.replicas else "warning")
        self._states = states
        return {name: state.replicas for name, state in states.items()}

    def _uncounted(self, service: WantedService, counted: Counted) -> str:
        """Why nobody knows how many connections a database of the service has left; empty where that is no reason.

        A database that never told (it asks for more than a password) bounds nothing; one that told before does.
        """
        for name in service.waits_for:
            held = counted.get(name)
            if held in (Uncounted.FULL, Uncounted.AWAY) or (held is Uncounted.UNTOLD and name in self._counted_once):
                return _UNCOUNTED[held].format(name)
        return ""


def _with_number(wanted: Wanted, name: str, count: int) -> Wanted:
    """The same with another number of replicas of one service."""
    services = (replace(other, replicas=count) if other.name == name else other for other in wanted.services)
    return replace(wanted, services=tuple(services))


def gather(
    service: WantedService,
    wanted: Wanted,
    replicas: Mapping[str, Replica],
    observed: Observed,
    counted: Counted,
    last: Look,
    this: Look,
) -> Seen:
    """What is known of a service between two looks."""
    mine = [name for name, replica in replicas.items() if replica.service == service.name and _serves(replica)]
    others = [name for name, replica in replicas.items() if replica.service != service.name and _serves(replica)]
    used = [_cores(name, last, this) for name in mine]
    duration_s = this.at_s - last.at_s
    shed = max(0, this.refused.get(service.name, 0) - last.refused.get(service.name, this.refused.get(service.name, 0)))
    queues = (queue for (name, _number), queue in observed.edge.queues.items() if name == service.name)
    largest_bytes = max((observed.replicas[name].rss_bytes for name in mine if name in observed.replicas), default=0)
    promised_bytes = sum(_promised_bytes(other, replicas, observed, largest_bytes) for other in wanted.services)
    return Seen(
        replicas=len(mine),
        utilisation=_utilisation(service, mine, observed),
        cpu_cores=sum(cores for cores in used if cores is not None) if used and None not in used else None,
        queued=sum(queue.queued for queue in queues),
        shed_per_s=shed / duration_s if duration_s > 0 else 0.0,
        others_cores=sum(_cores(name, last, this) or 0.0 for name in others),
        rss_bytes=largest_bytes,
        available_bytes=max(1, observed.memory.available_bytes - promised_bytes) if observed.memory.total_bytes else 0,
        connections=_connections(service, wanted, replicas, counted),
        busy_cores=(
            max(0.0, this.busy_s - last.busy_s) / duration_s
            if this.busy_s is not None and last.busy_s is not None and duration_s > 0
            else None
        ),
    )


def _coming(service: WantedService, replicas: Mapping[str, Replica]) -> int:
    """Replicas that are wanted and do not serve yet: what they will take is spoken for."""
    serving = sum(1 for replica in replicas.values() if replica.service == service.name and _serves(replica))
    return max(0, service.replicas - serving)


def _promised_bytes(
    service: WantedService, replicas: Mapping[str, Replica], observed: Observed, unknown_bytes: int
) -> int:
    """What those that come will take and have not yet; each as much as the largest, as far as one can be seen."""
    coming = _coming(service, replicas)
    if not coming:
        return 0
    serving, taken_bytes = [0], 0
    for name, replica in replicas.items():
        size_bytes = observed.replicas[name].rss_bytes if name in observed.replicas else 0
        if replica.service == service.name and _serves(replica):
            serving.append(size_bytes)
        elif replica.service == service.name and replica.phase is Phase.STARTING and not replica.leave:
            taken_bytes += size_bytes
    return max(0, coming * (max(serving) or unknown_bytes) - taken_bytes)


def _serves(replica: Replica) -> bool:
    return replica.phase is Phase.READY and not replica.leave and not replica.retire


def _look(wanted: Wanted, observed: Observed, now_s: float, last: Look | None, busy_s: float | None = None) -> Look:
    refused = {service.name: 0 for service in wanted.services}
    for (name, _number), queue in observed.edge.queues.items():
        refused[name] = refused.get(name, 0) + queue.refused
    cpu = {name: (seen.pid, seen.cpu_s) for name, seen in observed.replicas.items() if seen.alive and seen.cpu_s > 0}
    read_at_s = {name: observed.replicas[name].cpu_at_s or now_s for name in cpu}
    this = Look(now_s, cpu, refused, read_at_s, busy_s=busy_s)
    if last is None:
        return this
    return replace(this, cores={name: used for name in cpu if (used := _cores(name, last, this)) is not None})


def _cores(name: str, last: Look, this: Look) -> float | None:
    """Cores that a replica's process used between two looks; None for a process that was not there at both.

    Processor time is read less often than looked at: it counts from reading to reading, and stays in between.
    """
    if name in this.cores:
        return this.cores[name]
    before, after = last.cpu.get(name), this.cpu.get(name)
    if before is None or after is None or before[0] != after[0]:
        return None
    duration_s = this.read_at_s.get(name, this.at_s) - last.read_at_s.get(name, last.at_s)
    if duration_s <= 0:
        return last.cores.get(name)
    return max(0.0, after[1] - before[1]) / duration_s


def _utilisation(service: WantedService, mine: Iterable[str], observed: Observed) -> float | None:
    """Requests in flight of the limits, in the class where that is most; streams hold places of their own."""
    if service.kind != "app":
        return None
    taken: dict[int, list[tuple[int, int]]] = {}
    for name in mine:
        seen, server = observed.replicas.get(name), observed.edge.servers.get(name)
        if seen is None:
            continue
        if server is None and not service.is_at_edge:
            taken.setdefault(MAIN, []).append((seen.in_flight, service.limit_of(is_wsgi=seen.is_wsgi)))
        places = {number: place for (replica, number), place in observed.edge.classes.items() if replica == name}
        if server is not None:
            places[MAIN] = server
        streams = open_streams(name, places, seen, observed.edge)
        for number, place in places.items():
            held = streams.get(number, 0)
            taken.setdefault(number, []).append((place.sessions - held, place.limit - held))
    shares = [
        max(0, sum(busy for busy, _ in places)) / limit
        for places in taken.values()
        if (limit := sum(limit for _, limit in places)) > 0
    ]
    return max(shares) if shares else None


def awaits_count(
    service: WantedService, wanted: Wanted, replicas: Mapping[str, Replica], counted: Counted, now_s: float
) -> bool:
    """Whether what the last replica added to a database's connections has still to be seen."""
    for database in service.waits_for:
        youngest_s = max((r.since_s for r in _users(database, wanted, replicas)), default=now_s)
        held = counted.get(database)
        is_late = held is Uncounted.UNTOLD or (isinstance(held, RoleConnections) and held.at_s < youngest_s)
        if held is Uncounted.SOON or (is_late and now_s - youngest_s < COUNT_PATIENCE_S):
            return True
    return False


def _users(database: str, wanted: Wanted, replicas: Mapping[str, Replica]) -> list[Replica]:
    """Replicas that serve and use a database."""
    services = {service.name for service in wanted.services if database in service.waits_for}
    return [replica for replica in replicas.values() if replica.service in services and _serves(replica)]


def _connections(
    service: WantedService, wanted: Wanted, replicas: Mapping[str, Replica], counted: Counted
) -> Connections | None:
    """The database of the service that has room for the fewest more, and what a replica holds of it."""
    found = []
    for database in service.waits_for:
        held = counted.get(database)
        if not isinstance(held, RoleConnections):
            continue
        users = {other.name for other in wanted.services if database in other.waits_for}
        count = max(1, len(_users(database, wanted, replicas)))
        own = held.open if held.own is None else held.own
        each = own / count
        coming = round(each * sum(_coming(other, replicas) for other in wanted.services if other.name in users))
        found.append(Connections(database, held.open + coming, held.most, each))
        if held.own_most is not None:
            found.append(Connections(database, own + coming, held.own_most, each))
    return min(found, key=lambda entry: entry.room, default=None)
