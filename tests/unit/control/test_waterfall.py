"""The spans of a request in order: who is within whom, what was spent on what, and what it looks like."""

from __future__ import annotations

import random

import pytest

from headway.cli.waterfall import WIDTH_MAX, bar, waterfall_document, waterfall_lines
from headway.control.waterfall import full_service, refusal, spent, waterfall
from headway.model.span import WAITED_MS, Span, Value

MS = 1_000_000
STATUS = "http.response.status_code"


def span(
    id_: str,
    parent: str,
    kind: str,
    begin_ms: float,
    ms: float,
    *,
    name: str = "",
    failure: str = "",
    replica: str = "",
    **attributes: Value,
) -> Span:
    return Span(
        trace="t" * 32,
        id=id_,
        parent=parent,
        request="r",
        name=name or id_,
        kind=kind,
        begin_ns=int((1000 + begin_ms) * MS),
        duration_ns=int(ms * MS),
        failure=failure,
        service=replica.partition(".")[0],
        replica=replica,
        attributes=attributes,
    )


# web asks its database, and calls inventory, whose first replica broke off.
WHOLE = [
    span("e0", "", "edge", 0, 100, replica="web.1", name="GET /", **{WAITED_MS: 10}),
    span("q0", "e0", "queue", 0, 10, name="queue of web"),
    span("s0", "e0", "service", 11, 88, replica="web.1"),
    span("d0", "s0", "database", 12, 30, name="database main", replica="web.1", **{WAITED_MS: 20}),
    span("c0", "s0", "call", 45, 50, name="inventory", replica="web.1", method="GET", path="/stock"),
    span("e1", "c0", "edge", 46, 10, replica="inventory.1", name="GET /stock", failure="inventory.1 broke off"),
    span("e2", "c0", "edge", 58, 36, replica="inventory.2", name="GET /stock", attempt=2, **{STATUS: 200}),
    span("s1", "c0", "service", 59, 34, replica="inventory.2"),
    span("l1", "s1", "cache", 60, 30, name="cache stock", replica="inventory.2"),
]
TREE = [("e0", 0), ("q0", 1), ("s0", 1), ("d0", 2), ("c0", 2), ("e1", 3), ("e2", 3), ("s1", 4), ("l1", 5)]


def tree(spans: list[Span]) -> list[tuple[str, int]]:
    return [(row.span.id, row.depth) for row in waterfall(spans).rows]


def test_each_span_is_within_its_parent_and_a_service_within_its_hop() -> None:
    for seed in range(20):
        shuffled = random.Random(seed).sample(WHOLE, len(WHOLE))
        assert tree([*shuffled, WHOLE[0]]) == TREE  # one that is read twice counts once


def test_a_span_whose_parent_was_never_written_is_within_the_hop_to_its_replica() -> None:
    killed = [one for one in WHOLE if one.id != "s1"]
    assert ("l1", 4) in tree(killed)
    assert tree([one for one in WHOLE if one.id == "l1"]) == [("l1", 0)]


def test_spans_within_each_other_end_nowhere() -> None:
    looped = [span("a", "b", "internal", 0, 5), span("b", "a", "internal", 1, 5), span("c", "c", "internal", 2, 5)]
    assert sorted(id_ for id_, _ in tree(looped)) == ["a", "b", "c"]


def test_own_time_is_what_no_span_within_covers() -> None:
    own_ms = {row.span.id: row.own_ns / MS for row in waterfall(WHOLE).rows}
    assert own_ms == pytest.approx(
        {"e0": 2, "q0": 10, "s0": 8, "d0": 30, "c0": 4, "e1": 10, "e2": 2, "s1": 4, "l1": 30}
    )
    overlapping = [span("a", "", "edge", 0, 10), span("b", "a", "call", 1, 5), span("c", "a", "call", 2, 20)]
    assert waterfall(overlapping).rows[0].own_ns == 1 * MS


def test_what_the_time_went_to() -> None:
    assert [(name, own_ns / MS) for name, own_ns in spent(waterfall(WHOLE), most=5)] == [
        ("cache stock", 30),
        ("waiting for database main", 20),
        ("inventory", 14),
        ("queue of web", 10),
        ("database main", 10),
    ]


