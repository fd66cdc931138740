"""Parts of answers go together as PostgreSQL would have answered, and what Python orders otherwise is refused."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from headway.errors import CannotScatter
from headway.sharding.merge import TYPE_MARK, Column, Order, distinct_rows, divide, merge_groups, sorter

NAN, DECIMAL_NAN = float("nan"), Decimal("NaN")


def _merged(merge: str, *values: Any) -> Any:
    (row,) = merge_groups([(value,) for value in values], [Column("x", merge)], (), True)
    return row[0]


@pytest.mark.parametrize(
    ("merge", "values", "expected"),
    [
        ("sum", (1, None, 2), 3),
        ("sum", (None, None), None),
        ("min", (3, None, -1), -1),
        ("max", (Decimal(1), DECIMAL_NAN), "NaN"),
        ("min", (Decimal(1), DECIMAL_NAN), Decimal(1)),
        ("max", (1.5, NAN), "NaN"),
        ("all", (True, None, False), False),
        ("all", (None,), None),
        ("any", (None, False, True), True),
        ("distinct", ([1, None], None, [1, 2]), 2),
        ("distinct", (None,), 0),
        ("distinct", ([NAN], [NAN, 1.0]), 2),
    ],
)
def test_parts_of_a_group(merge, values, expected):
    found = _merged(merge, *values)
    assert found != found if expected == "NaN" else found == expected


def test_sums_of_numerics_are_not_rounded():
    parts = [Decimal("12345678901234567890123456789012345.678901"), Decimal("0.000001")]
    assert str(_merged("sum", *parts)) == "12345678901234567890123456789012345.678902"


def test_avg_of_parts():
    columns = [Column("avg", "avg"), Column("", "sum", hidden=True)]
    assert merge_groups([(7, 2), (None, 0), (3, 1)], columns, (), True) == [(Decimal("3.3333333333333333"), 3)]
    assert merge_groups([(None, 0), (None, 0)], columns, (), True) == [(None, 0)]


def test_sums_of_money_are_refused():
    with pytest.raises(CannotScatter, match="money"):
        _merged("sum", "$1.00", "$2.00")


def test_a_default_stands_for_null_in_its_own_type():
    columns = [Column("", hidden=True), Column("sum", "sum", default=0)]
    assert merge_groups([(Decimal(0), None), (Decimal(0), None)], columns, (), True) == [(Decimal(0), Decimal(0))]


def test_nan_is_one_group():
    columns = [Column("f"), Column("n", "sum")]
    found = merge_groups([(NAN, 1), (float("nan"), 2), (None, 3), (None, 4)], columns, (0,), True)
    assert sorted(row[1] for row in found) == [3, 7]
    assert len(distinct_rows([(NAN,), (float("nan"),), ([1, NAN],), ([1, NAN],)])) == 2


def _told(kind: str, collation: str | None = None) -> list[str | None]:
    return [TYPE_MARK, kind, collation]


def _sorted(values: list[Any], *, told: list[str | None] | None, by_code_point: bool = True, **how: bool) -> list[Any]:
    order = [Order(1), Order(0, **how)]
    return [row[0] for row in sorter(order, by_code_point)([(value, told) for value in values])]


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([2, None, 1], {}, [1, 2, None]),
        ([2, None, 1], {"is_desc": True, "nulls_first": True}, [None, 2, 1]),
        ([Decimal("NaN"), Decimal(1), Decimal("NaN")], {"is_desc": True}, ["NaN", "NaN", Decimal(1)]),
        ([NAN, math.inf, -1.0], {}, [-1.0, math.inf, "NaN"]),
    ],
)
def test_values_in_order(values, how, expected):
    found = _sorted(values, told=_told("numeric"), **how)
    assert [value if value is None or value == value else "NaN" for value in found] == expected


def test_the_padding_of_a_character_does_not_count():
    assert _sorted(["a\t", "a "], told=_told("character", '"default"')) == ["a ", "a\t"]
    assert _sorted(["a\t", "a "], told=_told("text", '"default"')) == ["a\t", "a "]


@pytest.mark.parametrize("kind", ["mood", "money", "jsonb", "text[]", "citext", "inet"])
def test_types_that_postgresql_alone_orders_are_refused(kind):
    with pytest.raises(CannotScatter, match="ordered by PostgreSQL alone"):
        _sorted(["b", "a"], told=_told(kind))
    columns = [Column("max", "max", kind=1), Column("", hidden=True)]
    with pytest.raises(CannotScatter, match="ordered by PostgreSQL alone"):
        merge_groups([("a", _told(kind))], columns, (), True)


@pytest.mark.parametrize(
    ("collation", "by_code_point", "is_known"),
    [('"C"', False, True), ('"default"', True, True), ('"default"', False, False), ('"de_DE"', True, False)],
)
def test_texts_are_ordered_where_the_collation_is_that_of_code_points(collation, by_code_point, is_known):
    told = _told("text", collation)
    if is_known:
        assert _sorted(["ä", "b", "Z"], told=told, by_code_point=by_code_point) == ["Z", "b", "ä"]
    else:
        with pytest.raises(CannotScatter, match="collation"):
            _sorted(["b", "a"], told=told, by_code_point=by_code_point)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [("10", "4", "2.5000000000000000"), ("NaN", "3", "NaN"), ("Infinity", "3", "Infinity"), ("0", "3", "0E-20")],
)
def test_quotients(total, count, expected):
    found = divide(Decimal(total), Decimal(count))
    assert str(found) == expected or found == Decimal(expected)


def test_a_quotient_of_many_digits():
    assert str(divide(Decimal(10**120), Decimal(1)))[:121] == "1" + "0" * 120
