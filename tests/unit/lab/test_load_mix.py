"""Several kinds of requests: read, weighted, and given their bodies and headers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import HeadwayError
from headway.lab.mix import parse_header, parse_request, read_body, read_requests, turns, with_content
from headway.lab.target import Request


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        ("/", Request("GET", "/")),
        ("/search?q=tea x8", Request("GET", "/search?q=tea", weight=8)),
        ("post /cart x2", Request("POST", "/cart", weight=2)),
        ("DELETE /cart/7", Request("DELETE", "/cart/7")),
    ],
)
def test_a_request_as_it_is_written(text: str, request_: Request) -> None:
    assert parse_request(text) == request_


@pytest.mark.parametrize("text", ["", "GET", "cart", "GET / x0", "GET / x101", "GET / 8", "GET / x-1", "G E /"])
def test_what_is_no_request_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(HeadwayError) as caught:
        parse_request(text)
    assert "POST /cart x2" in caught.value.hint


def test_turns_have_exact_shares_and_no_heaps() -> None:
    assert turns([1, 1]) == (0, 1)
    assert turns([4, 4, 4]) == (0, 1, 2)
    assert turns([5, 1, 1]) == (0, 0, 1, 0, 2, 0, 0)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_a_round_of_turns_holds_each_kind_as_often_as_its_weight(weights: list[int]) -> None:
    order = turns(weights)
    counts = Counter(order)
    assert len(order) <= sum(weights)
    assert all(counts[kind] * sum(weights) == weight * len(order) for kind, weight in enumerate(weights))


def test_headers_go_to_all_and_a_body_to_those_that_carry_one(tmp_path: Path) -> None:
    (tmp_path / "cart.json").write_bytes(b"{}")
    body = read_body(f"@{tmp_path}/cart.json")
    get, post = with_content([Request(), Request("POST", "/cart", weight=2)], [parse_header("Accept: a:b")], body)
    assert (get.body, post.body, post.weight) == (b"", b"{}", 2)
    assert get.headers == post.headers == (("Accept", "a:b"),)
    assert read_body("text") == b"text"
    with pytest.raises(HeadwayError, match="no request that carries one"):
        with_content([Request()], [], body)
    with pytest.raises(HeadwayError, match=r"none\.json cannot be read: No such file"):
        read_body(f"@{tmp_path}/none.json")
    with pytest.raises(HeadwayError, match="no header"):
        parse_header("Accept")


def test_requests_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "cart.json").write_text("[7]")
    file = tmp_path / "mix.toml"
    file.write_text(
        '[[request]]\nsend = "/ x8"\n'
        '[[request]]\nsend = "POST /cart x2"\nbody_file = "cart.json"\n'
        'headers = { Content-Type = "application/json" }\n'
        '[[request]]\nsend = "PUT /a"\nbody = "b"\n'
    )
    assert read_requests(file) == (
        Request("GET", "/", weight=8),
        Request("POST", "/cart", (("Content-Type", "application/json"),), b"[7]", 2),
        Request("PUT", "/a", body=b"b"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[request", "not TOML"),
        ("", "needs 1 to"),
        ("request = 3", "needs 1 to"),
        ('[[request]]\nsend = "/"\n[[request]]\npath = "/"', "request 2: says not what to send"),
        ('[[request]]\nsend = "nothing"', "request 1: .nothing. is no request"),
        ('[[request]]\nsend = "/"\nweight = 2', "unknown key weight"),
        ('[[request]]\nsend = "/"\nheaders = { A = 1 }', "headers are texts"),
        ('[[request]]\nsend = "/"\nbody = "a"\nbody_file = "b"', "a body is one text"),
        ('[[request]]\nsend = "/"\nbody_file = "none"', "none cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mix.toml"
    file.write_text(text)
    with pytest.raises(HeadwayError, match=words) as caught:
        read_requests(file)
    assert caught.value.hint
