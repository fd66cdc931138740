"""How many requests of a class may wait at the edge: as many as are still answered in time, and no more.

A queue that is longer than that serves the late: everybody waits for an answer nobody wants any more (Nygard, "Release
It!"; the Google SRE book, chapter 22). A short one turns the same overload into quick refusals and quick answers.

- While requests wait now and then, the queue takes what the SLO leaves after the service time: a burst is carried.
- When they wait all the time, a *standing* queue, waiting buys nothing: arrivals replace whoever leaves. Then it
  shrinks to a few milliseconds of work. This is CoDel's distinction (Nichols and Jacobson, ACM Queue 2012), and
  Facebook's use of it for requests (Maurer, "Fail at Scale", ACM Queue 2015).
- Newest first (Maurer's adaptive LIFO) where those at the front have waited too long to be worth serving: what was let
  in before the bound was known, or before the app turned slower. Within a bound that keeps its promise, in order.

Without an SLO nothing is late, and only the deadline refuses.

Pure: what was measured and the time come in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from headway.model.overload import QueueBound

QUEUE_MAX = 50_000  # the memory of the edge: about 10 KiB each
SLO_USED = 0.75  # of the SLO, so that the slowest hundredth of the answers is still in time
SERVICE_MARGIN = 1.3  # times the mean service time that an answer takes
SLO_MIN_SHARE = 0.1  # of the SLO for the queue, however slow the app
STANDING_AFTER_S = 0.3  # requests waited at every look for so long
STANDING_OVER_S = 1.0  # no request waited or was refused for so long
# Of the SLO, for a standing queue: where nearly all is served a longer one catches what comes by chance, where most is
# refused anyway the next one is always there.
STANDING_SHARE_MILD, STANDING_SHARE, STANDING_MIN_S = 0.35, 0.08, 0.02
SEVERE_SHARE = 0.5  # of the requests refused
DEADLINE_SHARE = 0.8  # of the deadline that may be waited where there is no SLO
LIFO_WAIT_S = 1.0  # without an SLO: a longer wait than this and the newest go first
FLOOR_SHARE = 1 / 12  # of the throughput for the less critical, whatever the critical take
RATE_MAX_PER_S = 1e9  # more was never measured, only divided by next to nothing
UNKNOWN_FACTOR = 2  # times the places at replicas, while no throughput was measured
_LOOK_MAX_S = 86_400.0
_SMOOTH = 0.3


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a class, over all its replicas."""

    duration_s: float
    completed: int
    service_s: float  # sum over the completed
    places: int  # sum of the replicas' limits
    queued: int
    refused: int  # since the last look
    saturated: bool


@dataclass(frozen=True, slots=True)
class Promise:
    """What was promised to the requests of a class."""

    slo_s: float | None
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Queue:
    """State of one class's queue; `bound` is to be in force."""

    bound: QueueBound
    rate_per_s: float = 0.0  # throughput while saturated, smoothed; 0 = unknown
    service_s: float = 0.0  # mean service time, smoothed
    waiting_s: float = 0.0  # since when requests wait at every look, as a duration
    calm_s: float = 0.0
    refused_share: float = 0.0  # of all requests, smoothed
    reason: str = "nothing measured yet"


def begin(bound: QueueBound | None = None) -> Queue:
    """A queue nobody has measured; with the bound a former controller left in force, if there was one."""
    return Queue(bound or QueueBound(QUEUE_MAX))


def step(state: Queue, seen: Seen, promise: Promise) -> Queue:
    """The queue's bound after one look."""
    state = _measured(state, seen, patient=promise.slo_s is None)
    overloaded = _is_overloaded(state)
    # Bursts that come one after the other are an overload as a whole, and each is carried all the same.
    allowed_s, why = _allowed(state, promise, standing=overloaded and state.waiting_s > STANDING_AFTER_S)
    if state.rate_per_s:
        queue_max = ceil(state.rate_per_s * allowed_s)
    elif promise.slo_s is not None and seen.places:
        queue_max, why = UNKNOWN_FACTOR * seen.places, "throughput not measured yet"
    else:
        queue_max = QUEUE_MAX
    queue_max = max(2, min(queue_max, QUEUE_MAX))
    wait_s = seen.queued / state.rate_per_s if state.rate_per_s else 0.0
    bound = QueueBound(
        queue_max=_steady(state.bound.queue_max, queue_max),
        overloaded=overloaded,
        newest_first=_newest_first(state, seen, promise, wait_s, overloaded=overloaded),
        # In every class, whatever was declared: a client's Priority header makes less critical requests of its own.
        floor_per_s=ceil(FLOOR_SHARE * state.rate_per_s) if overloaded else 0,
        # From all that is done down to its share, where others are worse off: the edge finds how far.
        client_per_s=ceil(state.rate_per_s) if overloaded else 0,
    )
    return replace(state, bound=bound, reason=why)


