"""Gathers what the walls of a system are told from: its status and its processes over a few seconds, and the machine.

Nothing is asked that costs the system anything: counters that are there, and what the kernel tells of processes. What
cannot be read (another user's process) is left unknown.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headway.caching.settings import MEMORY_BYTES
from headway.control import wanting
from headway.control.client import ControlClient
from headway.declaration.calls import at_edge, callers
from headway.lab.wall_facts import CacheFacts, DatabaseFacts, Facts, FilesUsed, ServiceFacts
from headway.lab.wall_read import (
    Reading,
    alive,
    clients,
    files_used,
    memory_bytes,
    ports_are_reused,
    ports_max,
    ports_waiting,
    read,
    waiting_to_be_accepted,
)
from headway.model.declared import Service, System
from headway.model.span import FILE_MAX_BYTES as SPANS_MAX_BYTES
from headway.process.folders import Folders
from headway.process.machine import Machine, look, memory_now
from headway.process.record import read_record
from headway.runtimes.local.edge_plan import REPLICAS_PER_THREAD, connections
from headway.runtimes.local.logs import LOG_KEEP, LOG_MAX_BYTES
from headway.sharding.settings import CONNECTIONS_MAX as POSTGRESQL_CONNECTIONS_MAX

WINDOW_S = 3.0  # the controller reads the traffic once a second
_SAMPLE_EVERY_S = 0.1


def look_at_running(system: System, folders: Folders, client: ControlClient, window_s: float = WINDOW_S) -> Facts:
    """The facts of a running system, over `window_s`. NotRunning when its controller does not answer."""
    documents = [client.status()]
    first = read(folders)
    until_s = time.monotonic() + window_s
    while time.monotonic() < until_s:
        time.sleep(_SAMPLE_EVERY_S)
        documents.append(client.status())
    return _Found(system, folders, documents, first, read(folders)).facts()


def look_at_declared(system: System, state: Path) -> Facts:
    """The facts of a system that does not run: its declaration and this machine."""
    machine = look()
    replicas = wanting.replicas_declared(system, machine)
    total = sum(replicas.values())
    services = tuple(
        _declared_service(name, service, system, replicas[name], wanting.request_limit(service, total, machine))
        for name, service in system.services.items()
    )
    databases = tuple(
        DatabaseFacts(name, database.url is None, None, POSTGRESQL_CONNECTIONS_MAX)
        for name, database in system.databases.items()
    )
    return Facts(
        running=False,
        services=services,
        databases=databases,
        caches=tuple(
            CacheFacts(
                name, cache.is_embedded, None, (cache.memory_max_bytes or MEMORY_BYTES) if cache.is_embedded else None
            )
            for name, cache in system.caches.items()
        ),
        has_edge=any(service.is_at_edge for service in services),
        connections_max=connections_max(system, machine),
        edge_threads=max(1, int(machine.cores) // REPLICAS_PER_THREAD),
        files=(FilesUsed("each process", None, machine.descriptors_max),),
        **_of_machine(machine, state, used_bytes=None, logs=total + len(databases) + 4),
    )


def _declared_service(name: str, service: Service, system: System, replicas: int, limit: int) -> ServiceFacts:
    is_wsgi = service.interface == "wsgi" or service.threads is not None
    threads = service.threads or wanting.THREADS
    return ServiceFacts(
        name=name,
        is_app=service.app is not None,
        is_at_edge=name in at_edge(system),
        is_wsgi=is_wsgi,
        replicas=replicas,
        limit_each=min(limit, threads) if is_wsgi else limit,
        streams_max=service.streams_max,
        refuses=service.overload != "observe",
        slo_s=service.slo_s,
        memory_max_bytes=service.memory_max_bytes,
        databases=wanting.needs(service, system.databases),
    )


class _Found:
    """From what was read to facts."""

    def __init__(
        self,
        system: System,
        folders: Folders,
        documents: Sequence[Mapping[str, Any]],
        first: Reading,
        last: Reading,
    ) -> None:
        self._system, self._folders, self._documents = system, folders, documents
        self._first, self._last = first, last
        self._window_s = max(0.001, last.at_s - first.at_s)
        self._now = documents[-1]
        self._cores = {
            name: max(0.0, cores_s - first.cores_s[name]) / self._window_s
            for name, cores_s in last.cores_s.items()
            if name in first.cores_s
        }

    def facts(self) -> Facts:
        machine = look()
        sizes = [r["rss_bytes"] for s in self._now["services"].values() for r in s["replicas"] if r["rss_bytes"]]
        record = read_record(self._folders)
        entries = alive(record)
        ours = sum(self._cores.values())
        busy = max(0.0, self._last.busy_s - self._first.busy_s) / self._window_s
        # Under a quota others' use of the cores takes nothing away from ours.
        quota = machine.cores < len(os.sched_getaffinity(0))
        services = tuple(self._service(name, told) for name, told in self._now["services"].items())
        edge = next((entry["pid"] for entry in entries if entry["name"] == "edge"), None)
        return Facts(
            running=True,
            services=services,
            databases=tuple(self._databases(entries)),
            caches=tuple(self._caches()),
            files=tuple(files_used(entries)),
            url=self._now["edge"]["url"],
            has_edge=any(service.is_at_edge for service in services),
            is_detached=self._now["mode"] == "detached",
            requests_per_s=self._rate_per_s(services),
            busy_cores=ours,
            others_cores=0.0 if quota else max(0.0, min(busy - ours, machine.cores)),
            edge_cores=self._cores.get("edge"),
            edge_threads=max(1, int(machine.cores) // REPLICAS_PER_THREAD),
            connections=max(document["traffic"]["connections"] for document in self._documents),
            connections_max=_declared_maxconn(self._folders) or connections_max(self._system, machine),
            backlog_now=waiting_to_be_accepted(edge, self._now["edge"]["urls"]),
            replica_bytes=max(sizes, default=None),
            **_of_machine(machine, self._folders.state, used_bytes=memory_bytes(entries), logs=len(entries) + 1),
        )

    def _rate_per_s(self, services: Sequence[ServiceFacts]) -> float:
        """Requests that apps answered in this very window, and those refused; the edge's own count is a second old."""
        public = [name for name, told in self._now["services"].items() if told["routes"]]
        answered = sum(self._completed(name) for name in public)
        if answered:
            return answered / self._window_s + sum(service.refused_per_s for service in services)
        shares: list[float] = [document["traffic"]["requests_per_s"] for document in self._documents]
        return sum(shares) / len(shares)

    def _completed(self, service: str) -> int:
        names = [replica["name"] for replica in self._now["services"][service]["replicas"]]
        first, last = self._first.completed, self._last.completed
        return sum(max(0, last[name] - first[name]) for name in names if name in first and name in last)

    def _service(self, name: str, told: Mapping[str, Any]) -> ServiceFacts:
        service = self._system.services.get(name) or Service(app="unknown:app")
        names = [replica["name"] for replica in told["replicas"]]
        counted = [one for one in names if one in self._first.service_s and one in self._last.service_s]
        passed_s = sum(max(0.0, self._last.service_s[one] - self._first.service_s[one]) for one in counted)
        # Requests longer than the window have not been counted yet, but are seen under way.
        seen = [
            sum(replica["in_flight"] for replica in document["services"].get(name, {}).get("replicas", ()))
            for document in self._documents
        ]
        is_wsgi = bool(names) and names[0] in self._last.wsgi
        classes = ((told.get("overload") or {}).get("classes") or {}).values()
        bounds = [one["queue_max"] for one in classes if one.get("queue_max") is not None]
        limit = told.get("limit")
        return ServiceFacts(
            name=name,
            is_app=service.app is not None,
            is_at_edge=bool(told["routes"] or told["calls_from"]),
            is_wsgi=is_wsgi,
            replicas=len(names),
            limit_each=min(limit, service.threads or wanting.THREADS) if is_wsgi and limit else limit,
            limit_now=sum(replica["limit"] or 0 for replica in told["replicas"]) or None,
            in_flight=max(passed_s / self._window_s, sum(seen) / len(seen)),
            sightings=self._completed(name) + sum(seen),
            streams=sum(replica["streams"] for replica in told["replicas"]),
            streams_max=service.streams_max,
            queued=sum(one.get("queued") or 0 for one in classes),
            queue_max=sum(bounds) if bounds else None,
            refused_per_s=sum(one.get("refused_per_s") or 0.0 for one in classes),
            is_overloaded=any(one.get("overloaded") or one.get("refused_per_s") for one in classes),
            refuses=service.overload != "observe",
            slo_s=service.slo_s,
            rss_bytes=max((replica["rss_bytes"] for replica in told["replicas"]), default=None),
            memory_max_bytes=service.memory_max_bytes,
            cores_each=tuple(self._cores[one] for one in names if one in self._cores),
            databases=wanting.needs(service, self._system.databases),
        )

    def _caches(self) -> Iterator[CacheFacts]:
        for name, told in self._now["caches"].items():
            declared = self._system.caches.get(name)
            yield CacheFacts(
                name, declared is None or declared.is_embedded, told["used_bytes"], told["max_bytes"], told["evicted"]
            )

    def _databases(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[DatabaseFacts]:
        pids = {entry["name"]: entry["pid"] for entry in entries}
        for name, told in self._now["databases"].items():
            pid = pids.get(f"database.{name}")
            if pid is None:
                yield DatabaseFacts(name, is_embedded=False)
                continue
            found = re.search(r":(\d+)(?:/|$)", next((server["url"] for server in told["servers"]), ""))
            waiting = ports_waiting(int(found[1])) if found else None
            yield DatabaseFacts(name, True, clients(pid), POSTGRESQL_CONNECTIONS_MAX, waiting)


def _of_machine(machine: Machine, state: Path, *, used_bytes: int | None, logs: int) -> dict[str, Any]:
    there = next(place for place in (state, *state.parents) if place.exists())
    return {
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "memory_used_bytes": used_bytes,
        "memory_free_bytes": min(memory_now()[1], machine.memory_bytes),
        "disk_free_bytes": shutil.disk_usage(there).free,
        "somaxconn": machine.somaxconn,
        "ports_max": ports_max(),
        "ports_are_reused": ports_are_reused(),
        "state_bytes": _folder_bytes(state),
        "logs_max_bytes": logs * (LOG_MAX_BYTES * (1 + LOG_KEEP) + 2 * SPANS_MAX_BYTES),
    }


def connections_max(system: System, machine: Machine) -> int:
    """Connections of clients that the edge of a system gets, with as many replicas as are declared."""
    replicas = wanting.replicas_declared(system, machine)
    total = sum(replicas.values())
    at_replicas = sum(
        wanting.request_limit(system.services[name], total, machine) * replicas[name] for name in at_edge(system)
    )
    return connections(machine.descriptors_max, at_replicas, has_calls=bool(callers(system)))[0]


def _declared_maxconn(folders: Folders) -> int | None:
    """What the edge really has for clients, from the file it was started with: of the whole process, or of its public
    frontend where calls have a share of their own."""
    try:
        text = (folders.edge / "haproxy.cfg").read_text()
    except OSError:
        return None
    found = re.findall(r"^\s+maxconn (\d+)$", text, re.MULTILINE)
    return int(found[-1]) if found else None


def _folder_bytes(folder: Path) -> int:
    """What a folder takes on disk; files that vanish meanwhile count for nothing."""
    total = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total
