"""A statement for all shards: what each server is asked, and what is refused because the answer would not be the same.

`everywhere` takes a SELECT as it is written for one shard, and answers as if all rows were in one table. Every server
gets one statement, a UNION ALL over its shards with the work pushed down (conditions, groups, partial aggregates, order
and limit); what comes back is put together by `merge`. What cannot be put together with certainty is refused by name.
Pure; SQL is read by sqlglot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from headway.errors import CannotScatter
from headway.model.sharding import TableKey
from headway.sharding.layout import REFERENCE_SCHEMA, identifier
from headway.sharding.merge import Column, Order

Node = Any  # of sqlglot's tree; its classes have changed their common ancestor
_SCHEMA = "headway_any_shard"
_QUOTED = f'"{_SCHEMA}"'
_ADDED: tuple[type[Any], ...] = (exp.Count, exp.Sum)
_COMPARED: dict[type[Any], str] = {exp.Min: "min", exp.Max: "max"}
_LOGICAL: dict[type[Any], str] = {exp.LogicalAnd: "all", exp.LogicalOr: "any"}
_IN_PYTHON = "Ask for its parts and put them together in Python."
_ONE_SHARD = "Ask one shard for it: at(key)."


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


@dataclass(frozen=True, slots=True)
class Scatter:
    """What to ask, and how to put the answers together."""

    template: str
    columns: tuple[Column, ...]  # of the answer that servers give; hidden ones are not the caller's
    groups: tuple[int, ...] | None  # columns that tell groups apart; None: rows are only put one after the other
    distinct: bool = False
    order: tuple[Order, ...] = ()
    limit: Bound | None = None
    offset: Bound | None = None
    star: bool = False  # columns are the server's: what it names, with `columns` behind
    needs: int = 0  # arguments

    def server_sql(self, schemas: Sequence[str]) -> str:
        """One server's statement, over its shards."""
        parts = [self.template.replace(_QUOTED, identifier(schema)) for schema in schemas]
        return "\nUNION ALL\n".join(f"({part})" for part in parts)


def scatter(sql: str, keys: Mapping[str, TableKey], reference: Collection[str] = ()) -> Scatter:
    """Plan a statement. CannotScatter says what cannot be answered over all shards, and what to do instead."""
    try:
        parsed = sqlglot.parse(sql, read="postgres")
    except sqlglot.errors.SqlglotError as error:
        raise CannotScatter(f"the statement cannot be read: {str(error).splitlines()[0]}") from None
    if len(parsed) != 1 or parsed[0] is None:
        raise CannotScatter("everywhere takes one statement", hint="Call it once for each.")
    tree = parsed[0]
    if not isinstance(tree, exp.Select):
        kind = type(tree).__name__.upper()
        hint = "Write through at(key) or run(key, …), shard by shard; a schema is changed by migrations."
        raise CannotScatter(f"everywhere takes a SELECT, not {kind}", hint=hint)
    _check_shape(tree)
    _check_tables(tree, keys, reference)
    return _Planner(tree, keys).plan()


def _check_shape(tree: exp.Select) -> None:
    for kind, what in (
        (exp.Window, "a window function sees the rows of its own shard alone"),
        (exp.Lock, "locks are taken on one shard"),
        (exp.SetOperation, "UNION, INTERSECT and EXCEPT are not put together over shards"),
    ):
        if tree.find(kind):
            raise CannotScatter(what, hint=_ONE_SHARD)
    if tree.args.get("into"):
        raise CannotScatter("SELECT INTO creates a table", hint="Tables are created by migrations.")
    distinct = tree.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        raise CannotScatter("DISTINCT ON keeps a row of each shard", hint=_IN_PYTHON)
    for sub in tree.find_all(exp.Subquery, exp.CTE, exp.Exists, exp.In):
        if isinstance(sub, exp.In) and not sub.args.get("query"):
            continue
        raise CannotScatter("a sub-query sees one shard alone", hint="Write it as a join by the key, or ask twice.")
    nested = [select for select in tree.find_all(exp.Select) if select is not tree]
    if nested:
        raise CannotScatter("a sub-query sees one shard alone", hint="Write it as a join by the key, or ask twice.")