def test_at_a_service_without_a_span_the_time_is_the_services() -> None:
    plain = [span("e0", "", "edge", 0, 100, replica="web.1", name="GET /"), span("q0", "e0", "queue", 0, 10)]
    assert [(name, own_ns / MS) for name, own_ns in spent(waterfall(plain))] == [("web", 90), ("q0", 10)]


def test_who_refused_is_the_innermost() -> None:
    assert refusal(waterfall(WHOLE)) == ""
    why = "refused by the edge: the queue of inventory was at its bound"
    refused = [
        span("e0", "", "edge", 0, 9, replica="web.1", name="GET /", failure="web.1 answered 503"),
        span("s0", "e0", "service", 1, 7, replica="web.1", failure="answered 503"),
        span("c0", "s0", "call", 2, 5, name="inventory", failure="Refused: inventory has no room", replica="web.1"),
        Span("t" * 32, "e1", "c0", "r", "GET /stock", "edge", 1003 * MS, MS, why, "inventory"),
    ]
    assert refusal(waterfall(refused)) == f"web.1 answered 503; edge GET /stock → inventory: {why}"
    assert refusal(waterfall(refused[:2])) == "web.1 answered 503"


def test_of_a_service_without_room_it_says_where_to_look() -> None:
    why = "refused by the edge: the queue of web was at its bound"
    refused = Span("t" * 32, "e0", "", "r", "GET /", "edge", 0, MS, why, "web", attributes={STATUS: 503})
    assert full_service(waterfall([refused])) == "web"
    assert waterfall_lines(waterfall([refused]), "r", "now", width=100)[-2] == (
        "  what was done about web at that time: headway explain web"
    )
    assert full_service(waterfall(WHOLE)) == ""


def test_the_picture() -> None:
    lines = waterfall_lines(waterfall(WHOLE), "r", "2026-11-27 12:00:00.000", width=110)
    assert "\n".join(lines) == PICTURE


PICTURE = """\
request r  2026-11-27 12:00:00.000  100 ms

  edge GET / → web.1                                      0 ms     100 ms  ░░░░███████████████████████████████
    queue of web                                          0 ms      10 ms  ░░░░
    web.1                                                11 ms      88 ms     ███████████████████████████████
      database main                                      12 ms      30 ms      ░░░░░░░███
      call inventory GET /stock                          45 ms      50 ms                 ██████████████████
        edge GET /stock → inventory.1                    46 ms      10 ms                  ████
        ✗ inventory.1 broke off
        edge GET /stock → inventory.2 200, attempt…      58 ms      36 ms                      █████████████
          inventory.2                                    59 ms      34 ms                      ████████████
            cache stock                                  60 ms      30 ms                       ██████████

  its time went to: cache stock 30 ms, waiting for database main 20 ms, inventory 14 ms, queue of web 10 ms"""


@pytest.mark.parametrize("width", [0, 72, 110, 1000])
def test_bars_stay_within_their_width(width: int) -> None:
    found = waterfall([*WHOLE, span("p", "s0", "internal", 99.999, 0)])
    for row in found.rows:
        drawn = bar(row, found, 40)
        assert 0 < len(drawn) <= 40
        assert drawn.strip(" ")
    lines = waterfall_lines(found, "r", "now", width=width)
    assert max(map(len, lines[1:-1])) <= max(72, min(width, WIDTH_MAX))


def test_a_moment_is_a_waterfall_as_well() -> None:
    assert waterfall([span("a", "", "edge", 0, 0)]).duration_ns == 0
    assert waterfall_lines(waterfall([span("a", "", "edge", 0, 0)]), "r", "now", width=100)


def test_rows_are_bounded() -> None:
    many = [span("root", "", "edge", 0, 100), *(span(f"s{n}", "root", "cache", n, 1) for n in range(50))]
    found = waterfall(many, most=20)
    assert (len(found.rows), found.left_out) == (20, 31)
    assert waterfall_lines(found, "r", "now", width=100)[-3:-2] == ["  … 31 more"]


def test_the_document_holds_every_span_as_it_was_written() -> None:
    found = waterfall_document(waterfall(WHOLE), "r")
    assert [(one["span"], one["depth"]) for one in found["spans"]] == TREE
    assert found["duration_ms"] == 100
    assert found["spent_ms"]["cache stock"] == 30
