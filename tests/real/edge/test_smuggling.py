"""Requests whose end can be read in two ways never reach a replica that way: refused, or passed on with one reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from edge_site import Site

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


def post(*headers: bytes, body: bytes = b"", first: bytes = b"POST /outer HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: a", *headers, b"", body))


REFUSED = {
    "two content lengths that differ": post(b"Content-Length: 0", b"Content-Length: 33", body=HIDDEN),
    "a list of content lengths that differ": post(b"Content-Length: 0, 33", body=HIDDEN),
    "negative content length": post(b"Content-Length: -1", body=HIDDEN),
    "signed content length": post(b"Content-Length: +5", body=b"hello"),
    "content length in hexadecimal": post(b"Content-Length: 0x5", body=b"hello"),
    "content length with trailing letters": post(b"Content-Length: 5 a", body=b"hello"),
    "empty content length": post(b"Content-Length: ", body=HIDDEN),
    "content length beyond 64 bits": post(b"Content-Length: 18446744073709551621", body=b"hello"),
    "xchunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunked that is not last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + HIDDEN),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunked twice in a list": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + HIDDEN),
    "chunked with a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n" + HIDDEN),
    "quoted chunked": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n" + HIDDEN),
    "transfer encoding in HTTP/1.0": post(
        b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN, first=b"POST /outer HTTP/1.0"
    ),
    "chunk size that is no number": post(b"Transfer-Encoding: chunked", body=b"zz\r\nhello\r\n0\r\n\r\n"),
    "chunk size with 0x": post(b"Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "negative chunk size": post(b"Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n"),
    "space before the colon": post(b"Content-Length : 5", body=b"hello"),
    "tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "space before the first header": b"POST /outer HTTP/1.1\r\n Host: a\r\n\r\n",
    "header without a colon": post(b"Content-Length"),
    "header with an empty name": post(b": value"),
    "NUL in a header": post(b"X-Any: a\x00b"),
    "carriage return in a header": post(b"X-Any: a\rb"),
    "two hosts": post(b"Host: b"),
    "host with a space": b"GET /outer HTTP/1.1\r\nHost: a b\r\n\r\n",
    "absolute form for another host": b"GET http://other/outer HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /outer /hidden HTTP/1.1\r\nHost: a\r\n\r\n",
    "header block that is too large": post(b"X-Any: " + b"a" * 17000),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        site.start(site.plan(site.service(), header_timeout_s=30.0))
        yield site


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_can_be_read_in_two_ways(site: Site, name: str) -> None:
    before = len(site.recorded())
    answer = site.raw(REFUSED[name])
    assert answer.split(b" ")[1:2] == [b"400"], answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "the rest was answered as a second request"
    assert site.recorded()[before:] == []


def test_of_two_framings_only_the_stricter_reaches_the_replica(site: Site) -> None:
    """HAProxy cannot refuse this one: it drops the Content-Length, re-frames the body and closes the connection."""
    before = len(site.recorded())
    both = post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + HIDDEN)
    answer = site.raw(both)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    (arrived,) = site.recorded()[before:]
    assert (arrived["target"], arrived["body"]) == ("/outer", 0)
    assert "content-length" not in {name.lower() for name, _ in arrived["headers"]}


def test_obsolete_line_folding_becomes_one_line(site: Site) -> None:
    before = len(site.recorded())
    site.raw(b"GET /folded HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Any: one\r\n two\r\n\r\n")
    (arrived,) = site.recorded()[before:]
    assert ["x-any", "one   two"] in arrived["headers"]


def test_a_well_formed_pipeline_is_two_requests(site: Site) -> None:
    """What the others check would be worthless if the edge dropped whatever follows a first request."""
    before = len(site.recorded())
    answer = site.raw(
        post(b"Content-Length: 5", body=b"hello") + b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [arrived["target"] for arrived in site.recorded()[before:]] == ["/outer", "/next"]