def _check_tables(tree: exp.Select, keys: Mapping[str, TableKey], reference: Collection[str]) -> None:
    tables = list(tree.find_all(exp.Table))
    if not tables:
        raise CannotScatter("the statement reads no table", hint="It has nothing to do with shards.")
    spread: list[tuple[str, str]] = []  # alias, key column
    for table in tables:
        if table.args.get("db"):
            raise CannotScatter(f"table {table.sql('postgres')} names a schema", hint="A shard is its own schema.")
        if table.name in keys:
            spread.append((table.alias_or_name, keys[table.name].column))
        elif table.name not in reference:
            known = ", ".join([*keys, *reference])
            raise CannotScatter(f"there is no table {table.name} in the declaration", hint=f"There is: {known}.")
    if not spread:
        raise CannotScatter("only reference tables are read, which every server has", hint=_ONE_SHARD)
    for one in spread[1:]:
        if not any(_joined(tree, one, other) for other in spread if other != one):
            told = f"{one[0]} is joined by another column than its key {one[1]}: the rows are on several shards"
            raise CannotScatter(told, hint="Join by the keys, or ask twice.")


def _joined(tree: exp.Select, one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two tables are joined by the equality of their keys."""
    wanted = {one, other}
    conditions = [join.args.get("on") for join in tree.args.get("joins") or ()]
    where = tree.args.get("where")
    conditions.append(where.this if where is not None else None)
    for condition in conditions:
        for part in condition.flatten() if isinstance(condition, exp.And) else [condition]:
            if isinstance(part, exp.EQ) and {(side.table, side.name) for side in _columns(part)} == wanted:
                return True
    for join in tree.args.get("joins") or ():
        using = [name.name for name in join.args.get("using") or ()]
        if one[1] == other[1] and one[1] in using:
            return True
    return False


def _columns(part: exp.EQ) -> list[exp.Column]:
    return [side for side in (part.this, part.expression) if isinstance(side, exp.Column)]


class _Planner:
    """Rewrites one SELECT to the one that each shard is asked."""

    def __init__(self, tree: exp.Select, keys: Mapping[str, TableKey]) -> None:
        self._tree = tree
        self._spread = {table.name for table in tree.find_all(exp.Table) if table.name in keys}
        self._keys = {keys[table].column for table in self._spread}
        self._asked: list[Node] = []
        self._columns: list[Column] = []

    def plan(self) -> Scatter:
        tree = self._tree
        limit, offset = _bound(tree.args.get("limit")), _bound(tree.args.get("offset"))
        group = tree.args.get("group")
        is_grouped = group is not None or any(tree.find(kind) for kind in (exp.AggFunc,))
        groups: tuple[int, ...] | None = None
        star = any(one.is_star for one in tree.expressions)
        distinct = tree.args.get("distinct") is not None
        if is_grouped and not self._by_key(group):
            if tree.args.get("having") is not None:
                raise CannotScatter("HAVING is about groups that are spread over shards", hint=_IN_PYTHON)
            if distinct:
                raise CannotScatter("DISTINCT of aggregates", hint=_IN_PYTHON)
            groups = self._aggregates(group)
        elif star:
            self._asked = list(tree.expressions)
        else:
            for one in tree.expressions:
                self._take(one, Column(_name(one)))
        order = self._order(star)
        asked = tree.copy()
        asked.set("expressions", [one.copy() for one in self._asked])
        for part in ("limit", "offset", *(("order",) if groups is not None or limit is None else ())):
            asked.set(part, None)
        if limit is not None and groups is None:
            asked.set("limit", _both(tree.args.get("limit"), tree.args.get("offset")))
        for table in asked.find_all(exp.Table):
            schema = _SCHEMA if table.name in self._spread else REFERENCE_SCHEMA
            table.set("db", exp.to_identifier(schema, quoted=True))
        numbers = [int(str(p.this)) for p in tree.find_all(exp.Parameter) if str(p.this).isdigit()]
        return Scatter(
            template=asked.sql("postgres"),
            columns=tuple(self._columns),
            groups=groups,
            distinct=distinct,
            order=order,
            limit=limit,
            offset=offset,
            star=star,
            needs=max(numbers, default=0),
        )

    def _by_key(self, group: exp.Group | None) -> bool:
        """Whether every group is on one shard: it is told apart by the key as well."""
        if group is None:
            return False
        return any(isinstance(one, exp.Column) and one.name in self._keys for one in self._expanded(group))

    def _expanded(self, group: exp.Group) -> list[Node]:
        """The expressions of GROUP BY, with positions and aliases replaced by what they stand for."""
        if group.find(exp.Cube, exp.Rollup, exp.GroupingSets):
            raise CannotScatter("GROUPING SETS, ROLLUP and CUBE are not put together over shards", hint=_IN_PYTHON)
        aliases = {one.alias: one.this for one in self._tree.expressions if isinstance(one, exp.Alias)}
        found = []
        for one in group.expressions:
            if isinstance(one, exp.Literal) and not one.is_string:
                chosen = self._tree.expressions[int(one.name) - 1]
                found.append(chosen.unalias())
            elif isinstance(one, exp.Column) and not one.table and one.name in aliases:
                found.append(aliases[one.name])
            else:
                found.append(one)
        return found

    def _take(self, expression: Node, column: Column) -> int:
        self._asked.append(expression)
        self._columns.append(column)
        return len(self._asked) - 1

    def _aggregates(self, group: exp.Group | None) -> tuple[int, ...]:
        groups = self._expanded(group) if group is not None else []
        places: dict[int, int] = {}
        for one in self._tree.expressions:
            name, inner = _name(one), one.unalias()
            number = next((n for n, each in enumerate(groups) if each == inner), None)
            if number is not None:
                places.setdefault(number, self._take(exp.alias_(inner.copy(), name, quoted=True), Column(name)))
            else:
                self._aggregate(inner, name)
        for number, each in enumerate(groups):
            if number not in places:
                places[number] = self._take(exp.alias_(each.copy(), f"headway_g{number}"), Column("", hidden=True))
        return tuple(places[number] for number in sorted(places))

    def _aggregate(self, inner: Node, name: str) -> None:
        """The parts of an aggregate that shards can give, and how they go together."""
        default: object = None
        if isinstance(inner, exp.Coalesce) and len(inner.expressions) == 1:
            literal = inner.expressions[0]
            if isinstance(literal, exp.Literal) and not literal.is_string and literal.name.isdigit():
                default, inner = int(literal.name), inner.this
        function = inner.this if isinstance(inner, exp.Filter) else inner

        def asked(expression: Node, label: str) -> Node:
            if isinstance(inner, exp.Filter):
                expression = exp.Filter(this=expression, expression=inner.expression.copy())
            return exp.alias_(expression, label, quoted=True)

        is_distinct = isinstance(function.this, exp.Distinct)
        kind = type(function)
        if is_distinct and kind is exp.Count:
            over = function.this.expressions
            if len(over) != 1:
                raise CannotScatter("count(DISTINCT …) of several columns", hint=_IN_PYTHON)
            if isinstance(over[0], exp.Column) and over[0].name in self._keys:
                self._take(asked(function.copy(), name), Column(name, "sum", default))
                return
            listed = exp.ArrayAgg(this=exp.Distinct(expressions=[over[0].copy()]))
            self._take(asked(listed, name), Column(name, "distinct"))
            return
        if is_distinct and kind not in _COMPARED:
            raise CannotScatter(f"{function.sql('postgres')}: a value may be on several shards", hint=_IN_PYTHON)
        if kind in _ADDED:
            self._take(asked(function.copy(), name), Column(name, "sum", default))
        elif kind in _COMPARED:
            self._take(asked(function.copy(), name), Column(name, _COMPARED[kind], default))
        elif kind in _LOGICAL:
            self._take(asked(function.copy(), name), Column(name, _LOGICAL[kind]))
        elif kind is exp.Avg:
            first = self._take(asked(exp.Sum(this=function.this.copy()), name), Column(name, "avg", default))
            self._take(asked(exp.Count(this=function.this.copy()), f"headway_n{first}"), Column("", "sum", hidden=True))
        elif isinstance(function, exp.AggFunc):
            raise CannotScatter(f"{function.sql('postgres')} is not put together over shards", hint=_IN_PYTHON)
        elif inner.find(exp.AggFunc):
            told = f"{inner.sql('postgres')} computes with aggregates of each shard"
            raise CannotScatter(told, hint=_IN_PYTHON)
        else:
            told = f"{inner.sql('postgres')} is neither an aggregate nor in GROUP BY"
            raise CannotScatter(told, hint="Take it into GROUP BY.")

    def _order(self, star: bool) -> tuple[Order, ...]:
        found: list[Order] = []
        order = self._tree.args.get("order")
        for one in order.expressions if order is not None else ():
            wanted, is_desc = one.this, bool(one.args.get("desc"))
            nulls_first = bool(one.args.get("nulls_first")) if one.args.get("nulls_first") is not None else is_desc
            if isinstance(wanted, exp.Literal) and not wanted.is_string:
                index = self._position(int(wanted.name), star)
            else:
                index = self._index(wanted, star)
            found.append(Order(index, is_desc, nulls_first))
        return tuple(found)

    def _position(self, number: int, star: bool) -> int:
        visible = [index for index, column in enumerate(self._columns) if not column.hidden]
        if star or not 1 <= number <= len(visible):
            raise CannotScatter(f"ORDER BY {number} is not a column of the answer", hint="Name it.")
        return visible[number - 1]

    def _index(self, wanted: Node, star: bool) -> int:
        """The column to order by; one that is not in the answer is asked for besides."""
        for index, (asked, column) in enumerate(zip(self._asked, self._columns, strict=False)):
            is_named = isinstance(wanted, exp.Column) and not wanted.table and wanted.name == column.name
            if not star and (is_named or asked.unalias() == wanted):
                return index
        if any(column.merge for column in self._columns) or self._tree.find(exp.AggFunc):
            told = f"ORDER BY {wanted.sql('postgres')} is not in the answer"
            raise CannotScatter(told, hint="Select it as well.")
        if self._tree.args.get("distinct") is not None:
            raise CannotScatter("ORDER BY of what DISTINCT does not keep", hint="Select it as well.")
        # With a star it is behind the server's own columns, which are not counted here.
        self._asked.append(exp.alias_(wanted.copy(), f"headway_o{len(self._asked)}"))
        self._columns.append(Column("", hidden=True))
        return len(self._columns) - 1


def _name(expression: Node) -> str:
    """What PostgreSQL calls a column of the answer."""
    if isinstance(expression, exp.Alias):
        return str(expression.alias)
    if isinstance(expression, exp.Column):
        return str(expression.name)
    inner = expression.unalias()
    if isinstance(inner, exp.Filter):
        inner = inner.this
    if isinstance(inner, exp.Cast):
        return _name(inner.this)
    if isinstance(inner, exp.Func):
        return inner.sql("postgres").partition("(")[0].lower()
    return "?column?"


def _bound(clause: Node | None) -> Bound | None:
    if clause is None:
        return None
    inner = clause.expression
    if isinstance(inner, exp.Literal) and inner.name.isdigit():
        return Bound(number=int(inner.name))
    if isinstance(inner, exp.Parameter) and str(inner.this).isdigit():
        return Bound(argument=int(str(inner.this)))
    raise CannotScatter("LIMIT and OFFSET are numbers or parameters", hint="Compute it in Python.")


def _both(limit: Node, offset: Node | None) -> exp.Limit:
    """As many rows as may be needed of each shard."""
    if offset is None:
        return exp.Limit(expression=limit.expression.copy())
    both = [limit.expression, offset.expression]
    if all(isinstance(one, exp.Literal) for one in both):
        return exp.Limit(expression=exp.Literal.number(sum(int(one.name) for one in both)))
    first, second = (exp.cast(one.copy(), "bigint") for one in both)
    return exp.Limit(expression=exp.Paren(this=exp.Add(this=first, expression=second)))
