"""How a statement for all shards is read: functions stay as they are written, aggregates are known. Pure.

sqlglot rewrites functions to the same ones of other dialects, and not always to the same type (`date_part` gives a
double, EXTRACT a numeric). A shard is to be asked what was written.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp
from sqlglot.dialects import Postgres

Node = Any  # of sqlglot's tree; its classes have changed their common ancestor
# All aggregates of PostgreSQL besides those below: one taken for an ordinary function would be answered by each shard.
_AGGREGATES = frozenset({
    "any_value", "array_agg", "bit_and", "bit_or", "bit_xor", "corr", "covar_pop", "covar_samp", "cume_dist",
    "dense_rank", "every", "grouping", "json_agg", "json_agg_strict", "json_arrayagg", "json_object_agg",
    "json_object_agg_strict", "json_object_agg_unique", "json_object_agg_unique_strict", "json_objectagg",
    "jsonb_agg", "jsonb_agg_strict", "jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict", "mode", "percent_rank", "percentile_cont", "percentile_disc", "range_agg",
    "range_intersect_agg", "rank", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2", "regr_slope",
    "regr_sxx", "regr_sxy", "regr_syy", "stddev", "stddev_pop", "stddev_samp", "string_agg", "var_pop", "var_samp",
    "variance", "xmlagg",
})  # fmt: skip


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
