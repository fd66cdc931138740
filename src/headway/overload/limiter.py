"""How many requests of a class a replica should work on at once: as few as give all the throughput it has.

Below the knee of its throughput curve a replica idles; above it more requests at once only make each of them slower,
until they are late, fill the memory, or lock each other out of the database. Where the knee lies nobody knows, and it
moves with every deployment. So the limit is found by trying.

The rule, in the family of adaptive concurrency limits (Netflix concurrency-limits' Gradient2, failsafe-go's limiter
with its throughput correlation), replaces their latency baseline by the throughput itself:

- The limit swings a little around its centre. Two neighbouring measurements give the *elasticity* of the throughput,
  e = Δln X / Δln L: 1 while more requests at once carry more, 0 above the knee, negative where they get in each
  other's way. (Stochastic approximation by finite differences: Kiefer and Wolfowitz 1952; applied to concurrency by
  Heiss and Wagner, VLDB 1991, and in the .NET thread pool, Hellerstein et al., FeBID 2008.)
- The centre moves by the difference between e and a target. The target is where Kleinrock's power X^a / R is largest
  (Kleinrock 1979): with Little's law L = X R that is e = 1 / (1 + a).

There is no baseline latency that could drift or must be probed for by emptying the replica; a latency that is constant,
whatever the reason, makes nothing grow, because growth is paid for by throughput of *good* answers alone.

Pure: what was measured and the time come in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, floor, log

POWER = 8.0  # a in X^a / R: eight per cent of latency are worth one of throughput
TARGET = 1.0 / (1.0 + POWER)
TARGET_PRESSED = 0.45  # where service times press on the SLO, throughput must pay more for a higher limit
SWING = 0.12  # of the centre, to both sides: enough to see a difference, too little for a user to notice
WINDOW_MIN_S, WINDOW_MAX_S = 0.2, 2.0
SAMPLES_MIN = 24
CLIMB = 0.75  # of the elasticity, in ln L: a clear gain doubles the limit
SETTLE = 0.4  # of the difference to the target, in ln L: slow, because small differences are mostly noise
CLEAR = 0.45  # an elasticity that noise does not reach often
FALL_MAX = 0.35  # in ln L, for one step
PRESSED_SHARE = 0.5  # of the SLO that service times may take before they press
LATE_SHARE = 0.7  # of the SLO: at once down to what Little's law allows
LATE_S = 0.3  # so long, on a full processor, where the limit is not reached: a single look may be chance
FULL_CPU = 0.9  # of a core
FLOOR_FACTOR = 3.0  # times the lowest service time of late that count as pressing, where there is no SLO
FLOOR_KEPT_S = 60.0
HOPELESS_S, HOPELESS_MAX_S = 30.0, 120.0  # service times over the SLO at any limit: not tried for so long, then twice
# Times the service time, after a change: those let in together pass through together, and until they are spread their
# waves look as if throughput followed the limit; it would stay too high.
SPREAD, SPREAD_MAX_S = 1.5, 1.0
HOPELESS_FACTOR = 2.5  # times the service time that was found hopeless: the limit has a part in this one
FEW_FAIL = 0.1  # of the good answers
FAILING_MIN = 4.0  # while nothing succeeds: enough to see at once when something does again
STUCK_S = 0.5  # nothing came back for so long, and the processor is idle: requests wait, so more may wait
STUCK_GROWTH = 1.5
STUCK_MAX = 2.0  # times what it was when the last answers came: without any, nothing says that more is better
# Before the first answer ever: a burst of slow requests must not wait for a limit to be learned. Once, where there is
# an SLO, for what takes longer than that is late at any limit.
COLD_GROWTH = 4.0
# Of a core. One that computes gets a part of it even where others take most, and must not pass for one that waits.
IDLE_CPU, CONTENDED_CPU = 0.2, 0.9
YIELD = 0.8


@dataclass(frozen=True, slots=True)
class Measured:
    """What one replica did for one class since the last look; taken from the worker's own counters."""

    duration_s: float
    completed: int  # good answers
    failed: int
    service_s: float  # sum of the service times of the completed
    in_flight: int
    saturated: bool  # the edge had requests waiting for a place, at the beginning and at the end
    cpu_share: float = 1.0  # of a core, that the replica's process used
    shares: bool = False  # other classes have requests on the same replica


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the limit must respect whatever was measured."""

    start: int
    ceiling: int
    slo_s: float | None = None
    floor: int = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """Throughput and mean service time measured at one limit."""

    limit: int
    rate_per_s: float
    service_s: float


@dataclass(frozen=True, slots=True)
class Limiter:
    """State of one limit. `limit` is in force; it swings around `centre`."""

    centre: float
    limit: int
    last: Sample | None = None
    slope: float = 0.0  # smoothed elasticity
    up: bool = True  # the side of the swing
    skip_s: float = 0.0  # still to let pass after a change: what was begun under the former limit
    window_s: float = 0.0
    completed: int = 0
    failed: int = 0
    service_s: float = 0.0
    cpu_s: float = 0.0
    stuck_s: float = 0.0
    heard_limit: int = 0  # in force when the last answers came, since it was raised without any; 0 = it was not
    sour: bool = False  # what came back last was no good answer
    late_s: float = 0.0  # answers were late though the limit was not reached
    typical_s: float = 0.0  # service time of the last whole window
    rate_per_s: float = 0.0
    floor_s: float = 0.0  # the lowest service time of late; 0 = unknown
    floor_at_s: float = 0.0
    hopeless_until_s: float = 0.0
    hopeless_s: float = HOPELESS_S
    hopeless_service_s: float = 0.0  # at the low limit
    clamped: bool = False
    reason: str = "not measured yet"


def begin(bounds: Bounds, limit: int | None = None) -> Limiter:
    """A limiter that knows nothing, at its start or at the limit a former controller left in force."""
    first = min(max(limit or bounds.start, bounds.floor), bounds.ceiling)
    return Limiter(float(first), first)


def give_way(state: Limiter, bounds: Bounds) -> Limiter:
    """A step down because more critical requests wait for the same replica."""
    if state.limit <= bounds.floor:
        return state
    return _at(state, state.centre * YIELD, bounds, "more critical requests wait")


def within(state: Limiter, bounds: Bounds) -> Limiter:
    """Where nothing can be measured the limit stays, but no higher than its bound: memory that runs short counts."""
    return state if state.limit <= bounds.ceiling else _at(state, bounds.ceiling, bounds, "as many as its bound allows")


def step(state: Limiter, seen: Measured, bounds: Bounds, now_s: float) -> Limiter:
    """The limiter after one look, a tenth of a second or so."""
    state = within(state, bounds)
    if seen.duration_s <= 0:
        return state  # a clock that went back: nothing was measured
    if not seen.saturated:
        return _not_reached(replace(state, stuck_s=0.0), seen, bounds, now_s)
    if state.skip_s > 0:
        return replace(state, skip_s=state.skip_s - seen.duration_s)
    state = replace(
        state,
        window_s=state.window_s + seen.duration_s,
        completed=state.completed + seen.completed,
        failed=state.failed + seen.failed,
        service_s=state.service_s + seen.service_s,
        cpu_s=state.cpu_s + seen.cpu_share * seen.duration_s,
    )
    if seen.completed or seen.failed:
        state = replace(state, stuck_s=0.0, sour=not seen.completed)
    else:
        return _nothing_came(state, seen, bounds)
    if not _is_whole(state):
        return state
    return _judge(state, bounds, now_s, contended=seen.shares and state.cpu_s > CONTENDED_CPU * state.window_s)


def _not_reached(state: Limiter, seen: Measured, bounds: Bounds, now_s: float) -> Limiter:
    """Nothing is learned about the limit from a load that does not reach it, except that it is far too high: where
    requests crowd the processor until they are late, and none waits at the edge. A load that comes and goes can leave
    it so. What was begun to be measured stays, and is measured in pieces.
    """
    if bounds.slo_s is None or not seen.completed or now_s < state.hopeless_until_s:
        return state
    is_late = seen.cpu_share > FULL_CPU and seen.service_s > LATE_SHARE * bounds.slo_s * seen.completed
    late_s = state.late_s + seen.duration_s if is_late else max(0.0, state.late_s - seen.duration_s)
    rate_per_s, service_s = seen.completed / max(1e-3, seen.duration_s), seen.service_s / seen.completed
    allowed = rate_per_s * PRESSED_SHARE * bounds.slo_s  # Little's law
    if not is_late or late_s < LATE_S or allowed >= state.limit:
        return replace(state, late_s=late_s)
    now = Sample(max(1, round(rate_per_s * service_s)), rate_per_s, service_s)
    cut = _at(state, max(allowed, state.centre * 0.25), bounds, "service times use up the SLO")
    return replace(cut, last=now, typical_s=service_s, clamped=True)


def _is_whole(state: Limiter) -> bool:
    if state.window_s >= max(WINDOW_MAX_S, 1.5 * state.typical_s):
        return True
    mean_s = state.service_s / state.completed if state.completed else state.typical_s
    return state.window_s >= max(WINDOW_MIN_S, 1.5 * mean_s) and state.completed + state.failed >= SAMPLES_MIN


def _nothing_came(state: Limiter, seen: Measured, bounds: Bounds) -> Limiter:
    """No answer at all: either everything hangs, or answers take long and the replica just waits for others."""
    stuck_s = state.stuck_s + seen.duration_s
    is_cold = not state.typical_s
    patience_s = 0.0 if is_cold else max(STUCK_S, 2 * state.typical_s)
    cpu_share = state.cpu_s / state.window_s if state.window_s > 0 else seen.cpu_share  # a single look may be chance
    # Where only failures come back something hangs behind the replica, and more requests would hang with the others.
    if stuck_s < patience_s or cpu_share > IDLE_CPU or state.sour:
        return replace(state, stuck_s=stuck_s)
    heard = state.heard_limit or state.limit
    if is_cold:
        growth, most = COLD_GROWTH, heard * COLD_GROWTH if bounds.slo_s is not None else bounds.ceiling
    else:
        growth, most = STUCK_GROWTH, heard * STUCK_MAX
    if state.limit >= most:
        return replace(state, stuck_s=stuck_s)
    raised = _at(state, min(most, state.limit * growth + 1), bounds, "its requests wait, its processor is idle")
    return replace(raised, skip_s=0.0, heard_limit=heard)


def _judge(state: Limiter, bounds: Bounds, now_s: float, *, contended: bool) -> Limiter:
    """A window is whole: compare it with the one before, move the centre, swing to the other side."""
    if not state.completed:
        fewer = max(state.centre * exp(-0.1), min(state.centre, FAILING_MIN))
        return _at(state, fewer, bounds, f"none of {state.failed} answers was a good one")
    if state.completed >= SAMPLES_MIN:  # an answer now and then is hardly more than none
        state = replace(state, heard_limit=0)
    now = Sample(state.limit, state.completed / state.window_s, _held_s(state))
    if not state.floor_s or now.service_s < state.floor_s or now_s - state.floor_at_s > FLOOR_KEPT_S:
        state = replace(state, floor_s=now.service_s, floor_at_s=now_s)
    last, clamped = state.last, state.clamped
    state = replace(state, last=now, typical_s=now.service_s, rate_per_s=now.rate_per_s, clamped=False)
    e = _elasticity(last, now) if last is not None else None
    if e is None:
        # Another app than a moment ago, so to speak: what was learned of it says nothing.
        if last is not None and _has_jumped(last, now):
            state = replace(state, hopeless_until_s=now_s, hopeless_s=HOPELESS_S)
        return _too_late(replace(state, slope=0.0), now, bounds, now_s) or _swing(state, 0.0, bounds, "measures")
    if contended:
        # What one class gains on a busy processor another one loses: that is no gain, and all would climb for ever.
        e = min(e, 0.0)
    slope = 0.6 * state.slope + 0.4 * e
    state = replace(state, slope=slope)
    if clamped:
        state = _learn_of_cut(state, e, now, bounds, now_s)
    if late := _too_late(state, now, bounds, now_s):
        return late
    pressed = _is_pressed(state, now, bounds, now_s)
    target = TARGET_PRESSED if pressed else TARGET
    if e > CLEAR and slope > target:
        climb = min(0.7, CLIMB * e, _room(now, bounds) if now_s >= state.hopeless_until_s else 0.7)
        return _swing(state, climb, bounds, "throughput rises with it")
    move = SETTLE * (slope - target) * (3.0 if pressed and slope < target else 1.0)
    why = "more at once carry no more" if move < 0 else "throughput still rises with it"
    return _swing(state, max(-FALL_MAX, min(FALL_MAX, move)), bounds, why)


def _held_s(state: Limiter) -> float:
    """How long a request holds its place: what the worker says, or by Little's law where that is longer.

    A worker sees a request when its app begins; in an event loop that computes it may have waited long by then. With
    all places taken, that many at so many answers a second take limit / rate each, wherever they spend it. Where many
    fail nothing can be said of the good ones so: the others may have held their places for longer, or hardly at all.
    """
    service_s = state.service_s / state.completed
    if state.failed > FEW_FAIL * state.completed:
        return service_s
    return max(service_s, state.limit * state.window_s / (state.completed + state.failed))


def _learn_of_cut(state: Limiter, e: float, now: Sample, bounds: Bounds, now_s: float) -> Limiter:
    """The limit was cut for the SLO's sake. If throughput went with it and service times did not, requests just take
    that long."""
    if e < CLEAR or bounds.slo_s is None or now.service_s < LATE_SHARE * bounds.slo_s:
        return replace(state, hopeless_until_s=now_s, hopeless_s=HOPELESS_S)
    longer_s = min(2 * state.hopeless_s, HOPELESS_MAX_S)
    return replace(
        state,
        hopeless_until_s=now_s + state.hopeless_s,
        hopeless_s=longer_s,
        hopeless_service_s=now.service_s,
    )


def _elasticity(last: Sample, now: Sample) -> float | None:
    """Δln X / Δln L between two samples; None where the limit cannot be what changed the throughput."""
    change = log(now.limit / last.limit)
    if abs(change) < 0.02 or _has_jumped(last, now):
        return None
    return max(-1.0, min(1.25, log(now.rate_per_s / last.rate_per_s) / change))


def _has_jumped(last: Sample, now: Sample) -> bool:
    """The throughput changed by more than the limit explains."""
    return abs(log(now.rate_per_s / last.rate_per_s)) > abs(log(now.limit / last.limit)) + 0.35


def _too_late(state: Limiter, now: Sample, bounds: Bounds, now_s: float) -> Limiter | None:
    """Service times alone use up the SLO, and a lower limit is not known to be in vain."""
    if bounds.slo_s is None or now.service_s < LATE_SHARE * bounds.slo_s or state.slope > CLEAR:
        return None
    if now_s < state.hopeless_until_s and now.service_s < HOPELESS_FACTOR * state.hopeless_service_s:
        return None
    allowed = now.rate_per_s * PRESSED_SHARE * bounds.slo_s  # Little's law
    if allowed >= state.limit:
        return None
    cut = max(allowed, state.centre * 0.25)
    return replace(_at(state, cut, bounds, "service times use up the SLO"), clamped=True)


def _room(now: Sample, bounds: Bounds) -> float:
    """How far the limit may climb at once, in ln L: even if throughput did not follow, answers must be in time."""
    if bounds.slo_s is None:
        return 0.7
    return max(SWING, log(LATE_SHARE * bounds.slo_s / now.service_s)) if now.service_s > 0 else 0.7


def _is_pressed(state: Limiter, now: Sample, bounds: Bounds, now_s: float) -> bool:
    if bounds.slo_s is not None and now_s >= state.hopeless_until_s:
        return now.service_s > PRESSED_SHARE * bounds.slo_s
    return now.service_s > FLOOR_FACTOR * state.floor_s


def _at(state: Limiter, centre: float, bounds: Bounds, reason: str) -> Limiter:
    """Put the centre somewhere, with nothing measured there yet."""
    centre = min(max(centre, float(bounds.floor)), float(bounds.ceiling))
    return _in_force(replace(state, centre=centre, reason=reason), round(centre), bounds)


def _swing(state: Limiter, move: float, bounds: Bounds, reason: str) -> Limiter:
    centre = min(max(state.centre * exp(move), float(bounds.floor)), float(bounds.ceiling))
    up = not state.up if abs(move) < CLEAR * CLIMB else True
    # The swing in whole requests, at least one: around small limits it is coarse.
    half = max(0.5, SWING * centre)
    limit = floor(centre + half + 0.5) if up else ceil(centre - half - 0.5)  # of 1, up is 2: or it would stay for ever
    return _in_force(replace(state, centre=centre, up=up, reason=reason), limit, bounds)


def _in_force(state: Limiter, limit: int, bounds: Bounds) -> Limiter:
    limit = min(max(limit, bounds.floor), bounds.ceiling)
    changed = limit != state.limit
    return replace(
        state,
        limit=limit,
        skip_s=min(SPREAD_MAX_S, max(0.05, SPREAD * state.typical_s)) if changed else 0.0,
        window_s=0.0,
        completed=0,
        failed=0,
        service_s=0.0,
        cpu_s=0.0,
        stuck_s=0.0,
        late_s=0.0,
    )
