"""How much memory a value takes, near enough to bound a tier by, and quick whatever the value.

Python can say it of one object only. A small value is added up in full; of a large one a part is, spread evenly,
and the rest is taken to be like it.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Iterable
from itertools import islice
from math import isqrt
from typing import Any

import msgspec

NODES_MAX = 2000  # about so many objects are looked at, which takes half a millisecond
_DEPTH_MAX = 50
_UNKNOWN_BYTES = 64
_FIELD_BYTES = 16  # a field's place in an object that has a dict of its own
_FEW = 64
_FLAT = frozenset({int, float, str, bytes, bool, type(None)})


_ALWAYS_FIRST = 32  # values of a function that are weighed before any is judged by the others
_ALWAYS_FROM_BYTES = 4096  # and those that weigh in
_APART = 16  # of the rest about one in eight, at distances below this that keep no step with what comes in turn


class Scale:
    """Weighs the values of one function, most of them by their size as bytes.

    Weighing takes as long as decoding. Values of one function are alike, so some are weighed, and of the others it is
    taken that a byte stands for as much as it did in these: single weights are off, their sum is not.
    """

    __slots__ = ("_apart", "_known_bytes", "_known_raw", "_until_next")

    def __init__(self) -> None:
        self._known_bytes = 0.0
        self._known_raw = 0.0
        self._apart = 0
        self._until_next = -_ALWAYS_FIRST

    def weigh(self, value: Any, raw_bytes: int) -> int:
        """The bytes that a value takes; `raw_bytes` is its size before it was decoded."""
        if self._until_next > 0 and raw_bytes < _ALWAYS_FROM_BYTES:
            self._until_next -= 1
            return int(raw_bytes * self._known_bytes / self._known_raw) + 1
        weight = weigh(value)
        if raw_bytes < _ALWAYS_FROM_BYTES:
            # What was weighed long ago counts for less and less: the values may change.
            if self._known_raw > 256 * _ALWAYS_FROM_BYTES:
                self._known_bytes /= 2
                self._known_raw /= 2
            self._known_bytes += weight
            self._known_raw += max(1, raw_bytes)
            self._until_next += 1
            if self._until_next >= 0:
                self._apart = (self._apart * 5 + 3) % _APART  # each of them once, in no order
                self._until_next = self._apart
        return weight


def weigh(value: Any) -> int:
    """The bytes that a value takes, with all that it refers to."""
    size = 0
    count = 1
    rest = [value]
    while rest:  # most values are a few plain ones, for which this is the quickest
        value_here = rest.pop()
        kind = type(value_here)
        if kind is dict:
            count += len(value_here)
            if count > _FEW:
                break
            size += sys.getsizeof(value_here)
            for key, part in value_here.items():
                size += sys.getsizeof(key) if type(key) in _FLAT else _UNKNOWN_BYTES
                if type(part) in _FLAT:
                    size += sys.getsizeof(part)
                else:
                    rest.append(part)
        elif kind is list or kind is tuple:
            count += len(value_here)
            if count > _FEW:
                break
            size += sys.getsizeof(value_here)
            for part in value_here:
                if type(part) in _FLAT:
                    size += sys.getsizeof(part)
                else:
                    rest.append(part)
        elif kind in _FLAT:
            size += sys.getsizeof(value_here)
        else:
            break
    else:
        return size
    return _whole(value, NODES_MAX, set(), 0)


def _whole(value: Any, nodes: int, seen: set[int], depth: int) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = _own(value)
    kind = type(value)
    if kind in _FLAT or nodes < 1 or depth > _DEPTH_MAX:
        return size
    if isinstance(value, dict):
        return size + _sampled(value.items(), len(value), nodes, seen, depth, is_pairs=True)
    if isinstance(value, list | tuple | set | frozenset):
        return size + _sampled(value, len(value), nodes, seen, depth)
    if isinstance(value, msgspec.Struct):
        parts: Collection[Any] = [getattr(value, name, None) for name in kind.__struct_fields__]
    elif dataclasses.is_dataclass(kind):
        # Not by its __dict__, which Python would make for the asking, and keep.
        parts = [getattr(value, each.name, None) for each in dataclasses.fields(kind)]
        size += _FIELD_BYTES * len(parts)
    elif isinstance(own := getattr(value, "__dict__", None), dict):
        size += _own(own)
        parts = own.values()
    else:
        return size
    return size + _sampled(parts, len(parts), nodes, seen, depth)


def _sampled(
    parts: Iterable[Any], count: int, nodes: int, seen: set[int], depth: int, *, is_pairs: bool = False
) -> int:
    """The weight of so many parts: of all, or of some at even distances, which stand for the others."""
    looked_at = min(count, 4 * isqrt(nodes))
    if not looked_at:
        return 0
    share = nodes // (2 * looked_at if is_pairs else looked_at)
    step = -(-count // looked_at)
    if step > 1:
        parts = parts[::step] if isinstance(parts, list | tuple) else islice(parts, 0, None, step)
    size = parts_seen = 0
    for part in parts:
        parts_seen += 1
        if is_pairs:
            key, part = part
            if id(key) not in seen:  # of many records that come from one decoder, each has the same names
                size += _whole(key, share, seen, depth + 1)
        if type(part) in _FLAT:
            size += sys.getsizeof(part)
        else:
            size += _own(part) if share < 1 else _whole(part, share, seen, depth + 1)
    return size if parts_seen == count else size * count // max(parts_seen, 1)


def _own(value: Any) -> int:
    try:
        return sys.getsizeof(value)
    except Exception:  # a class of the app that says something odd of itself
        return _UNKNOWN_BYTES