def _measured(state: Queue, seen: Seen, *, patient: bool) -> Queue:
    rate, service = state.rate_per_s, state.service_s
    # After a clock jump as well: sums of what cannot be soon are no numbers any more.
    seen = replace(seen, duration_s=min(seen.duration_s, _LOOK_MAX_S))
    if seen.saturated and seen.duration_s > 0 and (seen.completed or rate):
        now = seen.completed / seen.duration_s
        if patient and not rate and seen.service_s:
            # The first answers of a burst are few, for the rest has begun with them and is not done: refused by that
            # figure would be who could wait for long. All places at work do more, by Little's law.
            now = max(now, seen.places * seen.completed / seen.service_s)
        rate = now if not rate else rate + _SMOOTH * (now - rate)
    elif seen.duration_s > 0:
        # More than was thought passed though nobody waited: it can do at least that.
        rate = max(rate, seen.completed / seen.duration_s) if rate else 0.0
    if seen.completed:
        mean_s = max(0.0, seen.service_s / seen.completed)
        if seen.saturated and rate:  # what a busy event loop let wait before the app saw it, by Little's law
            mean_s = max(mean_s, seen.places / rate)
        mean_s = min(mean_s, _LOOK_MAX_S)
        service = mean_s if not service else service + _SMOOTH * (mean_s - service)
    waits = seen.queued > 0
    asked = seen.refused + seen.completed
    refused_share = state.refused_share + _SMOOTH / 2 * ((seen.refused / asked if asked else 0.0) - state.refused_share)
    return replace(
        state,
        rate_per_s=min(rate, RATE_MAX_PER_S),
        service_s=service,
        waiting_s=state.waiting_s + seen.duration_s if waits else 0.0,
        refused_share=refused_share,
        calm_s=0.0 if waits or seen.refused else state.calm_s + seen.duration_s,
    )


def _is_overloaded(state: Queue) -> bool:
    if state.bound.overloaded:
        return state.calm_s < STANDING_OVER_S
    return state.waiting_s > STANDING_AFTER_S


def _allowed(state: Queue, promise: Promise, *, standing: bool) -> tuple[float, str]:
    """Seconds that may be waited, and why."""
    if promise.slo_s is None:
        return max(0.1, DEADLINE_SHARE * promise.deadline_s - state.service_s), "what the deadline leaves"
    left_s = SLO_USED * promise.slo_s - SERVICE_MARGIN * state.service_s
    allowed_s = max(SLO_MIN_SHARE * promise.slo_s, left_s)
    mild = max(0.0, 1.0 - state.refused_share / SEVERE_SHARE)
    standing_s = (STANDING_SHARE + mild * (STANDING_SHARE_MILD - STANDING_SHARE)) * promise.slo_s
    standing_s = max(STANDING_MIN_S, standing_s)
    if standing and standing_s < allowed_s:
        return standing_s, "requests wait all the time: a longer queue would only make them late"
    return allowed_s, "what the SLO leaves after the service time"


def _steady(before: int, now: int) -> int:
    """A bound that moves by less than a tenth stays, so that chance is not passed on to the edge ten times a second."""
    return before if abs(now - before) <= max(1, before // 10) else now


def _newest_first(state: Queue, seen: Seen, promise: Promise, wait_s: float, *, overloaded: bool) -> bool:
    if not overloaded:
        return False
    most_s = LIFO_WAIT_S if promise.slo_s is None else SLO_USED * promise.slo_s - state.service_s
    if state.bound.newest_first:  # until the old ones are gone: they would all be served late, one after the other
        return seen.queued > 0 and wait_s > most_s / 4
    return wait_s > most_s
