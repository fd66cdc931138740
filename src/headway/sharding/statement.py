"""How a statement for all shards is read: functions stay as they are written, aggregates are known. Pure.

sqlglot rewrites functions to the same ones of other dialects, and not always to the same type (`date_part` gives a
double, EXTRACT a numeric). A shard is to be asked what was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects import Postgres

from headway.errors import CannotScatter
from headway.sharding.merge import TYPE_MARK

_TEXT_TYPES = "'text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'name'::regtype"
Node = Any  # of sqlglot's tree; its classes have changed their common ancestor
# All aggregates of PostgreSQL: one taken for an ordinary function would be answered by each shard. Those that are
# parsed as such below come by name when they are written with their schema.
_AGGREGATES = frozenset({
    "any_value", "array_agg", "avg", "bit_and", "bit_or", "bit_xor", "bool_and", "bool_or", "corr", "count",
    "covar_pop", "covar_samp", "cume_dist", "dense_rank", "every", "grouping", "json_agg", "json_agg_strict",
    "json_arrayagg", "json_object_agg", "json_object_agg_strict", "json_object_agg_unique",
    "json_object_agg_unique_strict", "json_objectagg", "jsonb_agg", "jsonb_agg_strict", "jsonb_object_agg",
    "jsonb_object_agg_strict", "jsonb_object_agg_unique", "jsonb_object_agg_unique_strict", "max", "min", "mode",
    "percent_rank", "percentile_cont", "percentile_disc", "range_agg", "range_intersect_agg", "rank", "regr_avgx",
    "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy",
    "stddev", "stddev_pop", "stddev_samp", "string_agg", "sum", "var_pop", "var_samp", "variance", "xmlagg",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bound:
    """A LIMIT or OFFSET: a number, or the position of an argument."""

    number: int = 0
    argument: int = 0

    def value(self, arguments: Sequence[object]) -> int:
        """The number; ValueError for an argument that is none."""
        found = arguments[self.argument - 1] if self.argument else self.number
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise CannotScatter(f"LIMIT and OFFSET are whole numbers, not {found!r}")
        return found


class AsWritten(Postgres):  # type: ignore[misc]
    """PostgreSQL's SQL with only the aggregates understood that can be put together."""

    class Parser(Postgres.Parser):  # type: ignore[misc]
        FUNCTIONS = {  # noqa: RUF012
            "AVG": exp.Avg.from_arg_list,
            "BOOL_AND": exp.LogicalAnd.from_arg_list,
            "BOOL_OR": exp.LogicalOr.from_arg_list,
            "COALESCE": Postgres.Parser.FUNCTIONS["COALESCE"],
            "COUNT": Postgres.Parser.FUNCTIONS["COUNT"],
            "MAX": exp.Max.from_arg_list,
            "MIN": exp.Min.from_arg_list,
            "SUM": exp.Sum.from_arg_list,
        }
        FUNCTION_PARSERS = {  # noqa: RUF012
            name: parser for name, parser in Postgres.Parser.FUNCTION_PARSERS.items() if name != "DATE_PART"
        }

    class Generator(Postgres.Generator):  # type: ignore[misc]
        # Operators stay operators: as functions they would bind as sqlglot reads them, not as PostgreSQL does.
        TRANSFORMS = {  # noqa: RUF012
            **Postgres.Generator.TRANSFORMS,
            exp.Pow: lambda self, node: self.binary(node, "^"),
            exp.Sqrt: lambda self, node: f"|/ {self.sql(node, 'this')}",
            exp.Cbrt: lambda self, node: f"||/ {self.sql(node, 'this')}",
        }


def read(sql: str) -> Node:
    """The tree of one statement, with names as PostgreSQL folds them. CannotScatter when it cannot be read."""
    try:
        tokens = sqlglot.tokenize(sql, read=AsWritten)
        _check_numbers(sql, tokens)
        parsed = sqlglot.parse(sql, read=AsWritten)
    except sqlglot.errors.SqlglotError as error:
        raise CannotScatter(f"the statement cannot be read: {str(error).splitlines()[0]}") from None
    if len(parsed) != 1 or parsed[0] is None:
        raise CannotScatter("everywhere takes one statement", hint="Call it once for each.")
    for name in parsed[0].find_all(exp.Identifier):
        if not name.args.get("quoted"):
            name.set("this", name.this.lower())
    return parsed[0]


