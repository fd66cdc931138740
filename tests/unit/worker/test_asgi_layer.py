"""The layer around an ASGI app, called without a server: what it counts, refuses, drops and passes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from headway.model.overload import Counts
from headway.runtimes.local.counts import read_counts
from headway.worker import asked, telemetry
from headway.worker.asgi import Layer
from headway.worker.tally import SAMPLE_EVERY
from headway.worker.telemetry import Slot

Message = dict[str, Any]
LATER_MS = 4_000_000_000_000  # in 2096
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


async def ok(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": scope["path"].encode()})


class Place:
    """A layer on counters of its own; requests are asked one by one."""

    def __init__(self, folder: Path, app: Any = ok, streams_max: int = 2) -> None:
        self.slots = telemetry.create(str(folder / "web.1.tele"))
        self.layer = Layer(app, self.slots, body_max_bytes=10, streams_max=streams_max, failed=pytest.fail)
        self.scopes: list[Message] = []

    def beat(self) -> Counts:
        """What the loop does every 100 ms, now."""
        loop = asyncio.get_running_loop()
        self.layer._beat(loop)
        counts = read_counts(self.slots)
        assert counts is not None
        return counts

    async def ask(self, origin: bytes | None = None, path: str = "/", body: bytes = b"") -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"x")] + ([(b"x-headway-from", origin)] if origin is not None else [])
        method = "POST" if body else "GET"
        scope = {"type": "http", "method": method, "path": path, "scheme": "http", "client": None, "headers": headers}
        self.scopes.append(scope)
        await self.layer(scope, receive, send)
        return sent


def origin(number: int = 0, flag: str = "-", due_ms: object = LATER_MS) -> bytes:
    return f"https 10.0.0.7 51234 {flag} {number} {due_ms}".encode()


def status(sent: list[Message]) -> int:
    found: int = sent[0]["status"]
    return found


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_the_header_is_taken_out_and_says_who_asks(tmp_path: Path) -> None:
    async def test() -> None:
        place = Place(tmp_path)
        for value in (origin(), origin(), b"https 10.0.0.7 51234", b"https 10.0.0.7 51234 stream"):
            assert status(await place.ask(value)) == 200
            assert place.scopes[-1]["client"] == ("10.0.0.7", 51234)
            assert place.scopes[-1]["scheme"] == "https"
            assert place.scopes[-1]["headers"] == [(b"host", b"x")]

    run(test)


@pytest.mark.parametrize("value", [b"", b"x", b"http a", b"http a b - 0 1", b"http a 1 - 99 1", b"\xff\xfe 1 2 3 4 5"])
def test_a_header_that_cannot_be_read_is_as_if_absent(tmp_path: Path, value: bytes) -> None:
    async def test() -> None:
        place = Place(tmp_path)
        place.beat()
        for _ in range(2):
            assert status(await place.ask(value)) == 200
            assert place.scopes[-1]["client"] is None
            assert place.scopes[-1]["headers"] == [(b"host", b"x")]
        assert place.beat().classes[0].completed == 2

    run(test)


def test_classes_count_apart(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["path"] == "/raise":
            raise ValueError("of the app")
        if scope["path"] == "/slow":
            await asyncio.sleep(0.03)
        await send({**START, "status": int(scope["path"][1:]) if scope["path"][1:].isdecimal() else 200})
        await send({"type": "http.response.body", "body": b""})

    async def test() -> None:
        place = Place(tmp_path, app)
        await place.ask(None, "/200")
        await place.ask(origin(0), "/404")
        await place.ask(origin(2), "/slow")
        await place.ask(origin(2), "/503")
        with pytest.raises(ValueError, match="of the app"):
            await place.ask(origin(7), "/raise")
        counts = place.beat()
        assert [(one.completed, one.failed) for one in counts.classes] == [
            (2, 0), (0, 0), (1, 1), (0, 0), (0, 0), (0, 0), (0, 0), (0, 1)
        ]  # fmt: skip
        slow = counts.classes[2]
        assert 0.03 <= slow.service_s < 60
        bucket = slow.histogram.index(1)
        assert 2 ** (bucket - 1) * 1.024e-6 <= slow.service_s < 2**bucket * 1.024e-6
        assert place.slots[Slot.COMPLETED] == 5
        assert place.slots[Slot.FAILED] == 1
        assert all(one.in_flight == 0 for one in counts.classes)

    run(test)


def slow_body(pieces: list[bytes], every_s: float) -> Any:
    """A `receive` of a sender that takes its time."""
    left = list(pieces)

    async def receive() -> Message:
        await asyncio.sleep(every_s)
        piece = left.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    return receive


@pytest.mark.parametrize(("every_s", "grace_s", "status"), [(0.03, 5.0, 200), (0.5, 0.15, 408)])
def test_a_body_that_dribbles_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, grace_s: float, status: int
) -> None:
    monkeypatch.setattr("headway.worker.asgi._BODY_GRACE_S", grace_s)
    monkeypatch.setattr("headway.worker.asgi._BODY_MIN_PER_S", 10.0)
    seen: list[bytes] = []

    async def reads(scope: Message, receive: Any, send: Any) -> None:
        while (message := await receive()).get("more_body"):
            seen.append(message["body"])
            await asyncio.sleep(2.7)  # the app's own time is not the sender's
        await ok(scope, receive, send)

    async def main() -> None:
        place = Place(tmp_path, reads)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/", "scheme": "http", "client": None, "headers": []}
        await place.layer(scope, slow_body([b"a", b"b", b"c"], every_s), send)
        assert sent[0]["status"] == status
        counts = place.beat().classes[0]
        assert counts.in_flight == 0
        assert counts.failed == 0, "that is no failure of the app"
        assert counts.completed == (status == 200)

    asyncio.run(main())
    assert len(seen) == (2 if status == 200 else 0)


def test_a_body_that_grows_too_large_is_answered_by_413_and_counted(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        raise AssertionError("never reached")

    async def test() -> None:
        place = Place(tmp_path, app)
        assert status(await place.ask(origin(1), body=b"more than ten bytes")) == 413
        counts = place.beat().classes[1]
        assert (counts.completed, counts.failed, counts.in_flight) == (1, 0, 0)

    run(test)


def test_the_cap_holds_over_all_classes_and_without_streams(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await go.wait()
        await ok(scope, receive, send)

    async def test() -> None:
        place = Place(tmp_path, app)
        place.slots[Slot.CAP] = 2
        place.beat()
        held = [asyncio.create_task(place.ask(origin(0, "stream"))) for _ in range(2)]
        held += [asyncio.create_task(place.ask(origin(number))) for number in (0, 1)]
        await asyncio.sleep(0)
        counts = place.beat()
        assert [one.in_flight for one in counts.classes[:2]] == [1, 1]
        assert (place.slots[Slot.IN_FLIGHT], place.slots[Slot.STREAMS]) == (4, 2)
        refused = await place.ask(origin(1))
        assert status(refused) == 503
        assert (b"retry-after", b"1") in refused[0]["headers"]
        assert (b"x-headway-answered", b"refused") in refused[0]["headers"]
        assert status(await place.ask(origin(0, "stream"))) == 503  # by the bound on streams
        place.slots[Slot.CAP] = 3  # heard at once where it matters
        held.append(asyncio.create_task(place.ask(origin(1))))
        await asyncio.sleep(0)
        go.set()
        assert [status(sent) for sent in await asyncio.gather(*held)] == [200] * 5
        counts = place.beat()
        assert [(one.completed, one.refused, one.in_flight) for one in counts.classes[:2]] == [(1, 0, 0), (2, 1, 0)]
        assert (place.slots[Slot.IN_FLIGHT], place.slots[Slot.STREAMS], place.slots[Slot.COMPLETED]) == (0, 0, 5)

    run(test)


def test_what_nobody_waits_for_is_not_run(tmp_path: Path) -> None:
    async def test() -> None:
        place = Place(tmp_path)
        place.beat()
        past_ms = int(time.time() * 1000) - 1
        for flag in ("-", "stream"):
            dropped = await place.ask(origin(3, flag, past_ms))
            assert status(dropped) == 503
            assert (b"retry-after", b"1") in dropped[0]["headers"]
            assert (b"x-headway-answered", b"deadline") in dropped[0]["headers"]
            assert dropped[1]["body"] == b"nobody waits for this any more\n"
        for due in (LATER_MS, "-", "", "soon", "9" * 5000):
            assert status(await place.ask(origin(3, due_ms=due))) == 200
        counts = place.beat().classes[3]
        assert (counts.dropped, counts.completed, counts.failed) == (2, 5, 0)

    run(test)


def test_a_wall_clock_that_was_set_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        place = Place(tmp_path)
        place.beat()
        true_ns, step_ns = time.time_ns, 0
        monkeypatch.setattr(time, "time_ns", lambda: true_ns() + step_ns)
        step_ns = -3_600_000_000_000
        stamped = origin(due_ms=time.time_ns() // 1_000_000 + 1000)  # by the new clock, before the beat has seen it
        assert status(await place.ask(stamped)) == 200
        step_ns = 3_600_000_000_000
        place.beat()
        waiting = origin(due_ms=true_ns() // 1_000_000 + 1000)  # from before the step
        assert status(await place.ask(waiting)) == 200

    run(test)


def test_one_request_in_so_many_is_sampled_for_its_route(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        scope["path"] = "/rewritten"
        await ok(scope, receive, send)

    async def test() -> None:
        place = Place(tmp_path, app)
        for turn in range(SAMPLE_EVERY * 40):
            await place.ask(origin(), "/even/7" if turn % 2 else "/odd")
        routes = {route.prefix: route.samples for route in place.beat().routes}
        assert routes == {"/even": 20, "/odd": 20}

    run(test)


def test_a_late_beat_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        place = Place(tmp_path)
        place.beat()
        time.sleep(0.25)  # the loop is blocked
        assert 0.14 < place.beat().lag_s < 60
        assert any(place.beat().lag_s == 0 for _ in range(100))

    run(test)


def test_an_apps_own_transfer_encoding_is_left_out(tmp_path: Path) -> None:
    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"Transfer-Encoding", b"chunked"), (b"a", b"b")]})

    async def test() -> None:
        place = Place(tmp_path, app)
        for flag in ("-", "stream"):
            assert (await place.ask(origin(flag=flag)))[0]["headers"] == [(b"a", b"b")]

    run(test)


def test_a_request_that_found_no_room_in_its_database_is_told_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A framework answers 500 to what it does not know; the client of the database has said what it is."""
    monkeypatch.setattr(asked, "is_used", True)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        async def in_a_task_of_its_own() -> None:
            if scope["path"] != "/broken":
                asked.come_again(1, scope["path"] == "/spent")

        if not asked.is_used:
            asked.current.set(None)
        await asyncio.create_task(in_a_task_of_its_own())
        if scope["path"] == "/passed":
            asked.no_retry()
        await send({**START, "status": 504 if scope["path"] == "/passed" else 500})
        await send({"type": "http.response.body", "body": b"oh"})

    async def use() -> None:
        place = Place(tmp_path, app)
        passed = (await place.ask(path="/passed"))[0]
        assert (passed["status"], (b"x-headway-answered", b"no-retry") in passed["headers"]) == (504, True)
        busy, broken, spent = await asyncio.gather(*(place.ask(path=path) for path in ("/busy", "/broken", "/spent")))
        assert busy[0]["status"] == 503
        assert (b"retry-after", b"1") in busy[0]["headers"]
        assert b"x-headway-answered" not in dict(busy[0]["headers"])
        assert broken[0] == {**START, "status": 500}
        marked = (b"x-headway-answered", b"no-retry")
        assert [marked in answer[0].get("headers", ()) for answer in (busy, spent)] == [False, True]
        # What is not asked about is not taken note of.
        monkeypatch.setattr(asked, "is_used", False)
        assert (await place.ask(path="/busy"))[0]["status"] == 500

    asyncio.run(use())


def test_an_app_that_lets_such_an_error_through_is_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "is_used", True)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["path"] == "/begun":
            await send(START)
        if scope["path"] != "/broken":
            asked.come_again(2)
        raise KeyError("no room")

    async def use() -> None:
        place = Place(tmp_path, app)
        busy = await place.ask(path="/busy")
        assert (busy[0]["status"], (b"retry-after", b"2") in busy[0]["headers"]) == (503, True)
        for path in ("/broken", "/begun"):  # the server makes 500 of it, or cuts what has begun
            with pytest.raises(KeyError):
                await place.ask(path=path)
        assert place.beat().classes[0].failed == 3

    run(use)


def test_how_long_somebody_waits_is_known_to_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "is_used", True)
    left_s: list[float] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        request = asked.current.get()
        assert request is not None
        left_s.append((request.due_ns - time.monotonic_ns()) / 1e9)
        await ok(scope, receive, send)

    async def use() -> None:
        place = Place(tmp_path, app)
        place.beat()
        await place.ask(origin(due_ms=int(time.time() * 1000) + 5000))
        await place.ask()

    asyncio.run(use())
    assert 4 < left_s[0] <= 5.1
    assert left_s[1] > 1e6
