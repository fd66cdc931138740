"""Addresses of the edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.model.bind import Bind, parse_bind


@pytest.mark.parametrize(
    ("text", "bind", "shown"),
    [
        ("127.0.0.1:8000", Bind("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("[::]:443", Bind("::", 443), "[::]:443"),
        ("http://0.0.0.0:80/", Bind("0.0.0.0", 80, "http"), "0.0.0.0:80"),
        (" Shop.Local:1 ", Bind("shop.local", 1), "shop.local:1"),
    ],
)
def test_addresses_are_read(text, bind, shown) -> None:
    assert parse_bind(text) == bind
    assert parse_bind(text).text == shown


@pytest.mark.parametrize(
    ("text", "with_tls", "without"),
    [("a:80", True, False), ("https://a:80", False, False), ("http://a:8080", True, False), ("a:443", False, False)],
)
def test_what_redirects(text, with_tls, without) -> None:
    assert parse_bind(text).redirects(tls=True) is with_tls
    assert parse_bind(text).redirects(tls=False) is without


@given(st.text(max_size=30))
def test_anything_is_an_address_or_refused_with_what_to_write(text) -> None:
    try:
        bind = parse_bind(text)
    except ValueError as error:
        refusal = str(error)
        assert "; write" in refusal or "; ports" in refusal
    else:
        assert parse_bind(bind.text) == Bind(bind.host, bind.port)
