"""The configuration of an embedded Valkey, and where a cache's server is."""

from __future__ import annotations

import pytest

from headway.caching.engine import is_new_enough
from headway.caching.place import Place, place_of_url, prefix_of
from headway.caching.settings import Settings, render


def lines(settings: Settings) -> dict[str, str]:
    """The directives of the file."""
    texts = (line for line in render(settings).splitlines() if line and not line.startswith("#"))
    return {name: rest for name, _, rest in (line.partition(" ") for line in texts)}


def test_nobody_else_can_ask_it_and_nothing_is_written() -> None:
    found = lines(Settings("/run/c/hot/valkey.sock", "/run/c/hot", 64 << 20, (9, 1, 2)))
    assert found["port"] == "0"
    assert found["unixsocket"] == '"/run/c/hot/valkey.sock"'
    assert found["unixsocketperm"] == "600"
    assert (found["save"], found["appendonly"]) == ('""', "no")
    assert (found["maxmemory"], found["maxmemory-policy"]) == (str(64 << 20), "allkeys-lru")


@pytest.mark.parametrize(
    ("numbers", "is_valkey", "bounded"),
    [((9, 1, 2), True, True), ((7, 0, 15), False, True), ((6, 2, 14), False, False)],
)
def test_what_an_older_redis_does_not_know_is_left_out(numbers, is_valkey, bounded) -> None:
    found = lines(Settings("/s", "/", 1 << 24, numbers, is_valkey))
    assert ("maxmemory-clients" in found) == bounded


def test_a_path_with_a_quote_stays_one_value() -> None:
    assert lines(Settings('/a "b"\\c', "/", 1 << 24, (9,)))["unixsocket"] == '"/a \\"b\\"\\\\c"'


@pytest.mark.parametrize(
    ("flavour", "version", "good"),
    [("Redis", "6.0.16", False), ("Redis", "6.2.0", True), ("Redis", "10.0", True), ("Valkey", "7.2.4", True)],
)
def test_versions(flavour, version, good) -> None:
    assert is_new_enough(flavour, version) == good


@pytest.mark.parametrize(
    ("url", "shown", "again"),
    [
        ("unix:///run/a.sock", "unix:///run/a.sock", "unix:///run/a.sock"),
        ("redis://h", "redis://h:6379", "redis://h:6379"),
        ("valkeys://u:p%40ss@[::1]:7000/3", "rediss://u@[::1]:7000/3", "rediss://u:p%40ss@[::1]:7000/3"),
        ("redis://:secret@h/0", "redis://h:6379", "redis://:secret@h:6379"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown, again) -> None:
    place = place_of_url(url)
    assert (place.shown, place.url) == (shown, again)
    assert place_of_url(again) == place
    assert "secret" not in repr(place)
    assert "p@ss" not in repr(place)


def test_where_sentinels_are_asked() -> None:
    place = Place(host="mymaster", password="secret", master="mymaster", sentinels=(("a", 1), ("b", 2)))
    assert place.shown == "mymaster of a:1, b:2"


def test_the_prefix_names_system_and_cache() -> None:
    assert prefix_of("shop", "hot") == "hw:shop:hot:"
