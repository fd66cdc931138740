"""Spans of requests: who is within whom, over tasks and threads, and what of them is written."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headway.context import asked as context
from headway.context import span_log, trace
from headway.errors import DatabaseBusy
from headway.model.span import Span, read_span
from headway.worker import asked

TRACE_ID, OUTSIDE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = [(b"traceparent", f"00-{TRACE_ID}-{OUTSIDE}-01".encode()), (b"x-request-id", b"order-7")]


class Kept:
    """A log of spans, read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = span_log.SpanLog(str(path))

    def documents(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [json.loads(line) for line in self.path.read_bytes().splitlines()] if self.path.exists() else []

    def by_name(self) -> dict[str, Span]:
        found = [read_span(document) for document in self.documents()]
        return {span.name: span for span in found if span is not None}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    found = Kept(tmp_path / "web.1.jsonl")
    monkeypatch.setattr(trace, "_log", found.log)
    monkeypatch.setattr(trace, "_service", "web")
    monkeypatch.setattr(trace, "_replica", "web.1")
    monkeypatch.setitem(sys.modules, "headway_worker.asked", asked)
    monkeypatch.setattr(asked, "is_used", True)
    yield found
    asked.current.set(None)


def request(headers: Any = HEADERS) -> asked.Asked:
    return asked.begin(1 << 60, 0, headers)


def test_spans_are_within_each_other_and_within_the_service(kept: Kept) -> None:
    now = request()
    with trace.span("outer", "call", target="inventory") as outer:
        assert outer.traceparent.startswith(f"00-{TRACE_ID}-")
        assert outer.traceparent.endswith("-01")
        with trace.span("inner", "database"):
            pass
    with trace.span("next"):
        pass
    asked.left(now, 200)
    found = kept.by_name()
    service = found["web"]
    assert (service.kind, service.parent, service.trace, service.request) == ("service", OUTSIDE, TRACE_ID, "order-7")
    assert service.attributes == {"http.response.status_code": 200}
    assert found["outer"].parent == found["next"].parent == service.id
    assert found["inner"].parent == found["outer"].id == outer.traceparent.split("-")[2]
    assert found["outer"].attributes == {"target": "inventory"}
    assert all(span.trace == TRACE_ID and span.replica == "web.1" and span.is_sampled for span in found.values())
    assert service.begin_ns <= found["outer"].begin_ns <= found["inner"].begin_ns
    assert service.end_ns >= found["next"].end_ns


def test_a_request_without_spans_leaves_nothing(kept: Kept) -> None:
    asked.left(request(), 200)
    assert kept.documents() == []


def test_outside_of_a_request_nothing_is_kept(kept: Kept) -> None:
    with trace.span("alone") as alone:
        alone.set(a=1)
        alone.fail("never told")
        assert alone.traceparent == ""
    request()
    context.leave_request()
    assert context.carried() == {}
    with trace.span("background"):
        pass
    assert kept.documents() == []


def test_tasks_and_threads_of_a_request_are_within_it(kept: Kept) -> None:
    async def work() -> None:
        request()

        async def child(name: str) -> None:
            with trace.span(name):
                await asyncio.sleep(0)

        with trace.span("outer"):
            await asyncio.gather(child("one"), child("two"))
            await asyncio.to_thread(lambda: trace.span("thread").end())

    asyncio.run(work())
    found = kept.by_name()
    assert {found[name].parent for name in ("one", "two", "thread")} == {found["outer"].id}


def test_requests_at_once_do_not_mix(kept: Kept) -> None:
    async def one(number: int) -> None:
        request([(b"x-request-id", b"r%d" % number)])
        with trace.span(f"outer {number}"):
            await asyncio.sleep(0)
            with trace.span(f"inner {number}"):
                await asyncio.sleep(0)

    async def work() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(work())
    found = kept.by_name()
    for number in range(20):
        outer, inner = found[f"outer {number}"], found[f"inner {number}"]
        assert (inner.parent, inner.trace, inner.request) == (outer.id, outer.trace, f"r{number}")
    assert len({span.trace for span in found.values()}) == 20


def test_blocks_that_end_in_another_order_are_nobodys_parents(kept: Kept) -> None:
    request()
    first, second = trace.span("first"), trace.span("second")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with trace.span("within second"):
        pass
    second.__exit__(None, None, None)
    with trace.span("after"):
        pass
    found = kept.by_name()
    assert found["within second"].parent == found["second"].id
    assert found["after"].parent == found["first"].parent


def test_failures_are_told_without_what_may_be_stored(kept: Kept) -> None:
    now = request()
    with pytest.raises(DatabaseBusy), trace.span("ours"):
        raise DatabaseBusy("database main: all 4 places are taken", hint="later")
    with pytest.raises(ValueError), trace.span("theirs"):
        raise ValueError("Key (email)=(ada@example.org) already exists")
    said = trace.span("said")
    said.fail("circuit open")
    said.__exit__(ValueError, ValueError(), None)
    asked.left(now, 503)
    found = kept.by_name()
    assert found["ours"].failure == "DatabaseBusy: database main: all 4 places are taken"
    assert found["theirs"].failure == "ValueError"
    assert found["said"].failure == "circuit open"
    assert found["web"].failure == "answered 503"


def test_waiting_is_told_and_an_end_counts_once(kept: Kept) -> None:
    request()
    span = trace.span("database", "database")
    span.waited()
    span.end()
    span.fail("too late")
    span.end()
    (document,) = kept.documents()
    assert "failure" not in document
    assert document["attributes"]["waited_ms"] >= 0


def test_the_spans_of_one_request_are_bounded(kept: Kept) -> None:
    now = request()
    for _ in range(trace.SPANS_MAX + 7):
        trace.span("many").end()
    asked.left(now, 200)
    assert len(kept.documents()) == trace.SPANS_MAX + 1
    assert kept.by_name()["web"].attributes["spans_left_out"] == 7


def test_what_is_not_to_be_sampled_says_so(kept: Kept) -> None:
    request([(b"traceparent", f"00-{TRACE_ID}-{OUTSIDE}-00".encode())])
    with trace.span("one") as one:
        assert one.traceparent.endswith("-00")
    assert not kept.by_name()["one"].is_sampled


def test_an_app_that_seeds_chance_gets_no_ids_twice(kept: Kept) -> None:
    import random

    request()
    random.seed(1)
    one = trace.span("one").traceparent
    random.seed(1)
    assert trace.span("two").traceparent != one


def test_what_cannot_be_written_is_counted_and_told_later(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "web.1.jsonl"
    log = span_log.SpanLog(str(path))
    log.add({"name": "lost"})
    log.flush()
    path.parent.mkdir()
    log.add({"name": "kept"})
    log.flush()
    first, told = (json.loads(line) for line in path.read_bytes().splitlines())
    assert first == {"name": "kept"}
    assert told["dropped"] == 1


def test_a_full_disk_loses_spans_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "web.1.jsonl"
    path.symlink_to("/dev/full")
    log = span_log.SpanLog(str(path))
    for _ in range(3):
        log.add({"name": "lost"})
        log.flush()
    path.unlink()
    log.add({"name": "kept"})
    log.flush()
    first, told = (json.loads(line) for line in path.read_bytes().splitlines())
    assert first == {"name": "kept"}
    assert told["dropped"] == 3


def test_a_text_that_is_none_is_written_as_far_as_it_is_one_and_ends_nothing(tmp_path: Path) -> None:
    """Half of a surrogate pair: JSON from a client brings it, and no encoding of text has it."""
    path = tmp_path / "web.1.jsonl"
    log = span_log.SpanLog(str(path))
    path.touch()
    for name in ("/stock/\ud800", "after it"):
        log.add({"name": name})
        until_s = time.monotonic() + 60
        while name[:7] not in path.read_text():  # by the thread
            assert time.monotonic() < until_s
            time.sleep(0.01)
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"name": "/stock/?"}, {"name": "after it"}]


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = span_log.SpanLog(str(tmp_path / "web.1.jsonl"))
    monkeypatch.setattr(log, "_wake", lambda: None)  # nobody writes
    for number in range(span_log.QUEUE_MAX + 5):
        log.add({"n": number})
    log.flush()
    lines = (tmp_path / "web.1.jsonl").read_bytes().splitlines()
    assert json.loads(lines[-1]) == {"n": span_log.QUEUE_MAX - 1}
    assert sum(json.loads(line).get("dropped", 0) for line in lines) == 5


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_log, "FILE_MAX_BYTES", 4 << 20)
    log = span_log.SpanLog(str(tmp_path / "web.1.jsonl"))
    for number in range(12_000):
        log.add({"number": number, "filling": "x" * 1000})
        if not number % 500:
            log.flush()
    log.flush()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes.keys() == {"web.1.jsonl", "web.1.jsonl.1"}
    assert all(size < span_log.FILE_MAX_BYTES * 1.5 for size in sizes.values())


