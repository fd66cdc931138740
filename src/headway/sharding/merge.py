"""Puts the answers of several servers together as PostgreSQL itself would have answered over one table. Pure.

Python orders numbers, times and code points as PostgreSQL does, and nothing else: an enum goes by its declaration,
money and JSON arrive as text, a collation is a language's. So servers tell the type of what is compared (`TYPE_MARK`),
and what is not known to be ordered alike is refused instead of being ordered wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal
from typing import Any, Literal

from headway.errors import CannotScatter

Merge = Literal["", "sum", "min", "max", "all", "any", "avg", "distinct"]
Row = tuple[Any, ...]
# PostgreSQL's numeric keeps this many significant digits in a quotient (NUMERIC_MIN_SIG_DIGITS).
_SIGNIFICANT = 16
# Python rounds sums of decimals to 28 digits by default. A numeric has 147,455 at most, and sums are not rounded.
_EXACT = Context(prec=150_000, Emax=MAX_EMAX, Emin=MIN_EMIN)
# The first element of what a server tells of a value that is compared: [mark, type, collation].
TYPE_MARK = "headway_type"
_TEXTS = frozenset({"text", "character varying", "character", "name"})
_ORDERED_ALIKE = _TEXTS | {
    "smallint", "integer", "bigint", "numeric", "real", "double precision", "oid", "boolean", "bytea", "uuid", "date",
    "timestamp without time zone", "timestamp with time zone", "time without time zone", "interval",
}  # fmt: skip
_BY_CODE_POINT = frozenset({'"C"', '"POSIX"', '"ucs_basic"', '"pg_c_utf8"', 'pg_catalog."C"'})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of what servers answer. `merge` says how the parts of a group go together; a hidden one is not shown."""

    name: str
    merge: str = ""
    default: int | None = None  # the column with what stands for NULL
    hidden: bool = False
    kind: int | None = None  # the column that tells the type


@dataclass(frozen=True, slots=True)
class Order:
    """One key of ORDER BY: the column, and which way. One that tells a type stands before the key it is about."""

    column: int
    is_desc: bool = False
    nulls_first: bool = False


def merge_groups(
    rows: Iterable[Row], columns: Sequence[Column], groups: Sequence[int], by_code_point: bool
) -> list[Row]:
    """One row a group. Without groups there is one row, also where there was none."""
    found: dict[Row, list[Any]] = {}
    merged = [(index, column) for index, column in enumerate(columns) if column.merge]
    for row in rows:
        for index, column in merged:
            if column.kind is not None and column.merge in ("min", "max") and row[index] is not None:
                _comparable(row[column.kind], by_code_point)
        key = tuple(_hashable(row[index]) for index in groups)
        held = found.get(key)
        if held is None:
            found[key] = held = list(row)
            for index, column in merged:
                if column.merge == "distinct":
                    held[index] = {_hashable(one) for one in row[index] or () if one is not None}
            continue
        for index, column in merged:
            held[index] = _together(column.merge, held[index], row[index])
    return [tuple(_finish(row, columns)) for row in found.values()]


def _together(merge: str, one: Any, other: Any) -> Any:
    if merge == "distinct":
        one.update(_hashable(value) for value in other or () if value is not None)
        return one
    if one is None or other is None:
        return one if other is None else other
    if merge in ("sum", "avg"):
        if isinstance(one, Decimal):
            return _EXACT.add(one, other)
        if isinstance(one, str):  # money, as the driver gives it
            raise CannotScatter(
                "sum(…) of money is not put together over shards", hint="Cast it: sum(column::numeric)."
            )
        return one + other
    if merge in ("min", "max"):
        return (min if merge == "min" else max)(one, other, key=_ordered)
    return (one and other) if merge == "all" else (one or other)


def _finish(row: list[Any], columns: Sequence[Column]) -> Iterator[Any]:
    for index, column in enumerate(columns):
        value = row[index]
        if column.merge == "avg":
            value = _quotient(value, row[index + 1])
        elif column.merge == "distinct":
            value = len(value)
        elif column.merge == "sum" and isinstance(value, Decimal) and _is_whole(row, column):
            value = int(value)  # a server adds up the bigints of its shards to a numeric
        yield row[column.default] if value is None and column.default is not None else value


def _is_whole(row: list[Any], column: Column) -> bool:
    return column.kind is not None and row[column.kind][1] == "bigint"


def _quotient(total: Any, count: int) -> Any:
    """sum / count, as avg gives it: numeric for whole numbers, else in the type of the sum."""
    if total is None or not count:
        return None
    if isinstance(total, int | Decimal):
        return divide(Decimal(total), Decimal(count))
    return total / count


def divide(one: Decimal, other: Decimal) -> Decimal:
    """A quotient with the digits that PostgreSQL's numeric gives it (`select_div_scale` in numeric.c)."""
    if not one.is_finite():
        return one
    scale = max(_SIGNIFICANT - _weight(one, other) * 4, _decimals(one), _decimals(other), 0)
    digits = max(0, one.adjusted() - other.adjusted()) + scale + 10
    exact = Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN).divide(one, other)
    return exact.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_UP, context=_EXACT)


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
    """A value that is equal to another one where PostgreSQL takes them for equal."""
    if isinstance(value, list):
        return tuple(_hashable(one) for one in value)
    # Python's NaN is not equal to itself.
    return ("NaN",) if isinstance(value, float | Decimal) and value != value else value


def distinct_rows(rows: Iterable[Row]) -> list[Row]:
    """Each row once, in the order in which they come."""
    return list({tuple(_hashable(value) for value in row): row for row in rows}.values())


def _comparable(told: Sequence[Any], by_code_point: bool) -> str:
    """The type of what is compared. CannotScatter when Python does not order it as PostgreSQL does."""
    _, kind, collation = told
    if kind not in _ORDERED_ALIKE:
        raise CannotScatter(
            f"values of type {kind} are ordered by PostgreSQL alone",
            hint="Cast them to a number or a text, or order the answer yourself.",
        )
    if kind in _TEXTS and collation not in _BY_CODE_POINT and not (by_code_point and collation == '"default"'):
        raise CannotScatter(
            "texts are compared by the collation of the database, which is not that of Python",
            hint='Write column COLLATE "C", or order the answer yourself.',
        )
    return str(kind)


def _ordered(value: Any) -> Any:
    """What Python orders as PostgreSQL orders the value: NaN, in no order here, is greater than every number there."""
    if isinstance(value, float | Decimal):
        return (1, 0) if value != value else (0, value)
    return value


def sorter(order: Sequence[Order], by_code_point: bool) -> Callable[[list[Row]], list[Row]]:
    """Sorts rows as ORDER BY does."""

    def in_order(rows: list[Row]) -> list[Row]:
        keys: list[tuple[Order, str]] = []
        kind = ""
        for key in order:
            told = rows[0][key.column] if rows else None
            if isinstance(told, list) and len(told) == 3 and told[0] == TYPE_MARK:
                kind = _comparable(told, by_code_point)
            else:
                keys.append((key, kind))
                kind = ""
        for key, kind in reversed(keys):
            rows = _sorted(rows, key, kind)
        return rows

    return in_order


def _sorted(rows: list[Row], key: Order, kind: str) -> list[Row]:
    def value_of(row: Row) -> Any:
        # Of a char(n) the padding does not count.
        return row[key.column].rstrip(" ") if kind == "character" else _ordered(row[key.column])

    nulls = [row for row in rows if row[key.column] is None]
    others = sorted((row for row in rows if row[key.column] is not None), key=value_of, reverse=key.is_desc)
    return [*nulls, *others] if key.nulls_first else [*others, *nulls]
