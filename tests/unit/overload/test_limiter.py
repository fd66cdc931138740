"""What a limit makes of single looks; how it moves over time is played in `tests/simulation`."""

from __future__ import annotations

from headway.overload.limiter import Bounds, Limiter, Measured, begin, step

LOOK_S = 0.1
SLO = Bounds(start=16, ceiling=2048, slo_s=0.25)
NO_SLO = Bounds(start=16, ceiling=2048)


def look(completed: int = 0, service_s: float = 0.01, cpu_share: float = 0.1, failed: int = 0) -> Measured:
    return Measured(LOOK_S, completed, failed, completed * service_s, 16, saturated=True, cpu_share=cpu_share)


def run(state: Limiter, seen: Measured, seconds: float, bounds: Bounds = SLO, from_s: float = 0.0) -> list[Limiter]:
    states = []
    for number in range(round(seconds / LOOK_S)):
        state = step(state, seen, bounds, from_s + number * LOOK_S)
        states.append(state)
    return states


def test_silence_doubles_a_limit_once_and_an_answer_now_and_then_is_no_reason_for_more() -> None:
    *_, warm = run(begin(SLO), look(20), 10.0)
    *_, silent = run(warm, look(), 20.0, from_s=10.0)
    assert warm.limit < silent.limit <= 2 * warm.limit
    for number in range(8):
        silent = step(silent, look(1), SLO, 30.0 + number)
        *_, silent = run(silent, look(), 1.5, from_s=30.1 + number)
        assert silent.limit <= 4 * warm.limit


def test_before_the_first_answer_an_slo_bounds_what_is_tried() -> None:
    assert max(state.limit for state in run(begin(SLO), look(), 20.0)) == 64
    assert max(state.limit for state in run(begin(NO_SLO), look(), 2.0, NO_SLO)) == 2048
