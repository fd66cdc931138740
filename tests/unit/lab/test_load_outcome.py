"""Which requests count as what, and the figures that follow from known endings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.outcome import OUT_OF_PORTS, Failure, LoadResult, Tally, classify, percentile


@pytest.mark.parametrize(
    ("status", "latency_s", "slo_s", "ending"),
    [
        (200, 0.1, 0.25, "ok"),
        (204, 0.25, 0.25, "ok"),
        (302, 0.1, 0.25, "ok"),
        (200, 0.251, 0.25, "late"),
        (304, 9.0, 0.25, "late"),
        (200, 9.0, None, "ok"),
        (503, 0.1, 0.25, "refused"),
        (429, 9.0, 0.25, "refused"),
        (500, 0.1, None, "failed"),
        (502, 0.1, None, "failed"),
        (504, 0.1, None, "failed"),
        (404, 0.1, None, "failed"),
        (400, 0.1, None, "failed"),
    ],
)
def test_classify(status: int, latency_s: float, slo_s: float | None, ending: str) -> None:
    assert classify(status, latency_s, slo_s) == ending


def test_percentiles_are_exact() -> None:
    hundred = [float(number) for number in range(1, 101)]
    assert [percentile(hundred, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert percentile(hundred, 0.07) == 7
    assert percentile([3.0], 0.5) == percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0], 0.5) == 1.0
    assert percentile([], 0.5) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_a_value_that_enough_values_do_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = percentile(ordered, share)
    assert found is not None
    needed = share * len(ordered) - 1e-9
    assert sum(value <= found for value in ordered) >= needed
    assert sum(value < found for value in ordered) < math.ceil(needed)


def tallied(*, cpu_share: float = 0.1, lag_s: float = 0.0, burst_deadline_s: float | None = None) -> LoadResult:
    tally = Tally(slo_s=0.25, failures_max=1)
    for number in range(10):
        tally.offer(number / 5)
        tally.send_lag_s.append(lag_s)
    for number in range(4):
        tally.answered(number / 5, 0.010 * (number + 1), 200)
    tally.answered(0.8, 0.3, 201)
    tally.answered(1.0, 0.001, 503)
    tally.answered(1.2, 0.003, 429)
    assert tally.answered(1.4, 0.01, 404) == "failed"
    tally.failed(1.4, Failure(101.4, "GET", "/", "status 404", "x-7"))
    tally.failed(1.6, Failure(101.6, "GET", "/", "deadline", "x-8"))
    tally.failed(1.8, Failure(101.8, "GET", "/", "deadline", "x-9"))
    assert tally.ended == 10
    return tally.result(duration_s=2.0, cpu_share=cpu_share, burst_deadline_s=burst_deadline_s)


def test_the_result_has_the_fixed_keys_and_the_known_figures() -> None:
    document = tallied().as_json()
    timeline = document.pop("timeline")
    assert document == {
        "offered": 10,
        "goodput_per_s": 2.0,
        "ok": 4,
        "late": 1,
        "refused": 2,
        "failed": 3,
        "latency_ms": {"p50": 30.0, "p90": 300.0, "p99": 300.0, "max": 300.0},
        "refused_ms": {"p50": 1.0, "p99": 3.0},
        "statuses": {"200": 4, "201": 1, "404": 1, "429": 1, "503": 1},
        "failures": {"deadline": 2, "status 404": 1},
        "generator": {"cpu_share": 0.1, "send_lag_ms_p99": 0.0, "bottleneck": False},
        "duration_s": 2.0,
    }
    assert timeline == (
        {"second": 0, "offered": 5, "ok": 4, "late": 1, "refused": 0, "failed": 0},
        {"second": 1, "offered": 5, "ok": 0, "late": 0, "refused": 2, "failed": 3},
    )


def test_single_failures_are_listed_up_to_their_bound() -> None:
    assert tallied().failed_requests == (Failure(101.4, "GET", "/", "status 404", "x-7"),)


def test_the_generator_admits_that_it_was_the_bottleneck() -> None:
    assert not tallied(cpu_share=0.8, lag_s=0.009).generator.bottleneck
    assert tallied(cpu_share=0.95).generator.bottleneck
    assert tallied(lag_s=0.011).generator.bottleneck
    # A burst keeps a core busy and takes its time by nature.
    assert not tallied(cpu_share=1.0, lag_s=0.9, burst_deadline_s=10).generator.bottleneck
    assert tallied(cpu_share=1.0, lag_s=1.1, burst_deadline_s=10).generator.bottleneck


def test_running_out_of_ports_is_the_generators_fault() -> None:
    tally = Tally(slo_s=None, failures_max=0)
    tally.offer(0.0)
    tally.failed(0.0, Failure(0.0, "GET", "/", OUT_OF_PORTS, ""))
    assert tally.result(duration_s=1, cpu_share=0, burst_deadline_s=None).generator.bottleneck


def test_nothing_offered_gives_no_percentiles_and_no_division_by_zero() -> None:
    result = Tally(slo_s=None, failures_max=0).result(duration_s=0, cpu_share=0, burst_deadline_s=None)
    assert result.offered == 0
    assert set(result.latency_ms.values()) == {None}
