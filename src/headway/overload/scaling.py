"""How many replicas of a service should run: more soon after it is pressed, fewer long after it is not.

A number that follows every moment of the load goes to and fro, and each step costs a process. So the two directions
have different patience, and between them lies a band in which nothing happens. Both ideas are those of Kubernetes'
Horizontal Pod Autoscaler (a tolerance of 10 % around the target, a stabilisation window of 300 s before it goes down),
with shorter times, because a process here starts in a second and not in a minute.

*Load* is the fullest of what a replica can run out of: places for requests (in flight of its limits), processor (a
Python process computes on one core), and, where requests wait or are refused, all of it. Up, when the load was above
the target and the tolerance for two seconds; down by one, when those that would be left could have done it for a minute
with room to spare. A step down that had to be taken back doubles the patience for the next.

More replicas are no help where something else has run out: cores, memory, the database's connections. Then the number
stays, and the reason is told once.

Pure: what was measured and the time come in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, floor

CPU_FULL = 0.9  # of all cores in use by replicas: another process would only share them
MEMORY_SHARE = 0.8  # of the memory still available that new replicas may take together
CONNECTIONS_SHARE = 0.8  # of the connections that the role may open; the rest is for migrations and people
GAP_MAX_S = 1.0  # a longer silence between two looks (a stopped controller) is no pressure and no slack


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the number follows. Shorter answers sooner and costs more steps; the target is the room for bursts."""

    target: float = 0.7
    tolerance: float = 0.1
    smooth_s: float = 1.0
    up_after_s: float = 2.0
    growth: float = 1.5  # of the number, in one step; one more at the least
    down_after_s: float = 60.0
    down_again_s: float = 15.0  # after a step down that nothing spoke against
    patience_max_s: float = 960.0
    settle_max_s: float = 30.0  # for replicas to serve that are wanted; after that it is told
    tell_every_s: float = 10.0  # what stands in the way, where it changes

    @property
    def pressed(self) -> float:
        """Load above this asks for more."""
        return self.target * (1.0 + self.tolerance)

    @property
    def slack(self) -> float:
        """Load that those who are left must stay below."""
        return self.target * (1.0 - self.tolerance)


PACE = Pace()


