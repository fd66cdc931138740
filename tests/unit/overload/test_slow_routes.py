"""Which routes queue by themselves: what they take of late decides, not what they ever took."""

from __future__ import annotations

import pytest

from headway.model.overload import RouteCounts
from headway.overload import routes
from headway.overload.routes import Assigned, Window, Windows, assign, extend, fresh

KNOWN = ("/", "/reports", "/pages", "/rare")


class Site:
    """Routes with so many samples a second, each of so many seconds; a look every tenth of a second."""

    def __init__(self) -> None:
        self.windows: Windows = {}
        self.slow: frozenset[str] = frozenset()
        self.now_s = 0.0
        self.owed: dict[str, float] = {}

    def run(self, for_s: float, **takes: tuple[float, float]) -> list[tuple[float, Assigned]]:
        """What changes meanwhile, and when, from now on."""
        found = []
        for tick in range(round(for_s * 10)):
            self.now_s += 0.1
            sampled = []
            for name, (per_s, each_s) in takes.items():
                self.owed[name] = self.owed.get(name, 0.0) + per_s / 10
                count = int(self.owed[name] + 1e-9)
                self.owed[name] -= count
                if count:
                    sampled.append(RouteCounts(f"/{name}", count, count * each_s))
            self.windows = extend(self.windows, sampled, KNOWN, self.now_s)
            change = assign(self.windows, self.slow, self.now_s)
            if change is not None:
                self.slow = self.slow | {change.prefix} if change.slow else self.slow - {change.prefix}
                self.windows = {}
                found.append(((tick + 1) / 10, change))
        return found


@pytest.mark.parametrize("past_s", [30, 3600, 24 * 3600])
def test_a_route_that_turns_slow_is_found_as_soon_after_a_day_as_after_a_minute(past_s: int) -> None:
    site = Site()
    assert site.run(min(past_s, 600), reports=(6, 0.01), pages=(6, 0.01)) == []
    # A day goes by in which nothing changes: what the windows hold is bounded, so it need not be played.
    site.now_s += max(0, past_s - 600)
    (after_s, change), *_ = site.run(20, reports=(6, 1.0), pages=(6, 0.01))
    assert change.prefix == "/reports"
    assert change.slow
    assert after_s < 5


def test_a_route_that_turns_a_little_slower_is_found_within_two_windows() -> None:
    site = Site()
    site.run(600, reports=(6, 0.02), pages=(6, 0.02))
    (after_s, change), *_ = site.run(30, reports=(6, 0.15), pages=(6, 0.02))
    assert change.slow
    assert after_s <= 2 * routes.WINDOW_S + 1


def test_a_rare_route_is_found_by_its_samples_whatever_time_they_take() -> None:
    site = Site()
    (after_s, change), *_ = site.run(3600, rare=(0.01, 2.0), pages=(6, 0.01))
    assert change.prefix == "/rare"
    assert after_s == pytest.approx(routes.SAMPLES_MIN / 0.01, rel=0.02)


def test_a_rare_route_weighs_no_more_than_it_is_asked_for() -> None:
    windows = {
        "/pages": Window(90.0, 90.0, 60, 60 * 0.01),
        "/reports": Window(90.0, 90.0, 60, 60 * 0.12),
        "/rare": Window(-4000.0, -4000.0, 40, 40 * 0.09),
    }
    assert assign(windows, frozenset(), 100.0) == Assigned("/reports", True, "takes 120 ms where others take 10 ms")


def test_it_goes_back_after_a_whole_window_and_not_to_and_fro() -> None:
    site = Site()
    site.run(20, reports=(6, 1.0), pages=(6, 0.01))
    assert site.slow == {"/reports"}
    changes = site.run(120, reports=(6, 0.01), pages=(6, 0.01))
    assert [change.slow for _, change in changes] == [False]
    assert changes[0][0] >= routes.WINDOW_S


def test_between_the_margins_it_stays_where_it_is() -> None:
    quick, slow = Site(), Site()
    between = {"reports": (6.0, 0.09), "pages": (6.0, 0.02)}
    assert quick.run(300, **between) == []
    slow.run(20, reports=(6, 1.0), pages=(6, 0.01))
    assert slow.run(300, **between) == []
    assert slow.slow == {"/reports"}


def test_what_no_replica_counts_any_more_is_forgotten() -> None:
    windows = extend({}, [RouteCounts("/old", 30, 0.3), RouteCounts("/pages", 30, 0.3)], {"/old", "/pages"}, 1.0)
    assert set(windows) == {"/old", "/pages"}
    assert set(extend(windows, [], {"/pages"}, 2.0)) == {"/pages"}


def test_fresh_is_what_was_sampled_since_the_last_look() -> None:
    last = (RouteCounts("/a", 5, 0.5), RouteCounts("/b", 9, 0.9))
    now = (RouteCounts("/a", 7, 0.75), RouteCounts("/b", 9, 0.9), RouteCounts("/c", 1, 0.25))
    assert fresh(now, last) == (RouteCounts("/a", 2, 0.25), RouteCounts("/c", 1, 0.25))
    assert fresh((RouteCounts("/a", 1, 0.1),), last) == ()
