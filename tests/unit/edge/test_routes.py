"""The order of routes: whoever is more specific is asked first."""

from __future__ import annotations

import pytest

from headway.edge.routes import Route, learned_key, ordered_routes, parse_route, route_lines
from headway.model.edge import EdgeService


def service(name: str, *routes: str) -> EdgeService:
    return EdgeService(name, routes, (), 30.0, 2**20)


@pytest.mark.parametrize(
    ("text", "host", "prefix"),
    [
        ("/", "", ""),
        ("/api", "", "/api"),
        ("/api/", "", "/api"),
        ("/a/b", "", "/a/b"),
        ("api.example.com", "api.example.com", ""),
        ("API.example.com/", "api.example.com", ""),
        ("api.example.com/v2", "api.example.com", "/v2"),
    ],
)
def test_takes_a_route_apart(text: str, host: str, prefix: str) -> None:
    assert parse_route(text, "web") == Route(host, prefix, "web")


def test_hosts_come_before_prefixes_and_long_before_short() -> None:
    ordered = ordered_routes((service("a", "/", "h.example"), service("b", "/x", "/x/y"), service("c", "h.example/z")))
    assert [(route.host, route.prefix) for route in ordered] == [
        ("h.example", "/z"),
        ("h.example", ""),
        ("", "/x/y"),
        ("", "/x"),
        ("", ""),
    ]


def test_a_plain_slash_takes_what_nobody_else_has() -> None:
    assert route_lines((service("web", "/"),), "nobody", "/run") == ["default_backend web"]
    assert route_lines((service("api", "/api"),), "nobody", "/run")[-1] == "default_backend nobody"
    assert route_lines((), "nobody", "/run") == ["default_backend nobody"]


def test_a_host_that_is_named_twice_is_asked_for_once() -> None:
    lines = route_lines((service("a", "h.example/a"), service("b", "h.example/b")), "nobody", "/run")
    assert len([line for line in lines if "host_only" in line]) == 1


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("/reports", "/reports/"),
        ("/reports/", "/reports/"),
        ("/", "//"),
        ("/a b;c\n", "/a%20b%3Bc%0A/"),
        ("/ä", "/%C3%A4/"),
    ],
)
def test_a_learned_prefix_is_one_harmless_word(prefix: str, key: str) -> None:
    assert learned_key(prefix) == key
