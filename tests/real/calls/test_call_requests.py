"""A call for the request at work: it ends with that, carries what is its, and its failure becomes the request's."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator

import pytest
from call_place import Start, answer, says

from headway.context.asked import leave_request
from headway.errors import DeadlineExceeded, StatusError, Unavailable
from headway.worker import asked

CARRIED = [
    (b"x-request-id", b"r7"),
    (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (b"baggage", b"user=1"),
    (b"x-headway-criticality", b"2"),
    (b"cookie", b"secret"),
]


@pytest.fixture(autouse=True)
def _in_a_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "headway_worker.asked", asked)
    yield
    asked.current.set(None)


def begin(left_s: float) -> asked.Asked:
    now_ms = int(time.time() * 1000)
    ahead_ns = time.time_ns() - time.monotonic_ns()
    return asked.begin(now_ms + round(left_s * 1000), ahead_ns, CARRIED)


def test_a_call_carries_what_is_the_requests_and_ends_with_it(start: Start) -> None:
    leaf, inventory = start(says(answer(200, b"ok")))
    begin(10.0)
    for found in (asyncio.run(inventory.get("/")), inventory.sync.get("/")):
        assert found.text == "ok"
    for call in leaf.calls:
        assert {name: call.headers.get(name) for name in ("x-request-id", "baggage", "x-headway-criticality")} == {
            "x-request-id": "r7",
            "baggage": "user=1",
            "x-headway-criticality": "2",
        }
        assert call.headers["traceparent"].startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
        assert "cookie" not in call.headers
        assert 0 < int(call.headers["x-envoy-expected-rq-timeout-ms"]) <= 9_750  # a part is kept for an answer without
    leave_request()
    asyncio.run(inventory.get("/"))
    assert "x-request-id" not in leaf.calls[-1].headers
    assert int(leaf.calls[-1].headers["x-envoy-expected-rq-timeout-ms"]) > 10_000


def test_a_request_whose_time_is_over_sends_nothing(start: Start) -> None:
    leaf, inventory = start(says(answer(200, b"ok")))
    request = begin(-1.0)
    with pytest.raises(DeadlineExceeded):
        inventory.sync.get("/")
    assert leaf.calls == []
    assert (request.retry_after_s, request.has_no_retry) == (1, True)


def test_an_error_that_the_app_meets_is_told_to_the_worker(start: Start) -> None:
    leaf, inventory = start(says(answer(503, b"", "x-headway-answered: unavailable", "retry-after: 3")))
    request = begin(15.0)
    assert inventory.sync.get("/", fallback=None) is None
    assert request.retry_after_s == 0  # the app was given something else
    with pytest.raises(Unavailable):
        inventory.sync.get("/")
    assert (request.retry_after_s, request.has_no_retry) == (3, True)
    assert ("x-headway-answered", "no-retry") in request.told_to_come_again()
    for status, retry_after_s in ((503, 9), (404, 0)):
        request = begin(15.0)
        leaf.do = says(answer(status, b"", "retry-after: 9"))
        with pytest.raises(StatusError):
            asyncio.run(inventory.post("/")).raise_for_status()
        assert (request.retry_after_s, request.has_no_retry) == (retry_after_s, False)


def test_what_was_tried_behind_a_service_is_not_tried_again_before_it(start: Start) -> None:
    leaf, inventory = start(says(answer(503, b"", "x-headway-answered: no-retry", "retry-after: 2")))
    request = begin(15.0)
    with pytest.raises(StatusError):
        inventory.sync.get("/").raise_for_status()
    assert len(leaf.calls) == 1
    assert (request.retry_after_s, request.has_no_retry) == (2, True)
