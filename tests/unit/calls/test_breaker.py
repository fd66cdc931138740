"""A circuit breaker opens for a service that is away, looks again after growing pauses, and closes when it is back."""

from __future__ import annotations

from headway.calls.breaker import ATTEMPTS_MIN, PAUSE_MAX_S, PAUSE_S, PROBES, SILENT_MIN, Breaker


def failing(breaker: Breaker, count: int, at_s: float) -> None:
    for _ in range(count):
        breaker.failed(at_s, at_s, 0.0)


def opened(at_s: float = 100.0) -> Breaker:
    breaker = Breaker(at_s)
    failing(breaker, ATTEMPTS_MIN, at_s)
    assert breaker.state(at_s) == "open"
    return breaker


def test_half_of_the_attempts_must_fail_and_enough_of_them() -> None:
    breaker = Breaker(100.0)
    failing(breaker, ATTEMPTS_MIN - 1, 100.0)
    assert breaker.state(100.0) == "closed"  # too few to say anything
    breaker.failed(100.0, 100.0, 0.0)
    assert breaker.state(100.0) == "open"
    healthy = Breaker(100.0)
    for turn in range(1000):
        healthy.answered(100.0 + turn / 100, 100.0 + turn / 100)
        if turn % 3 == 0:
            healthy.failed(100.0, 100.0 + turn / 100, 0.0)
    assert healthy.state(110.0) == "closed"


def test_a_burst_that_a_restart_cuts_does_not_open_it() -> None:
    breaker = Breaker(100.0)
    for turn in range(200):
        breaker.answered(105.0, 105.0 + turn / 1000)
    failing(breaker, 60, 105.3)
    assert breaker.state(105.4) == "closed"


def test_silence_opens_it_where_calls_are_few() -> None:
    breaker = Breaker(100.0)
    breaker.answered(100.0, 100.0)
    for turn in range(SILENT_MIN):
        assert breaker.state(130.0 * turn) == "closed"
        breaker.failed(130.0 * turn + 100, 130.0 * turn + 130, 0.0)
    assert breaker.state(130.0 * SILENT_MIN) == "open"


def test_it_lets_one_probe_through_at_a_time_and_closes_after_a_few() -> None:
    breaker = opened()
    assert not breaker.admits(100.0 + PAUSE_S / 2)
    now_s = 100.0 + PAUSE_S
    for _ in range(PROBES):
        assert breaker.state(now_s) == "half-open"
        assert breaker.admits(now_s)
        assert not breaker.admits(now_s)
        breaker.answered(now_s, now_s + 0.01)
    assert breaker.state(now_s) == "closed"
    assert breaker.admits(now_s)


def test_a_probe_that_says_nothing_makes_room_for_another() -> None:
    breaker = opened()
    now_s = 100.0 + PAUSE_S
    assert breaker.admits(now_s)
    breaker.let_go()
    assert breaker.admits(now_s)


def test_pauses_grow_to_a_bound_and_begin_anew_after_a_calm_time() -> None:
    breaker, now_s, pauses = opened(), 100.0, []
    for _ in range(8):
        pauses.append(breaker.until_s - now_s)
        now_s = breaker.until_s
        assert breaker.admits(now_s)
        breaker.failed(now_s, now_s, 0.0)
    assert pauses == [1.0, 2.0, 4.0, *[PAUSE_MAX_S] * 5]
    now_s = breaker.until_s
    for _ in range(PROBES):
        assert breaker.admits(now_s)
        breaker.answered(now_s, now_s)
    failing(breaker, ATTEMPTS_MIN, now_s + 300)
    assert breaker.until_s == now_s + 300 + PAUSE_S


def test_what_was_under_way_when_it_opened_is_no_probe() -> None:
    breaker = opened()
    now_s = 100.0 + PAUSE_S
    breaker.answered(99.0, now_s)
    assert breaker.state(now_s) == "half-open"
    breaker.failed(99.0, now_s, 0.0)
    assert breaker.until_s == now_s  # not prolonged
    for _ in range(PROBES):
        assert breaker.admits(now_s)
        breaker.answered(now_s, now_s)
    for _ in range(50):
        breaker.failed(99.0, now_s + 20, 0.0)
    assert breaker.state(now_s + 20) == "closed"
