"""The report for a person, compared as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.lab.generator import Generator
from headway.lab.outcome import LoadResult, Part
from headway.lab.report import own_words, render, verdict

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
    generator=Generator(0.97, 35.2, True, "own core used up", 0.01, 0.3, 180.0),
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
        "  Careful: the load generator itself was the bottleneck (it used up its own core: 97 %); "
        "it made 180 requests a second of 200, 30 % of them more than 10 ms late; "
        "lower the rate, or share it between several generators.\n"
    )


def test_the_generator_tells_its_own_core_from_one_it_did_not_get() -> None:
    starved = replace(GOOD, generator=Generator(0.4, 35.2, True, "no core to run on", 0.5, 0.3, 200.0))
    words = own_words(starved) or ""
    assert "it ran 40 % of the time and waited 50 % for one" in words
    assert "it made 200 requests a second, 30 %" in words
    assert "a core of its own" in words
    moment = own_words(replace(GOOD, generator=Generator(0.1, 12.0, False, "no core to run on", 0.03, 0.015, 200.0)))
    assert moment is not None
    assert moment.startswith("For a moment")
    assert "1.5 % of the requests" in moment
    lacking = replace(
        BAD, failures={"client out of ports": 40}, generator=Generator(0, 0, True, "ports or descriptors")
    )
    assert "client out of ports: 40" in (own_words(lacking) or "")
    full = replace(lacking, failures={"client connection limit": 7, "client too slow": 1, "deadline": 2})
    said = own_words(full) or ""
    assert "(client connection limit: 7)" in said
    assert "--deadline" in said
    assert own_words(GOOD) is None


def test_parts_are_a_table() -> None:
    def part(name: str, offered: int, p99: float | None) -> Part:
        return Part(name, offered, offered, 0, 0, 0, 99.5, {"p50": 1.0, "p99": p99}, 0, 10)

    text = render(replace(GOOD, pieces=(part("100/s for 10 s", 1000, 9.0), part("0/s for 5 s", 0, None))))
    assert (
        "\n"
        "  piece           offered  goodput  late  refused  failed     p50     p99\n"
        "  100/s for 10 s    1,000   99.5/s     0        0       0  1.0 ms  9.0 ms\n"
        "  0/s for 5 s           0   99.5/s     0        0       0  1.0 ms       –\n"
        "\n"
    ) in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ok": 1200, "refused": 800}, "It holds by refusing: 60.0 %"),
        ({"ok": 1200, "refused": 790, "late": 10}, "It holds by refusing: 60.0 % answered in time, 10 late,"),
        ({"ok": 1999, "late": 1}, "It holds: 99.9 % answered in time, 1 late, none failed."),
        ({"ok": 1990, "late": 5, "refused": 5}, "It holds: 99.5 % answered in time, 5 late and 5 refused"),
        ({"ok": 1998, "failed": 2}, "It nearly holds: 2 of 2,000 requests failed."),
        ({"ok": 1900, "late": 100}, "It is a little too slow for this: 95.0 %"),
        ({"ok": 1000, "late": 1000}, "It is too slow for this: 50.0 %"),
        ({"ok": 1800, "failed": 200}, "It does not hold: 200 of 2,000"),
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
