"""References are replaced by values, and a missing one is named without its neighbours' values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.declaration.references import parse, resolve_env, resolve_url
from headway.errors import DeclarationError
from headway.model.declared import Database, Service

MAIN = {"url": "postgresql://u:p@h:1/d", "host": "h", "port": "1", "user": "u", "password": "p", "name": "d"}


def test_every_kind_is_replaced(tmp_path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    service = Service(
        app="a:b",
        env={
            "U": "{main.url}",
            "P": "x{main.user}:{main.port}",
            "E": "{env.HOME}",
            "F": "{file.key}",
            "B": "{{{env.HOME}}}",
        },
    )
    assert resolve_env(service, databases={"main": MAIN}, environment={"HOME": "/h"}, root=tmp_path) == {
        "U": "postgresql://u:p@h:1/d",
        "P": "xu:1",
        "E": "/h",
        "F": "s3cret",
        "B": "{/h}",
    }


def test_all_that_is_missing_is_named_at_once_and_no_value(tmp_path) -> None:
    service = Service(app="a:b", env={"A": "hunter2{env.X}", "B": "{file.y}", "C": "{z.url}"})
    with pytest.raises(DeclarationError) as caught:
        resolve_env(service, databases={}, environment={}, root=tmp_path)
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [
        ("env.A", "environment variable X is not set"),
        ("env.B", "file y is missing"),
        ("env.C", "{z.url} has no value"),
    ]
    assert all(problem.hint for problem in caught.value.problems)


def test_a_database_url_is_replaced_too(tmp_path) -> None:
    database = Database(url="postgresql://u:{env.P}@h/d")
    assert resolve_url(database, environment={"P": "x"}, root=tmp_path) == "postgresql://u:x@h/d"
    assert resolve_url(Database(), environment={}, root=tmp_path) is None
    with pytest.raises(DeclarationError):
        resolve_url(database, environment={}, root=tmp_path)


@given(st.text())
def test_doubled_braces_give_any_text_back(text) -> None:
    assert "".join(str(piece) for piece in parse(text.replace("{", "{{").replace("}", "}}"))) == text
