"""Whatever happens, retries stay within their budget, calls within their bound, and a breaker is never stuck."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headway.calls.breaker import PAUSE_MAX_S, PROBES, Breaker
from headway.calls.budget import FLOOR_PER_S, SHARE, WINDOW_S, RetryBudget
from headway.calls.bulkhead import Bulkhead
from headway.calls.retry import ATTEMPTS_MAX, Ended, may_repeat, pause_s
from headway.calls.window import Window

steps = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=200)


@given(steps, st.floats(0, 1e6))
def test_retries_are_a_share_of_the_calls_in_any_window(events: list[tuple[float, int]], began_s: float) -> None:
    budget, now_s = RetryBudget(began_s), began_s
    calls: list[float] = []
    retries: list[float] = []
    for pause, kind in events:
        now_s += pause
        if kind:
            budget.called(now_s)
            calls.append(now_s)
        elif budget.take(now_s):
            retries.append(now_s)
        # By whole seconds: a window holds WINDOW_S of them, begun or ended.
        seconds = {int(now_s) - back for back in range(WINDOW_S)}
        sent = sum(int(at) in seconds for at in retries)
        most = max(len(calls) * SHARE, FLOOR_PER_S * WINDOW_S)
        assert sent <= most
    assert len(retries) <= SHARE * len(calls) + FLOOR_PER_S * (now_s - began_s + WINDOW_S)


@given(steps)
def test_a_window_forgets_what_is_too_old_and_nothing_else(events: list[tuple[float, int]]) -> None:
    window, now_s, seen = Window(10, 1.0), 50.0, []
    for pause, kind in events:
        now_s += pause
        if kind % 2:
            window.add_first(now_s)
        else:
            window.add_second(now_s)
        seen.append((int(now_s), kind % 2))
        recent = [odd for at, odd in seen if at > int(now_s) - 10]
        assert (window.first, window.second) == (sum(recent), len(recent) - sum(recent))


@given(steps)
def test_calls_under_way_never_exceed_what_may_be(events: list[tuple[float, int]]) -> None:
    bulkhead, now_s = Bulkhead(8), 10.0
    under_way = 0
    for pause, kind in events:
        now_s += pause / 10
        if kind == 0:
            under_way += bulkhead.enter(now_s)
        elif kind == 1 and under_way:
            bulkhead.leave(now_s)
            under_way -= 1
        elif kind == 2:
            bulkhead.missed(now_s)
        else:
            bulkhead.answered()
        assert bulkhead.in_flight == under_way <= 8
        assert 1 <= bulkhead.bound <= 8
        assert bulkhead.waiters_max(now_s) >= 0


@given(steps)
def test_a_breaker_opens_for_a_bounded_time_and_always_closes_for_a_service_that_answers(
    events: list[tuple[float, int]],
) -> None:
    breaker, now_s = Breaker(10.0), 10.0
    for pause, kind in events:
        now_s += pause
        if kind == 0 and breaker.admits(now_s):
            breaker.failed(now_s, now_s, 0.5)
        elif kind == 1 and breaker.admits(now_s):
            breaker.answered(now_s, now_s)
        elif kind == 2:
            breaker.failed(now_s - 2, now_s, 1.0)
        else:
            breaker.let_go()
        assert breaker.until_s <= now_s + PAUSE_MAX_S
    breaker.let_go()
    now_s += PAUSE_MAX_S
    for _ in range(PROBES):
        assert breaker.admits(now_s)
        breaker.answered(now_s, now_s)
    assert breaker.state(now_s) == "closed"


@given(st.sampled_from(list(Ended)), st.booleans(), st.floats(0, 100), st.floats(0, 1))
def test_attempts_end(ended: Ended, repeatable: bool, left_s: float, chance: float) -> None:
    attempt = 1
    while may_repeat(ended, attempt, repeatable, True, left_s):
        pause = pause_s(attempt, left_s, chance)
        assert 0 <= pause <= left_s / 2
        left_s -= pause
        attempt += 1
    assert attempt <= ATTEMPTS_MAX
