"""One replica through its life: from what was seen to its next phase and what to do for it. Pure.

(start) → STARTING → READY → DRAINING → STOPPING → (forgotten)
              ↘        ↓                   ↓
               └────→ DOWN ←───────────────┘   (starts again after a back-off, unless it is to leave)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headway.model.action import Action, EndReplica, ForgetReplica, StartReplica, Tell
from headway.model.observed import EdgeObserved, Failure, ReplicaObserved
from headway.model.replica import Phase, Replica
from headway.model.units import format_bytes, format_duration
from headway.model.wanted import WantedService

BACKOFF_FIRST_S = 0.5  # the first restart is at once; then doubling from here
BACKOFF_MAX_S = 30.0
WELL_AFTER_S = 30.0  # ready for so long: earlier failures are forgotten
LOOP_AFTER = 3  # failures in a row that are told as a crash loop
COMMAND_READY_S = 1.0  # a command has no port to ask: alive for so long counts as ready
BEAT_DEAD_S = 1.5  # a whole process without a beat is stopped or starved; the edge's check has taken it out by then
STOP_PATIENCE_S = 8.0  # after being asked to end
KILL_PATIENCE_S = 2.0  # after being killed; then the kill was lost, or the kernel needs long
RELOAD_LINGER_S = 1.0  # a replica whose service has gone stays so long for the edge's process before the reload
EDGE_PATIENCE_S = 3.0  # at least so long the edge may take to hear that a replica leaves
RECYCLE_AFTER_S = 10.0  # an app that is over `memory_max` from its first second must not be replaced without a pause
CHANGED = "its declaration or source changed"


@dataclass(frozen=True, slots=True)
class Step:
    """The replica after this tick (None = forgotten) and what to do."""

    replica: Replica | None
    actions: tuple[Action, ...] = ()


def backoff_s(failures: int) -> float:
    """How long to wait before start number `failures` + 1: 0, 0.5, 1, 2, … 30 s."""
    return 0.0 if failures <= 1 else min(BACKOFF_FIRST_S * 2.0 ** (failures - 2), BACKOFF_MAX_S)


def advance(
    replica: Replica, seen: ReplicaObserved | None, edge: EdgeObserved, service: WantedService | None, now_s: float
) -> Step:
    """The next step of one replica; `seen` is its process, if there is one."""
    alive = seen is not None and seen.alive
    if alive and seen and replica.phase is Phase.READY and replica.pid not in (None, seen.pid):
        # A controller that died between starting it again and remembering so: what runs now has yet to get ready.
        return Step(replace(_phase(replica, Phase.STARTING, now_s), pid=seen.pid, restarts=replica.restarts + 1))
    match replica.phase:
        case Phase.STARTING:
            return _starting(replica, seen, service, now_s) if alive else _ended(replica, seen, now_s)
        case Phase.READY:
            return _ready(replica, seen, service, now_s) if alive and seen else _ended(replica, seen, now_s)
        case Phase.DRAINING:
            if not alive:
                return _gone(replica, edge, now_s)
            return _draining(replica, seen, edge, service, now_s)
        case Phase.STOPPING:
            return _gone(replica, edge, now_s) if not alive else _stopping(replica, service, now_s)
        case Phase.DOWN:
            return _down(replica, seen, edge, now_s)


def _starting(replica: Replica, seen: ReplicaObserved | None, service: WantedService | None, now_s: float) -> Step:
    assert seen is not None
    if replica.leave or service is None:
        return Step(_phase(replica, Phase.STOPPING, now_s), (EndReplica(replica.name, "ask", "not wanted any more"),))
    if service.kind == "command":
        is_ready = now_s - replica.since_s >= COMMAND_READY_S
    else:
        is_ready = seen.serving
    if is_ready:
        took = format_duration(now_s - replica.since_s)
        ready = replace(_phase(replica, Phase.READY, now_s), pid=seen.pid, ready_once=True, failure=None)
        return Step(ready, (Tell(replica.name, f"ready after {took}"),))
    if now_s - replica.since_s > service.start_timeout_s:
        limit = format_duration(service.start_timeout_s)
        failure = Failure(
            "start_timeout",
            f"start-up did not end within {limit}",
            f'mend what it waits for, or allow more: start_timeout = "{service.start_timeout_s * 2:.0f}s"',
        )
        return _fell(replica, failure, now_s, EndReplica(replica.name, "kill", failure.message))
    return Step(replace(replica, pid=seen.pid))


def _ready(replica: Replica, seen: ReplicaObserved, service: WantedService | None, now_s: float) -> Step:
    if replica.leave or service is None:
        return Step(_phase(replica, Phase.DRAINING, now_s))
    if replica.failures and now_s - replica.since_s > WELL_AFTER_S:
        replica = replace(replica, failures=0, told_loop=False)
    if reason := _hang(seen, service):
        return _fell(replica, Failure("hung", reason), now_s, EndReplica(replica.name, "kill", reason))
    if replica.retire == CHANGED and replica.key == service.key:
        replica = replace(replica, retire="")  # changed back before its turn came: what runs is what is wanted
    if not replica.retire:
        if service.key and replica.key != service.key:
            return Step(replace(replica, retire=CHANGED))
        bound = service.memory_max_bytes
        if bound is not None and seen.rss_bytes > bound and now_s - replica.since_s > RECYCLE_AFTER_S:
            reason = f"{format_bytes(seen.rss_bytes)} resident, over memory_max {format_bytes(bound)}"
            return Step(replace(replica, retire=reason), (Tell(replica.name, f"to be replaced: {reason}", "warning"),))
    return Step(replica)


def _hang(seen: ReplicaObserved, service: WantedService) -> str:
    if service.kind == "command":
        return ""
    if seen.stopped and seen.beat_age_s > BEAT_DEAD_S:
        return f"stopped by a signal for {format_duration(seen.beat_age_s)}"
    if seen.beat_age_s > max(BEAT_DEAD_S, min(service.hang_timeout_s, 5.0)):
        return f"no sign of life for {format_duration(seen.beat_age_s)}"
    patience_s = max(service.hang_timeout_s, service.threads_patience_s) if seen.is_wsgi else service.hang_timeout_s
    if seen.loop_beat_age_s > patience_s:
        what = "all threads busy and no answer" if seen.is_wsgi else "event loop stands still"
        return f"{what} for {format_duration(seen.loop_beat_age_s)}"
    return ""


def _draining(
    replica: Replica,
    seen: ReplicaObserved | None,
    edge: EdgeObserved,
    service: WantedService | None,
    now_s: float,
) -> Step:
    assert seen is not None
    if service is not None and (reason := _hang(seen, service)):
        return Step(_phase(replica, Phase.STOPPING, now_s), (EndReplica(replica.name, "kill", reason),))
    server = edge.servers.get(replica.name)
    drain_timeout_s = service.drain_timeout_s if service else 30.0
    waited_s = now_s - replica.since_s
    # What the edge sends until it has heard must be answered. It is not waited for without end: a refused connection
    # is tried elsewhere. An edge without a process sends nothing, and comes back without those that leave.
    is_silent = not edge.reachable and edge.pid is not None and (service is None or service.is_at_edge)
    is_sending = is_silent or (server is not None and server.admin == "ready")
    if is_sending and waited_s < max(drain_timeout_s, EDGE_PATIENCE_S):
        return Step(replica)
    # A service goes by a reload, and the process before it sends what it had accepted, which is seen nowhere.
    if service is None and waited_s < RELOAD_LINGER_S:
        return Step(replica)
    busy = seen.in_flight + seen.streams or (server.sessions if server else 0)
    if busy and waited_s < drain_timeout_s:
        return Step(replica)
    why = "drained"
    if busy or is_sending:
        why = f"{busy} still open after {format_duration(waited_s)}" if busy else "the edge did not let go of it"
    return Step(_phase(replica, Phase.STOPPING, now_s), (EndReplica(replica.name, "ask", why),))


def _stopping(replica: Replica, service: WantedService | None, now_s: float) -> Step:
    # A command finishes its work after it was asked: that is its drain.
    is_command = service is not None and service.kind == "command"
    patience_s = max(service.drain_timeout_s, STOP_PATIENCE_S) if service and is_command else STOP_PATIENCE_S
    if now_s - replica.since_s > patience_s:
        return Step(replace(replica, since_s=now_s), (EndReplica(replica.name, "kill", "did not end when asked"),))
    return Step(replica)


def _phase(replica: Replica, phase: Phase, now_s: float) -> Replica:
    return replace(replica, phase=phase, since_s=now_s)


def _fell(replica: Replica, failure: Failure, now_s: float, *first: Action) -> Step:
    """It failed by itself: down, to start again after its back-off. `first` goes before what is told about it."""
    failures = replica.failures + 1
    wait_s = backoff_s(failures)
    if replica.phase is Phase.READY:
        # Back-off is for what cannot stay up; who was well for some seconds is not kept down for longer than that.
        wait_s = min(wait_s, now_s - replica.since_s)
    down = replace(
        _phase(replica, Phase.DOWN, now_s), failures=failures, start_at_s=now_s + wait_s, pid=None, failure=failure
    )
    then = f"it starts again {'in ' + format_duration(wait_s) if wait_s else 'at once'}"
    if replica.leave:
        then = "it was to leave"
    actions = [*first, Tell(replica.name, f"{failure.message}; {then}", "warning")]
    if failures >= LOOP_AFTER and not down.told_loop:
        down = replace(down, told_loop=True)
        told = f"crash loop: {failures} failures in a row (headway logs {replica.name})"
        actions.append(Tell(replica.name, told, "warning"))
    return Step(down, tuple(actions))


def _ended(replica: Replica, seen: ReplicaObserved | None, now_s: float) -> Step:
    """It ended without being told to."""
    if seen and seen.failure:
        return _fell(replica, seen.failure, now_s)
    how = describe_exit(seen.exit_status if seen else None)
    doing = "while starting" if replica.phase is Phase.STARTING else "while it was ready"
    return _fell(replica, Failure("exit", f"{how} {doing}", f"headway logs {replica.name}"), now_s)


def _gone(replica: Replica, edge: EdgeObserved, now_s: float) -> Step:
    """Its process ended after it was drained or told to; the edge may need some ticks to let go of it."""
    return _down(replace(_phase(replica, Phase.DOWN, now_s), leave=True, pid=None), None, edge, now_s)


def _down(replica: Replica, seen: ReplicaObserved | None, edge: EdgeObserved, now_s: float) -> Step:
    if seen is not None and seen.alive:
        # Killed but not gone yet (or it came back from a stop): nothing may start beside it.
        if now_s - replica.since_s > KILL_PATIENCE_S:
            return Step(replace(replica, since_s=now_s), (EndReplica(replica.name, "kill", "it is still there"),))
        return Step(replica)
    if replica.leave or replica.retire:
        if replica.name in edge.servers:
            return Step(replace(replica, leave=True))
        return Step(None, (ForgetReplica(replica.name, "it has ended"),))
    return Step(replica)


def adopt(name: str, seen: ReplicaObserved, now_s: float) -> Replica | None:
    """A record for a process that nobody remembers; it serves on until another replaces it. None: not our name."""
    service, _, number = name.rpartition(".")
    if not service or not number.isdecimal():
        return None
    phase = Phase.READY if seen.serving else Phase.STARTING
    why = "nobody knows how it was started" if seen.serving else ""
    return Replica(name, service, int(number), "", phase, now_s, pid=seen.pid, retire=why, ready_once=seen.serving)


def start(replica: Replica, now_s: float, key: str) -> tuple[Replica, StartReplica]:
    """The replica as it starts (again), and the action for it."""
    again = replica.restarts + (1 if replica.pid is not None or replica.failures else 0)
    reason = f"start {again + 1}" if again else "wanted"
    if replica.failure and again:
        reason = f"starts again after: {replica.failure.message}"
    return (
        replace(_phase(replica, Phase.STARTING, now_s), key=key, restarts=again, pid=None),
        StartReplica(replica.name, replica.service, reason),
    )


_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    9: "SIGKILL",
    11: "SIGSEGV",
    15: "SIGTERM",
}


def describe_exit(status: int | None) -> str:
    """ "ended with status 3", "was killed by SIGKILL", or "ended" when nobody could see how."""
    if status is None:
        return "ended"
    if status < 0:
        return f"was killed by {_SIGNALS.get(-status, f'signal {-status}')}"
    return f"ended with status {status}"
