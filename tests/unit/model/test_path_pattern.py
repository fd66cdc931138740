"""Paths with places: what they stand for, and how those that cannot be are refused."""

from __future__ import annotations

import pytest

from headway.model.path_pattern import check_template, parse_pattern


@pytest.mark.parametrize(
    ("pattern", "path", "places"),
    [
        ("/", "/", {}),
        ("/a.b", "/a.b", {}),
        ("/a.b", "/axb", None),
        ("/p/{id}", "/p/7", {"id": "7"}),
        ("/p/{id}", "/p/", None),
        ("/p/{id}", "/p/7/8", None),
        ("/p/{id}", "/p/7/", None),
        ("/p/{id}", "/p/ü\n", {"id": "ü\n"}),
        ("/p/{id}.json", "/p/7.json", {"id": "7"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/f/{rest:path}", "/f/a/b", {"rest": "a/b"}),
        ("/f/{rest:path}", "/f/", None),
    ],
)
def test_a_pattern_stands_for_whole_paths(pattern: str, path: str, places: dict[str, str] | None) -> None:
    assert parse_pattern(pattern).match(path) == places


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("p", 'must begin with "/"', "without a host"),
        ("/p?a=1", "more than a path", 'write "/p"'),
        ("/p/*", "says nothing here", '"/p/{rest:path}"'),
        ("/p/<int:id>", "other frameworks", "/products/{id}"),
        ("/p/:id", "other frameworks", "/products/{id}"),
        ("/caf%C3%A9", "percent-encoded", "as the app sees them"),
        ("/p/{}", "no place with a name", "/products/{id}"),
        ("/p/{a:int}", "no place with a name", "/products/{id}"),
        ("/{a}/{a}", 'two places called "a"', "of its own"),
        ("/{a:path}/b", "takes all that follows", "at the end"),
        ("/p/{a", "brace without its other", "/products/{id}"),
        ("/p//a", "empty segment", "/products/{id}"),
    ],
)
def test_what_is_no_pattern_is_told_with_what_to_write(text: str, message: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_pattern(text)
    told, _, instead = str(caught.value).partition("; ")
    assert message in told
    assert hint in instead


def test_a_template_has_places_of_its_pattern() -> None:
    check_template("product:{id}", ("id",))
    check_template("products", ())
    for wrong in ("{x}", "{id.x}", "{id!r}", "{id:3}", "{id", "{}", " "):
        with pytest.raises(ValueError):
            check_template(wrong, ("id",))
