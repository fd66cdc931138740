"""Names every limit of one system and the rate at which traffic would meet it, the nearest first. Pure.

A wall's rate is told in requests per second of the whole system, at the present mix of requests:

- *derived* by growing what is seen now in proportion: rate x limit / now. For requests at once that is Little's law.
  It holds while an answer takes as long as it does now, so a wall far away is a direction and not a promise;
- *measured* where the wall is being hit at this moment: requests are refused, or wait;
- *unknown* otherwise, above all when there is too little traffic to grow from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from headway.lab.wall_facts import CacheFacts, DatabaseFacts, Facts, ServiceFacts
from headway.model.units import format_bytes

Known = Literal["measured", "derived", "unknown"]

RATE_MIN_PER_S = 10.0  # below it chance is larger than what would be extrapolated
SIGHTINGS_MIN = 5  # requests that were counted; fewer tell nothing of how many there are at once
CPU_MIN_CORES = 0.01  # of a clock that counts hundredths of a second, over a window of a few seconds
REPLICA_CORES = 1.0  # Python code of one process runs on one core at a time
POSTGRESQL_RESERVED = 3  # connections that PostgreSQL keeps for its administrator
TIME_WAIT_S = 60
OWN_PORTS = (
    2 * TIME_WAIT_S
)  # the looks at a database's health leave one behind a second; up to here nothing is the app's


@dataclass(frozen=True, slots=True)
class Wall:
    """One limit. `now` and `limit` are in `unit`; None = not known. `hit_at_per_s` None: not by traffic, or unknown."""

    what: str
    now: float | None
    limit: float | None
    unit: str
    hit_at_per_s: float | None
    then: str
    next: str
    known: Known
    kind: Literal["limit", "single point"] = "limit"

    def as_json(self) -> dict[str, Any]:
        """One entry of `headway walls --json`."""
        return {
            "what": self.what,
            "now": self.now,
            "limit": self.limit,
            "hit_at_per_s": None if self.hit_at_per_s is None else round(self.hit_at_per_s, 1),
            "then": self.then,
            "next": self.next,
            "known": self.known,
            "unit": self.unit,
            "kind": self.kind,
        }


def walls(facts: Facts) -> tuple[Wall, ...]:
    """Every wall, the nearest first; single points of failure, which no rate leads to, last."""
    found = (
        *(wall for service in facts.services for wall in _of_service(service, facts)),
        *_of_machine(facts),
        *_of_edge(facts),
        *(wall for database in facts.databases for wall in _of_database(database, facts)),
        *(_of_cache(cache) for cache in facts.caches),
        *_of_files(facts),
        *_single_points(facts),
    )
    return tuple(sorted(found, key=_nearness))


def _nearness(wall: Wall) -> tuple[bool, bool, bool, float]:
    """Those being hit, then those with a rate by that rate, the others as they come, single points at the end."""
    rate = wall.hit_at_per_s
    return (wall.kind == "single point", rate is None, wall.known != "measured", rate or 0.0)


def headline(found: tuple[Wall, ...], facts: Facts) -> str:
    """One sentence: the next wall, or how to find it."""
    nearest = next((wall for wall in found if wall.hit_at_per_s is not None), None)
    if nearest is not None and nearest.hit_at_per_s is not None:
        if nearest.known == "measured":
            return f"At the wall now: {nearest.what}, at {about(nearest.hit_at_per_s)} requests/s: {nearest.then}."
        now = f"{facts.requests_per_s:,.0f} requests/s"
        return f"The next wall: {nearest.what}, at about {about(nearest.hit_at_per_s)} requests/s (now {now})."
    if not facts.running:
        return "The next wall is not known: nothing runs here. These are the limits of the declaration."
    return f"The next wall is not known: {facts.requests_per_s:,.0f} requests/s are too few to grow from."


def about(rate_per_s: float) -> str:
    """A rate that was extrapolated, to the two digits that it is good for: "1,600"."""
    return f"{float(f'{rate_per_s:.2g}'):,.0f}"


def how_to_measure(facts: Facts) -> str:
    """What to run where rates are not known."""
    if not facts.running:
        return "headway up --detach, then headway load URL --rate 100 --for 20s, and headway walls meanwhile"
    return f"headway load {facts.url or 'URL'} --rate 100 --for 20s, and headway walls meanwhile"


def grown(facts: Facts, now: float | None, limit: float | None) -> float | None:
    """The rate at which `now` has grown to `limit`; None when there is too little to grow from."""
    if not facts.running or facts.requests_per_s < RATE_MIN_PER_S or not now or limit is None:
        return None
    return facts.requests_per_s * limit / now


def _known(facts: Facts, now: float | None, rate: float | None) -> Known:
    """Without a rate still something is known where traffic is there and uses none of it."""
    return "derived" if rate is not None or (now == 0 and facts.requests_per_s >= RATE_MIN_PER_S) else "unknown"


def _after_cores(facts: Facts) -> str:
    return f"a machine with more than {facts.cores:g} cores; after that more machines, which is not available yet"


def _more_replicas(service: ServiceFacts, facts: Facts) -> str:
    """One more replica while there are cores for it."""
    if service.replicas < facts.cores:
        return f"headway scale {service.name} {service.replicas + 1}; after that {_after_cores(facts)}"
    return _after_cores(facts)


def _of_service(service: ServiceFacts, facts: Facts) -> Iterator[Wall]:
    name = service.name
    if service.is_app:
        yield _at_once(service, facts)
        if service.is_at_edge:
            yield _queue(service, facts)
        yield _replica_core(service, facts)
        streams_max = service.streams_max * service.replicas
        rate = grown(facts, service.streams, streams_max)
        yield Wall(
            f"{name}: open streams",
            service.streams,
            streams_max,
            "streams",
            rate,
            "further WebSockets and event streams are refused with 503",
            f"streams_max in [services.{name}], or headway scale {name} {service.replicas + 1}",
            _known(facts, service.streams, rate),
        )
    if service.memory_max_bytes is not None:
        yield Wall(
            f"{name}: memory of a replica",
            service.rss_bytes,
            service.memory_max_bytes,
            "bytes",
            None,
            "the replica is drained and replaced",
            f"memory_max in [services.{name}], once the app is known not to leak",
            "unknown",
        )


def _at_once(service: ServiceFacts, facts: Facts) -> Wall:
    """Requests under way against threads or the limit; a limit that adapts is no wall, but its upper bound is."""
    name = service.name
    limit = service.limit_each * service.replicas if service.limit_each is not None else None
    seen = service.sightings >= SIGHTINGS_MIN
    under_way = round(service.in_flight, 2) if facts.running else None
    if service.is_wsgi:
        what, key = f"{name}: threads", f"threads in [services.{name}] when it waits for others, else "
    else:
        what, key = f"{name}: requests at once", ""
    then = "requests wait at the edge"
    if service.is_at_edge:
        then += ", and above the queue's bound get 503" if service.refuses else ", for as long as their deadline allows"
    if service.is_overloaded and facts.requests_per_s > 0:
        rate: float | None = max(0.0, facts.requests_per_s - service.refused_per_s)
        then = f"{service.refused_per_s:,.0f} requests/s are refused" if service.refused_per_s else "requests wait"
        limit = service.limit_now or limit
        known: Known = "measured"
    else:
        rate = grown(facts, service.in_flight, limit) if seen else None
        known = _known(facts, None, rate)
    return Wall(what, under_way, limit, "requests", rate, then, key + _more_replicas(service, facts), known)


def _queue(service: ServiceFacts, facts: Facts) -> Wall:
    name = service.name
    refused = service.refused_per_s > 0
    then = "503 with Retry-After, at once" if service.refuses else "it is told in the journal: overload = observe"
    bounded = "it follows the throughput and the slo; a longer one only makes answers late; "
    if service.queue_max is None:
        then = "nothing: no bound is in force, deadlines alone end the waiting"
        bounded = f'slo = "250ms" in [services.{name}] gives it one; then ' if service.slo_s is None else ""
    return Wall(
        f"{name}: queue at the edge",
        service.queued if facts.running else None,
        service.queue_max,
        "requests",
        max(0.0, facts.requests_per_s - service.refused_per_s) if refused else None,
        then,
        bounded + _more_replicas(service, facts),
        "measured" if refused else "unknown",
    )


def _replica_core(service: ServiceFacts, facts: Facts) -> Wall:
    busiest = max(service.cores_each, default=None)
    rate = grown(facts, busiest, REPLICA_CORES) if busiest and busiest >= CPU_MIN_CORES else None
    return Wall(
        f"{service.name}: one core a replica",
        None if busiest is None else round(busiest, 2),
        REPLICA_CORES,
        "cores",
        rate,
        "a replica's Python code runs on one core: answers get slower, then wait",
        _more_replicas(service, facts),
        _known(facts, None, rate),
    )


def _of_machine(facts: Facts) -> Iterator[Wall]:
    rate = None
    if facts.busy_cores is not None and facts.busy_cores >= CPU_MIN_CORES:
        # What others use stays as it is; ours grows into the rest, and has at least what it has.
        rate = grown(facts, facts.busy_cores, max(facts.busy_cores, facts.cores - facts.others_cores))
    now = None if facts.busy_cores is None else round(facts.busy_cores + facts.others_cores, 2)
    then = "everything gets slower; refusals stay quick"
    if facts.others_cores >= 0.1:
        then += f" (other processes use {facts.others_cores:.1f} of them, a load from here included)"
    yield Wall("cores", now, facts.cores, "cores", rate, then, _after_cores(facts), _known(facts, None, rate))
    replicas = sum(service.replicas for service in facts.services)
    room = int(facts.memory_free_bytes // facts.replica_bytes) if facts.replica_bytes else None
    fits = "" if room is None else f"room for about {room:,} more replicas as large as the largest; "
    yield Wall(
        f"memory of {replicas} replica{'' if replicas == 1 else 's'} and the rest",
        facts.memory_used_bytes,
        facts.memory_bytes,
        "bytes",
        None,
        "the kernel kills a replica, before it would take PostgreSQL or the edge",
        f"{fits}memory_max in [services.NAME] replaces one that grows; after that more memory",
        "unknown",
    )
    yield Wall(
        "disk of the state folder",
        facts.state_bytes,
        facts.state_bytes + facts.disk_free_bytes,
        "bytes",
        None,
        "PostgreSQL refuses writes; logs are cut and go on",
        f"logs stay below {format_bytes(facts.logs_max_bytes)} by themselves; for databases more disk, or --state DIR",
        "unknown",
    )


def _of_edge(facts: Facts) -> Iterator[Wall]:
    if not facts.has_edge:
        return
    rate = grown(facts, facts.connections, facts.connections_max) if facts.connections else None
    yield Wall(
        "edge: client connections",
        facts.connections,
        facts.connections_max,
        "connections",
        rate,
        "new connections wait in the kernel until others close",
        "idle_timeout in [edge]; ulimit -n (LimitNOFILE=) up to 50,000 connections; after that another machine",
        _known(facts, facts.connections, rate),
    )
    cores = facts.edge_cores
    rate = grown(facts, cores, facts.edge_threads) if cores and cores >= CPU_MIN_CORES else None
    yield Wall(
        "edge: its threads",
        None if cores is None else round(cores, 2),
        facts.edge_threads,
        "cores",
        rate,
        "every request waits at the edge",
        "it takes one thread for 4 cores: " + _after_cores(facts),
        _known(facts, None, rate),
    )
    yield Wall(
        "edge: connections not yet accepted",
        facts.backlog_now,
        facts.somaxconn,
        "connections",
        None,
        "a larger burst at one moment is dropped by the kernel and tried again a second later",
        "sysctl -w net.core.somaxconn=65535, then start again",
        "unknown",
    )


def _of_database(database: DatabaseFacts, facts: Facts) -> Iterator[Wall]:
    what = f"{database.name}: PostgreSQL connections"
    if not database.is_embedded:
        ask = "SHOW max_connections there; a pool in the app, or a pooler before it"
        yield Wall(what, None, None, "connections", None, "the app's driver raises", ask, "unknown")
        return
    limit = database.connections_max - POSTGRESQL_RESERVED
    users = [service for service in facts.services if database.name in service.databases]
    most = sum(service.replicas * (service.limit_each or 0) for service in users)
    rate = grown(facts, database.connections, limit) if database.connections else None
    then = "PostgreSQL refuses more: the app's driver raises"
    if users and all(service.is_wsgi for service in users) and most <= limit:
        rate, then = None, f"never, with one connection a thread: {most} threads are all there are"
    names = ", ".join(service.name for service in users) or "the app"
    yield Wall(
        what,
        database.connections,
        limit,
        "connections",
        rate,
        then,
        f"a pool of fixed size in {names}: {max(1, limit // max(1, sum(s.replicas for s in users)))} a replica at most",
        "derived" if then.startswith("never") else _known(facts, database.connections, rate),
    )
    yield _ports(database, facts)


def _ports(database: DatabaseFacts, facts: Facts) -> Wall:
    """Ports of connections to a database on this machine; the edge reaches replicas without any."""
    then = f"connecting fails: a closed connection keeps its port for {TIME_WAIT_S} s"
    rate = None
    if facts.ports_are_reused:
        then = "nothing: this kernel takes a port of this machine's own again after a second"
    elif database.ports_waiting is not None and database.ports_waiting > OWN_PORTS:
        rate = grown(facts, database.ports_waiting, facts.ports_max)
    return Wall(
        f"{database.name}: ports for new connections",
        database.ports_waiting,
        facts.ports_max,
        "ports",
        rate,
        then,
        "connections that are kept in a pool instead of one a request",
        "derived" if facts.ports_are_reused or rate is not None else "unknown",
    )


def _of_cache(cache: CacheFacts) -> Wall:
    """Memory of its server. It fills by what is cached and not by requests, so no rate leads there."""
    then = "what was used least lately goes, and is loaded again when it is asked for"
    if cache.evicted:
        then = f"{cache.evicted:,} keys have gone for want of room: they are loaded again when they are asked for"
    next_ = (
        f"memory_max in [caches.{cache.name}], applied at once; headway cache stats {cache.name} shows the hit ratio"
    )
    if not cache.is_embedded:
        next_ = "maxmemory and maxmemory-policy allkeys-lru there"
        if cache.used_bytes is not None and cache.max_bytes is None:
            then = "it has no bound: it takes what its machine has"
    return Wall(
        f"{cache.name}: memory of the cache", cache.used_bytes, cache.max_bytes, "bytes", None, then, next_, "unknown"
    )


def _of_files(facts: Facts) -> Iterator[Wall]:
    for used in facts.files:
        then = "no more sockets or files can be opened"
        if used.what == "edge":
            then = "nothing: its limit of connections comes first"
        next_ = "LimitNOFILE=65536 in the systemd unit, or ulimit -n 65536"
        known: Known = "derived" if used.what == "edge" else "unknown"
        yield Wall(f"{used.what}: open files", used.now, used.limit, "files", None, then, next_, known)


def _single_points(facts: Facts) -> Iterator[Wall]:
    def point(what: str, then: str, next_: str) -> Wall:
        return Wall(what, 1, 0, "spare", None, then, next_, "derived", "single point")

    yield point(
        "this machine",
        "everything is away until it is back",
        "headway up at boot brings all back; more than one machine is not available yet",
    )
    if facts.has_edge:
        then = "new connections wait in the kernel; requests under way are cut; it is back in half a second"
        yield point("the edge's process", then, "headway break edge shows it; a second one needs a second machine")
    then = "traffic goes on; nothing that dies is replaced until it is back in 2 s"
    yield point("the controller", then, "headway break controller shows it")
    if facts.is_detached:
        then = "traffic goes on; nothing that dies is started again"
        yield point("the supervisor", then, "headway up --detach adopts what runs")
    else:
        yield point("the supervisor", "everything ends with it", "headway up --detach: traffic outlives it")
    for database in facts.databases:
        if database.is_embedded:
            then = "what needs it fails until it is back by itself; no acknowledged write is lost"
            next_ = (
                f"headway break server {database.name} shows it; a url of a replicated server (Patroni) in its stead"
            )
        else:
            then, next_ = "what needs it fails until it is back", "look after it where it runs"
        yield point(f"database {database.name}: one server", then, next_)
    for cache in facts.caches:
        then = "apps go on from the tier in each process and by loading; it comes back empty"
        next_ = f"headway break cache {cache.name} shows it" if cache.is_embedded else "look after it where it runs"
        yield point(f"cache {cache.name}: one server", then, next_)
    for service in facts.services:
        if service.replicas == 1:
            then = "its requests wait or fail until it has started again" if service.is_app else "its work stands still"
            next_ = f"replicas = 2 in [services.{service.name}], or headway scale {service.name} 2"
            yield point(f"{service.name}: one replica", then, next_)
