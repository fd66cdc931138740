"""The HTML report: its plots hold what was measured, and nothing that was not."""

from __future__ import annotations

from dataclasses import replace

from headway.lab.generator import Generator
from headway.lab.outcome import LoadResult, Part, Second
from headway.lab.report_page import Context, report_page
from headway.lab.target import parse_target
from headway.lab.watched import ReplicaSample, Sample, is_edge_of, sample_of

RESULT = LoadResult(
    offered=300,
    goodput_per_s=80.0,
    ok=240,
    late=0,
    refused=60,
    failed=0,
    latency_ms={"p50": 12.34, "p90": 20.0, "p99": 31.5, "max": 1204.0},
    refused_ms={"p50": 0.5, "p99": 1.0},
    statuses={"200": 240, "503": 60},
    failures={},
    generator=Generator(0.08, 0.4, False, made_per_s=100.0),
    duration_s=3.0,
    timeline=tuple(Second(n, 100, 80, 0, 20, 0, 10.0, 20.0, 30.0) for n in range(3)),
)
CONTEXT = Context("http://h/?a=<b>", "headway load http://h/ --rate 100", "2026-01-02 03:04 UTC", slo_s=0.25)


def test_the_page_says_what_was_measured_and_how_to_do_it_again() -> None:
    text = report_page(RESULT, CONTEXT)
    assert text.count("<figure>") == 3
    assert "It holds by refusing: 80.0 %" in text
    assert "headway load http://h/ --rate 100" in text
    assert "a=&lt;b&gt;" in text
    assert "goodput at 0.5: 80" in text
    assert "refused at 2.5: 20" in text
    assert "p99 at 1.5: 30" in text
    assert "SLO at 3: 250" in text
    assert "failed at" not in text
    assert "Inside the system" not in text


def test_a_load_without_refusals_has_no_plot_of_them() -> None:
    quiet = replace(RESULT, refused=0, timeline=tuple(replace(s, refused=0) for s in RESULT.timeline))
    assert "Nothing was refused." in report_page(quiet, CONTEXT)


def test_pieces_are_marked_and_tabled() -> None:
    pieces = tuple(
        Part(f"{rate}/s for 1 s", rate, rate, 0, 0, 0, rate, {"p50": 1.0, "p99": 2.0}, at, 1.0)
        for at, rate in enumerate((100, 200))
    )
    text = report_page(replace(RESULT, pieces=pieces), CONTEXT)
    assert text.count("200/s for 1 s") == 4  # a mark in each of three plots, a row of the table
    assert "<h2>Pieces</h2>" in text


def test_the_last_second_counts_for_what_it_lasted() -> None:
    assert "offered at 2.5: 200" in report_page(replace(RESULT, duration_s=2.5), CONTEXT)


def sampled(replicas: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(at / 2, {f"web.{n}": ReplicaSample(8, at) for n in range(1, replicas + 1)}, at * 3) for at in range(6)
    )


def test_the_inside_of_the_system_has_its_plots() -> None:
    text = report_page(RESULT, replace(CONTEXT, samples=sampled(2)))
    assert text.count("<figure>") == 6
    assert "web.2 at 2: 4" in text
    assert "queued at 2.5: 15" in text
    many = report_page(RESULT, replace(CONTEXT, samples=sampled(20)))
    assert "of all replicas of a service together" in many
    assert "web at 2: 80" in many


def test_a_status_document_is_sampled() -> None:
    document = {
        "edge": {"url": "http://127.0.0.1:8000", "urls": ["http://127.0.0.1:8000"]},
        "services": {"web": {"replicas": [{"name": "web.1", "limit": None, "in_flight": 3}]}},
        "traffic": {"queued": 2},
    }
    assert sample_of(document, 1.0) == Sample(1.0, {"web.1": ReplicaSample(None, 3)}, 2)
    assert sample_of({}, 1.0) == Sample(1.0, {}, None)
    assert is_edge_of(document, parse_target("http://localhost:8000/a"))
    assert not is_edge_of(document, parse_target("http://localhost:8001/"))
    assert not is_edge_of(document, parse_target("http://example.org:8000/"))
    assert not is_edge_of({"edge": {"url": None, "urls": []}}, parse_target("http://localhost:8000/"))