def test_a_full_file_is_put_aside_by_one_of_those_who_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_log, "FILE_MAX_BYTES", 40)
    path = tmp_path / "web.1.jsonl"
    one, other = span_log.SpanLog(str(path)), span_log.SpanLog(str(path))
    for log in (one, other):
        monkeypatch.setattr(log, "_wake", lambda: None)  # each writes when it is told
    opens = os.open

    def the_other_is_quicker(*arguments: Any) -> int:
        monkeypatch.setattr(os, "open", opens)
        fd = opens(*arguments)
        for name in ("second, which fills it: " + "x" * 40, "third"):
            other.add({"name": name})
            other.flush()
        return fd

    monkeypatch.setattr(os, "open", the_other_is_quicker)
    one.add({"name": "first"})
    one.flush()
    one.add({"name": "fourth"})
    one.flush()
    files = (path.with_name("web.1.jsonl.1"), path)
    told = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
    assert [document["name"][:6] for document in told] == ["second", "first", "third", "fourth"]


def test_it_is_written_without_being_asked_and_goes_on_after_a_fork(tmp_path: Path) -> None:
    path = tmp_path / "web.1.jsonl"
    log = span_log.SpanLog(str(path))
    log.add({"name": "parent"})
    child = os.fork()
    if not child:
        log.add({"name": "child"})
        log.flush()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in range(1200):
        if path.read_bytes().count(b"\n") == 2:
            break
        time.sleep(0.05)
    assert sorted(json.loads(line)["name"] for line in path.read_bytes().splitlines()) == ["child", "parent"]


