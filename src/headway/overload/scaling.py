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
stays, and the reason is told once. What cannot be known any more is taken for run out.

While fewer serve than are wanted, nothing is added: what the last step brings has to be seen first. Those that do not
come within half a minute are told of, and the number may still go down.

Pure: what was measured and the time come in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, floor

CPU_FULL = 0.9  # of all cores in use, by replicas or by anybody: another process would only share them
MEMORY_SHARE = 0.8  # of the memory still available that new replicas may take together
CONNECTIONS_SHARE = 0.8  # of the connections that may be open; the rest is for migrations and people
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
    tell_again_s: float = 3.0  # for something else to stand in the way than was told; before that it may be a moment
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
    """Connections to the database of the service that has room for the fewest more, those to come included."""

    database: str
    open: int
    most: int
    each: float  # that one replica holds

    @property
    def room(self) -> int:
        """Replicas that still fit."""
        return max(0, floor((CONNECTIONS_SHARE * self.most - self.open) / max(1.0, self.each)))


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
    uncounted: str = ""  # why nobody knows how many connections a database has left: it is full, or away
    busy_cores: float | None = None  # of ours, used by anybody


@dataclass(frozen=True, slots=True)
class Bounds:
    """What was declared, and the cores there are."""

    min: int
    max: int
    cores: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """State of one service; times are durations but for those that end in `at_s`."""

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
    other_at_s: float | None = None  # since when something else does
    unsettled_s: float = 0.0  # that fewer or more replicas served than are wanted, of late
    busy_cores: float | None = None  # smoothed


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
    if seen is not None and seen.replicas != state.replicas:
        return _unsettled(state, seen, bounds, now_s, pace)
    load = _load(seen) if seen is not None else None
    if seen is None or load is None:
        return _unknown(state, now_s), state.replicas, ""
    # One that comes and goes is not there: what was waited for is forgotten as slowly as it was waited.
    unsettled_s = max(0.0, state.unsettled_s - _gap_s(state, now_s))
    state = replace(_measured(state, seen, load, now_s, pace), unsettled_s=unsettled_s)
    if state.pressed_s >= pace.up_after_s:
        return _up(state, seen, bounds, now_s, pace)
    if state.slack_s >= state.patience_s and state.replicas > bounds.min:
        return _down(state, seen, now_s, pace)
    if state.calm_s >= pace.down_again_s and not unsettled_s:
        state = replace(state, stopped_by="", other_at_s=None)
    return state, state.replicas, ""


def _unsettled(state: Scaling, seen: Seen, bounds: Bounds, now_s: float, pace: Pace) -> tuple[Scaling, int, str]:
    """Wait for what is wanted. Where it does not come, say so, and go down where it is not needed either."""
    unsettled_s = min(2 * pace.settle_max_s, state.unsettled_s + _gap_s(state, now_s))
    load = _load(seen)
    if unsettled_s < pace.settle_max_s or load is None or not 0 < seen.replicas < state.replicas:
        state = _unknown(state, now_s)
    else:
        state = replace(_measured(state, seen, load, now_s, pace), pressed_s=0.0)
    state = replace(state, unsettled_s=unsettled_s)
    if state.slack_s >= state.patience_s and state.replicas > bounds.min:
        after, goal, reason = _down(state, seen, now_s, pace)
        kept = replace(after, unsettled_s=unsettled_s, stopped_by=state.stopped_by, told_at_s=state.told_at_s)
        return kept, goal, reason
    if unsettled_s < pace.settle_max_s:
        return state, state.replicas, ""
    state, is_new = _told(state, "replicas", now_s, pace)
    return state, state.replicas, f"stays at {state.replicas} replicas until all serve: {seen.replicas} do" * is_new


def _unknown(state: Scaling, now_s: float) -> Scaling:
    """Nothing is known, or the last step is not finished: what was measured before says nothing of what comes."""
    return replace(state, load=None, busy_cores=None, at_s=now_s, pressed_s=0.0, slack_s=0.0)


def _gap_s(state: Scaling, now_s: float) -> float:
    """Since the last look; after a silence, what can be answered for."""
    return max(0.0, min(GAP_MAX_S, now_s - state.at_s)) if state.at_s else 0.0


def _told(state: Scaling, stop: str, now_s: float, pace: Pace) -> tuple[Scaling, bool]:
    """Whether what stands in the way is to be told.

    The first is, at once. Another is once it did so for a while: two that take turns are one story.
    """
    if state.stopped_by == stop:
        return replace(state, other_at_s=None), False
    other_at_s = now_s if state.other_at_s is None else state.other_at_s
    is_moment = state.stopped_by != "" and now_s - other_at_s < pace.tell_again_s
    if is_moment or (state.told_at_s is not None and now_s - state.told_at_s < pace.tell_every_s):
        return replace(state, other_at_s=other_at_s), False
    return replace(state, stopped_by=stop, told_at_s=now_s, other_at_s=None), True


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


def _measured(state: Scaling, seen: Seen, load: float, now_s: float, pace: Pace) -> Scaling:
    """The state with a new look in it."""
    # The first look after one that knew nothing says how it is, not for how long.
    gap_s = _gap_s(state, now_s) if state.load is not None else 0.0
    kept = exp(-gap_s / pace.smooth_s) if state.load is not None else 0.0
    smooth = load + ((state.load or 0.0) - load) * kept
    is_pressed = smooth > pace.pressed
    busy = seen.busy_cores
    if busy is not None and state.busy_cores is not None:
        busy += (state.busy_cores - busy) * kept
    left = state.replicas - 1
    is_slack = left > 0 and smooth < pace.slack and smooth * seen.replicas / left < pace.slack
    was_right = state.lowered_at_s is not None and now_s - state.lowered_at_s > 2 * state.patience_s
    return replace(
        state,
        load=smooth,
        busy_cores=busy,
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
        state, is_new = _told(state, stop, now_s, pace)
        return state, now, f"more than {now} are needed ({_shown(seen)}), but {why}" * is_new
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
    if seen.rss_bytes > 0 and seen.available_bytes > 0:
        room = floor(MEMORY_SHARE * seen.available_bytes / seen.rss_bytes)
        free = f"{seen.available_bytes / 2**20:.0f} MiB of memory are left"
        ways.append((now + room, "memory", f"{free}, and one takes {seen.rss_bytes / 2**20:.0f} MiB"))
    if seen.connections is not None:
        held = seen.connections
        told = f"{held.open} of {held.most} connections to database {held.database} are open"
        ways.append((now + held.room, f"connections {held.database}", told))
    if seen.uncounted:
        ways.append((now, "uncounted", seen.uncounted))
    if state.busy_cores is not None and state.busy_cores >= CPU_FULL * bounds.cores:
        ways.append((now, "processor", f"{state.busy_cores:.1f} of {bounds.cores:g} cores are in use, by whomever"))
    return min(ways, key=lambda way: way[0])  # of several the first: what others do may be over soon


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
