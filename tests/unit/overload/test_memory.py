"""What a request holds: learned while load rises, kept while it falls, forgotten slowly. And when memory is short."""

from __future__ import annotations

import pytest

from headway.overload.memory import Footprint, Shortage, ceiling, observe, shorten

MIB = 1 << 20
IDLE = 60 * MIB
SHARE = 256 * MIB
LOOK_S = 0.1


class Replica:
    """A process that keeps what it once took, as Python does, and what is learned of it."""

    def __init__(self) -> None:
        self.rss_bytes = IDLE
        self.extra_bytes = 0  # caches, garbage: nobody's request
        self.foot = Footprint()
        self.run(0, 0, 1.0)

    @property
    def fits(self) -> int:
        return ceiling(self.foot, SHARE) or 2048

    def run(self, in_flight: int, each_bytes: int, seconds: float) -> None:
        """So many requests at once, but never more than fit."""
        for _ in range(round(seconds / LOOK_S)):
            now = min(in_flight, self.fits)
            self.rss_bytes = max(self.rss_bytes, IDLE + self.extra_bytes + now * each_bytes)
            self.foot = observe(self.foot, self.rss_bytes, now, LOOK_S)


def burst(each_bytes: int = 4 * MIB) -> Replica:
    """A load that rises until memory is the bound, and is over."""
    replica = Replica()
    for in_flight in (4, 8, 16, 24, 32):
        replica.run(in_flight, each_bytes, 0.5)
    replica.run(200, each_bytes, 5.0)
    return replica


def test_what_a_request_holds_shows_while_the_load_rises() -> None:
    replica = burst()
    assert 30 <= replica.fits <= 42
    assert replica.rss_bytes <= 0.92 * SHARE


def test_a_burst_before_the_first_look_is_seen_when_it_holds_what_it_will() -> None:
    foot = Footprint()
    for look, in_flight in enumerate((35, 31, 34, 35, 34, 35)):
        foot = observe(foot, IDLE + (in_flight * 4 * MIB if look else 0), in_flight, LOOK_S)
    assert 30 <= (ceiling(foot, SHARE) or 2048) <= 45


def test_the_first_figure_counts_at_once() -> None:
    foot = observe(observe(Footprint(), IDLE, 35, LOOK_S), IDLE + 35 * 4 * MIB, 35, LOOK_S)
    assert ceiling(foot, SHARE) == 36


def test_a_load_that_falls_says_nothing_of_what_a_request_holds() -> None:
    replica = burst()
    before = replica.fits
    for in_flight in (30, 20, 12, 8, 6, 5, 4, 3):
        replica.run(in_flight, 4 * MIB, 3.0)
    replica.run(5, 4 * MIB, 600.0)
    assert replica.fits >= before


def test_bursts_that_come_again_and_again_stay_inside_the_share() -> None:
    replica = burst()
    for _ in range(200):
        replica.run(3, 4 * MIB, 5.0)
        replica.run(500, 4 * MIB, 10.0)
        assert replica.rss_bytes <= 0.92 * SHARE
        assert replica.fits >= 30


def test_a_leak_is_no_cost_of_a_request() -> None:
    replica = burst(MIB)
    before = replica.fits
    for minute in range(60):
        replica.extra_bytes = minute * MIB // 4
        replica.run(5, MIB, 60.0)
    assert replica.fits >= 0.8 * before


def test_what_was_loaded_with_the_first_requests_is_found_out_to_be_no_cost_of_each() -> None:
    replica = Replica()
    replica.extra_bytes = 80 * MIB
    replica.run(5, MIB // 10, 2.0)
    assert replica.fits < 20, "nobody can know better yet"
    replica.run(500, MIB // 10, 300.0)
    assert replica.fits >= 100


def test_a_route_that_is_gone_costs_nothing_any_more_and_one_that_comes_is_seen_at_once() -> None:
    replica = burst(10 * MIB)
    assert replica.fits <= 16
    replica.run(500, MIB // 10, 600.0)
    assert replica.fits >= 50
    replica.run(2, MIB // 10, 5.0)
    for in_flight in (4, 8, 12, 16, 20):
        replica.run(in_flight, 10 * MIB, 0.3)
    assert replica.fits <= 24


@pytest.mark.parametrize("share_bytes", [0, IDLE, SHARE])
def test_there_is_room_for_one_at_least(share_bytes: int) -> None:
    assert ceiling(burst().foot, share_bytes) in range(1, 60)


# -- the machine


def short(
    state: Shortage, available_share: float, seconds: float, stalled_share: float = 0.0
) -> tuple[Shortage, float]:
    """The state after so long, and the smallest factor on the way."""
    least = state.factor
    for _ in range(round(seconds / LOOK_S)):
        state = shorten(state, int(available_share * 16_000), 16_000, stalled_share, LOOK_S)
        least = min(least, state.factor)
    return state, least


def test_a_machine_that_is_always_nearly_full_is_not_short() -> None:
    assert short(Shortage(), 0.05, 600.0)[1] == 1.0
    state, least = short(short(Shortage(), 0.5, 10.0)[0], 0.05, 30.0)
    assert least < 0.1, "it became so: that may go on"
    assert short(state, 0.05, 300.0)[0].factor == 1.0, "it did not go on"


def test_memory_that_goes_on_going_is_short_again_at_each_step() -> None:
    state, _ = short(Shortage(), 0.05, 600.0)
    for available_share in (0.038, 0.028):
        state, least = short(state, available_share, 5.0)
        assert least < 0.2
        state, _ = short(state, available_share, 600.0)


def test_work_that_waits_for_memory_is_a_shortage_however_much_there_is() -> None:
    for available_share in (0.05, 0.5):
        assert short(short(Shortage(), available_share, 60.0)[0], available_share, 2.0, 0.2)[1] < 0.1


def test_next_to_nothing_is_short_whatever_was_usual() -> None:
    assert short(Shortage(), 0.01, 600.0)[0].factor < 0.1
