"""Requests through the edge's twin, counted as a user would: served, failed, or cut off in the middle.

The edge sends each to the server with the fewest sessions. A refused connection is tried elsewhere, whatever the
method; a request whose server died is sent again only if it is idempotent and its answer had not begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from headway.runtimes.memory.edge import Edge, Server
from headway.runtimes.memory.processes import Process, Processes

_SUCCESSION_S = 3.0  # tries on account of one fault follow each other faster than that
_TRIES = 4  # one, and three more
_TRY_AGAIN_S = 1.0  # the pause before a server that refused is asked once more


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sent to one service: requests arrive at random, `rate_per_s` of them on average."""

    rate_per_s: float
    work_s: float = 0.1  # mean; a twentieth takes thirty times as long
    work_max_s: float = 5.0
    post_share: float = 0.2  # not idempotent
    stream_share: float = 0.02  # open for long, begun at once
    stream_s: tuple[float, float] = (3.0, 30.0)
    deadline_s: float = 30.0


@dataclass(slots=True)
class Tally:
    """How the requests of one service ended."""

    served: int = 0
    failed: int = 0  # an error though it was idempotent and unanswered
    cut: int = 0  # in flight on something that died, and not to be repeated
    ended: int = 0  # streams ended because their replica left
    reasons: Counter[str] = field(default_factory=Counter)  # of `failed`


@dataclass(slots=True)
class _Request:
    service: str
    idempotent: bool
    is_stream: bool
    arrived_s: float
    deadline_s: float
    left_s: float
    not_before_s: float = 0.0
    tries: int = 0
    tried: tuple[str, ...] = ()
    server: Server | None = None
    process: Process | None = None


@dataclass(slots=True)
class Traffic:
    """All requests that are under way."""

    random: Random
    offers: dict[str, Offer] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    _next_s: dict[str, float] = field(default_factory=dict)
    _waiting: list[_Request] = field(default_factory=list)
    _flying: list[_Request] = field(default_factory=list)
    _edge_deaths: int = 0

    def offer(self, service: str, offer: Offer, now_s: float) -> None:
        """From now on `offer` is what arrives for `service`."""
        self.offers[service] = offer
        self.tallies.setdefault(service, Tally())
        self._next_s[service] = now_s

    def step(self, now_s: float, dt_s: float, edge: Edge, processes: Processes) -> None:
        """The time up to `now_s` passes, `dt_s` of it since the step before."""
        self._arrive(now_s)
        if edge.deaths != self._edge_deaths:
            self._edge_deaths = edge.deaths
            for request in self._flying:
                self._leave(request)
                self.tallies[request.service].cut += 1
            self._flying.clear()
        flying, self._flying = self._flying, []
        for request in flying:
            self._fly(request, now_s, dt_s, edge)
        if edge.state == "serving":
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self._send(request, now_s, edge, processes)

    def _arrive(self, now_s: float) -> None:
        for service, offer in self.offers.items():
            while offer.rate_per_s and self._next_s[service] <= now_s:
                self._waiting.append(self._request(service, offer, self._next_s[service]))
                self._next_s[service] += self.random.expovariate(offer.rate_per_s)

    def _request(self, service: str, offer: Offer, at_s: float) -> _Request:
        kind = self.random.random()
        is_stream = kind < offer.stream_share
        if is_stream:
            work_s = self.random.uniform(*offer.stream_s)
        else:
            work_s = self.random.expovariate(1 / offer.work_s) * (30 if self.random.random() < 0.05 else 1)
            work_s = min(work_s, offer.work_max_s)
        idempotent = kind < 1 - offer.post_share
        return _Request(service, idempotent, is_stream, at_s, at_s + offer.deadline_s, work_s)

    def _fly(self, request: _Request, now_s: float, dt_s: float, edge: Edge) -> None:
        server, process = request.server, request.process
        assert server is not None
        assert process is not None
        if edge.state != "serving":
            self._flying.append(request)  # a hung edge passes nothing on; a dead one has cut it already
        elif not process.alive or not server.is_up or edge.servers.get(server.name) is not server:
            self._leave(request)
            self._lost(request)
        elif request.is_stream and process.asked_s is not None and process.works(now_s):
            self._leave(request)
            self.tallies[request.service].ended += 1
        else:
            if process.works(now_s):
                request.left_s -= dt_s
            if request.left_s <= 0:
                self._leave(request)
                process.completed += 1
                self.tallies[request.service].served += 1
            elif now_s > request.deadline_s and not request.is_stream:
                self._leave(request)
                self._fail(request, "late")
            else:
                self._flying.append(request)

    def _leave(self, request: _Request) -> None:
        assert request.server is not None
        assert request.process is not None
        request.server.sessions -= 1
        if request.is_stream:
            request.process.streams -= 1
        else:
            request.process.in_flight -= 1

    def _lost(self, request: _Request) -> None:
        if request.idempotent and not request.is_stream and request.tries < _TRIES:
            assert request.server is not None
            request.tried = (*request.tried, request.server.name)
            self._waiting.append(request)
        elif request.idempotent and not request.is_stream:
            self._fail(request, "no try left")
        else:
            self.tallies[request.service].cut += 1

    def _fail(self, request: _Request, reason: str) -> None:
        tally = self.tallies[request.service]
        tally.failed += 1
        tally.reasons[reason] += 1

    def _send(self, request: _Request, now_s: float, edge: Edge, processes: Processes) -> None:
        if now_s > request.deadline_s:
            self._fail(request, "late")
            return
        if request.not_before_s > now_s:
            self._waiting.append(request)
            return
        servers = edge.candidates(request.service)
        if not servers:
            self._fail(request, "no server")
            return
        while True:
            server = self._choose([s for s in servers if s.name not in request.tried] or servers)
            if server is None:
                self._waiting.append(request)
                return
            request.tries += 1
            process = processes.table.get(server.name)
            if process is not None and process.listens():
                self._enter(request, server, process)
                return
            if request.tries >= _TRIES:
                # Who met a fault on every replica one after the other has used up the edge's retries: that is another
                # thing than being refused while one replica is down.
                lasted = now_s - request.arrived_s > _SUCCESSION_S
                self._fail(request, "retries used up" if lasted else "connection refused")
                return
            request.tried = (*request.tried, server.name)
            if all(other.name in request.tried for other in servers):
                request.tried, request.not_before_s = (), now_s + _TRY_AGAIN_S
                self._waiting.append(request)
                return

    def _choose(self, servers: Iterable[Server]) -> Server | None:
        """The one with room that has the fewest sessions; None when all are full: the request waits in the queue."""
        with_room = [server for server in servers if server.sessions < server.limit]
        return min(with_room, key=lambda server: (server.sessions, self.random.random()), default=None)

    def _enter(self, request: _Request, server: Server, process: Process) -> None:
        request.server, request.process = server, process
        server.sessions += 1
        if request.is_stream:
            process.streams += 1
        else:
            process.in_flight += 1
        self._flying.append(request)
