"""Which requests count as what, and the figures that follow from known endings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.lab.generator import CONNECTION_LIMIT, OUT_OF_PORTS, TOO_SLOW, Effort, Generator, judged
from headway.lab.outcome import Failure, LoadResult, classify, percentile
from headway.lab.schedule import Piece
from headway.lab.tally import Tally


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


def tallied(lag_s: float = 0.0) -> LoadResult:
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
    return tally.result(duration_s=2.0, effort=Effort(2.0, 2.0, 0.2, 0.01))


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
        "generator": {
            "cpu_share": 0.1,
            "send_lag_ms_p99": 0.0,
            "bottleneck": False,
            "cause": None,
            "waited_share": 0.005,
            "sent_late_share": 0.0,
            "made_per_s": 5.0,
        },
        "duration_s": 2.0,
        "pieces": (),
        "requests": (),
    }
    assert [
        [second[key] for key in ("second", "offered", "ok", "late", "refused", "failed")] for second in timeline
    ] == [
        [0, 5, 4, 1, 0, 0],
        [1, 5, 0, 0, 2, 3],
    ]
    assert timeline[0]["p50_ms"] == pytest.approx(30, rel=0.023)
    assert timeline[0]["p99_ms"] == pytest.approx(300, rel=0.023)
    assert timeline[1]["p50_ms"] is None


def test_single_failures_are_listed_up_to_their_bound() -> None:
    assert tallied().failed_requests == (Failure(101.4, "GET", "/", "status 404", "x-7"),)


def test_pieces_and_kinds_are_counted_apart_and_add_up() -> None:
    tally = Tally(0.25, 0, pieces=(Piece(1, 4, 4), Piece(2, 2, 2)), kinds=("GET /", "POST /cart"))
    for number in range(8):
        intended_s, kind = number / 4 + 0.01, number % 2
        tally.offer(intended_s, kind)
        if number == 7:
            tally.failed(intended_s, Failure(0, "POST", "/cart", "deadline", ""), kind)
        else:
            tally.answered(intended_s, 0.3 if number == 6 else 0.1 * (1 + kind), 503 if number == 5 else 200, kind)
    result = tally.result(duration_s=3.0, effort=Effort(3, 3, 0, 0))
    assert [(p.name, p.offered, p.ok, p.late, p.refused, p.failed) for p in result.pieces] == [
        ("4/s for 1 s", 4, 4, 0, 0, 0),
        ("2/s for 2 s", 4, 1, 1, 1, 1),
    ]
    assert [(p.start_s, p.duration_s, p.goodput_per_s) for p in result.pieces] == [(0, 1, 4.0), (1, 2, 0.5)]
    assert [(r.name, r.offered, r.ok, r.failed, r.latency_ms["p50"]) for r in result.requests] == [
        ("GET /", 4, 3, 0, 100.0),
        ("POST /cart", 4, 2, 1, 200.0),
    ]
    # Stopped in the first piece: the second was never begun.
    assert len(tally.result(duration_s=0.5, effort=Effort(0.5, 0.5, 0, 0)).pieces) == 1


def view(
    *,
    ran_s: float = 1.0,
    waited_s: float = 0.0,
    late: int = 0,
    faults: dict[str, int] | None = None,
    sent_s: float = 10,
) -> Generator:
    return judged(Effort(10.0, sent_s, ran_s, waited_s), 1000, faults or {}, late, 0.0)


def test_a_moment_without_a_core_is_a_remark_and_no_bottleneck() -> None:
    assert view(late=9, waited_s=1.0).cause is None
    remark = view(late=15, waited_s=1.0)
    assert (remark.cause, remark.bottleneck) == ("no core to run on", False)
    assert view(late=60, waited_s=1.0).bottleneck
    assert view(faults={TOO_SLOW: 1}).cause is None


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (view(ran_s=9.5), "own core used up"),
        (view(ran_s=5.0, waited_s=4.8, late=900), "no core to run on"),
        (view(ran_s=5.0, late=900), "held up"),
        (view(faults={OUT_OF_PORTS: 20}), "ports or descriptors"),
        (view(faults={CONNECTION_LIMIT: 20}), "ports or descriptors"),
        (view(ran_s=9.9, faults={TOO_SLOW: 20}), "own core used up"),
    ],
)
def test_the_bottleneck_has_a_cause(given: Generator, cause: str) -> None:
    assert given.bottleneck
    assert given.cause == cause


def test_a_rate_that_was_not_made_is_told() -> None:
    assert view().made_per_s == 100.0
    assert view(faults={TOO_SLOW: 500}).made_per_s == 50.0
    assert view(sent_s=20).made_per_s == 50.0


def test_goodput_is_of_the_time_that_sending_took() -> None:
    def goodput(sent_s: float) -> float:
        tally = Tally(None, 0)
        for _ in range(30):
            tally.offer(0.0)
            tally.answered(0.0, 0.1, 200)
        return tally.result(duration_s=3.0, effort=Effort(3.0, sent_s, 0, 0)).goodput_per_s

    assert (goodput(2.9), goodput(3.1), goodput(6.0)) == (10.0, 10.0, 5.0)


def test_a_burst_keeps_a_core_busy_and_takes_its_time_by_nature() -> None:
    def burst(lag_ms: float) -> Generator:
        return judged(Effort(0, 1, 1, 0, burst_deadline_s=10), 1000, {}, 900, lag_ms)

    assert not burst(900).bottleneck
    assert burst(900).cause is None
    assert burst(1100).bottleneck


def test_requests_that_left_late_are_counted() -> None:
    assert tallied(lag_s=0.009).generator.sent_late_share == 0
    assert tallied(lag_s=0.011).generator.sent_late_share == 1
    assert tallied(lag_s=0.011).generator.bottleneck


def test_nothing_offered_gives_no_percentiles_and_no_division_by_zero() -> None:
    result = Tally(slo_s=None, failures_max=0).result(duration_s=0, effort=Effort(0, 0, 0, 0))
    assert result.offered == 0
    assert result.generator.made_per_s == 0
    assert set(result.latency_ms.values()) == {None}
