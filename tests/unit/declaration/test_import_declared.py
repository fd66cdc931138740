"""Joins and the source of an import: what is wrong with them is told by their path."""

from __future__ import annotations

import pytest

from headway.errors import DeclarationError

START = """
[services.web]
app = "shop:app"
uses = ["orders"]
[databases.main]
[databases.other]
shards = 4
keys = { a = "id" }
[databases.orders]
shards = 4
keys = { orders = "customer_id", order_lines = "customer_id", notes = "customer_id" }
"""


def problems(folder, text: str) -> dict[str, str]:
    folder.write("shop.py")
    with pytest.raises(DeclarationError) as error:
        folder.load(START + text)
    assert all(problem.hint for problem in error.value.problems)
    return {problem.path: problem.message for problem in error.value.problems}


def test_what_is_right(folder) -> None:
    folder.write("shop.py")
    text = 'joins = { order_lines = "order_id = orders.id" }\nimport_from = "main"\n'
    declared = folder.load(START + text).system.databases["orders"]
    assert declared.joins == {"order_lines": "order_id = orders.id"}
    assert declared.import_from == "main"


def test_joins_that_are_none(folder) -> None:
    found = problems(folder, 'joins = { order_lines = "orders", x = "a = orders.id", notes = "a = nothing.id" }')
    assert found == {
        "databases.orders.joins.order_lines": "'orders' is no join",
        "databases.orders.joins.x": "x is not in keys",
        "databases.orders.joins.notes": "nothing is not in keys",
    }


def test_joins_in_a_circle(folder) -> None:
    found = problems(folder, 'joins = { order_lines = "a = notes.id", notes = "a = order_lines.id" }')
    assert set(found.values()) == {"comes back to itself"}


@pytest.mark.parametrize("name", ["nothing", "other", "orders"])
def test_a_source_that_is_no_plain_database(folder, name) -> None:
    found = problems(folder, f'import_from = "{name}"')
    assert found == {"databases.orders.import_from": f"no plain database is called {name}"}


def test_a_plain_database_is_imported_from_nowhere(folder) -> None:
    folder.write("shop.py")
    with pytest.raises(DeclarationError) as error:
        folder.load('[services.web]\napp = "shop:app"\n[databases.main]\nimport_from = "old"\n[databases.old]\n')
    assert [problem.path for problem in error.value.problems] == ["databases.main.import_from"]
