"""Puts the answers of several servers together as PostgreSQL itself would have answered over one table. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, Literal

from headway.errors import CannotScatter

Merge = Literal["", "sum", "min", "max", "all", "any", "avg", "distinct"]
Row = tuple[Any, ...]
# PostgreSQL's numeric keeps this many significant digits in a quotient (NUMERIC_MIN_SIG_DIGITS).
_SIGNIFICANT = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A column of what servers answer. `merge` says how the parts of a group go together; a hidden one is not shown."""

    name: str
    merge: str = ""
    default: object = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One key of ORDER BY: the column, and which way."""

    column: int
    is_desc: bool = False
    nulls_first: bool = False


def merge_groups(
    rows: Iterable[Row], columns: Sequence[Column], groups: Sequence[int], by_code_point: bool
) -> list[Row]:
    """One row a group. Without groups there is one row, also where there was none."""
    found: dict[Row, list[Any]] = {}
    for row in rows:
        key = tuple(_hashable(row[index]) for index in groups)
        held = found.get(key)
        if held is None:
            found[key] = list(row)
            continue
        for index, column in enumerate(columns):
            if column.merge:
                held[index] = _together(column.merge, held[index], row[index], by_code_point)
    return [tuple(_finish(row, columns)) for row in found.values()]


def _together(merge: str, one: Any, other: Any, by_code_point: bool) -> Any:
    if one is None or other is None:
        return one if other is None else other
    if merge in ("sum", "avg"):
        return one + other
    if merge in ("min", "max"):
        if isinstance(one, str) and not by_code_point and one != other:
            raise CannotScatter(
                "texts are compared by the collation of the database, which is not that of Python",
                hint="Compare them by a number, or order the answer yourself.",
            )
        return min(one, other) if merge == "min" else max(one, other)
    if merge == "all":
        return one and other
    if merge == "any":
        return one or other
    return [*one, *other]


def _finish(row: list[Any], columns: Sequence[Column]) -> Iterator[Any]:
    for index, column in enumerate(columns):
        value = row[index]
        if column.merge == "avg":
            value = _quotient(value, row[index + 1])
        elif column.merge == "distinct":
            value = len({_hashable(one) for one in value or () if one is not None})
        yield column.default if value is None and column.default is not None else value


def _quotient(total: Any, count: int) -> Any:
    """sum / count, as avg gives it: numeric for whole numbers, else in the type of the sum."""
    if total is None or not count:
        return None
    if isinstance(total, int | Decimal):
        return divide(Decimal(total), Decimal(count))
    return total / count


def divide(one: Decimal, other: Decimal) -> Decimal:
    """A quotient with the digits that PostgreSQL's numeric gives it (`select_div_scale` in numeric.c)."""
    scale = max(_SIGNIFICANT - _weight(one, other) * 4, _decimals(one), _decimals(other), 0)
    exact = Context(prec=60).divide(one, other)
    return exact.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_UP, context=Context(prec=80))


def _weight(one: Decimal, other: Decimal) -> int:
    """The weight of the quotient in digits of base 10,000, as it is estimated there."""
    (weight1, first1), (weight2, first2) = _leading(one), _leading(other)
    return weight1 - weight2 - (1 if first1 <= first2 else 0)


def _leading(number: Decimal) -> tuple[int, int]:
    if not number:
        return 0, 0
    weight = number.adjusted() // 4
    return weight, int(abs(number).scaleb(-weight * 4))


def _decimals(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _hashable(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    return value


def distinct_rows(rows: Iterable[Row]) -> list[Row]:
    """Each row once, in the order in which they come."""
    return list({tuple(_hashable(value) for value in row): row for row in rows}.values())


def sorter(order: Sequence[Order], by_code_point: bool) -> Callable[[list[Row]], list[Row]]:
    """Sorts rows as ORDER BY does."""

    def in_order(rows: list[Row]) -> list[Row]:
        for key in reversed(order):
            rows = _sorted(rows, key, by_code_point)
        return rows

    return in_order


def _sorted(rows: list[Row], key: Order, by_code_point: bool) -> list[Row]:
    nulls = [row for row in rows if row[key.column] is None]
    others = [row for row in rows if row[key.column] is not None]
    if not by_code_point and any(isinstance(row[key.column], str) for row in others):
        raise CannotScatter(
            "texts are ordered by the collation of the database, which is not that of Python",
            hint='Write ORDER BY column COLLATE "C", or order the answer yourself.',
        )
    # Python's NaN is in no order; PostgreSQL's is greater than every number.
    others.sort(key=lambda row: (row[key.column] != row[key.column], row[key.column]), reverse=key.is_desc)
    return [*nulls, *others] if key.nulls_first else [*others, *nulls]
