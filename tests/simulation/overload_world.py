"""An app under more load than it can carry, on virtual time: to try rules of overload that would take hours for real.

The world has what decides under overload, and nothing else: requests that come by chance, whatever becomes of those
before them (Poisson, open loop); an edge that gives each replica so many of a class at once, lets others wait, and
refuses what is above the bound; workers that compute on one core, one request after the other, and wait in between.

What it is told comes from the real rules alone: every tenth of a second `adapting.adapt` gets counters and queues as
the runtime would see them, and its limits and bounds are put in force. A seed replays a world to the letter.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from random import Random

from headway.control.adapting import Adapted, adapt
from headway.model.action import Action, AssignRoute, Tell
from headway.model.edge import QUEUE_MAX_UNKNOWN
from headway.model.observed import EdgeObserved, EdgeServer, MemoryObserved, Observed, ReplicaObserved
from headway.model.overload import MAIN, SLOW, ClassCounts, Counts, EdgeQueue, QueueBound, RouteCounts
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedService

TICK_S = 0.1
CLOCK_S = 1000.0  # of the machine, at time 0
IDLE_S = 1.0  # before time 0: nobody asks anything yet
TOLD_BEFORE_S = 0.03  # a worker writes its counters a little before the controller looks
NUMBERS = (MAIN, SLOW)
PLENTY = MemoryObserved(total_bytes=8 << 30, available_bytes=6 << 30)


@dataclass(frozen=True, slots=True)
class Route:
    """What a request of a route does: half of its computing, a wait (for a database, say), the other half."""

    prefix: str = "/"
    cpu_s: float = 0.002
    wait_s: float | Callable[[int], float] = 0.010  # also by how many requests are in flight
    share: float = 1.0  # of all requests
    gives_up_s: float = inf  # waits no longer, and fails
    fails_share: float = 0.0  # of its requests: at once, with little computing and no waiting
    request_bytes: int = 0  # held while in flight


FAIL_CPU_SHARE = 0.1
VARIES = 0.5, 1.5  # what each part takes, in shares of its mean


@dataclass(slots=True)
class Request:
    route: Route
    number: int
    arrived_s: float
    worker: Worker | None = None
    started_s: float = 0.0
    half: int = 0
    good: bool = True


@dataclass(slots=True)
class Worker:
    """One replica: a core, and what it has counted since its start."""

    name: str
    ready: deque[Request] = field(default_factory=deque)
    busy: bool = False
    in_flight: list[int] = field(default_factory=lambda: [0] * len(NUMBERS))  # as the edge has it
    begun: list[int] = field(default_factory=lambda: [0] * len(NUMBERS))  # of these, what the app has seen so far
    completed: list[int] = field(default_factory=lambda: [0] * len(NUMBERS))
    failed: list[int] = field(default_factory=lambda: [0] * len(NUMBERS))
    service_s: list[float] = field(default_factory=lambda: [0.0] * len(NUMBERS))
    routes: dict[str, tuple[int, float]] = field(default_factory=dict)
    cpu_s: float = 0.0
    held_bytes: int = 0
    rss_bytes: int = 60 << 20
    told: deque[tuple[float, Counts]] = field(default_factory=deque)

    def counts(self, now_s: float) -> Counts:
        classes = tuple(
            ClassCounts(self.completed[n], self.failed[n], self.service_s[n], self.begun[n]) for n in NUMBERS
        )
        routes = tuple(RouteCounts(prefix, *seen) for prefix, seen in self.routes.items())
        return Counts(now_s, 0.0, classes, routes)


@dataclass(slots=True)
class Waiting:
    """The queue of one class at the edge. What came while the newest go first goes before all that came earlier."""

    in_order: deque[Request] = field(default_factory=deque)
    newest: list[Request] = field(default_factory=list)
    refused: int = 0

    def __len__(self) -> int:
        return len(self.in_order) + len(self.newest)

    def take(self) -> Request:
        return self.newest.pop() if self.newest else self.in_order.popleft()


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that got one; `good` = no error."""

    at_s: float
    took_s: float
    good: bool
    prefix: str

    @property
    def arrived_s(self) -> float:
        return self.at_s - self.took_s


@dataclass(frozen=True, slots=True)
class Line:
    """What happened in one tick, and what is in force after it."""

    at_s: float
    limit: int  # of the main class, over all replicas
    queue_max: int
    queued: int
    in_flight: int
    offered: int
    refused: int


