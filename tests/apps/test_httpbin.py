"""httpbin, a Flask app from PyPI: every endpoint it has, and the odd corners of HTTP that it exists to show."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpbin
import httpx
import pytest

DECLARATION = """
[system]
name = "httpbin"

[services.web]
app = "httpbin:app"
"""
WALKED: set[str] = set()
STATUSES = [200, 201, 202, 203, 204, 206, 226, 300, 301, 302, 303, 304, 305, 307, 308]
STATUSES += [*range(400, 419), 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, *range(500, 509), 510, 511, 599]


def walks(*rules: str) -> Callable[[Any], Any]:
    """Marks the endpoints that a test exercises; the last test compares them with those that exist."""
    WALKED.update(rules)
    return lambda test: test


@pytest.fixture(scope="module")
def bin_(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return serve(tmp_path_factory.mktemp("httpbin"), DECLARATION)


@pytest.fixture
def client(bin_: Any) -> Iterator[httpx.Client]:
    with bin_.client() as client:
        yield client


def test_every_endpoint_is_walked() -> None:
    assert {rule.rule for rule in httpbin.app.url_map.iter_rules()} == WALKED


@walks("/get")
def test_get_sees_the_public_address_and_the_query_as_sent(client: httpx.Client, bin_: Any) -> None:
    query = {"a": "1", "words": "two words & more", "ü": "€", "many": ["x", "y"], "empty": ""}
    got = client.get("/get", params=query).json()
    assert got["args"] == query
    assert got["url"].startswith(f"{bin_.base_url}/get?a=1&")
    assert got["origin"] == "127.0.0.1"


@walks("/post", "/put", "/patch", "/delete")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_bodies_arrive_whatever_their_form(client: httpx.Client, bin_: Any, method: str) -> None:
    address = "/" + method.lower()
    form = client.request(method, address, data={"name": "Zoë", "tag": ["a", "b"]}).json()
    assert form["form"] == {"name": "Zoë", "tag": ["a", "b"]}
    assert form["url"] == bin_.base_url + address
    assert client.request(method, address, json={"n": [1, None, "ß"]}).json()["json"] == {"n": [1, None, "ß"]}
    assert client.request(method, address, content="plain ✓".encode()).json()["data"] == "plain ✓"
    assert client.request(method, address).json()["data"] == ""


def test_binary_bodies_of_megabytes_arrive_whole(client: httpx.Client) -> None:
    body = bytes(range(256)) * 16 * 1024
    echoed = client.post("/post", content=body, headers={"content-type": "application/octet-stream"}).json()["data"]
    assert base64.b64decode(echoed.partition("base64,")[2]) == body


def test_multipart_uploads_arrive_with_their_fields(client: httpx.Client) -> None:
    content = bytes(range(256)) * 4096
    files = [("photo", ("ph oto.bin", content, "image/png")), ("note", ("n.txt", b"hello", "text/plain"))]
    echoed = client.post("/post", data={"title": "Holiday"}, files=files).json()
    assert echoed["form"] == {"title": "Holiday"}
    assert echoed["files"]["note"] == "hello"
    kind, _, encoded = echoed["files"]["photo"].partition(";base64,")
    assert (kind, base64.b64decode(encoded)) == ("data:image/png", content)


def test_a_chunked_body_arrives_whole_and_spoils_nothing(client: httpx.Client) -> None:
    # What is left of a body must not be read as the next request of this connection.
    chunk = b"GET /status/418 HTTP/1.1\r\n" * 64
    answer = client.post("/post", content=(chunk for _ in range(16)))
    assert answer.status_code == 200
    assert answer.json()["data"].encode() == chunk * 16
    assert client.get("/get").status_code == 200


@walks("/anything", "/anything/<path:anything>")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_anything_returns_what_was_sent(client: httpx.Client, bin_: Any, method: str) -> None:
    assert client.request(method, "/anything").json()["method"] == method
    deep = client.request(method, "/anything/a/b%20c/d?q=1").json()
    assert deep["url"] == f"{bin_.base_url}/anything/a/b%20c/d?q=1"
    assert deep["args"] == {"q": "1"}


@walks("/status/<codes>")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
def test_every_status_passes_unchanged_on_one_connection(client: httpx.Client, method: str) -> None:
    for status in STATUSES:
        answer = client.request(method, f"/status/{status}")
        assert answer.status_code == status
        if status in (301, 302, 303, 305, 307):
            assert answer.headers["location"] == "/redirect/1"
        if status in (204, 304) or method == "HEAD":
            assert answer.content == b""
    assert client.get("/get").status_code == 200


def test_statuses_with_their_own_headers(client: httpx.Client) -> None:
    assert client.get("/status/401").headers["www-authenticate"] == 'Basic realm="Fake Realm"'
    assert "proxy-authenticate" in client.get("/status/407").headers
    assert "teapot" in client.get("/status/418").text
    assert client.get("/status/201,202:0").status_code == 201
    assert client.get("/status/nonsense").status_code == 400


@walks("/headers", "/user-agent", "/ip")
def test_requests_are_seen_as_they_were_sent(client: httpx.Client) -> None:
    sent = {"x-custom": "some value", "x-long": "v" * 6000, "accept-language": "de, en;q=0.5"}
    seen = client.get("/headers", headers=sent).json()["headers"]
    assert {name: seen[name.title()] for name in sent} == sent
    assert seen["Host"] == client.base_url.netloc.decode()
    assert client.get("/user-agent", headers={"user-agent": "Test/1"}).json() == {"user-agent": "Test/1"}
    assert client.get("/ip").json() == {"origin": "127.0.0.1"}


@walks("/basic-auth/<user>/<passwd>", "/hidden-basic-auth/<user>/<passwd>", "/bearer")
def test_basic_and_bearer_authentication(client: httpx.Client) -> None:
    for path, refusal in (("/basic-auth/me/secret", 401), ("/hidden-basic-auth/me/secret", 404)):
        assert client.get(path).status_code == refusal
        assert client.get(path, auth=("me", "wrong")).status_code == refusal
        assert client.get(path, auth=("me", "secret")).json() == {"authenticated": True, "user": "me"}
    refused = client.get("/bearer")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    granted = client.get("/bearer", headers={"authorization": "Bearer t0ken"})
    assert granted.json() == {"authenticated": True, "token": "t0ken"}


@walks(
    "/digest-auth/<qop>/<user>/<passwd>",
    "/digest-auth/<qop>/<user>/<passwd>/<algorithm>",
    "/digest-auth/<qop>/<user>/<passwd>/<algorithm>/<stale_after>",
)
@pytest.mark.parametrize("rest", ["", "/MD5", "/SHA-256", "/SHA-512", "/MD5/never", "/SHA-256/5"])
def test_digest_authentication(bin_: Any, rest: str) -> None:
    path = "/digest-auth/auth/me/secret" + rest
    with bin_.client() as stranger:
        challenge = stranger.get(path)
        assert challenge.status_code == 401
        assert challenge.headers["www-authenticate"].startswith("Digest ")
        assert stranger.cookies["fake"] == "fake_value"
    with bin_.client(auth=httpx.DigestAuth("me", "secret")) as client:
        assert client.get(path).json() == {"authenticated": True, "user": "me"}
    with bin_.client(auth=httpx.DigestAuth("me", "wrong")) as client:
        assert client.get(path).status_code == 401


@walks("/cookies", "/cookies/set", "/cookies/set/<name>/<value>", "/cookies/delete")
def test_cookies_are_set_kept_and_deleted(client: httpx.Client) -> None:
    answer = client.get("/cookies/set", params={"a": "1", "b": "two"})
    assert (answer.status_code, answer.headers["location"]) == (302, "/cookies")
    assert len(answer.headers.get_list("set-cookie")) == 2
    assert all(
        ("Secure" in line) == (client.base_url.scheme == "https") for line in answer.headers.get_list("set-cookie")
    )
    client.get("/cookies/set/c/3")
    assert client.get("/cookies").json() == {"cookies": {"a": "1", "b": "two", "c": "3"}}
    left = client.get("/cookies/delete", params={"b": ""}, follow_redirects=True)
    assert left.json() == {"cookies": {"a": "1", "c": "3"}}


@walks("/redirect/<int:n>", "/relative-redirect/<int:n>", "/absolute-redirect/<int:n>")
def test_redirects_lead_through_the_public_address(client: httpx.Client, bin_: Any) -> None:
    assert client.get("/redirect/3").headers["location"] == "/relative-redirect/2"
    assert client.get("/redirect/3?absolute=true").headers["location"] == f"{bin_.base_url}/absolute-redirect/2"
    assert client.get("/absolute-redirect/1").headers["location"] == f"{bin_.base_url}/get"
    for kind in ("redirect", "relative-redirect", "absolute-redirect"):
        arrived = client.get(f"/{kind}/5", follow_redirects=True)
        assert (arrived.status_code, len(arrived.history)) == (200, 5)
        assert arrived.json()["url"] == f"{bin_.base_url}/get"


@walks("/redirect-to")
def test_redirects_keep_or_change_the_method_as_http_says(client: httpx.Client, bin_: Any) -> None:
    target = {"url": f"{bin_.base_url}/anything", "status_code": "307"}
    kept = client.post("/redirect-to", params=target, content=b"body", follow_redirects=True).json()
    assert (kept["method"], kept["data"]) == ("POST", "body")
    changed = client.post("/redirect-to", params=target | {"status_code": "303"}, follow_redirects=True).json()
    assert changed["method"] == "GET"
    for method in ("GET", "PUT", "PATCH", "DELETE", "TRACE"):
        foreign = client.request(method, "/redirect-to", params={"url": "http://elsewhere.example/x?y=1#z"})
        assert (foreign.status_code, foreign.headers["location"]) == (302, "http://elsewhere.example/x?y=1#z")


@walks("/stream/<int:n>", "/stream-bytes/<int:n>")
def test_streams_are_complete(client: httpx.Client) -> None:
    with client.stream("GET", "/stream/50") as answer:
        assert "content-length" not in answer.headers
        assert [json.loads(line)["id"] for line in answer.iter_lines()] == list(range(50))
    chunked = client.get("/stream-bytes/100000?seed=7&chunk_size=777").content
    assert len(chunked) == 100_000
    assert chunked == client.get("/stream-bytes/100000?seed=7").content


@walks("/drip")
def test_dripping_bytes_arrive_as_they_fall(client: httpx.Client) -> None:
    arrivals = []
    with client.stream("GET", "/drip?duration=4&numbytes=5&delay=0&code=203") as answer:
        assert (answer.status_code, answer.headers["content-length"]) == (203, "5")
        for piece in answer.iter_raw():
            arrivals += [time.monotonic()] * len(piece)
    assert len(arrivals) == 5
    assert arrivals[-1] - arrivals[0] > 0.4  # 3.2 s apart when they were sent; 0 if anything had collected them


def test_a_reader_that_leaves_early_does_no_harm(client: httpx.Client) -> None:
    for _ in range(12):  # more than there are threads
        with client.stream("GET", "/drip?duration=60&numbytes=600") as answer:
            assert next(answer.iter_raw())
    assert client.get("/get").status_code == 200


@walks("/delay/<delay>")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_slow_answers_are_waited_for(client: httpx.Client, bin_: Any, method: str) -> None:
    began = time.monotonic()
    assert client.request(method, "/delay/0.3").json()["url"] == f"{bin_.base_url}/delay/0.3"
    assert time.monotonic() - began >= 0.3


def test_slow_requests_do_not_hold_up_each_other(bin_: Any) -> None:
    def wait(_: int) -> int:
        with bin_.client() as client:
            return client.get("/delay/4").status_code

    began = time.monotonic()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(wait, range(6))) == [200] * 6
    assert time.monotonic() - began < 23  # twenty-four seconds one after the other


@walks("/bytes/<int:n>")
def test_bytes_are_those_of_the_seed(client: httpx.Client) -> None:
    first, second = (client.get("/bytes/50000?seed=42") for _ in range(2))
    assert first.headers["content-length"] == "50000"
    assert len(first.content) == 50_000
    assert first.content == second.content
    assert first.content != client.get("/bytes/50000?seed=43").content


@walks("/range/<int:numbytes>")
def test_ranges(client: httpx.Client) -> None:
    alphabet = bytes(97 + n % 26 for n in range(1000))
    whole = client.get("/range/1000?chunk_size=100")
    assert (whole.status_code, whole.content, whole.headers["etag"]) == (200, alphabet, "range1000")
    for asked, part, content_range in (
        ("bytes=10-19", alphabet[10:20], "bytes 10-19/1000"),
        ("bytes=990-", alphabet[990:], "bytes 990-999/1000"),
        ("bytes=-5", alphabet[-5:], "bytes 995-999/1000"),
    ):
        answer = client.get("/range/1000", headers={"range": asked})
        assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, part, content_range)
    beyond = client.get("/range/1000", headers={"range": "bytes=2000-3000"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */1000")
    assert client.get("/range/0").status_code == 404


@walks("/gzip", "/deflate", "/brotli")
@pytest.mark.parametrize(
    ("path", "coding", "flag"),
    [("gzip",) * 2 + ("gzipped",), ("deflate",) * 2 + ("deflated",), ("brotli", "br", "brotli")],
)
def test_compressed_answers_stay_as_the_app_made_them(client: httpx.Client, path: str, coding: str, flag: str) -> None:
    answer = client.get(f"/{path}", headers={"accept-encoding": "gzip, deflate, br"})
    assert answer.headers["content-encoding"] == coding
    assert answer.json()[flag] is True
    with client.stream("GET", f"/{path}") as raw:
        assert len(b"".join(raw.iter_raw())) == int(raw.headers["content-length"])


@walks("/", "/html", "/json", "/xml", "/robots.txt", "/deny", "/encoding/utf8", "/forms/post")
@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", "text/html", "httpbin"),
        ("/html", "text/html", "Herman Melville - Moby-Dick"),
        ("/json", "application/json", '"Sample Slide Show"'),
        ("/xml", "application/xml", "<slideshow"),
        ("/robots.txt", "text/plain", "Disallow: /deny"),
        ("/deny", "text/plain", "YOU SHOULDN'T BE HERE"),
        ("/encoding/utf8", "text/html", "∮ E⋅da = Q"),
        ("/forms/post", "text/html", '<form method="post" action="/post">'),
    ],
)
def test_documents_come_with_type_and_length(client: httpx.Client, path: str, kind: str, text: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert text in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    head = client.head(path)
    assert (head.content, head.headers["content-length"]) == (b"", answer.headers["content-length"])


@walks("/image", "/image/png", "/image/jpeg", "/image/webp", "/image/svg")
def test_images_are_those_asked_for(client: httpx.Client) -> None:
    magic = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "svg+xml": b"<svg "}
    for kind, start in magic.items():
        for answer in (
            client.get("/image/" + kind.partition("+")[0]),
            client.get("/image", headers={"accept": f"image/{kind}"}),
        ):
            assert answer.headers["content-type"].startswith(f"image/{kind}")
            assert answer.content.startswith(start)
    assert client.get("/image", headers={"accept": "application/pdf"}).status_code == 406


@walks("/links/<int:n>", "/links/<int:n>/<int:offset>")
def test_links_lead_to_each_other(client: httpx.Client) -> None:
    page = client.get("/links/6", follow_redirects=True)
    assert page.url.path == "/links/6/0"
    found = re.findall(r"href='(.*?)'", page.text)
    assert found == [f"/links/6/{n}" for n in range(1, 6)]
    assert {client.get(link).status_code for link in found} == {200}


@walks("/cache", "/cache/<int:value>", "/etag/<etag>")
def test_conditional_requests(client: httpx.Client) -> None:
    fresh = client.get("/cache")
    assert fresh.status_code == 200
    known = client.get("/cache", headers={"if-none-match": fresh.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert client.get("/cache", headers={"if-modified-since": fresh.headers["last-modified"]}).status_code == 304
    assert client.get("/cache/60").headers["cache-control"] == "public, max-age=60"
    assert client.get("/etag/tag").headers["etag"] == "tag"
    assert client.get("/etag/tag", headers={"if-none-match": 'W/"tag", "other"'}).status_code == 304
    assert client.get("/etag/tag", headers={"if-match": '"other"'}).status_code == 412
    assert client.get("/etag/tag", headers={"if-match": "*"}).status_code == 200


@walks("/response-headers")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answer_headers_pass_even_twice(client: httpx.Client, method: str) -> None:
    query = [("x-one", "1"), ("x-two", "a"), ("x-two", "b"), ("content-language", "de")]
    answer = client.request(method, "/response-headers", params=query)
    assert answer.headers["x-one"] == "1"
    assert answer.headers.get_list("x-two") == ["a", "b"]
    assert answer.json()["x-two"] == ["a", "b"]
    assert answer.headers["content-language"] == "de"


@walks("/base64/<value>", "/uuid")
def test_small_things(client: httpx.Client) -> None:
    assert client.get("/base64/SFRUUEJJTiBpcyBhd2Vzb21l").text == "HTTPBIN is awesome"
    ids = {uuid.UUID(client.get("/uuid").json()["uuid"]).version for _ in range(3)}
    assert ids == {4}


@walks("/static/<path:filename>")
def test_the_apps_own_static_route(client: httpx.Client) -> None:
    answer = client.get("/static/favicon.ico")
    assert answer.content == (Path(httpbin.app.static_folder) / "favicon.ico").read_bytes()
    again = client.get("/static/favicon.ico", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/static/..%2fcore.py").status_code in (400, 403, 404)


def test_wrong_methods_unknown_paths_and_failures_are_the_apps_to_answer(client: httpx.Client) -> None:
    wrong = client.post("/get")
    assert wrong.status_code == 405
    assert "GET" in wrong.headers["allow"]
    assert client.get("/no/such/page").status_code == 404
    assert client.get("/redirect/0").status_code == 500  # an assertion in the app fails
    assert client.get("/get").status_code == 200


def test_cross_origin_preflight(client: httpx.Client) -> None:
    asked = {"origin": "https://app.example", "access-control-request-headers": "x-token"}
    answer = client.options("/get", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "x-token"


def test_long_addresses_pass(client: httpx.Client) -> None:
    assert client.get("/get", params={"q": "x" * 5000}).json()["args"] == {"q": "x" * 5000}
