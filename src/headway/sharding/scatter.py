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
from headway.sharding.colocation import co_located
from headway.sharding.layout import REFERENCE_SCHEMA, identifier
from headway.sharding.merge import Column, Order
from headway.sharding.statement import (
    AsWritten,
    Bound,
    Node,
    both,
    bound,
    column_name,
    flat,
    has_aggregate,
    is_aggregate,
    is_count,
    kind_sql,
    parameters,
    read,
    text,
)

_SCHEMA = "headway_any_shard"
_COMPARED: dict[type[Any], str] = {exp.Min: "min", exp.Max: "max"}
_LOGICAL: dict[type[Any], str] = {exp.LogicalAnd: "all", exp.LogicalOr: "any"}
_COMBINED = {"sum": "sum", "avg": "sum", "min": "min", "max": "max", "all": "bool_and", "any": "bool_or"}
_IN_PYTHON = "Ask for its parts and put them together in Python."
_ONE_SHARD = "Ask one shard for it: at(key)."


@dataclass(frozen=True, slots=True)
class Scatter:
    """What to ask, and how to put the answers together."""

    template: tuple[str, ...]  # with the name of a schema between the pieces
    columns: tuple[Column, ...]  # of the answer that servers give; hidden ones are not the caller's
    groups: tuple[int, ...] | None  # columns that tell groups apart; None: rows are only put one after the other
    distinct: bool = False
    order: tuple[Order, ...] = ()
    limit: Bound | None = None
    offset: Bound | None = None
    star: bool = False  # columns are the server's: what it names, with `columns` behind
    needs: int = 0  # arguments
    head: str = ""  # around all of it, what puts together the groups of the server's own shards
    tail: str = ""

    def server_sql(self, schemas: Sequence[str]) -> str:
        """One server's statement, over its shards."""
        parts = [identifier(schema).join(self.template) for schema in schemas]
        asked = "\nUNION ALL\n".join(f"({part})" for part in parts)
        return f"{self.head}{asked}{self.tail}"


def scatter(sql: str, keys: Mapping[str, TableKey], reference: Collection[str] = ()) -> Scatter:
    """Plan a statement. CannotScatter says what cannot be answered over all shards, and what to do instead."""
    tree = read(sql)
    if not isinstance(tree, exp.Select):
        kind = type(tree).__name__.upper()
        hint = "Write through at(key) or run(key, …), shard by shard; a schema is changed by migrations."
        raise CannotScatter(f"everywhere takes a SELECT, not {kind}", hint=hint)
    _check_shape(tree)
    _check_tables(tree, keys, reference)
    return _Planner(tree, keys, _placeholder(sql)).plan()


def _placeholder(sql: str) -> str:
    """A name for any shard's schema that the statement does not contain."""
    name = _SCHEMA
    while name in sql:
        name += "_"
    return name


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
    spread = False
    for table in tables:
        if table.args.get("db"):
            raise CannotScatter(f"table {text(table)} names a schema", hint="A shard is its own schema.")
        if table.args.get("joins"):
            raise CannotScatter("a join in parentheses", hint="Write the joins one after the other.")
        if table.name in keys:
            spread = True
        elif table.name not in reference:
            known = ", ".join([*keys, *reference])
            raise CannotScatter(f"there is no table {table.name} in the declaration", hint=f"There is: {known}.")
    if not spread:
        raise CannotScatter("only reference tables are read, which every server has", hint=_ONE_SHARD)


