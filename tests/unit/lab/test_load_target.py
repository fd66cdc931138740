"""URLs, requests and plans: read into bytes, or refused with a sentence and a hint."""

from __future__ import annotations

from typing import Any

import pytest

from headway.errors import HeadwayError
from headway.lab.plan import LoadPlan, burst, scheduled
from headway.lab.schedule import Piece
from headway.lab.target import Request, Target, parse_target, wire_request


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("http://127.0.0.1:8000", Target("127.0.0.1", 8000, False, "/"), "127.0.0.1:8000"),
        ("http://shop.example/a?b=c#d", Target("shop.example", 80, False, "/a?b=c"), "shop.example"),
        ("https://shop.example", Target("shop.example", 443, True, "/"), "shop.example"),
        ("https://shop.example:80/", Target("shop.example", 80, True, "/"), "shop.example:80"),
        ("http://[::1]:8000/", Target("::1", 8000, False, "/"), "[::1]:8000"),
        ("http://h/ä b%20c", Target("h", 80, False, "/%C3%A4%20b%20c"), "h"),
        ("http://bücher.example/", Target("xn--bcher-kva.example", 80, False, "/"), "xn--bcher-kva.example"),
        ("unix:/run/a.sock", Target("localhost", 80, False, "/", "/run/a.sock"), "localhost"),
        ("unix:/run/a.sock:/x?y", Target("localhost", 80, False, "/x?y", "/run/a.sock"), "localhost"),
    ],
)
def test_parse_target(url: str, target: Target, authority: str) -> None:
    assert parse_target(url) == target
    assert parse_target(url).authority == authority


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "ftp://h/", "http://", "http://h:0/", "http://h:99999/", "http://h:x/", "http://[::1/",
     "unix:a.sock", "http://me:secret@h/", f"http://{'a' * 70}.example/"],
)  # fmt: skip
def test_a_bad_url_is_refused_with_a_hint(url: str) -> None:
    with pytest.raises(HeadwayError) as caught:
        parse_target(url)
    assert caught.value.hint
    assert "secret" not in caught.value.message


def test_a_request_on_the_wire() -> None:
    target = parse_target("http://127.0.0.1:8000/shop?all")
    wire = wire_request(Request("POST", "/order", (("Accept", "text/plain"),), b"abc"), target, keep=True)
    assert wire.head == (
        b"POST /order HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nConnection: keep-alive\r\n"
        b"Accept: text/plain\r\nContent-Length: 3\r\n"
    )
    assert wire.body == b"abc"
    plain = wire_request(Request(), target, keep=False)
    assert plain.head == b"GET /shop?all HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET /"),
        Request("CONNECT"),
        Request("GET", "x"),
        Request(headers=(("A b", "c"),)),
        Request(headers=(("A", "b\r\nC: d"),)),
        Request(headers=(("Content-Length", "7"),)),
    ],
)
def test_a_request_that_cannot_be_sent_is_refused(request_: Request) -> None:
    with pytest.raises(HeadwayError) as caught:
        wire_request(request_, parse_target("http://h/"), keep=False)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rate_per_s": 0}, "rate"),
        ({"rate_per_s": -1}, "rate"),
        ({"rate_per_s": float("nan")}, "rate"),
        ({"duration_s": 0}, "duration"),
        ({"duration_s": 1e6, "rate_per_s": 0.1}, "day"),
        ({"deadline_s": 0}, "deadline"),
        ({"slo_s": -0.1}, "SLO"),
        ({"pattern": "waves"}, "waves"),
        ({"connections": "some"}, "some"),
        ({"connections_max": 0}, "connection"),
        ({"requests": ()}, "request"),
        ({"rate_per_s": 1e6, "duration_s": 60}, "60,000,000"),
        ({"pattern": "burst", "rate_per_s": 0.1}, "burst"),
        ({"pattern": "burst", "schedule": (Piece(1, 1, 1),)}, "burst"),
        ({"schedule": (Piece(2, 1, 1),)}, "schedule"),
    ],
)
def test_a_plan_without_sense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(HeadwayError, match=word) as caught:
        LoadPlan(**{"url": "http://h/", "rate_per_s": 1, "duration_s": 1, **change})
    assert caught.value.hint


def test_a_plan_knows_how_many_connections_it_cannot_do_without() -> None:
    assert burst("http://h/", 10_000).connections_needed == 10_000
    assert LoadPlan("http://h/", 1000, 10).connections_needed == 250
    assert LoadPlan("http://h/", 1000, 0.01).connections_needed == 10


def test_a_scheduled_plan_has_the_mean_of_its_rates_and_room_for_the_highest() -> None:
    plan = scheduled("http://h/", (Piece(10, 100, 100), Piece(10, 100, 1000)), slo_s=0.1)
    assert (plan.duration_s, plan.rate_per_s, plan.rate_max_per_s, plan.slo_s) == (20, 325, 1000, 0.1)
    assert plan.connections_needed == 250
    with pytest.raises(HeadwayError, match="rate above 0"):
        scheduled("http://h/", (Piece(1, 0, 0),))


def test_a_request_may_name_another_host_than_the_one_it_goes_to() -> None:
    target = parse_target("http://127.0.0.1:8000/")
    wire = wire_request(Request(host="api.example"), target, keep=True)
    assert b"\r\nHost: api.example\r\n" in wire.head
    assert b"127.0.0.1" not in wire.head
    with pytest.raises(HeadwayError, match="Host"):
        wire_request(Request(host="a\r\nX: b"), target, keep=True)
