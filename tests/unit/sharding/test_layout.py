"""What a shard consists of: whose statement is whose, and which tables fit the declared keys."""

from __future__ import annotations

import pytest

from headway.model.sharding import TableKey
from headway.sharding.layout import Column, shard_number, split_script, table_keys

SCRIPT = """
CREATE TABLE countries (code text PRIMARY KEY);  -- few
CREATE UNIQUE INDEX named ON countries (lower(code));
INSERT INTO "countries" VALUES ('ch; li');
COMMENT ON TABLE Countries IS 'of the world';
CREATE TABLE IF NOT EXISTS orders (id int, country text REFERENCES countries);
CREATE INDEX ON orders (country);
CREATE TABLE countries_seen (id int);
"""


def test_statements_about_reference_tables_are_told_apart():
    shared, own = split_script(SCRIPT, ["countries"])
    assert shared.count(";") == 5  # one is in a text
    assert "countries_seen" in own
    assert "REFERENCES countries" in own
    assert "INSERT" not in own
    assert split_script(SCRIPT, []) == ("", SCRIPT)


def _columns(**more: str) -> list[Column]:
    tables = {"orders": "bigint", "headway_ledger": "text", "headway_marker": "integer", **more}
    return [Column(table, "customer_id", kind, is_required=True) for table, kind in tables.items()]


def test_keys_have_the_types_of_their_columns():
    keys, problems = table_keys(
        "databases.orders", {"orders": "customer_id", "lines": "customer_id"}, _columns(lines="integer")
    )
    assert problems == ()
    assert keys == {"orders": TableKey("customer_id", "int"), "lines": TableKey("customer_id", "int")}


@pytest.mark.parametrize(
    ("declared", "columns", "path", "told"),
    [
        ({"orders": "customer_id"}, _columns(notes="text"), "databases.orders.keys", "table notes has no key"),
        ({"orders": "customer"}, _columns(), "databases.orders.keys.orders", "has no column customer"),
        ({"orders": "customer_id", "nix": "id"}, _columns(), "databases.orders.keys.nix", "creates no table nix"),
        ({"orders": "customer_id"}, _columns(orders="numeric"), "databases.orders.keys.orders", "is of type numeric"),
        (
            {"orders": "customer_id"},
            [Column("orders", "customer_id", "bigint", is_required=False)],
            "databases.orders.keys.orders",
            "may be NULL",
        ),
        (
            {"orders": "customer_id", "lines": "customer_id"},
            _columns(lines="uuid"),
            "databases.orders.keys",
            "different types: int, uuid",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_name(declared, columns, path, told):
    _, problems = table_keys("databases.orders", declared, columns)
    assert [(problem.path, told in problem.message, bool(problem.hint)) for problem in problems] == [(path, True, True)]


def test_a_schema_says_its_shard():
    assert shard_number("orders", "orders_0042") == 42