class World:
    """One service. `limit` = fixed, for comparison; None = found by the rules."""

    def __init__(
        self,
        *app: Route,
        seed: int = 1,
        slo_s: float | None = 0.25,
        deadline_s: float = 30.0,
        replicas: int = 1,
        limit: int | None = None,
        memory_share_bytes: int = 0,
    ) -> None:
        self.slo_s = slo_s
        self.wanted = WantedService(
            name="web",
            kind="app",
            key="one",
            replicas=replicas,
            limit=limit or 2048,
            threads=8,
            is_at_edge=True,
            slo_s=slo_s,
            deadline_s=deadline_s,
            adapts=limit is None,
            memory_share_bytes=memory_share_bytes,
        )
        self.now_s, self.rate_per_s, self.next_s = -IDLE_S, 0.0, inf
        self.answers: list[Answer] = []
        self.lines: list[Line] = []
        self.said: list[tuple[float, Action]] = []
        self.memory = PLENTY
        self.tells: Callable[[Counts], Counts | None] = lambda counts: counts  # None = what is told gets lost
        self.delay_s = 0.0  # what is told arrives so much later
        self.robbed_s = 0.0  # others take the core for so long, then leave it for as long, and so on
        self._random = Random(seed)
        self._workers = [Worker(f"web.{number + 1}") for number in range(replicas)]
        self._limits: Mapping[tuple[str, int], int] = {}
        self._bounds = dict.fromkeys(NUMBERS, QueueBound(QUEUE_MAX_UNKNOWN))
        self._waiting = {number: Waiting() for number in NUMBERS}
        self._slow: set[str] = set()
        self._offered = self._refused = 0
        self._events: list[tuple[float, int, Callable[..., None], Request | Worker | None]] = []
        self._number = 0
        self._adapted = Adapted()
        self.app: Sequence[Route] = app or (Route(),)
        self._adapt(EdgeObserved(pid=1, reachable=True))  # the replicas are ready, and not yet at the edge
        for worker in self._workers:
            self._at(TICK_S - TOLD_BEFORE_S, self._tell, worker)
        self._at(TICK_S, self._tick, None)
        self.until(0.0)
        self.lines.clear()

    # -- what happens to it -----------------------------------------------------------------------------------------

    @property
    def app(self) -> Sequence[Route]:
        return self._app

    @app.setter
    def app(self, app: Sequence[Route]) -> None:
        """Requests that begin from now on do this, those that wait at the edge among them."""
        self._app, self._shares = tuple(app), [route.share for route in app]
        self._routes = {route.prefix: route for route in app}

    def offer(self, rate_per_s: float) -> None:
        """So many requests come a second, from now on."""
        self.rate_per_s = rate_per_s
        self.next_s = self.now_s + self._random.expovariate(rate_per_s) if rate_per_s else inf

    def burst(self, requests: int) -> None:
        """So many requests come at this moment."""
        for _ in range(requests):
            self._arrive()

    def until(self, end_s: float) -> World:
        events = self._events
        while True:
            if self.next_s < events[0][0]:
                if self.next_s > end_s:
                    break
                self.now_s = self.next_s
                self.next_s += self._random.expovariate(self.rate_per_s)
                self._arrive()
            elif events[0][0] > end_s:
                break
            else:
                self.now_s, _, do, about = heapq.heappop(events)
                do(about)
        self.now_s = end_s
        return self

    # -- what came of it --------------------------------------------------------------------------------------------

    @property
    def adapted(self) -> Adapted:
        """What the rules remember."""
        return self._adapted

    def goodput(self, start_s: float, end_s: float, prefix: str | None = None) -> float:
        """Good answers in time per second."""
        late_s = inf if self.slo_s is None else self.slo_s
        return sum(
            answer.good and answer.took_s <= late_s and (prefix is None or answer.prefix == prefix)
            for answer in self._answers(start_s, end_s)
        ) / (end_s - start_s)

    def throughput(self, start_s: float, end_s: float) -> float:
        """Good answers per second, in time or not."""
        return sum(answer.good for answer in self._answers(start_s, end_s)) / (end_s - start_s)

    def took_s(self, start_s: float, end_s: float, share: float, prefix: str | None = None) -> float:
        """A percentile of what answers took."""
        answers = self._answers(start_s, end_s)
        found = sorted(answer.took_s for answer in answers if prefix in (None, answer.prefix))
        return found[min(len(found) - 1, int(len(found) * share))]

    def _answers(self, start_s: float, end_s: float) -> list[Answer]:
        """Those of a stretch; they stand in the order in which they were given."""
        first = bisect_left(self.answers, start_s, key=lambda answer: answer.at_s)
        return self.answers[first : bisect_left(self.answers, end_s, first, key=lambda answer: answer.at_s)]

    def refused_shares(self, start_s: float, end_s: float, every_s: float) -> list[float]:
        """Share of requests refused, in each window."""
        offered, refused = defaultdict[int, int](int), defaultdict[int, int](int)
        for line in self.lines:
            if start_s < line.at_s - TICK_S / 2 <= end_s:
                window = int((line.at_s - TICK_S / 2 - start_s) / every_s)
                offered[window] += line.offered
                refused[window] += line.refused
        return [refused[window] / offered[window] for window in sorted(offered) if offered[window]]

    def limits(self, start_s: float, end_s: float) -> list[int]:
        """Limits of the main class in force, tick by tick."""
        return [line.limit for line in self.lines if start_s <= line.at_s < end_s]

    def refused(self, start_s: float, end_s: float) -> int:
        return sum(line.refused for line in self.lines if start_s < line.at_s <= end_s)

    def told(self, words: str) -> list[float]:
        """When the journal said so."""
        return [at_s for at_s, action in self.said if isinstance(action, Tell) and words in action.reason]

    # -- the edge ---------------------------------------------------------------------------------------------------

    def _arrive(self) -> None:
        self._offered += 1
        route = self._app[0] if len(self._app) == 1 else self._random.choices(self._app, self._shares)[0]
        number = SLOW if route.prefix in self._slow else MAIN
        request, waiting = Request(route, number, self.now_s), self._waiting[number]
        bound = self._bounds[number]
        if not waiting and (worker := self._free(number)) is not None:
            self._begin(request, worker)
        elif waiting and len(waiting) >= bound.queue_max:
            waiting.refused += 1
            self._refused += 1
        elif bound.newest_first:
            waiting.newest.append(request)
        else:
            waiting.in_order.append(request)

    def _free(self, number: int) -> Worker | None:
        """The replica with the fewest requests that has a place."""
        free = [w for w in self._workers if w.in_flight[number] < self._limits.get((w.name, number), 0)]
        return min(free, key=lambda worker: worker.in_flight[number]) if free else None

    def _pull(self, number: int) -> None:
        waiting = self._waiting[number]
        while waiting and (worker := self._free(number)) is not None:
            request = waiting.take()
            if self.now_s - request.arrived_s <= self.wanted.deadline_s:
                self._begin(request, worker)

    # -- a worker ---------------------------------------------------------------------------------------------------

    def _begin(self, request: Request, worker: Worker) -> None:
        request.route = self._routes.get(request.route.prefix, request.route)
        request.worker = worker
        request.good = not request.route.fails_share or self._random.random() >= request.route.fails_share
        worker.in_flight[request.number] += 1
        worker.held_bytes += request.route.request_bytes
        worker.rss_bytes = max(worker.rss_bytes, (60 << 20) + worker.held_bytes)  # Python gives nothing back
        self._compute(request)

    def _compute(self, request: Request) -> None:
        assert request.worker is not None
        request.worker.ready.append(request)
        if not request.worker.busy:
            self._run(request.worker)

    def _run(self, worker: Worker) -> None:
        worker.busy = bool(worker.ready)
        if worker.busy:
            request = worker.ready.popleft()
            if not request.half:  # a busy event loop has let it wait; nobody has counted that
                request.started_s = self.now_s
                worker.begun[request.number] += 1
            took_s = request.route.cpu_s / 2 * self._random.uniform(*VARIES)
            if not request.good and not request.half:
                took_s *= FAIL_CPU_SHARE
            worker.cpu_s += took_s
            self._at(self._with_robbed_s(took_s), self._ran, request)

    def _with_robbed_s(self, took_s: float) -> float:
        """How long it is until so much was computed."""
        if not self.robbed_s:
            return took_s
        passed_s = (self.now_s + 2 * IDLE_S) % (2 * self.robbed_s)  # of a turn: first others have the core, then we do
        first_s = max(0.0, self.robbed_s - passed_s)
        had_s = max(0.0, passed_s - self.robbed_s)
        turns = ceil((had_s + took_s) / self.robbed_s) - 1
        return first_s + took_s + max(0, turns) * self.robbed_s

    def _ran(self, request: Request) -> None:
        worker = request.worker
        assert worker is not None
        if request.half or not request.good:
            self._answer(request, worker)
        else:
            request.half = 1
            wait_s = request.route.wait_s
            wait_s = wait_s(sum(worker.in_flight)) if callable(wait_s) else wait_s * self._random.uniform(*VARIES)
            request.good = wait_s <= request.route.gives_up_s
            self._at(min(wait_s, request.route.gives_up_s), self._compute, request)
        self._run(worker)

    def _answer(self, request: Request, worker: Worker) -> None:
        number, service_s = request.number, self.now_s - request.started_s
        worker.in_flight[number] -= 1
        worker.begun[number] -= 1
        worker.held_bytes -= request.route.request_bytes
        if request.good:
            worker.completed[number] += 1
            worker.service_s[number] += service_s
            samples, sum_s = worker.routes.get(request.route.prefix, (0, 0.0))
            worker.routes[request.route.prefix] = (samples + 1, sum_s + service_s)
        else:
            worker.failed[number] += 1
        self.answers.append(
            Answer(self.now_s, self.now_s - request.arrived_s, request.good, request.route.prefix),
        )
        self._pull(number)

    def _tell(self, worker: Worker) -> None:
        self._at(TICK_S, self._tell, worker)
        counts = self.tells(worker.counts(self.now_s))
        if counts is not None:
            worker.told.append((self.now_s, counts))

    # -- the controller ---------------------------------------------------------------------------------------------

    def _tick(self, _: None) -> None:
        self._at(TICK_S, self._tick, None)
        before = self._limits
        self._adapt(self._edge())
        if self._limits != before:
            for number in NUMBERS:
                self._pull(number)
        self.lines.append(
            Line(
                self.now_s,
                sum(self._limits.get((worker.name, MAIN), 0) for worker in self._workers),
                self._bounds[MAIN].queue_max,
                len(self._waiting[MAIN]),
                sum(worker.in_flight[MAIN] for worker in self._workers),
                self._offered,
                self._refused,
            )
        )
        self._offered = self._refused = 0

    def _adapt(self, edge: EdgeObserved) -> None:
        replicas = {
            worker.name: Replica(worker.name, "web", number + 1, "one", Phase.READY, 0.0, ready_once=True)
            for number, worker in enumerate(self._workers)
        }
        observed = Observed({w.name: self._seen(w) for w in self._workers}, edge, memory=self.memory)
        self._adapted, actions = adapt(self._adapted, replicas, Wanted((self.wanted,)), observed, CLOCK_S + self.now_s)
        self._limits = self._adapted.limits
        for number in NUMBERS:
            self._bounds[number] = self._adapted.in_force.get(("web", number), self._bounds[number])
        for action in actions:
            self.said.append((self.now_s, action))
            if isinstance(action, AssignRoute):
                (self._slow.add if action.number == SLOW else self._slow.discard)(action.prefix)

    def _seen(self, worker: Worker) -> ReplicaObserved:
        while len(worker.told) > 1 and worker.told[1][0] <= self.now_s - self.delay_s:
            worker.told.popleft()
        told = worker.told[0][1] if worker.told else worker.counts(-IDLE_S)
        return ReplicaObserved(
            pid=7,
            alive=True,
            serving=True,
            in_flight=sum(worker.in_flight),
            completed=sum(worker.completed),
            rss_bytes=worker.rss_bytes,
            counts=told,
            cpu_s=worker.cpu_s,
        )

    def _edge(self) -> EdgeObserved:
        def server(worker: Worker, number: int) -> EdgeServer:
            limit = self._limits.get((worker.name, number), 0)
            return EdgeServer("ready", is_up=True, sessions=worker.in_flight[number], limit=limit)

        return EdgeObserved(
            pid=1,
            reachable=True,
            servers={w.name: server(w, MAIN) for w in self._workers},
            classes={(w.name, SLOW): server(w, SLOW) for w in self._workers},
            queues={
                ("web", number): EdgeQueue(
                    queued=len(waiting),
                    in_flight=sum(worker.in_flight[number] for worker in self._workers),
                    refused=waiting.refused,
                )
                for number, waiting in self._waiting.items()
            },
        )

    def _at(self, after_s: float, do: Callable[..., None], about: Request | Worker | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now_s + after_s, self._number, do, about))


def best_fixed(route: Route, rate_per_s: float, limits: Sequence[int], slo_s: float = 0.25) -> float:
    """The goodput of the best limit that somebody could have declared, for this app and load alone."""

    def goodput(limit: int) -> float:
        world = World(route, seed=99, slo_s=slo_s, limit=limit)
        world.offer(rate_per_s)
        return world.until(6.0).goodput(2.0, 6.0)

    return max(goodput(limit) for limit in limits)


def liar(counts: Counts) -> Counts:
    """What a worker tells that claims to have done everything in no time."""
    return replace(counts, classes=tuple(replace(one, service_s=0.0) for one in counts.classes))
