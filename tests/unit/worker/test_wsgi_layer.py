"""The layer around a WSGI app, called without a server: what it counts, refuses, drops and passes on."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headway.model.overload import Counts
from headway.runtimes.local.counts import read_counts
from headway.worker import asked, telemetry
from headway.worker.tally import SAMPLE_EVERY
from headway.worker.telemetry import Slot
from headway.worker.wsgi import Layer

LATER_MS = 4_000_000_000_000  # in 2096


def ok(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


class Place:
    """A layer on counters of its own."""

    def __init__(self, folder: Path, app: Any = ok, streams_max: int = 2, threads: int = 4) -> None:
        self.slots = telemetry.create(str(folder / "web.1.tele"))
        self.layer = Layer(app, self.slots, body_max_bytes=10, streams_max=streams_max, threads=threads)
        self.environ: dict[str, Any] = {}

    def counts(self) -> Counts:
        self.layer.pulse()
        counts = read_counts(self.slots)
        assert counts is not None
        return counts

    def ask(self, origin: str | None = None, path: str = "/", **more: Any) -> tuple[str, list[Any], Any]:
        """Status, headers and the body as the server gets it."""
        started: list[Any] = []
        environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", **more}
        if origin is not None:
            environ["HTTP_X_HEADWAY_FROM"] = origin
        self.environ = environ
        body = self.layer(environ, lambda status, headers, exc_info=None: started.extend((status, headers)))
        return started[0], started[1], body


def origin(number: int = 0, flag: str = "-", due_ms: object = LATER_MS) -> str:
    return f"https 10.0.0.7 51234 {flag} {number} {due_ms}"


@pytest.mark.parametrize("value", [origin(), "https 10.0.0.7 51234", "https 10.0.0.7 51234 stream"])
def test_the_header_is_taken_out_and_says_who_asks(tmp_path: Path, value: str) -> None:
    place = Place(tmp_path)
    place.counts()
    assert place.ask(value)[0] == "200 OK"
    assert (place.environ["REMOTE_ADDR"], place.environ["REMOTE_PORT"]) == ("10.0.0.7", "51234")
    assert (place.environ["wsgi.url_scheme"], place.environ["HTTPS"]) == ("https", "on")
    assert "HTTP_X_HEADWAY_FROM" not in place.environ


def test_a_header_that_cannot_be_read_is_as_if_absent(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for value in ("", "x", "http a", "http a b - 0 1"):
        assert place.ask(value)[0] == "200 OK"
        assert set(place.environ) == {"PATH_INFO", "REQUEST_METHOD"}
    assert place.counts().classes[0].completed == 4


def test_what_is_past_its_deadline_is_not_begun(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.counts()
    now_ms = time.time_ns() // 1_000_000
    assert place.ask(origin(3, due_ms=now_ms - 1))[0] == "503 Service Unavailable"
    for due_ms in (now_ms + 10_000, "-", "soon", "9" * 5000):
        assert place.ask(origin(3, due_ms=due_ms))[0] == "200 OK"
    counts = place.counts().classes[3]
    assert (counts.dropped, counts.in_flight) == (1, 0)


def test_a_wall_clock_that_was_set_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path)
    place.counts()
    true_ns, step_ns = time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + step_ns)
    step_ns = -3_600_000_000_000
    # Stamped by the new clock before the pulse has seen it.
    assert place.ask(origin(due_ms=time.time_ns() // 1_000_000 + 1000))[0] == "200 OK"
    step_ns = 3_600_000_000_000
    place.counts()
    # From before the step.
    assert place.ask(origin(due_ms=true_ns() // 1_000_000 + 1000))[0] == "200 OK"
    assert place.counts().classes[0].dropped == 0


def test_classes_count_apart_and_to_the_end_of_the_body(tmp_path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/raise":
            raise ValueError("of the app")
        start_response("503 Busy" if path == "/busy" else "200 OK", [])
        return [b""] if path != "/pieces" and path != "/broken" else pieces(path)

    def pieces(path: str) -> Iterable[bytes]:
        yield b"one"
        time.sleep(0.03)
        if path == "/broken":
            raise ValueError("of the body")

    place = Place(tmp_path, app)
    place.ask(None)
    place.ask(origin(1), "/busy")
    with pytest.raises(ValueError, match="of the app"):
        place.ask(origin(1), "/raise")
    body = place.ask(origin(2), "/pieces")[2]
    assert place.counts().classes[2].in_flight == 1
    assert list(body) == [b"one"]
    body.close()
    body.close()
    body = place.ask(origin(3), "/broken")[2]
    with pytest.raises(ValueError, match="of the body"):
        list(body)
    body.close()
    counts = place.counts()
    assert [(one.completed, one.failed) for one in counts.classes[:4]] == [(1, 0), (0, 2), (1, 0), (0, 1)]
    assert all(one.in_flight == 0 for one in counts.classes)
    assert counts.classes[2].service_s >= 0.03
    assert (place.slots[Slot.COMPLETED], place.slots[Slot.FAILED], place.slots[Slot.IN_FLIGHT]) == (5, 2, 0)


def test_the_cap_holds_without_streams(tmp_path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return iter([b"open until closed"])

    place = Place(tmp_path, app)
    place.slots[Slot.CAP] = 1
    streams = [place.ask(origin(0, "stream"))[2] for _ in range(2)]
    held = place.ask(origin(2))[2]
    for number in (0, 2):
        status, headers, _body = place.ask(origin(number))
        assert status.startswith("503")
        assert ("retry-after", "1") in headers
        assert ("x-headway-answered", "refused") in headers
    assert place.ask(origin(0, "stream"))[0].startswith("503")  # by the bound on streams
    counts = place.counts()
    assert [counts.classes[number].refused for number in (0, 2)] == [1, 1]
    assert (place.slots[Slot.IN_FLIGHT], place.slots[Slot.STREAMS]) == (3, 2)
    held.close()
    place.ask(origin(2))[2].close()
    for stream in streams:
        stream.close()
    counts = place.counts()
    assert [(one.completed, one.failed, one.in_flight) for one in counts.classes[:3]] == [
        (0, 0, 0),
        (0, 0, 0),
        (2, 0, 0),
    ]
    assert (place.slots[Slot.IN_FLIGHT], place.slots[Slot.STREAMS]) == (0, 0)


def test_what_nobody_waits_for_is_not_run(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.counts()
    past_ms = int(time.time() * 1000) - 1
    for flag in ("-", "stream"):
        status, headers, body = place.ask(origin(3, flag, past_ms))
        assert status.startswith("503")
        assert ("retry-after", "1") in headers
        assert ("x-headway-answered", "deadline") in headers
        assert body == [b"nobody waits for this any more\n"]
    assert place.ask(origin(3))[0] == "200 OK"
    counts = place.counts().classes[3]
    assert (counts.dropped, counts.completed) == (2, 1)


def test_a_chunked_body_that_grows_too_large_is_answered_by_413(tmp_path: Path) -> None:
    place = Place(tmp_path)
    more = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": io.BytesIO(b"x" * 11)}
    assert place.ask(origin(1), **more)[0].startswith("413")
    counts = place.counts().classes[1]
    assert (counts.completed, counts.failed, counts.in_flight) == (1, 0, 0)


def test_one_request_in_so_many_is_sampled_for_its_route(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for turn in range(SAMPLE_EVERY * 40):
        place.ask(origin(), "/even/7" if turn % 2 else "/odd")
    assert {route.prefix: route.samples for route in place.counts().routes} == {"/even": 20, "/odd": 20}


def test_no_count_is_lost_between_threads(tmp_path: Path) -> None:
    place = Place(tmp_path)
    stop = threading.Event()

    def pulse() -> None:
        while not stop.is_set():
            place.layer.pulse()

    pulsing = threading.Thread(target=pulse)
    pulsing.start()
    with ThreadPoolExecutor(4) as threads:
        for asked in [threads.submit(place.ask, origin(turn % 8)) for turn in range(4000)]:
            assert asked.result()[0] == "200 OK"
    stop.set()
    pulsing.join()
    assert [(one.completed, one.in_flight) for one in place.counts().classes] == [(500, 0)] * 8


def test_a_request_that_found_no_room_in_its_database_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "is_used", True)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/broken":
            asked.come_again(1, environ["PATH_INFO"] == "/spent")
        if environ["PATH_INFO"] == "/passed":
            asked.current.get().retry_after_s = 0
            asked.no_retry()
            start_response("502 Bad Gateway", [])
            return [b"oh"]
        start_response("500 Internal Server Error", [("content-type", "text/plain")])
        return [b"oh"]

    place = Place(tmp_path, app)
    answers = [place.ask(path=path) for path in ("/busy", "/broken", "/spent", "/passed")]
    assert [answer[0][:3] for answer in answers] == ["503", "500", "503", "502"]
    assert ("retry-after", "1") in answers[0][1]
    assert [("x-headway-answered", "no-retry") in answer[1] for answer in answers] == [False, False, True, True]


def test_an_app_that_lets_such_an_error_through_is_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "is_used", True)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/begun":
            start_response("200 OK", [])
        if environ["PATH_INFO"] != "/broken":
            asked.come_again(2)
        raise KeyError("no room")

    place = Place(tmp_path, app)
    busy = place.ask(path="/busy")
    assert (busy[0][:3], ("retry-after", "2") in busy[1]) == ("503", True)
    for path in ("/broken", "/begun"):
        with pytest.raises(KeyError):
            place.ask(path=path)
    place.layer.pulse()
    assert place.counts().classes[0].failed == 3


def test_an_answer_that_is_no_body_gives_its_place_back(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda environ, start_response: None)
    for _ in range(3):
        with pytest.raises(TypeError):
            place.ask(origin())
    counts = place.counts().classes[0]
    assert (counts.in_flight, counts.failed) == (0, 3)
