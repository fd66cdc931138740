"""The report for a person, compared as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.lab.outcome import Generator, LoadResult
from headway.lab.report import render, verdict

GOOD = LoadResult(
    offered=2000,
    goodput_per_s=200.0,
    ok=2000,
    late=0,
    refused=0,
    failed=0,
    latency_ms={"p50": 12.34, "p90": 20.0, "p99": 31.5, "max": 1204.0},
    refused_ms={"p50": None, "p99": None},
    statuses={"200": 2000},
    failures={},
    generator=Generator(0.08, 0.4, False),
    duration_s=10.0,
)
BAD = replace(
    GOOD,
    goodput_per_s=98.5,
    ok=985,
    late=15,
    refused=900,
    failed=100,
    refused_ms={"p50": 0.51, "p99": 1.9},
    statuses={"200": 1000, "503": 900},
    failures={"deadline": 60, "connection reset": 40},
    generator=Generator(0.97, 35.2, True),
)


def test_a_load_that_held() -> None:
    assert render(GOOD) == (
        "  offered   2,000        in 10 s\n"
        "  goodput   200.0/s      2,000 answered in time (100 %)\n"
        "  latency   p50 12.3 ms  p90 20.0 ms  p99 31.5 ms  max 1.20 s\n"
        "  statuses  200: 2,000\n"
        "\n"
        "  It holds: every request was answered in time.\n"
    )


def test_a_load_that_did_not_hold_and_a_generator_that_was_too_slow() -> None:
    assert render(BAD) == (
        "  offered   2,000        in 10 s\n"
        "  goodput   98.5/s       985 answered in time (49.2 %)\n"
        "  late      15           answered after the SLO\n"
        "  refused   900          p50 0.5 ms  p99 1.9 ms\n"
        "  failed    100          deadline: 60  connection reset: 40\n"
        "  latency   p50 12.3 ms  p90 20.0 ms  p99 31.5 ms  max 1.20 s\n"
        "  statuses  200: 1,000  503: 900\n"
        "\n"
        "  It does not hold: 100 of 2,000 requests failed.\n"
        "  Careful: the load generator itself was the bottleneck (97 % of a core, "
        "1 request in 100 sent 35.2 ms late or more); "
        "lower the rate or give it a core of its own.\n"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ok": 1200, "refused": 800}, "It holds by refusing: 60.0 %"),
        ({"ok": 1999, "late": 1}, "It is too slow for this: 99.9 %"),
        ({"ok": 0, "late": 1000, "failed": 1000}, "no request was answered in time"),
        ({"ok": 0, "late": 2000}, "0.0 % answered in time, none failed"),
        ({"ok": 0, "refused": 2000}, "It refuses everything"),
        ({"ok": 0, "offered": 0}, "Nothing was offered"),
    ],
)
def test_the_verdict(change: dict[str, int], words: str) -> None:
    assert words in verdict(replace(GOOD, **change))


def test_nothing_answered_is_shown_as_a_dash() -> None:
    none = replace(GOOD, ok=0, failed=2000, latency_ms=dict.fromkeys(("p50", "p90", "p99", "max")), statuses={})
    assert "p50 –" in render(none)
    assert "statuses" not in render(none)
