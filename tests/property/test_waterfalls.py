"""Whatever was written of a request, its waterfall tells each span once and fits its width."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.cli.waterfall import bar, waterfall_document, waterfall_lines
from headway.control.waterfall import spent, waterfall
from headway.edge.hops import spans_of
from headway.model.span import KINDS, WAITED_MS, Span, read_span

IDS = [f"{number:016x}" for number in range(1, 9)]
SPANS = st.builds(
    Span,
    trace=st.just("t" * 32),
    id=st.sampled_from(IDS),
    parent=st.sampled_from(["", "unknown", *IDS]),
    request=st.just("r"),
    name=st.sampled_from(["web", "GET /", "database main"]),
    kind=st.sampled_from(KINDS),
    begin_ns=st.integers(0, 50_000_000),
    duration_ns=st.integers(0, 50_000_000),
    failure=st.sampled_from(["", "refused"]),
    service=st.sampled_from(["", "web"]),
    replica=st.sampled_from(["", "web.1", "web.2"]),
    attributes=st.dictionaries(st.sampled_from([WAITED_MS, "attempt", "shard"]), st.integers(-5, 100)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SPANS, min_size=1, max_size=12), st.integers(0, 300))
def test_every_span_is_told_once_within_the_width(spans: list[Span], width: int) -> None:
    found = waterfall(spans)
    assert sorted(row.span.id for row in found.rows) == sorted({span.id for span in spans})
    assert found.rows[0].depth == 0
    for before, row in zip(found.rows, found.rows[1:], strict=False):
        assert 0 <= row.depth <= before.depth + 1
    for row in found.rows:
        assert 0 <= row.own_ns <= row.span.duration_ns
        drawn = bar(row, found, 40)
        assert len(drawn) <= 40
        assert drawn.strip()
    assert sum(own_ns for _, own_ns in spent(found, most=100)) == sum(row.own_ns for row in found.rows)
    assert len(waterfall_lines(found, "r", "now", width=width)) >= len(found.rows) + 2
    assert [read_span(document) for document in waterfall_document(found, "r")["spans"]] == [
        row.span for row in found.rows
    ]


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
KEYS = (
    "id",
    "service",
    "time",
    "total_ms",
    "queue_ms",
    "ttfb_ms",
    "status",
    "method",
    "path",
    "replica",
    "end",
    "trace",
)


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*KEYS, "caller", "attempt", "span", "parent", "kind"), JSON)))
def test_no_line_of_a_log_is_too_wrong(document: dict[str, object]) -> None:
    assert len(spans_of(document)) <= 2
    assert read_span(document) is None