class _Planner:
    """Rewrites one SELECT to the one that each shard is asked."""

    def __init__(self, tree: exp.Select, keys: Mapping[str, TableKey], placeholder: str) -> None:
        self._tree = tree
        self._placeholder = placeholder
        self._spread = {table.name for table in tree.find_all(exp.Table) if table.name in keys}
        self._keys = co_located(tree, keys)
        self._is_text_key = any(keys[table].kind == "text" for table in self._spread)
        self._is_one_table = len(list(tree.find_all(exp.Table))) == 1 and not tree.args.get("joins")
        self._asked: list[Node] = []
        self._columns: list[Column] = []
        self._grouped: exp.Group | None = None
        self._about: dict[int, int] = {}  # columns that tell a type: of which other one
        self._shown = 0  # of the columns asked for, those that the caller sees when nothing is grouped

    def plan(self) -> Scatter:
        tree = self._tree
        limit, offset = bound(tree.args.get("limit")), bound(tree.args.get("offset"))
        group, having = tree.args.get("group"), tree.args.get("having")
        is_grouped = group is not None or having is not None or has_aggregate(tree)
        groups: tuple[int, ...] | None = None
        distinct = tree.args.get("distinct") is not None
        if is_grouped and not self._by_key(group):
            if having is not None:
                raise CannotScatter("HAVING is about groups that are spread over shards", hint=_IN_PYTHON)
            if distinct:
                raise CannotScatter("DISTINCT of aggregates", hint=_IN_PYTHON)
            groups = self._aggregates(group)
        else:
            # The server knows the names, and what a star stands for; only what is asked for besides is counted here.
            self._asked = list(tree.expressions)
            self._shown = len(self._asked)
        order = self._order(is_plain=groups is None, is_grouped=is_grouped)
        asked = tree.copy()
        asked.set("expressions", [one.copy() for one in self._asked])
        if self._grouped is not None:
            asked.set("group", self._grouped)
        for part in ("limit", "offset", *(("order",) if groups is not None or limit is None else ())):
            asked.set(part, None)
        if limit is not None and groups is None:
            asked.set("limit", both(tree.args.get("limit"), tree.args.get("offset")))
        for table in asked.find_all(exp.Table):
            schema = self._placeholder if table.name in self._spread else REFERENCE_SCHEMA
            table.set("db", exp.to_identifier(schema, quoted=True))
        head, tail = self._combined(groups, asked)
        numbers = parameters(tree)
        for number in sorted(numbers - parameters(asked)):
            # A statement has to mention every argument that it is given.
            asked.where(f"(${number}::bigint IS NULL OR true)", dialect=AsWritten, copy=False)
        return Scatter(
            template=tuple(text(asked).split(f'"{self._placeholder}"')),
            columns=tuple(self._columns),
            groups=groups,
            distinct=distinct,
            order=order,
            limit=limit,
            offset=offset,
            star=groups is None,
            needs=max(numbers, default=0),
            head=head,
            tail=tail,
        )

    def _combined(self, groups: tuple[int, ...] | None, asked: exp.Select) -> tuple[str, str]:
        """What gives one row for each group of a server instead of one for each group of a shard."""
        columns = self._columns
        if groups is None or any(column.merge == "distinct" for column in columns):
            return "", ""
        inner: list[Node] = []
        outer: list[str] = []
        for index, (one, column) in enumerate(zip(self._asked, columns, strict=True)):
            value = one.unalias()
            if index in self._about:
                told = f"c{self._about[index]}"
                outer.append(kind_sql(told if self._about[index] in groups else f"min({told})"))
                continue
            inner.append(exp.alias_(value.copy(), f"c{index}"))
            if index in groups:
                outer.append(f"c{index}")
            elif not column.merge:
                outer.append(f"(array_agg(c{index}))[1]")  # the same in all rows
            elif is_count(value):
                outer.append(f"sum(c{index})::bigint")
            else:
                outer.append(f"{_COMBINED[column.merge]}(c{index})")
        asked.set("expressions", inner)
        by = f"\nGROUP BY {', '.join(f'c{index}' for index in groups)}" if groups else ""
        return f"SELECT {', '.join(outer)} FROM (\n", f"\n) headway_groups{by}"

    def _by_key(self, group: exp.Group | None) -> bool:
        """Whether every group is on one shard: it is told apart by the key as well."""
        return group is not None and any(self._is_key(one) for one in self._expanded(group))

    def _is_key(self, one: Node) -> bool:
        if not isinstance(one, exp.Column):
            return False
        # Without a table it can be no other table's: PostgreSQL would call it ambiguous.
        return (one.table, one.name) in self._keys or (not one.table and one.name in {key[1] for key in self._keys})

    def _same(self, one: Node, other: Node) -> bool:
        return bool(self._bare(one) == self._bare(other))

    def _bare(self, one: Node) -> Node:
        """Without what makes no difference: parentheses, and the table's name where there is one table."""
        one = one.unalias().unnest().copy()
        if self._is_one_table:
            for column in one.find_all(exp.Column):
                column.set("table", None)
        return one

    def _expanded(self, group: exp.Group) -> list[Node]:
        """The expressions of GROUP BY, with positions and aliases replaced by what they stand for."""
        if group.find(exp.Cube, exp.Rollup, exp.GroupingSets):
            raise CannotScatter("GROUPING SETS, ROLLUP and CUBE are not put together over shards", hint=_IN_PYTHON)
        aliases = {one.alias: one.this for one in self._tree.expressions if isinstance(one, exp.Alias)}
        found: list[Node] = []
        for one in flat(group.expressions):
            if isinstance(one, exp.Literal) and not one.is_string:
                meant = self._chosen("GROUP BY", int(one.name)).unalias()
                if not meant.find(exp.Column):
                    raise CannotScatter(f"GROUP BY {one.name} is a constant", hint="Do not group by it.")
                found.append(meant)
            elif isinstance(one, exp.Column) and not one.table and one.name in aliases:
                meant = aliases[one.name]
                columns = {column.name for column in meant.find_all(exp.Column)}
                if not columns:
                    told = f"GROUP BY {one.name} is the column where there is one, else the constant"
                    raise CannotScatter(told, hint="Give the constant another name, or do not group by it.")
                # A column goes before an alias. That there is one is seen here from the alias being made of it.
                found.append(one if one.name in columns else meant)
            else:
                found.append(one)
        return found

    def _chosen(self, clause: str, number: int) -> Node:
        """What a position stands for."""
        before = self._tree.expressions[:number]
        if not 1 <= number <= len(self._tree.expressions) or any(one.is_star for one in before):
            raise CannotScatter(f"{clause} {number} is not a column of the answer", hint="Name it.")
        return before[-1]

    def _take(self, expression: Node, column: Column) -> int:
        self._asked.append(expression)
        self._columns.append(column)
        return len(self._asked) - 1

    def _aggregates(self, group: exp.Group | None) -> tuple[int, ...]:
        groups = self._expanded(group) if group is not None else []
        places: dict[int, int] = {}
        for one in self._tree.expressions:
            name, inner = column_name(one), one.unalias()
            number = next((n for n, each in enumerate(groups) if self._same(each, inner)), None)
            if number is not None:
                places.setdefault(number, self._take(exp.alias_(inner.copy(), name, quoted=True), Column(name)))
            else:
                self._aggregate(inner, name)
        for number, each in enumerate(groups):
            if number not in places:
                places[number] = self._take(exp.alias_(each.copy(), f"headway_g{number}"), Column("", hidden=True))
        if group is not None:
            # By what is meant: positions and names are other ones in what is asked.
            self._grouped = exp.Group(expressions=[each.copy() for each in groups])
        return tuple(places[number] for number in sorted(places))

    def _aggregate(self, inner: Node, name: str) -> None:
        """The parts of an aggregate that shards can give, and how they go together."""
        default: int | None = None
        if isinstance(inner, exp.Coalesce) and len(inner.expressions) == 1 and has_aggregate(inner.this):
            other = inner.expressions[0]
            constant = other.this if isinstance(other, exp.Neg) else other
            if isinstance(constant, exp.Literal | exp.Parameter | exp.Boolean):
                # In the type that coalesce would give it: NULL of the aggregate's type, and the literal.
                never = exp.Nullif(this=inner.this.copy(), expression=inner.this.copy())
                typed = exp.Coalesce(this=never, expressions=[other.copy()])
                default = self._take(exp.alias_(typed, f"headway_d{len(self._asked)}"), Column("", hidden=True))
                inner = inner.this
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
            if self._is_key(over[0]):
                self._take(asked(function.copy(), name), Column(name, "sum", default))
                return
            listed = exp.ArrayAgg(this=exp.Distinct(expressions=[over[0].copy()]))
            self._take(asked(listed, name), Column(name, "distinct", default))
            return
        if is_distinct and kind not in _COMPARED:
            raise CannotScatter(f"{text(function)}: a value may be on several shards", hint=_IN_PYTHON)
        if kind is exp.Count:
            self._take(asked(function.copy(), name), Column(name, "sum", default))
        elif kind is exp.Sum:
            index = len(self._asked)
            self._take(asked(function.copy(), name), Column(name, "sum", default, kind=index + 1))
            self._about[self._take_kind(inner)] = index
        elif kind in _COMPARED:
            index = len(self._asked)
            self._take(asked(function.copy(), name), Column(name, _COMPARED[kind], default, kind=index + 1))
            self._about[self._take_kind(inner)] = index
        elif kind in _LOGICAL:
            self._take(asked(function.copy(), name), Column(name, _LOGICAL[kind], default))
        elif kind is exp.Avg:
            # avg adds up a real in double precision, which sum does not.
            total = exp.Sum(this=exp.Mul(this=exp.paren(function.this.copy()), expression=exp.Literal.number(1)))
            first = self._take(asked(total, name), Column(name, "avg", default))
            self._take(asked(exp.Count(this=function.this.copy()), f"headway_n{first}"), Column("", "sum", hidden=True))
        elif is_aggregate(function):
            raise CannotScatter(f"{text(function)} is not put together over shards", hint=_IN_PYTHON)
        elif has_aggregate(inner):
            told = f"{text(inner)} computes with aggregates of each shard"
            raise CannotScatter(told, hint=_IN_PYTHON)
        else:
            told = f"{text(inner)} is neither an aggregate nor in GROUP BY"
            raise CannotScatter(told, hint="Take it into GROUP BY.")

    def _take_kind(self, value: Node, once: bool = False) -> int:
        """Ask for the type of a value, and for its collation, which numbers do not have.

        In a sub-query it is asked once and not for each row; there PostgreSQL does not know expressions of GROUP BY
        again, whose rows are few.
        """
        told = kind_sql(text(value))
        kind = sqlglot.parse_one(f"(SELECT {told})" if once else told, read=AsWritten)
        return self._take(exp.alias_(kind, f"headway_k{len(self._asked)}"), Column("", hidden=True))

    def _order(self, is_plain: bool, is_grouped: bool) -> tuple[Order, ...]:
        found: list[Order] = []
        order = self._tree.args.get("order")
        for one in order.expressions if order is not None else ():
            if not isinstance(one, exp.Ordered) or one.args.get("using") or one.args.get("with_fill"):
                raise CannotScatter("ORDER BY with an operator of its own", hint=_IN_PYTHON)
            is_desc, nulls_first = bool(one.args.get("desc")), bool(one.args.get("nulls_first"))
            index, value = self._plain_index(one.this) if is_plain else self._group_index(one.this)
            if value is not None:
                told = self._take_kind(value, once=not is_grouped)
                self._about[told] = index
                found.append(Order(told - self._shown))
            found.append(Order(index - self._shown, is_desc, nulls_first))
        return tuple(found)

    def _meant(self, wanted: Node) -> int | None:
        """Which of the selected columns a key of ORDER BY is: by position, by name, which goes first, or as it is."""
        selected = self._tree.expressions
        if isinstance(wanted, exp.Literal) and not wanted.is_string:
            self._chosen("ORDER BY", int(wanted.name))
            return int(wanted.name) - 1
        if isinstance(wanted, exp.Column) and not wanted.table:
            for index, one in enumerate(selected):
                if one.alias_or_name == wanted.name and not one.is_star:
                    return index
        return next((index for index, one in enumerate(selected) if self._same(one, wanted)), None)

    def _plain_index(self, wanted: Node) -> tuple[int, Node | None]:
        """The column to order by; one that is not in the answer is asked for besides. And what to ask the type of."""
        meant = self._meant(wanted)
        value = wanted if meant is None else self._tree.expressions[meant].unalias()
        is_sure = isinstance(value, exp.Count) or (self._is_key(value) and not self._is_text_key)
        asks = None if is_sure else value
        if meant is not None and not any(one.is_star for one in self._tree.expressions):
            return meant, asks
        if self._tree.args.get("distinct") is not None:
            raise CannotScatter("ORDER BY of what DISTINCT does not keep", hint="Name it in the SELECT.")
        # With a star it is behind the server's own columns, which are not counted here.
        hidden = exp.alias_(value.copy(), f"headway_o{len(self._asked)}")
        return self._take(hidden, Column("", hidden=True)), asks

    def _group_index(self, wanted: Node) -> tuple[int, Node | None]:
        """The column of merged groups to order by."""
        meant = self._meant(wanted)
        if meant is None:
            raise CannotScatter(f"ORDER BY {text(wanted)} is not in the answer", hint="Select it as well.")
        shown = [index for index, column in enumerate(self._columns) if not column.hidden]
        index = shown[meant]
        counts = self._columns[index].merge in ("distinct", "all", "any") or isinstance(
            self._asked[index].unalias(), exp.Count
        )
        return index, None if counts else self._asked[index].unalias()
