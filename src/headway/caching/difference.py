"""What is not the same in two values that ought to be: the first place where type or value differ, all the way down.

Python's `==` does not see it: `1 == True`, a moment equals itself in another zone, a str of a class that marks it
as safe equals the plain one, and NaN does not equal itself.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Difference:
    """Where (`[0].price`; "" for the whole), and what came of what."""

    where: str
    what: str
    is_zone: bool = False  # a moment that is in another zone now

    def inside(self, place: str) -> Difference:
        """The same, seen from around."""
        return Difference(place + self.where, self.what, self.is_zone)


_SIMPLE = frozenset({int, str, bytes, bool, type(None)})


def difference(before: Any, after: Any) -> Difference | None:
    """The first difference; None when there is none."""
    kind = type(before)
    if kind is not type(after):
        return Difference("", f"{_a(kind)} came back as {_a(type(after))}")
    if kind in _SIMPLE:
        return None if before == after else _other(before, after)
    if isinstance(before, dict):
        return _of_dicts(before, after)
    if isinstance(before, list | tuple):
        return _of_items(before, after, getattr(kind, "_fields", ()))
    if isinstance(before, set | frozenset):
        return _of_sets(before, after)
    fields = _fields(before)
    if fields is not None:
        return _of_fields(before, after, fields)
    return None if _are_equal(before, after) else _other(before, after)


def _of_dicts(before: dict[Any, Any], after: dict[Any, Any]) -> Difference | None:
    if len(before) != len(after):
        return _other(before, after)
    for (key, mine), (other, its) in zip(before.items(), after.items(), strict=True):
        if key is not other and (found := difference(key, other)) is not None:
            return found.inside(f" (the key {key!r:.40})")
        if type(mine) in _SIMPLE and type(its) is type(mine) and mine == its:
            continue
        if (found := difference(mine, its)) is not None:
            return found.inside(f"[{key!r:.40}]")
    return None


def _of_items(before: Any, after: Any, names: tuple[str, ...]) -> Difference | None:
    if len(before) != len(after):
        return _other(before, after)
    for at, (mine, its) in enumerate(zip(before, after, strict=True)):
        if type(mine) in _SIMPLE and type(its) is type(mine) and mine == its:
            continue
        if (found := difference(mine, its)) is not None:
            return found.inside(f".{names[at]}" if names else f"[{at}]")
    return None


def _of_sets(before: Any, after: Any) -> Difference | None:
    if len(before) != len(after):
        return _other(before, after)
    others = {each: each for each in after}
    for each in before:
        if each not in others:
            return Difference("", f"{_a(type(each))} of the set did not come back")
        if (found := difference(each, others[each])) is not None:
            return found.inside(" (one of the set)")
    return None


def _of_fields(before: Any, after: Any, names: Iterable[str]) -> Difference | None:
    for name in names:
        if (found := difference(getattr(before, name, None), getattr(after, name, None))) is not None:
            return found.inside(f".{name}")
    return None


def _fields(value: Any) -> list[str] | None:
    """The names of the parts of a record; None of what is none."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return [*kind.model_fields, *(value.__pydantic_extra__ or ()), *(value.__pydantic_private__ or ())]
    return None


def _are_equal(before: Any, after: Any) -> bool:
    if isinstance(before, datetime | time):
        return str(before) == str(after) and before.fold == after.fold
    if isinstance(before, Decimal):
        return str(before) == str(after)
    try:
        return bool(before == after) or (before != before and after != after)
    except Exception:  # a class of the app that cannot be compared
        return False


def _other(before: Any, after: Any) -> Difference:
    if isinstance(before, list | tuple | dict | set | frozenset):
        return Difference("", f"{_a(type(before))} of {len(before)} came back with {len(after)}")
    if isinstance(before, datetime | time | Decimal | float | int):
        return Difference("", f"{before!s:.80} came back as {after!s:.80}", isinstance(before, datetime))
    return Difference("", f"{_a(type(before))} came back with another value, or cannot be compared")


def _a(kind: type) -> str:
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
