"""Which routes of a service are so much slower than the rest that they get a queue of their own.

Slow and quick requests behind one limit do each other harm: the slow hold all places, and the quick wait for them; and
a limit that is right for one is wrong for the other. What differs is learned from samples of the service time by the
first part of the path. A route is called slow with a clear margin, and at once, for the harm is done at once; it is let
go with another margin and after a whole window, so that it does not go to and fro.

What counts is the last window and the one that fills: a long quick past must not outvote a route that turned slow.

Pure: samples and the time come in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from headway.model.overload import RouteCounts

SAMPLES_MIN = 8  # of a route, since the last decision
SLOW_FACTOR = 6.0  # times the mean of the rest
SLOW_MIN_S = 0.1
BACK_FACTOR = 2.5
ROUTES_MAX = 16  # in the slow class of a service
# A window is as long as both take. Longer ones see a change later, shorter ones are moved by chance.
WINDOW_S, WINDOW_SAMPLES = 10.0, 24


@dataclass(frozen=True, slots=True)
class Window:
    """What was sampled of a route lately: in the window that fills, and in the one before it."""

    since_s: float  # when the one before began
    turned_s: float  # when the one that fills did
    samples: int = 0
    service_s: float = 0.0
    samples_before: int = 0
    service_before_s: float = 0.0

    @property
    def judged(self) -> int:
        """Samples of both."""
        return self.samples + self.samples_before

    @property
    def mean_s(self) -> float:
        """The mean service time of both."""
        return (self.service_s + self.service_before_s) / max(1, self.judged)

    @property
    def is_whole(self) -> bool:
        """There was one before."""
        return self.samples_before > 0

    def per_s(self, now_s: float) -> float:
        """Samples a second. A young window is taken for a whole one: a burst of three samples is no rate."""
        return self.judged / max(WINDOW_S, now_s - self.since_s)


@dataclass(frozen=True, slots=True)
class Assigned:
    """A route that changes its class, and why."""

    prefix: str
    slow: bool
    reason: str


Windows = Mapping[str, Window]  # by prefix


def fresh(now: Iterable[RouteCounts], last: Iterable[RouteCounts]) -> tuple[RouteCounts, ...]:
    """What one replica has sampled since the last look at it."""
    known = {route.prefix: route for route in last}
    found = []
    for route in now:
        old = known.get(route.prefix, RouteCounts(route.prefix, 0, 0.0))
        if route.samples > old.samples:
            spent_s = max(0.0, route.service_s - old.service_s)
            found.append(RouteCounts(route.prefix, route.samples - old.samples, spent_s))
    return tuple(found)


def extend(windows: Windows, sampled: Iterable[RouteCounts], known: Collection[str], now_s: float) -> Windows:
    """The windows after one look; of prefixes that no replica counts any more (not in `known`) nothing stays."""
    found = {prefix: _turned(window, now_s) for prefix, window in windows.items() if prefix in known}
    for route in sampled:
        if route.prefix in known:
            window = found.get(route.prefix, Window(now_s, now_s))
            found[route.prefix] = Window(
                window.since_s,
                window.turned_s,
                window.samples + route.samples,
                window.service_s + route.service_s,
                window.samples_before,
                window.service_before_s,
            )
    return found


def _turned(window: Window, now_s: float) -> Window:
    if window.samples < WINDOW_SAMPLES or now_s - window.turned_s < WINDOW_S:
        return window
    return Window(
        since_s=window.turned_s,
        turned_s=now_s,
        samples_before=window.samples,
        service_before_s=window.service_s,
    )


def assign(windows: Windows, slow: Set[str], now_s: float) -> Assigned | None:
    """The one change that is clearest, if any. Whoever makes it begins with no windows again: what the others take may
    be another thing without that route."""
    means = {prefix: window for prefix, window in windows.items() if window.judged}
    for prefix in sorted(means, key=lambda name: -means[name].mean_s):
        if prefix == "/":
            continue  # everything begins with it
        window = means[prefix]
        rest = [means[other] for other in means if other != prefix and other not in slow]
        if window.judged < SAMPLES_MIN or sum(other.judged for other in rest) < SAMPLES_MIN:
            continue
        # By their rates: the windows of rare routes reach back further than those of frequent ones.
        rates = [other.per_s(now_s) for other in rest]
        rest_s = sum(rate * other.mean_s for rate, other in zip(rates, rest, strict=True)) / sum(rates)
        mean_s = window.mean_s
        if prefix not in slow and len(slow) < ROUTES_MAX and mean_s > max(SLOW_MIN_S, SLOW_FACTOR * rest_s):
            return Assigned(prefix, True, f"takes {_ms(mean_s)} where others take {_ms(rest_s)}")
        if prefix in slow and window.is_whole and mean_s < max(SLOW_MIN_S, BACK_FACTOR * rest_s) / 2:
            return Assigned(prefix, False, f"takes {_ms(mean_s)} again, others {_ms(rest_s)}")
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
