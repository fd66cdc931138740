"""Which responses are kept, for how long, under which key: the rules, without a server or an app."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.caching.responses.answer import how_kept, make, to_give
from headway.caching.responses.asked import ask, bypasses, codings, normalised
from headway.caching.responses.route import Route, Routes
from headway.caching.responses.ruling import Ruling, directives, is_failure, rule
from headway.model.path_pattern import parse_pattern

ROUTE = Route(parse_pattern("/p/{id}"), "hot", ttl_s=30.0, stale_s=10.0)
NOW_S = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


def ruled(status: int = 200, **headers: str) -> Ruling | None:
    return rule(ROUTE, status, [(name.replace("_", "-"), value) for name, value in headers.items()], NOW_S)


@pytest.mark.parametrize(
    ("headers", "ttl_s", "stale_s"),
    [
        ({}, 30, 10),
        ({"cache_control": "public"}, 30, 10),
        ({"cache_control": "max-age=5"}, 5, 10),
        ({"cache_control": "max-age=5, s-maxage=7"}, 7, 10),
        ({"cache_control": 'max-age="5"'}, 5, 10),
        ({"cache_control": "MAX-AGE=5", "age": "2"}, 3, 10),
        ({"cache_control": "max-age=5, must-revalidate"}, 5, 0),
        ({"cache_control": "stale-while-revalidate=60"}, 30, 60),
        ({"cache_control": "max-age=99999999999"}, 40 * 86400, 10),
        ({"expires": "Sun, 09 Sep 2001 01:46:50 GMT"}, 10, 10),
        ({"expires": "Sun, 09 Sep 2001 01:46:50 GMT", "date": "Sun, 09 Sep 2001 01:46:30 GMT"}, 20, 10),
        ({"expires": "Sun, 09 Sep 2001 01:46:50 GMT", "cache_control": "max-age=5"}, 5, 10),
    ],
)
def test_the_apps_own_word_on_time_goes_first(headers: dict[str, str], ttl_s: float, stale_s: float) -> None:
    assert ruled(**headers) == Ruling(ttl_s, stale_s)


@pytest.mark.parametrize(
    "headers",
    [
        {"cache_control": "no-store"},
        {"cache_control": "max-age=5, PRIVATE"},
        {"cache_control": 'private="x"'},
        {"cache_control": "no-cache"},
        {"cache_control": "max-age=soon"},
        {"cache_control": "max-age=-1"},
        {"cache_control": "max-age=5", "age": "5"},
        {"expires": "0"},
        {"set_cookie": "a=1"},
        {"vary": "accept, *"},
        {"vary": ",".join(f"a{n}" for n in range(17))},
        {"content_range": "bytes 0-1/2"},
        {"content_type": "text/event-stream; charset=utf-8"},
    ],
)
def test_these_are_not_kept(headers: dict[str, str]) -> None:
    assert ruled(**headers) is None


def test_statuses() -> None:
    assert [status for status in range(100, 600) if ruled(status)] == [200]
    several = replace(ROUTE, statuses=frozenset({204, 404}))
    assert [status for status in range(100, 600) if rule(several, status, [], NOW_S)] == [204, 404]
    assert rule(several, 200, [("cache-control", "max-age=7")], NOW_S) == Ruling(7, 10)
    told = [status for status in range(100, 600) if ruled(status, cache_control="max-age=1")]
    assert told == [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501]
    assert is_failure(503, [])
    assert not is_failure(503, [("set-cookie", "a")])
    assert not is_failure(404, [])


def test_vary_and_what_goes_without_saying() -> None:
    assert ruled(vary="B, a") == Ruling(30, 10, ("a", "b"))
    assert ruled(content_encoding="gzip") == Ruling(30, 10, ("accept-encoding",))
    declared = Route(ROUTE.pattern, "hot", 30.0, vary=("accept-language",))
    found = rule(declared, 200, [("vary", "Accept-Language"), ("vary", "X")], NOW_S)
    assert found is not None
    assert found.vary == ("x",)


def test_directives() -> None:
    assert directives('a, B=1 ,,c="x" , b=2') == {"a": "", "b": "1", "c": "x"}


def look_of(**headers: str):  # type: ignore[no-untyped-def]
    return {name.replace("_", "-"): value for name, value in headers.items()}.get


def test_a_request_goes_past_for_what_is_somebodys_own() -> None:
    assert not bypasses(ROUTE, "GET", look_of(content_length="0"))
    own = ({"cookie": "a"}, {"authorization": "x"}, {"range": "x"}, {"upgrade": "x"}, {"content_length": "1"})
    for headers in (*own, {"if_match": "*"}, {"if_unmodified_since": "x"}):
        assert bypasses(ROUTE, "GET", look_of(**headers))
    assert not bypasses(ROUTE, "HEAD", look_of(range="bytes=0-1"))
    open_route = Route(ROUTE.pattern, "hot", 1.0, cookies="vary", authorization="vary")
    assert not bypasses(open_route, "GET", look_of(cookie="a", authorization="b"))
    assert bypasses(open_route, "POST", look_of())


def key(route: Route = ROUTE, query: str = "", scheme: str = "http", path: str = "/p/7", **headers: str) -> str:
    return ask(route, "web", "GET", scheme, path, query, look_of(**({"host": "h"} | headers))).key


def test_what_makes_a_key() -> None:
    assert key() == "('web','http://h/p/7')"
    assert key(query="b=2&a=1") == "('web','http://h/p/7?a=1&b=2')"
    assert len({key(), key(scheme="https"), key(host="i"), key(path="/p/8"), key(query="a=1")}) == 5
    assert key(host="H") == key()
    assert key(accept_language="de") == key()
    varied = Route(ROUTE.pattern, "hot", 1.0, vary=("x",), cookies="vary", by_host=False)
    kinds = [{}, {"x": ""}, {"x": "a"}, {"cookie": "a"}, {"x": "a", "cookie": "a"}, {"x": "a\n", "cookie": "=a"}]
    assert len({key(varied, **each) for each in kinds}) == len(kinds)
    assert key(varied, host="other") == key(varied)
    assert "secret" not in key(varied, cookie="secret")
    assert key(x_forwarded_host="h", x_forwarded_port="80") == key()
    assert len({key(), key(x_forwarded_host="i"), key(x_forwarded_host="j"), key(x_forwarded_prefix="/a")}) == 4


@pytest.mark.parametrize(
    ("query", "names", "one"),
    [
        ("", None, ""),
        ("b=1&a=2&b=0", None, "a=2&b=1&b=0"),
        ("&&a=1&", None, "a=1"),
        ("a=1&b=2", frozenset({"b"}), "b=2"),
        ("%62=2&a=1", frozenset({"b"}), "%62=2"),
        ("a=1;b=2", frozenset({"b"}), ""),
        ("a", frozenset({"a"}), "a"),
        ("a=1", frozenset(), ""),
    ],
)
def test_queries(query: str, names: frozenset[str] | None, one: str) -> None:
    assert normalised(query, names) == one


def test_what_the_app_is_not_asked_with() -> None:
    sent = {"if_none_match": "x", "x_http_method_override": "DELETE", "x_original_url": "/", "cookie": "a", "x": "b"}
    open_route = Route(ROUTE.pattern, "hot", 1.0, cookies="ignore")
    seen = ask(open_route, "web", "GET", "http", "/", "", look_of(**sent)).look
    assert [name for name in sent if seen(name.replace("_", "-")) is not None] == ["x"]


def test_codings() -> None:
    assert codings("gzip, deflate, br, zstd") == "br, deflate, gzip, zstd"
    assert codings("GZIP;q=0.5, br; q=0, *") == "gzip"


def test_a_path_without_places_goes_first() -> None:
    plain = Route(parse_pattern("/p/new"), "hot", 1.0)
    routes = Routes([ROUTE, plain])
    assert routes.find("/p/new") == (plain, {})
    assert routes.find("/p/7") == (ROUTE, {"id": "7"})
    assert routes.find("/x") is None
    tagged = Route(ROUTE.pattern, "hot", 1.0, tags=("a:{id}", "all", "a:7"))
    assert tagged.tags_of({"id": "7"}) == (b"a:7", b"all")


def test_how_one_is_given() -> None:
    headers = [("content-type", "a"), ("connection", "close"), ("last-modified", "then"), ("content-length", "9")]
    answer = make(200, headers, b"body", Ruling(10.0, 5.0, ("x",)), look_of(x="1"), 1000)
    assert answer.headers == [("content-type", "a"), ("last-modified", "then"), ("etag", answer.etag)]
    assert answer.suits(look_of(x="1"))
    assert not answer.suits(look_of())
    status, given, body = to_give(answer, how_kept(answer, 4500), look_of(), 4500)
    assert (status, body) == (200, b"body")
    assert given[-3:] == [("x-headway-cache", "hit"), ("age", "3"), ("content-length", "4")]
    assert how_kept(answer, 11_001) == "stale"
    for headers_of in ({"if_none_match": f'"a", {answer.etag}'}, {"if_none_match": "*"}, {"if_modified_since": "then"}):
        status, given, body = to_give(answer, "hit", look_of(**headers_of), 4500)
        assert (status, body, dict(given)["etag"]) == (304, b"", answer.etag)
        assert "content-type" not in dict(given)
    assert to_give(answer, "hit", look_of(if_none_match='"other"', if_modified_since="then"), 0)[0] == 200
    again = make(200, headers, b"body", Ruling(10.0, 5.0), look_of(), 2000)
    assert again.etag == answer.etag
    assert make(200, [("content-type", "b")], b"body", Ruling(1.0, 0.0), look_of(), 0).etag != answer.etag
    gone = make(404, [], b"", Ruling(1.0, 0.0), look_of(), 0)
    assert to_give(gone, "hit", look_of(if_none_match="*"), 0)[0] == 404


THEN = "Sun, 09 Sep 2001 01:46:40 GMT"


@pytest.mark.parametrize(
    ("of_app", "of_client", "has_it"),
    [
        ({"etag": '"a,b"'}, {"if_none_match": '"x", "a,b"'}, True),
        ({"etag": '"a,b"'}, {"if_none_match": '"a", "b"'}, False),
        ({"etag": 'W/"a"'}, {"if_none_match": '"a"'}, True),
        ({"etag": '"a"'}, {"if_none_match": 'W/"b",W/"a"'}, True),
        ({"etag": '"*"'}, {"if_none_match": '"*"'}, True),
        ({"etag": '"a"'}, {"if_none_match": '"*"'}, False),
        ({"etag": "bare"}, {"if_none_match": "other, bare"}, True),
        ({"etag": '"a"'}, {"if_none_match": ""}, False),
        ({"last-modified": THEN}, {"if_modified_since": THEN}, True),
        ({"last-modified": THEN}, {"if_modified_since": "Sun, 09 Sep 2001 01:46:41 GMT"}, True),
        ({"last-modified": THEN}, {"if_modified_since": "Sunday, 09-Sep-01 01:46:40 GMT"}, True),
        ({"last-modified": THEN}, {"if_modified_since": "Sun, 09 Sep 2001 01:46:39 GMT"}, False),
        ({"last-modified": THEN}, {"if_modified_since": "yesterday"}, False),
        ({"last-modified": THEN}, {"if_modified_since": "Sun, 09 Sep 2001 01:46:40"}, False),
        ({"last-modified": "then"}, {"if_modified_since": THEN}, False),
        ({}, {"if_modified_since": THEN}, False),
        ({"last-modified": THEN}, {"if_modified_since": THEN, "if_none_match": '"x"'}, False),
    ],
)
def test_what_a_client_has_already(of_app: dict[str, str], of_client: dict[str, str], has_it: bool) -> None:
    answer = make(200, list(of_app.items()), b"body", Ruling(10.0, 5.0), look_of(), 0)
    status, _headers, body = to_give(answer, "hit", look_of(**of_client), 0)
    assert (status, body) == ((304, b"") if has_it else (200, b"body"))


@pytest.mark.parametrize(("control", "only"), [("max-stale, Only-If-Cached", True), ("no-cache", False), ("", False)])
def test_who_wants_only_what_is_kept(control: str, only: bool) -> None:
    assert ask(ROUTE, "web", "GET", "http", "/", "", look_of(cache_control=control)).only_kept is only
