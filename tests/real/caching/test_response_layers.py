"""Kept responses on a real server, around both kinds of app: what is given, what passes, and what the app is asked."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cache_apps import PREFIX, Server
from response_apps import Client, Shop

from headway.worker import asked as worker

BOTH = pytest.mark.parametrize("kind", ["asgi", "wsgi"])


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 100))  # type: ignore[arg-type]


@BOTH
def test_the_second_is_given_with_its_age_and_tag(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop)
        await client.trusted()
        first, second = await client.get(), await client.get()
        assert (first.status, first.body, first.how, "age" in first.headers) == (200, b"1", "miss", False)
        assert (second.status, second.body, second.how) == (200, b"1", "hit")
        assert 0 <= int(second.headers["age"]) < 60
        assert client.kept
        assert first.headers["etag"] == second.headers["etag"]
        assert second.headers["content-type"] == "text/plain"
        assert second.headers["content-length"] == "1"
        assert (await client.get("/products/8")).body == b"2"
        assert (await client.get("/elsewhere")).how == ""
        unchanged = await client.get(headers={"if-none-match": f'"x", W/{first.headers["etag"]}'})
        assert (unchanged.status, unchanged.body, unchanged.how) == (304, b"", "hit")
        assert (await client.get(headers={"if-none-match": '"x"'})).status == 200
        head = await client.get(method="HEAD")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "1")
        assert shop.asked == 3

    run(test)


@BOTH
def test_another_process_finds_it_and_many_ask_once(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(takes_s=0.05)
        one, two = Client(kind, shop), Client(kind, shop)
        await one.trusted()
        await two.trusted()
        answers = await asyncio.gather(*(client.get() for client in (one, two) for _ in range(20)))
        assert {(each.status, each.body) for each in answers} == {(200, b"1")}
        assert shop.asked == 1
        assert (
            one.cache._rules["GET /products/{id}"].counts.loads + two.cache._rules["GET /products/{id}"].counts.loads
            == 1
        )

    run(test)


@BOTH
@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"cookie": "a=1"}, "GET"),
        ({"authorization": "Bearer x"}, "GET"),
        ({"range": "bytes=0-1"}, "GET"),
        ({"if-match": '"x"'}, "GET"),
        ({"if-unmodified-since": "Sun, 09 Sep 2001 01:46:40 GMT"}, "GET"),
        ({"accept": "text/event-stream"}, "GET"),
        ({"content-length": "3"}, "GET"),
        ({}, "POST"),
        ({}, "DELETE"),
    ],
)
def test_these_requests_go_past(server: Server, kind: str, headers: dict[str, str], method: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop)
        await client.get()
        passed = await client.get(headers=headers, method=method)
        assert (passed.body, passed.how, client.kept) == (b"2", "bypass", False)
        assert (await client.get()).body == b"1"
        assert client.cache._rules["GET /products/{id}"].counts.bypassed == 1

    run(test)


@BOTH
def test_head_takes_what_is_kept_and_keeps_nothing(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        one, two = Client(kind, shop), Client(kind, shop)
        await one.trusted()
        await two.trusted()
        for asked in (1, 2):  # nothing is kept: the app says, and it is kept neither for GET nor for HEAD
            head = await one.get(method="HEAD", headers={"if-none-match": '"x"'})
            assert (head.how, shop.asked, shop.seen[-1][0]) == ("bypass", asked, "HEAD")
            assert shop.seen[-1][2]["if-none-match"] == '"x"', "with all that the client said"
        first = await one.get()
        assert (first.how, first.body) == ("miss", b"3")
        for client in (one, two):  # from the process, and from the server
            for headers in ({}, {"range": "bytes=0-0"}, {"cache-control": "no-cache"}):
                head = await client.get(method="HEAD", headers=headers)
                assert (head.status, head.body, head.how) == (200, b"", "hit")
                assert head.headers == {**first.headers, "x-headway-cache": "hit", "age": head.headers["age"]}
                assert client.kept
            unchanged = await client.get(method="HEAD", headers={"if-none-match": first.headers["etag"]})
            assert (unchanged.status, unchanged.body, unchanged.how) == (304, b"", "hit")
        assert shop.asked == 3
        shop.headers["cache-control"] = "max-age=1, stale-while-revalidate=30"
        await one.get("/products/8")
        await asyncio.sleep(1.1)
        stale = await one.get("/products/8", method="HEAD")  # past its time it is given, and is no reason for another
        assert (stale.how, stale.headers["content-length"], shop.asked) == ("stale", "1", 4)

    run(test)


@BOTH
def test_head_asks_the_app_while_a_get_does_and_where_the_server_is_away(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(held=threading.Event())
        client = Client(kind, shop)
        await client.trusted()
        first = asyncio.ensure_future(client.get())
        while not shop.asked:
            await asyncio.sleep(0.01)
        assert (await client.get(method="HEAD")).how == "bypass"
        shop.held.set()
        assert (await first).body == b"1"
        server.send(signal.SIGKILL)
        head = await client.get("/products/8", method="HEAD")
        assert (head.status, head.how) == (200, "bypass")
        assert shop.asked == 3

    run(test)


@BOTH
def test_a_clients_own_cache_control_has_nobody_asked_more_often(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop)
        await client.trusted()
        for method in ("GET", "HEAD"):
            nothing = await client.get(method=method, headers={"cache-control": "only-if-cached"})
            assert (nothing.status, nothing.how, shop.asked, client.kept) == (504, "miss", 0, True)
            assert bool(nothing.body) is (method == "GET")
        first = await client.get(headers={"cache-control": "no-store"})
        assert (first.body, first.how) == (b"1", "miss")
        for control in ("no-store", "no-cache", "max-age=0", "min-fresh=999", "only-if-cached, no-cache"):
            answer = await client.get(headers={"cache-control": control, "pragma": "no-cache"})
            assert (answer.status, answer.body, answer.how) == (200, b"1", "hit")
        shop.headers["cache-control"] = "private"
        assert (await client.get("/products/8")).how == "bypass"
        alone = await client.get("/products/8", headers={"cache-control": "only-if-cached"})
        assert (alone.status, shop.asked) == (504, 2)

    run(test)


@BOTH
def test_a_client_that_has_it_already_is_told_so(server: Server, kind: str) -> None:
    async def test() -> None:
        then, later = "Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 02:00:00 GMT"
        shop = Shop(headers={"last-modified": then, "etag": '"a,b"', "content-type": "text/plain"})
        client = Client(kind, shop)
        await client.trusted()
        for how in ("miss", "hit"):  # the app is asked without the condition, so that there is something to keep
            unchanged = await client.get(headers={"if-none-match": '"x", "a,b"'})
            assert (unchanged.status, unchanged.body, unchanged.how) == (304, b"", how)
            assert "content-type" not in unchanged.headers
        assert (await client.get(headers={"if-modified-since": later})).status == 304
        assert (await client.get(headers={"if-modified-since": "Sun, 09 Sep 2001 01:00:00 GMT"})).status == 200
        assert (await client.get(headers={"if-modified-since": later, "if-none-match": '"x"'})).status == 200
        assert [list(headers) for _, _, headers in shop.seen] == [["host"]]

    run(test)


@BOTH
@pytest.mark.parametrize(
    "headers",
    [
        {"cache-control": "no-store"},
        {"cache-control": "private, max-age=60"},
        {"cache-control": "no-cache"},
        {"cache-control": "max-age=0"},
        {"set-cookie": "a=1"},
        {"vary": "*"},
        {"content-type": "text/event-stream"},
        {"content-length": "2000"},
    ],
)
def test_these_answers_are_for_one_client(server: Server, kind: str, headers: dict[str, str]) -> None:
    async def test() -> None:
        shop = Shop(headers=headers)
        client = Client(kind, shop)
        answers = [await client.get() for _ in range(3)]
        assert [each.body for each in answers] == [b"1", b"2", b"3"]
        assert {each.how for each in answers} == {"bypass"}
        assert all(each.headers[name] == value for each in answers for name, value in headers.items())

    run(test)


@BOTH
def test_a_body_over_the_bound_passes_whole(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(parts=(b"a" * 600, b"b" * 600, b"c"))
        client = Client(kind, shop)
        for _ in range(2):
            answer = await client.get()
            assert (answer.body, answer.how) == (b"a" * 600 + b"b" * 600 + b"c", "bypass")
        assert shop.asked == 2

    run(test)


def test_a_file_that_the_server_would_send_is_kept_within_the_bound(server: Server, tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "file"
        file.write_bytes(b"x" * 900)
        shop = Shop(file=str(file), headers={"content-type": "text/plain", "content-length": "900"})
        client = Client("asgi", shop)
        first, second = await client.get(), await client.get()
        assert (first.body, first.how, second.body, second.how) == (b"x" * 900, "miss", b"x" * 900, "hit")
        assert (await client.get(method="HEAD")).headers["content-length"] == "900"
        # What is too large, another than its head says, or not there is the server's matter, as without a cache.
        for path, stated in ((file, 901), (file, 899), (tmp_path / "gone", 5), (file, 5000)):
            shop.file, shop.headers["content-length"] = str(path), str(stated)
            answer = await client.get(f"/products/{path.name}{stated}")
            assert (answer.body, answer.how) == (f"file {path}".encode(), "bypass")

    run(test)


@BOTH
def test_that_something_is_not_there_is_kept_where_it_is_declared(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(status=404)
        client = Client(kind, shop, statuses=[200, 404])
        assert [(await client.get()).how for _ in range(2)] == ["miss", "hit"]

    run(test)


@BOTH
@pytest.mark.parametrize(
    ("status", "headers", "is_kept"),
    [
        (404, {}, False),
        (404, {"cache-control": "max-age=60"}, True),
        (404, {"cache-control": "no-store"}, False),
        (301, {"location": "/"}, False),
        (301, {"location": "/", "cache-control": "max-age=60"}, True),
        (204, {}, False),
        (302, {"location": "/"}, False),
        (302, {"location": "/", "cache-control": "max-age=60"}, True),
        (403, {}, False),
        (200, {"expires": "Thu, 01 Jan 1970 00:00:00 GMT"}, False),
    ],
)
def test_statuses(server: Server, kind: str, status: int, headers: dict[str, str], is_kept: bool) -> None:
    async def test() -> None:
        shop = Shop(status=status, headers=headers, parts=())
        client = Client(kind, shop)
        assert [(await client.get()).status for _ in range(2)] == [status] * 2
        assert shop.asked == (1 if is_kept else 2)

    run(test)


@BOTH
def test_vary_keeps_each_its_own(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(headers={"vary": "Accept-Language"})
        client = Client(kind, shop)
        await client.trusted()
        for _ in range(2):
            found = [(await client.get(headers={"accept-language": each})).body for each in ("de", "en", "fr")]
            assert found == [b"1", b"2", b"3"]
        assert (await client.get()).body == b"4"
        assert shop.asked == 4

    run(test)


@BOTH
def test_the_app_is_asked_with_what_is_in_the_key(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop, query=["page"], cookies="ignore")
        sent = {"cookie": "a=1", "if-none-match": '"x"', "accept-encoding": "zz, gzip;q=0.5, br"}
        await client.get("/products/7?utm=1&page=2&x=3", sent)
        (method, query, headers) = shop.seen[0]
        assert (method, query, headers) == ("GET", "page=2", {"host": "shop", "accept-encoding": "br, gzip"})
        assert (await client.get("/products/7?page=2&utm=9", {"cookie": "b=2"})).how == "hit"
        assert (await client.get("/products/7?page=3")).how == "miss"
        assert (await client.get("/products/7?page=2", host="other")).how == "miss"

    run(test)


@BOTH
def test_told_so_it_keeps_by_cookie_authorization_and_header(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop, cookies="vary", authorization="vary", vary=["X-Key"], host="ignore")
        kinds = [{"cookie": "a"}, {"cookie": "b"}, {"authorization": "a"}, {"x-key": "a"}, {"x-key": ""}, {}]
        for _ in range(2):
            assert [(await client.get(headers=each)).body for each in kinds] == [b"%d" % (n + 1) for n in range(6)]
        assert (await client.get(host="other")).body == b"6"
        keys = [key for key in server.ask("KEYS", "*") if b":v:" in key]
        assert len(keys) == 6
        assert not any(b"a'" in key or b"secret" in key for key in keys)

    run(test)


@BOTH
def test_invalidation_reaches_every_process(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        one, two = Client(kind, shop), Client(kind, shop)
        await one.trusted()
        await two.trusted()
        assert (await one.get()).body == (await two.get()).body == b"1"
        await two.cache.invalidate("product:8")
        assert (await two.get()).body == b"1"
        await two.cache.invalidate("product:7")
        assert (await two.get()).body == b"2"
        async with asyncio.timeout(60):
            while (await one.get()).body != b"2":
                await asyncio.sleep(0.001)
        assert shop.asked == 2

    run(test)


@BOTH
def test_tags_that_the_app_names_make_it_void_everywhere(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(headers={"cache-tag": "list, brand:ü, list"})
        one, two = Client(kind, shop), Client(kind, shop)
        await one.trusted()
        await two.trusted()
        assert (await one.get()).body == (await two.get()).body == (await one.get("/products/7")).body == b"1"
        assert "cache-tag" not in (await one.get()).headers
        for number, tag in enumerate(("list", "brand:ü", "product:7"), 2):
            await two.cache.invalidate("another", "product:8")
            assert (await two.get()).how == "hit"
            await two.cache.invalidate(tag)
            assert (await two.get()).body == b"%d" % number
            async with asyncio.timeout(60):
                while (await one.get()).body != b"%d" % number:
                    await asyncio.sleep(0.001)
        assert shop.asked == 4
        await one.get("/products/8")
        server.ask("DEL", f"{PREFIX}n")  # evicted: what comes from the counter must still be new
        await two.cache.invalidate("list")
        assert [(await two.get(path)).how for path in ("/products/7", "/products/8")] == ["miss", "miss"]

    run(test)


@BOTH
def test_what_was_made_void_while_the_app_answered_is_not_kept(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(headers={"cache-tag": "list"})
        one, two = Client(kind, shop), Client(kind, shop)
        await one.trusted()
        await two.trusted()
        for number, (tag, path) in enumerate((("list", "/products/1"), ("product:2", "/products/2"))):
            shop.held = threading.Event()
            answering = asyncio.ensure_future(one.get(path))
            while shop.asked <= 2 * number:
                await asyncio.sleep(0.01)
            await two.cache.invalidate(tag)
            shop.held.set()
            assert (await answering).how == "miss"
            assert (await two.get(path)).how == "miss"
            assert (await two.get(path)).how == "hit"

    run(test)


def test_an_answer_with_too_many_tags_passes(server: Server) -> None:
    async def test() -> None:
        shop = Shop(headers={"cache-tag": ",".join(map(str, range(17)))})
        client = Client("asgi", shop)
        found = [await client.get() for _ in range(2)]
        assert [each.how for each in found] == ["bypass", "bypass"]
        assert "cache-tag" not in found[0].headers

    run(test)


@BOTH
def test_stale_is_given_while_the_app_is_asked_once(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(headers={"cache-control": "max-age=1, stale-while-revalidate=30"})
        client = Client(kind, shop)
        await client.trusted()
        await client.get()
        await asyncio.sleep(1.1)
        shop.takes_s = 0.1
        stale = await client.get()
        assert (stale.body, stale.how) == (b"1", "stale")
        async with asyncio.timeout(60):
            while (await client.get()).body != b"2":
                await asyncio.sleep(0.01)
        assert shop.asked == 2
        shop.status = 500  # a refresh that fails leaves what there is
        await asyncio.sleep(1.1)
        for _ in range(5):
            assert (await client.get()).body == b"2"

    run(test)


@BOTH
def test_failures_are_those_of_the_app_and_not_kept(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop(status=500)
        client = Client(kind, shop)
        assert [((await client.get()).status, shop.asked) for _ in range(2)] == [(500, 1), (500, 2)]
        shop.raises = KeyError("of the app")
        with pytest.raises(KeyError, match="of the app"):
            await client.get()
        shop.raises, shop.status = None, 200
        assert [(await client.get()).body for _ in range(2)] == [b"4", b"4"]

    run(test)


@BOTH
def test_without_a_server_the_process_keeps_them(server: Server, kind: str) -> None:
    async def test() -> None:
        shop = Shop()
        client = Client(kind, shop)
        await client.trusted()
        assert (await client.get()).body == b"1"
        server.send(signal.SIGKILL)
        assert (await client.get()).status == 200
        # What is loaded while one of the lost connections is not known to be lost yet is not kept.
        async with asyncio.timeout(60):
            asked = -1
            while asked != shop.asked:
                asked = shop.asked
                assert (await client.get("/products/8")).status == 200
        answers = [await client.get("/products/8") for _ in range(3)]
        assert {each.status for each in answers} == {200}
        assert shop.asked == asked
        server.start()
        async with asyncio.timeout(60):
            while not client.cache.parts().near.is_trusted:
                await asyncio.sleep(0.01)
        assert (await client.get()).status == 200

    run(test)


@BOTH
def test_whoever_waits_for_anothers_answer_waits_no_longer_than_their_client(
    server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "headway_worker.asked", worker)  # as in a worker

    async def test() -> None:
        shop = Shop(held=threading.Event())
        client = Client(kind, shop)
        await client.trusted()
        first = asyncio.ensure_future(client.get())
        while not shop.asked:
            await asyncio.sleep(0.01)
        worker.current.set(worker.Asked(int((time.monotonic() + 0.2) * 1e9)))
        late = await client.get()
        assert (late.status, late.headers["retry-after"], shop.asked) == (503, "1", 1)
        shop.held.set()
        assert (await first).body == b"1"

    run(test)


def test_a_stream_comes_part_by_part_and_ends_with_its_client(server: Server) -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def ticks(scope: Any, receive: Any, send: Any) -> None:
            headers = [(b"content-type", b"text/event-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                while True:
                    await send({"type": "http.response.body", "body": b"tick", "more_body": True})
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        client = Client("asgi", Shop())
        client.layer._app = ticks
        sent: asyncio.Queue[Any] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/products/7",
            "raw_path": b"/products/7",
            "query_string": b"",
            "scheme": "http",
            "headers": [],
        }
        request = asyncio.ensure_future(client.layer(scope, asyncio.Event().wait, sent.put))
        assert (await sent.get())["type"] == "http.response.start"
        for _ in range(3):
            assert (await sent.get())["body"] == b"tick"
        request.cancel()
        await asyncio.wait_for(ended.wait(), 60)

    run(test)


def test_a_client_that_leaves_leaves_the_answer_to_others(server: Server) -> None:
    async def test() -> None:
        shop = Shop(held=threading.Event())
        client = Client("asgi", shop)
        await client.trusted()
        first = asyncio.ensure_future(client.get())
        while not shop.asked:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(client.get())
        await asyncio.sleep(0.1)
        first.cancel()
        shop.held.set()
        assert (await second).body == b"1"
        assert shop.asked == 1

    run(test)


def test_what_the_app_raises_after_its_answer_is_raised_and_the_answer_kept(server: Server) -> None:
    async def test() -> None:
        client = Client("asgi", Shop())
        answer = client.layer._app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await answer(scope, receive, send)
            raise KeyError("in the background")

        client.layer._app = app
        with pytest.raises(KeyError, match="in the background"):
            await client.get()
        assert (await client.get()).body == b"1"

    run(test)
