"""A line of the access log as spans, and who is said to have refused a request."""

from __future__ import annotations

from typing import Any

import pytest

from headway.edge.hops import spans_of, why_not

REQUEST = "1795782273825216856f4aa614a10340"
OUTSIDE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
LINE: dict[str, Any] = {
    "time": 1795782273825,
    "client": "127.0.0.1",
    "method": "GET",
    "path": "/3",
    "status": 200,
    "service": "web.slow",
    "replica": "web.1",
    "queue_ms": 12,
    "ttfb_ms": 40,
    "total_ms": 45,
    "bytes": 103,
    "end": "--",
    "id": REQUEST,
    "caller": "",
    "attempt": 1,
    "trace": f"00-{REQUEST}-{PARENT}-01",
}


def test_a_request_from_outside_begins_the_trace_at_the_edge() -> None:
    edge, queue = spans_of(LINE)
    assert (edge.trace, edge.id, edge.parent, edge.request) == (REQUEST, PARENT, "", REQUEST)
    assert (edge.kind, edge.name, edge.service, edge.replica) == ("edge", "GET /3", "web", "web.1")
    assert (edge.begin_ns, edge.duration_ns, edge.waited_ns) == (1795782273825 * 10**6, 45 * 10**6, 12 * 10**6)
    assert edge.attributes["class"] == "slow"
    assert edge.failure == ""
    assert (queue.kind, queue.parent, queue.begin_ns, queue.duration_ns) == (
        "queue",
        edge.id,
        edge.begin_ns,
        12 * 10**6,
    )


def test_a_trace_from_outside_and_one_of_a_call_go_on() -> None:
    (outside,) = spans_of({**LINE, "queue_ms": 0, "trace": f"00-{OUTSIDE}-{PARENT}-00"})
    assert (outside.trace, outside.parent, outside.is_sampled) == (OUTSIDE, PARENT, False)
    assert outside.id not in ("", PARENT)
    call = {**LINE, "queue_ms": 0, "caller": "shop", "attempt": 2}
    (one,) = spans_of(call)
    assert (one.trace, one.parent) == (REQUEST, PARENT)
    assert one.attributes["caller"] == "shop"
    assert one.attributes["attempt"] == 2
    assert spans_of(call) == (one,)
    assert spans_of({**call, "time": 1795782273826})[0].id != one.id


@pytest.mark.parametrize("caller", ["", "web"])
def test_where_spans_are_sent_the_line_says_which_is_the_edges(caller: str) -> None:
    own = "00f067aa0ba902b7"
    line = LINE | {"caller": caller, "trace": f"00-{OUTSIDE}-{PARENT}-01", "span": own}
    edge, queue = spans_of(line)
    assert (edge.trace, edge.id, edge.parent, queue.parent) == (OUTSIDE, own, PARENT, own)
    begun, _ = spans_of(LINE | {"span": "-"})
    assert (begun.id, begun.parent) == (PARENT, "")


def test_a_line_from_before_an_upgrade_is_read() -> None:
    former = {key: value for key, value in LINE.items() if key not in ("caller", "attempt", "trace")}
    edge, _ = spans_of(former)
    assert (edge.trace, edge.parent) == (REQUEST, "")
    named, _ = spans_of({**former, "id": "order-7"})
    assert len(named.trace) == 32
    assert named.request == "order-7"


@pytest.mark.parametrize(
    "wrong", [{}, {**LINE, "id": ""}, {**LINE, "time": "soon"}, {**LINE, "status": None}, {"time": 1}]
)
def test_what_is_no_request_has_no_spans(wrong: dict[str, Any]) -> None:
    assert spans_of(wrong) == ()


@pytest.mark.parametrize(
    ("status", "end", "replica", "said"),
    [
        (200, "--", "web.1", ""),
        (404, "--", "web.1", ""),
        (500, "--", "web.1", "web.1 answered 500"),
        (503, "--", "web.1", "web.1 answered 503"),
        (503, "LR", "", "refused by the edge: the queue of web was at its bound"),
        (503, "sQ", "", "refused by the edge: it waited in the queue of web until its deadline"),
        (503, "SC", "", "refused by the edge: no replica of web could be reached"),
        (504, "sH", "web.1", "web.1 did not answer before the deadline"),
        (502, "SH", "web.1", "web.1 broke off before it answered"),
        (502, "PH", "web.1", "web.1 answered with what is no HTTP"),
        (200, "SD", "web.1", "web.1 broke off in the middle of its answer"),
        (200, "sD", "web.1", "web.1 went silent in its answer"),
        (429, "PR", "", "refused by the edge: this address makes more requests than client_rate allows"),
        (413, "PR", "", "refused by the edge: the request body is larger than body_max"),
        (404, "LR", "", "refused by the edge: no service has a route for this address"),
        (301, "LR", "", ""),
        (503, "CQ", "", "the client hung up while it waited in the queue"),
        (-1, "CH", "web.1", "the client hung up before an answer came"),
        (200, "CD", "web.1", "the client hung up in the middle"),
        (408, "cR", "", "the client was too slow"),
        (500, "", "", "the edge answered 500"),
    ],
)
def test_who_refused_and_why(status: int, end: str, replica: str, said: str) -> None:
    assert why_not(status, end, "web", replica, "") == said


def test_a_call_without_time_left_says_so() -> None:
    assert why_not(504, "LR", "web", "", "shop") == "refused by the edge: no time was left for this call"


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        ("refused", "refused by web.1: it holds as many requests or streams as it may"),
        ("deadline", "refused by web.1: its deadline had passed before it was begun"),
        ("unavailable", "web.1 was about to end"),
        ("no-retry", "web.1 answered 503: what it needs was tried as often as may be"),
        ("-", "web.1 answered 503"),
    ],
)
def test_a_worker_says_why_it_ran_nothing(answered: str, said: str) -> None:
    edge, _ = spans_of({**LINE, "status": 503, "answered": answered})
    assert edge.failure == said
    assert spans_of({**LINE, "answered": answered})[0].failure == ""
