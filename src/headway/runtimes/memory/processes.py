"""Processes that exist in memory alone: they start, serve, hang, leak, crash and end as real ones do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from headway.model.observed import Failure, ReplicaObserved

_KILL_TAKES_S = 0.25  # a killed process is there a little longer: the kernel has memory to give back
_REFUSED_STATUS = 3
_IMPORT_FAILURE = Failure("import", "the app cannot be imported: No module named 'missing'", "install what it imports")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How processes of a service behave. Pairs are bounds between which each process draws its own figure.

    `fate` is what the end of the start-up brings: it serves, its import fails, it crashes, or the end never comes.
    """

    fate: Literal["serve", "import", "crash", "never"] = "serve"
    start_s: tuple[float, float] = (0.3, 1.2)
    stop_s: tuple[float, float] = (0.05, 0.4)  # how long its end takes once nothing is under way
    lives_s: float = math.inf  # serves for so long, then crashes
    is_deaf: bool = False  # does not end when asked
    rss_bytes: int = 64 << 20
    growth_bytes_per_s: float = 0.0


@dataclass(slots=True)
class Process:
    """One process; `in_flight` and `streams` are kept by the traffic."""

    replica: str
    service: str
    pid: int
    behaviour: Behaviour
    serves_at_s: float
    stop_s: float
    beat_s: float
    loop_beat_s: float
    rss_bytes: float
    alive: bool = True
    serving: bool = False
    exit_status: int | None = None
    failure: Failure | None = None
    asked_s: float | None = None
    dies_at_s: float = math.inf
    frozen_until_s: float = -math.inf
    stuck_until_s: float = -math.inf
    in_flight: int = 0
    streams: int = 0
    completed: int = 0
    told: tuple[int, int] = (0, 0)  # in flight and streams as last written down: a hung process writes nothing new

    def listens(self) -> bool:
        """Connections are accepted, by the kernel even while the process itself stands still."""
        return self.alive and self.serving and self.asked_s is None

    def works(self, now_s: float) -> bool:
        """Requests in it make progress."""
        return self.alive and self.serving and max(self.frozen_until_s, self.stuck_until_s) <= now_s

    def answers_checks(self, now_s: float) -> bool:
        """The edge's check, which needs no Python, gets its answer."""
        return self.listens() and self.frozen_until_s <= now_s


@dataclass(slots=True)
class Processes:
    """Every process by the name of its replica; one that ended stays until it is forgotten or starts again."""

    random: Random
    table: dict[str, Process] = field(default_factory=dict)
    started: int = 0

    def start(self, replica: str, service: str, behaviour: Behaviour, now_s: float) -> str:
        """Start one; an error's text when the name is taken."""
        old = self.table.get(replica)
        if old is not None and old.alive:
            return f"{replica} runs already"
        self.started += 1
        start_s = self.random.uniform(*behaviour.start_s)
        self.table[replica] = Process(
            replica,
            service,
            pid=1000 + self.started,
            behaviour=behaviour,
            serves_at_s=math.inf if behaviour.fate == "never" else now_s + start_s,
            stop_s=self.random.uniform(*behaviour.stop_s),
            beat_s=now_s,
            loop_beat_s=now_s,
            rss_bytes=behaviour.rss_bytes,
        )
        return ""

    def end(self, replica: str, how: Literal["ask", "kill"], now_s: float) -> str:
        """Ask one to end, or kill it; neither is an error when it has ended by itself."""
        process = self.table.get(replica)
        if process is None or not process.alive:
            return ""
        if how == "ask":
            process.asked_s = process.asked_s or now_s
        else:
            process.exit_status = -9
            process.dies_at_s = min(process.dies_at_s, now_s + self.random.uniform(0.0, _KILL_TAKES_S))
        return ""

    def crash(self, replica: str, status: int = -9) -> None:
        """It ends by itself, at once."""
        process = self.table[replica]
        process.exit_status = status
        self._die(process)

    def forget(self, replica: str) -> None:
        """Drop the record of one that has ended."""
        process = self.table.get(replica)
        if process is not None and not process.alive:
            del self.table[replica]

    def step(self, now_s: float, dt_s: float) -> None:
        """The time up to `now_s` passes, `dt_s` of it since the step before."""
        for process in self.table.values():
            if not process.alive:
                continue
            if process.dies_at_s <= now_s:
                self._die(process)
            elif process.frozen_until_s <= now_s:
                process.beat_s = now_s
                process.rss_bytes += process.behaviour.growth_bytes_per_s * dt_s
                if process.stuck_until_s <= now_s:
                    self._turn(process, now_s)

    def _turn(self, process: Process, now_s: float) -> None:
        process.loop_beat_s = now_s
        process.told = (process.in_flight, process.streams)
        if process.asked_s is not None:
            is_idle = not process.in_flight and not process.streams
            if is_idle and not process.behaviour.is_deaf and now_s - process.asked_s >= process.stop_s:
                process.exit_status = 0
                self._die(process)
        elif not process.serving and process.serves_at_s <= now_s:
            if process.behaviour.fate == "serve":
                process.serving = True
                process.dies_at_s = min(process.dies_at_s, now_s + process.behaviour.lives_s)
                process.exit_status = 1 if process.behaviour.lives_s < math.inf else None
            else:
                is_import = process.behaviour.fate == "import"
                process.exit_status = _REFUSED_STATUS if is_import else 1
                process.failure = _IMPORT_FAILURE if is_import else None
                self._die(process)

    def _die(self, process: Process) -> None:
        process.alive = process.serving = False


def observed(process: Process, now_s: float, watched_s: float) -> ReplicaObserved:
    """What one tick sees of it. No age is longer than the time somebody has been watching (`watched_s`)."""
    in_flight, streams = process.told
    return ReplicaObserved(
        pid=process.pid,
        alive=process.alive,
        exit_status=None if process.alive else process.exit_status,
        serving=process.serving,
        beat_age_s=min(now_s - process.beat_s, watched_s),
        loop_beat_age_s=min(now_s - process.loop_beat_s, watched_s),
        in_flight=in_flight,
        streams=streams,
        completed=process.completed,
        rss_bytes=int(process.rss_bytes),
        failure=process.failure,
    )
