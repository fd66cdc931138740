"""URLs are read as PostgreSQL's clients read them, and shown without their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import DeclarationError
from headway.sharding.url import DatabaseUrl, compose_url, for_libpq, parse_url, url_fields, without_password


@pytest.mark.parametrize(
    ("text", "hosts", "name", "user", "password"),
    [
        ("postgresql://shop:s%40cret@db.example:5433/shop", (("db.example", 5433),), "shop", "shop", "s@cret"),
        ("postgres://db/shop", (("db", 5432),), "shop", "", ""),
        ("postgresql+psycopg://u:p@h/d", (("h", 5432),), "d", "u", "p"),
        ("postgresql://u@[::1]:6000/d", (("::1", 6000),), "d", "u", ""),
        ("postgresql://a:1,b:2/d", (("a", 1), ("b", 2)), "d", "", ""),
        ("postgresql:///d?host=/run/pg&port=6000", (("/run/pg", 6000),), "d", "", ""),
        ("postgresql://%2Frun%2Fpg/d", (("/run/pg", 5432),), "d", "", ""),
        ("postgresql://h?dbname=d&user=u&password=p", (("h", 5432),), "d", "u", "p"),
        ("postgresql://", (), "", "", ""),
        # A password may hold an @ as long as the host follows the last one, as libpq has it.
        ("postgresql://u:p@ss@h/d", (("h", 5432),), "d", "u", "p@ss"),
    ],
)
def test_parts(text: str, hosts: object, name: str, user: str, password: str) -> None:
    url = parse_url(text)
    assert (url.hosts, url.name, url.user, url.password) == (hosts, name, user, password)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://u:secret@h/d", "is not a PostgreSQL URL"),
        ("host=h password=secret", "is not a PostgreSQL URL"),
        ("postgresql://u:secret#1@h/d", "holds a character"),
        ("postgresql://u:secret 1@h/d", "holds a character"),
        ("postgresql://u:secret/1@h/d", "has a / too many"),
        ("postgresql://u:secret@h:port/d", "holds a port"),
        ("postgresql://u:secret@h:70000/d", "holds a port"),
        ("postgresql://u:secret@::1/d", "IPv6 address without"),
        ("postgresql://u:secret@[::1/d", "not closed"),
        ("postgresql://u:secret@a,b/d?host=a,b&port=1,2,3", "different number of ports"),
    ],
)
def test_refused_with_its_place_and_without_the_secret(text: str, message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_url(text, path="databases.main.url")
    (problem,) = caught.value.problems
    assert problem.path == "databases.main.url"
    assert message in problem.message
    assert problem.hint
    assert "secret" not in problem.message + problem.hint + str(caught.value)
    assert "secret" not in without_password(text)


_words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)


@given(_words, _words, _words, st.integers(1, 65535), st.sampled_from(["db", "::1", "/run/pg"]))
def test_composed_and_read_again(user: str, password: str, name: str, port: int, host: str) -> None:
    url = DatabaseUrl("postgresql", ((host, port),), name, user, password, (("sslmode", "require"),))
    assert parse_url(compose_url(url)) == url


@given(_words)
def test_no_password_is_shown(word: str) -> None:
    secret = f"secret{word}"
    url = DatabaseUrl(
        "postgresql", (("db", 5432),), "d", "u", secret, (("sslpassword", secret), ("sslmode", "require"))
    )
    text = compose_url(url)
    assert without_password(text) == "postgresql://u@db:5432/d?sslmode=require"
    assert "secret" not in for_libpq(url)
    assert "secret" not in repr(DatabaseUrl("postgresql", (), password=secret))


def test_fields_for_references() -> None:
    assert url_fields("postgresql+asyncpg://u:p%25@h:1/d?sslmode=require") == {
        "url": "postgresql+asyncpg://u:p%25@h:1/d?sslmode=require",
        "host": "h",
        "port": "1",
        "user": "u",
        "password": "p%",
        "name": "d",
    }


def test_libpq_gets_no_driver() -> None:
    assert for_libpq(parse_url("postgresql+psycopg://u:p@h/d")) == "postgresql://u@h:5432/d"