def _check_numbers(sql: str, tokens: Sequence[Node]) -> None:
    """Refuse numbers that sqlglot reads otherwise than PostgreSQL."""
    for one, after in pairwise(tokens):
        # PostgreSQL 16 reads 1_000 as a thousand; sqlglot as 1 with the name _000.
        if (
            one.token_type == sqlglot.TokenType.NUMBER
            and after.start == one.end + 1
            and sql[after.start].isidentifier()
        ):
            raise CannotScatter(
                f"the number {sql[one.start : after.end + 1]}", hint="Write it in decimal digits alone."
            )
    if any(sql[one.start : one.start + 2].lower() in ("0x", "0o", "0b") for one in tokens):
        raise CannotScatter("a number that is not decimal", hint="Write it in digits alone.")


def text(node: Node) -> str:
    """The SQL of a node."""
    return str(node.sql(AsWritten, normalize_functions=False))


def is_aggregate(node: Node) -> bool:
    """Whether a node is an aggregate function."""
    is_named = isinstance(node, exp.Anonymous) and str(node.name).lower() in _AGGREGATES
    return is_named or isinstance(node, exp.AggFunc | exp.WithinGroup)


def has_aggregate(tree: Node) -> bool:
    """Whether there is an aggregate function in it."""
    return any(is_aggregate(node) for node in tree.walk())


def parameters(tree: Node) -> set[int]:
    """The numbers of its arguments, $1 and so on."""
    return {int(str(one.this)) for one in tree.find_all(exp.Parameter) if str(one.this).isdigit()}


def column_name(expression: Node) -> str:
    """What PostgreSQL calls a column of the answer."""
    if isinstance(expression, exp.Alias):
        return str(expression.alias)
    if isinstance(expression, exp.Column):
        return str(expression.name)
    inner = expression.unalias()
    if isinstance(inner, exp.Filter):
        inner = inner.this
    if isinstance(inner, exp.Cast | exp.Collate | exp.Paren):
        return column_name(inner.this)
    if isinstance(inner, exp.Case):
        otherwise = inner.args.get("default")
        return column_name(otherwise) if isinstance(otherwise, exp.Column) else "case"
    if isinstance(inner, exp.Anonymous):
        return str(inner.name).lower()
    if isinstance(inner, exp.Array):
        return "array"
    if isinstance(inner, exp.Func):
        return inner.sql("postgres").partition("(")[0].lower()
    return "?column?"


def is_count(value: Node) -> bool:
    """Whether it counts, filtered or not."""
    return isinstance(value.this if isinstance(value, exp.Filter) else value, exp.Count)


def kind_sql(value: str) -> str:
    """The SQL that tells the type and the collation of a value, as `merge` takes it."""
    # A branch that is never taken has the type and costs nothing.
    inner = f"CASE WHEN false THEN {value} END"
    collation = f"CASE WHEN pg_typeof({inner}) IN ({_TEXT_TYPES}) THEN pg_collation_for({inner}) END"
    return f"ARRAY['{TYPE_MARK}', pg_typeof({inner})::text, {collation}]"


def flat(expressions: Sequence[Node]) -> Iterator[Node]:
    """The expressions of GROUP BY: (a, b) are two."""
    for one in expressions:
        if isinstance(one, exp.Tuple):
            if not one.expressions:
                raise CannotScatter("GROUP BY ()", hint="Leave it out.")
            yield from flat(one.expressions)
        else:
            yield one.unnest()


def bound(clause: Node | None) -> Bound | None:
    """What a LIMIT or OFFSET says."""
    if clause is None:
        return None
    inner = clause.expression
    if isinstance(inner, exp.Literal) and inner.name.isdigit():
        return Bound(number=int(inner.name))
    if isinstance(inner, exp.Parameter) and str(inner.this).isdigit():
        return Bound(argument=int(str(inner.this)))
    raise CannotScatter("LIMIT and OFFSET are numbers or parameters", hint="Compute it in Python.")


def both(limit: Node, offset: Node | None) -> exp.Limit:
    """As many rows as may be needed of each shard."""
    if offset is None:
        return exp.Limit(expression=limit.expression.copy())
    both = [limit.expression, offset.expression]
    if all(isinstance(one, exp.Literal) for one in both):
        return exp.Limit(expression=exp.Literal.number(sum(int(one.name) for one in both)))
    first, second = (exp.cast(one.copy(), "bigint") for one in both)
    return exp.Limit(expression=exp.Paren(this=exp.Add(this=first, expression=second)))