@dataclass(frozen=True, slots=True)
class Connections:
    """Connections of the app's role at the fullest database that the service uses."""

    database: str
    open: int
    most: int
    each: float  # that one replica holds


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a service. None and 0 bytes stand for what is not known."""

    replicas: int  # that serve
    utilisation: float | None = None  # requests in flight of the limits, in the fullest class
    cpu_cores: float | None = None  # used by its replicas together
    queued: int = 0
    shed_per_s: float = 0.0
    others_cores: float = 0.0  # used by replicas of other services
    rss_bytes: int = 0  # of the largest replica
    available_bytes: int = 0
    connections: Connections | None = None
    uncounted: str = ""  # a database whose connections were known and are not any more: full, or down
    busy_cores: float | None = None  # of ours, used by anybody


@dataclass(frozen=True, slots=True)
class Bounds:
    """What was declared, and the cores there are."""

    min: int
    max: int
    cores: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """State of one service; times are durations but for `at_s` and `lowered_at_s`."""

    replicas: int
    patience_s: float = PACE.down_after_s
    load: float | None = None  # smoothed
    at_s: float = 0.0
    pressed_s: float = 0.0
    calm_s: float = 0.0
    slack_s: float = 0.0
    lowered_at_s: float | None = None
    stopped_by: str = ""  # what was told to stand in the way
    told_at_s: float | None = None  # when that was
    unsettled_s: float = 0.0  # fewer or more replicas serve than are wanted


def begin(replicas: int, pace: Pace = PACE) -> Scaling:
    """A service nobody has measured, at the number that runs."""
    return Scaling(replicas, patience_s=pace.down_after_s)


def scale(
    state: Scaling, seen: Seen | None, bounds: Bounds, now_s: float, pace: Pace = PACE
) -> tuple[Scaling, int, str]:
    """The state after one look, the number of replicas wanted, and the reason: empty where there is nothing to tell."""
    held = max(bounds.min, min(bounds.max, state.replicas))
    if held != state.replicas:
        reason = f"{state.replicas} → {held} replicas: {bounds.min} to {bounds.max} are declared"
        return begin(held, pace), held, reason
    load = _load(seen) if seen is not None else None
    if seen is None or load is None or seen.replicas != state.replicas:
        # Nothing is known, or the last step is not finished: what comes of it has to be seen first.
        return _unsettled(state, seen, now_s, pace)
    state = replace(_measured(state, load, now_s, pace), unsettled_s=0.0)
    if state.pressed_s >= pace.up_after_s:
        return _up(state, seen, bounds, now_s, pace)
    if state.slack_s >= state.patience_s and state.replicas > bounds.min:
        return _down(state, seen, now_s, pace)
    if state.calm_s >= pace.down_again_s:
        state = replace(state, stopped_by="")
    return state, state.replicas, ""


def _unsettled(state: Scaling, seen: Seen | None, now_s: float, pace: Pace) -> tuple[Scaling, int, str]:
    """Wait for what is wanted; say so where it does not come."""
    gap_s = max(0.0, min(GAP_MAX_S, now_s - state.at_s)) if state.at_s else 0.0
    differs = seen is not None and seen.replicas != state.replicas
    state = replace(
        state,
        load=None,
        at_s=now_s,
        pressed_s=0.0,
        slack_s=0.0,
        unsettled_s=state.unsettled_s + gap_s if differs else 0.0,
    )
    if seen is None or state.unsettled_s < pace.settle_max_s or not _may_tell(state, "replicas", now_s, pace):
        return state, state.replicas, ""
    state = replace(state, stopped_by="replicas", told_at_s=now_s)
    return state, state.replicas, f"stays at {state.replicas} replicas until all serve: {seen.replicas} do"


def _may_tell(state: Scaling, stop: str, now_s: float, pace: Pace) -> bool:
    """Something new stands in the way; two that take turns are told now and then, not each time."""
    return state.stopped_by != stop and (state.told_at_s is None or now_s - state.told_at_s >= pace.tell_every_s)


def most_for(cores: float, cpu_each: float | None = None) -> int:
    """More replicas than this make no sense: one a core where they compute, twice as many where they mostly wait."""
    twice = max(1, floor(2 * cores))
    if not cpu_each:
        return twice
    return max(1, min(twice, max(ceil(cores), floor(min(twice, cores / cpu_each)))))


def _load(seen: Seen) -> float | None:
    """Of what there is of a replica; 1 = all. None while nothing is known."""
    known = [seen.utilisation] if seen.utilisation is not None else []
    if seen.cpu_cores is not None and seen.replicas:
        known.append(seen.cpu_cores / seen.replicas)
    if seen.queued or seen.shed_per_s > 0:
        known.append(1.0)
    return max(known) if known else None


def _measured(state: Scaling, load: float, now_s: float, pace: Pace) -> Scaling:
    """The state with a new look in it."""
    # The first look after one that knew nothing says how it is, not for how long.
    gap_s = max(0.0, min(GAP_MAX_S, now_s - state.at_s)) if state.load is not None else 0.0
    kept = exp(-gap_s / pace.smooth_s) if state.load is not None else 0.0
    smooth = load + ((state.load or 0.0) - load) * kept
    is_pressed = smooth > pace.pressed
    left = state.replicas - 1
    is_slack = left > 0 and smooth * state.replicas / left < pace.slack
    was_right = state.lowered_at_s is not None and now_s - state.lowered_at_s > 2 * state.patience_s
    return replace(
        state,
        load=smooth,
        at_s=now_s,
        pressed_s=state.pressed_s + gap_s if is_pressed else 0.0,
        calm_s=0.0 if is_pressed else state.calm_s + gap_s,
        slack_s=state.slack_s + gap_s if is_slack else 0.0,
        patience_s=pace.down_after_s if was_right else state.patience_s,
        lowered_at_s=None if was_right else state.lowered_at_s,
    )


def _up(state: Scaling, seen: Seen, bounds: Bounds, now_s: float, pace: Pace) -> tuple[Scaling, int, str]:
    now = state.replicas
    asked = ceil(now * (state.load or 0.0) / pace.target)
    goal = max(now + 1, min(asked, floor(pace.growth * now)))
    most, stop, why = _most(state, seen, bounds)
    if most <= now:
        if not _may_tell(state, stop, now_s, pace):
            return state, now, ""
        told = f"more than {now} are needed ({_shown(seen)}), but {why}"
        return replace(state, stopped_by=stop, told_at_s=now_s), now, told
    goal = min(goal, most)
    # Had it gone down just before, that was too early: the next time it waits longer.
    was_early = state.lowered_at_s is not None
    patience_s = min(pace.patience_max_s, 2 * state.patience_s) if was_early else state.patience_s
    after = replace(begin(goal, pace), patience_s=patience_s, at_s=now_s)
    return after, goal, f"{now} → {goal} replicas: {_shown(seen)}"


def _down(state: Scaling, seen: Seen, now_s: float, pace: Pace) -> tuple[Scaling, int, str]:
    goal = state.replicas - 1
    after = replace(
        begin(goal, pace),
        patience_s=state.patience_s,
        at_s=now_s,
        slack_s=max(0.0, state.patience_s - pace.down_again_s),
        lowered_at_s=now_s,
    )
    return after, goal, f"{state.replicas} → {goal} replicas: {goal} could have done it for a while ({_shown(seen)})"


def _most(state: Scaling, seen: Seen, bounds: Bounds) -> tuple[int, str, str]:
    """The most replicas that are of any use now, by what, and a sentence about it."""
    now = state.replicas
    each = seen.cpu_cores / seen.replicas if seen.cpu_cores is not None and seen.replicas else None
    by_cores = max(bounds.min, most_for(bounds.cores, each))
    ways = [
        (bounds.max, "declared", f"{bounds.max} is the most that is declared"),
        (by_cores, "cores", f"more than {by_cores} do not make {bounds.cores:g} cores faster"),
    ]
    if seen.cpu_cores is not None and seen.cpu_cores + seen.others_cores >= CPU_FULL * bounds.cores:
        used = seen.cpu_cores + seen.others_cores
        ways.append((now, "cores", f"replicas use {used:.1f} of {bounds.cores:g} cores already"))
    if seen.busy_cores is not None and seen.busy_cores >= CPU_FULL * bounds.cores:
        ways.append((now, "processor", f"{seen.busy_cores:.1f} of {bounds.cores:g} cores are in use, by whomever"))
    if seen.rss_bytes > 0 and seen.available_bytes > 0:
        room = floor(MEMORY_SHARE * seen.available_bytes / seen.rss_bytes)
        free = f"{seen.available_bytes / 2**20:.0f} MiB of memory are left"
        ways.append((now + room, "memory", f"{free}, and one takes {seen.rss_bytes / 2**20:.0f} MiB"))
    if seen.connections is not None:
        held = seen.connections
        room = floor((CONNECTIONS_SHARE * held.most - held.open) / max(1.0, held.each))
        told = f"{held.open} of {held.most} connections to database {held.database} are open"
        ways.append((now + max(0, room), "connections", told))
    if seen.uncounted:
        told = f"the connections to database {seen.uncounted} can no longer be counted: it is full or away"
        ways.append((now, "connections", told))
    return min(ways, key=lambda way: way[0])  # of several the first, the plainest


def _shown(seen: Seen) -> str:
    """What was measured, for the journal; the plainest first."""
    parts = []
    if seen.shed_per_s > 0:
        parts.append(f"{seen.shed_per_s:.0f} requests/s refused")
    if seen.queued:
        parts.append(f"{seen.queued} waiting")
    if seen.utilisation is not None:
        parts.append(f"in flight {seen.utilisation:.0%} of the limit")
    if seen.cpu_cores is not None and seen.replicas:
        parts.append(f"{seen.cpu_cores / seen.replicas:.2f} of a core each")
    return ", ".join(parts)
