"""However rows are spread over shards, the parts go together to what one table would answer."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headway.sharding.merge import Column, Order, distinct_rows, divide, merge_groups, sorter

Row = tuple[Any, ...]
_NUMBERS = st.none() | st.integers(-5, 5) | st.integers(-(2**62), 2**62)
_NUMERICS = st.none() | st.decimals(allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20)
# shard, group, whole number, numeric
_ROWS = st.lists(st.tuples(st.integers(0, 7), st.none() | st.sampled_from("abB"), _NUMBERS, _NUMERICS), max_size=40)
_COLUMNS = [
    Column("group"),
    Column("count", "sum"),
    Column("sum", "sum"),
    Column("min", "min"),
    Column("max", "max"),
    Column("avg", "avg"),
    Column("", "sum", hidden=True),
    Column("distinct", "distinct"),
    Column("numeric", "sum"),
]


def _part(group: Any, rows: list[Row]) -> Row:
    """What a shard answers of a group."""
    given_ = [row[2] for row in rows if row[2] is not None]
    numerics = [row[3] for row in rows if row[3] is not None]
    total = sum(given_) if given_ else None
    low, high = (min(given_), max(given_)) if given_ else (None, None)
    exact = _exact(numerics) if numerics else None
    return group, len(rows), total, low, high, total, len(given_), [*{row[2] for row in rows}] or None, exact


def _exact(values: list[Decimal]) -> Decimal:
    """A sum in whole millionths, which Python does not round."""
    if any(value.is_nan() for value in values):
        return Decimal("NaN")
    return Decimal(sum(int(value.scaleb(6)) for value in values)).scaleb(-6)


def _grouped(rows: list[Row]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[1]].append(row)
    return found


@given(_ROWS)
def test_groups_are_those_of_one_table(rows):
    parts = [
        _part(group, held)
        for shard in range(8)
        for group, held in _grouped([row for row in rows if row[0] == shard]).items()
    ]
    found = merge_groups(parts, _COLUMNS, (0,), True)
    expected = []
    for group, held in _grouped(rows).items():
        whole = list(_part(group, held))
        whole[5] = None if whole[5] is None else divide(Decimal(whole[5]), Decimal(whole[6]))
        whole[7] = len({value for value in whole[7] or () if value is not None})
        expected.append(tuple(whole))
    assert sorted(map(repr, map(_shown, found))) == sorted(map(repr, map(_shown, expected)))


def _shown(row: Row) -> Row:
    # The scale of a sum depends on its parts here, not in PostgreSQL, where a column's values bring theirs.
    return (*row[:8], None if row[8] is None else format(row[8] + Decimal("0.000000"), "f") if row[8] else "0")


@given(
    st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | st.text("aäB", max_size=2), st.integers())),
    st.lists(st.tuples(st.sampled_from([0, 1]), st.booleans(), st.booleans()), min_size=1, max_size=2),
)
def test_order_is_that_of_the_keys_one_after_the_other(rows, keys):
    order = [Order(column, is_desc, nulls_first) for column, is_desc, nulls_first in keys]
    found = sorter(order, True)(rows)
    assert sorted(map(repr, found)) == sorted(map(repr, rows))
    for one, after in pairwise(found):
        for key in order:
            left, right = one[key.column], after[key.column]
            if left == right:
                continue
            if left is None or right is None:
                assert (left is None) == key.nulls_first
            else:
                assert (left > right) == key.is_desc
            break


@given(st.lists(st.tuples(st.sampled_from([None, 1, 2, float("nan")]), st.sampled_from("ab"))))
def test_distinct_rows_are_each_there_once(rows):
    found = distinct_rows(rows)
    assert len({repr(row) for row in found}) == len(found)
    assert {repr(row) for row in found} == {repr(row) for row in rows}
