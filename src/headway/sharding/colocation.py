"""Whether the rows that a statement joins lie on one shard. Pure; on sqlglot's tree.

Rows with equal keys do, and rows of reference tables lie on every server. So tables with keys have to be joined by the
equality of their keys, all of them; and an outer join must not keep a row that every shard would keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp

from headway.errors import CannotScatter
from headway.model.sharding import TableKey
from headway.sharding.statement import Node, text

_BY_KEYS = "Join by the keys, or ask twice."


def co_located(tree: exp.Select, keys: Mapping[str, TableKey]) -> frozenset[tuple[str, str]]:
    """The keys, as alias and column, that tell the shard of every row of the join.

    CannotScatter when rows of several shards would be joined, or a row that every server has would be kept by each.
    """
    source = tree.find(exp.From)
    assert source is not None
    first = source.this
    spread = {table.alias_or_name: keys[table.name].column for table in tree.find_all(exp.Table) if table.name in keys}
    together = {alias: {alias} for alias in spread}
    optional: set[str] = set()  # may be NULL altogether
    seen = [first.alias_or_name] if _is_spread(first, keys) else []
    for join in tree.args.get("joins") or ():
        side, item = str(join.side or ""), join.this
        name = item.alias_or_name if _is_spread(item, keys) else None
        if (side in ("LEFT", "FULL") and not seen) or (side in ("RIGHT", "FULL") and name is None):
            told = f"{side} JOIN keeps rows that every shard has, of {text(item)} or before it"
            raise CannotScatter(told, hint="Keep the rows of a table with a key, or ask for both and join in Python.")
        if side in ("RIGHT", "FULL"):
            optional.update(seen)
        if side in ("LEFT", "FULL") and name is not None:
            optional.add(name)
        # The condition of an outer join says nothing of the tables before it, for it drops none of their rows.
        only = name if side else ""
        if not (side and name is None):
            _unite(together, spread, join.args.get("on"), only)
        if name is not None:
            for column in join.args.get("using") or ():
                for other in seen:
                    if column.name == spread[other] == spread[name]:
                        _merge_sets(together, other, name)
            seen.append(name)
    where = tree.args.get("where")
    _unite(together, spread, where.this if where is not None else None, "")
    apart = next((alias for alias in spread if together[alias] != set(spread)), None)
    if apart is not None:
        alias = list(spread)[-1]
        told = f"{alias} is joined by another column than its key {spread[alias]}: the rows are on several shards"
        raise CannotScatter(told, hint=_BY_KEYS)
    return frozenset((alias, column) for alias, column in spread.items() if alias not in optional)


def _is_spread(item: Node, keys: Mapping[str, TableKey]) -> bool:
    return isinstance(item, exp.Table) and item.name in keys


def _unite(together: dict[str, set[str]], spread: Mapping[str, str], condition: Node | None, only: str | None) -> None:
    """Note which tables a condition joins by the equality of their keys; with `only`, those that it joins to that."""
    for part in _conjuncts(condition):
        sides = [part.this, part.expression] if isinstance(part, exp.EQ) else []
        names = [side.table for side in sides if isinstance(side, exp.Column) and spread.get(side.table) == side.name]
        if len(names) == 2 and (not only or only in names):
            _merge_sets(together, *names)


def _merge_sets(together: dict[str, set[str]], one: str, other: str) -> None:
    both = together[one] | together[other]
    together.update(dict.fromkeys(both, both))


def _conjuncts(condition: Node | None) -> Iterator[Node]:
    """The parts that all have to be true."""
    if isinstance(condition, exp.Paren):
        yield from _conjuncts(condition.this)
    elif isinstance(condition, exp.And):
        yield from _conjuncts(condition.this)
        yield from _conjuncts(condition.expression)
    elif condition is not None:
        yield condition