def test_what_is_written_is_read_as_it_was() -> None:
    span = Span(
        "t" * 32, "s" * 16, "", "r", "web", "service", 5, 7, "failed", "web", "web.1", False, {"a": 1, "b": "x"}
    )
    assert read_span(json.loads(json.dumps(span.document()))) == span
    bare = Span("t" * 32, "s" * 16, "p" * 16, "r", "web", "service", 5, 7)
    assert read_span(bare.document()) == bare
    short = {key: value for key, value in span.document().items() if key not in ("request", "service", "status")}
    assert read_span(short) == replace(span, request="t" * 32)


@pytest.mark.parametrize("wrong", [None, 7, [], {}, {"dropped": 3}, {"trace": 1}])
def test_what_is_no_span_is_none(wrong: Any) -> None:
    assert read_span(wrong) is None
    good = Span("t" * 32, "s" * 16, "", "r", "web", "service", 5, 7).document()
    assert read_span({**good, "begin_ns": "5"}) is None
    assert read_span({**good, "duration_ns": -1}) is None
    assert read_span({**good, "attributes": 5}) is None
    assert read_span({**good, "name": ["web"]}) is None


def test_a_context_without_a_worker_is_no_request(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "headway_worker.asked")

    def alone() -> str:
        with trace.span("alone") as span:
            return span.traceparent

    assert contextvars.copy_context().run(alone) == ""
    assert kept.documents() == []
