"""Which routes of a service are so much slower than the rest that they get a queue of their own.

Slow and quick requests behind one limit do each other harm: the slow hold all places, and the quick wait for them; and
a limit that is right for one is wrong for the other. What differs is learned from samples of the service time by the
first part of the path. A route is called slow with a clear margin and let go with another, so that it does not go to
and fro.

Pure: counts come in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from headway.model.overload import RouteCounts

SAMPLES_MIN = 8  # of a route, since the last decision about it
SLOW_FACTOR = 6.0  # times the mean of the rest
SLOW_MIN_S = 0.1
BACK_FACTOR = 2.5
ROUTES_MAX = 16  # in the slow class of a service


@dataclass(frozen=True, slots=True)
class Assigned:
    """A route that changes its class, and why."""

    prefix: str
    slow: bool
    reason: str


def totals(replicas: Iterable[Iterable[RouteCounts]]) -> dict[str, tuple[int, float]]:
    """Samples and their sum of service times by prefix, over all replicas."""
    found: dict[str, tuple[int, float]] = {}
    for routes in replicas:
        for route in routes:
            samples, service_s = found.get(route.prefix, (0, 0.0))
            found[route.prefix] = (samples + route.samples, service_s + route.service_s)
    return found


def assign(
    now: Mapping[str, tuple[int, float]],
    before: Mapping[str, tuple[int, float]],
    slow: Set[str],
) -> Assigned | None:
    """The one change that is clearest, if any; counts are cumulative, `before` those at the last change."""
    means: dict[str, tuple[int, float]] = {}
    for prefix, (samples, service_s) in now.items():
        samples_before, service_before_s = before.get(prefix, (0, 0.0))
        fresh = samples - samples_before
        if fresh > 0:
            means[prefix] = (fresh, (service_s - service_before_s) / fresh)
    for prefix in sorted(means, key=lambda name: -means[name][1]):
        if prefix == "/":
            continue  # everything begins with it
        samples, mean_s = means[prefix]
        rest = [means[other] for other in means if other != prefix and other not in slow]
        rest_samples = sum(count for count, _mean in rest)
        if samples < SAMPLES_MIN or rest_samples < SAMPLES_MIN:
            continue
        rest_s = sum(count * mean for count, mean in rest) / rest_samples
        if prefix not in slow and len(slow) < ROUTES_MAX and mean_s > max(SLOW_MIN_S, SLOW_FACTOR * rest_s):
            return Assigned(prefix, True, f"takes {_ms(mean_s)} where others take {_ms(rest_s)}")
        if prefix in slow and mean_s < max(SLOW_MIN_S, BACK_FACTOR * rest_s) / 2:
            return Assigned(prefix, False, f"takes {_ms(mean_s)} again, others {_ms(rest_s)}")
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
