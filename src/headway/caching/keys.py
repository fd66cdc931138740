"""Arguments → the key under which a call's value is found again: by every process, in every version of the app.

Two calls must share a value exactly if the function cannot tell them apart. Python's own equality is too wide for
that (`1 == True == 1.0`), `repr` too narrow (a set has no order, an object shows its address), and a hash differs
from process to process. So a key is a text of values with their types, much as one would write them in Python; what
has no such text is refused, with the place of it. Long texts end in a digest.
"""

from __future__ import annotations

import dataclasses
import inspect
import ipaddress
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from hashlib import blake2b
from pathlib import PurePath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from headway.errors import WrongCacheKey

# Types of which equal values are the same key, so that a table in the process can be asked by the arguments themselves.
# `True == 1`: whoever does so compares types too. Not float (-0.0), Decimal (1.0, 1.00), datetime (the zone).
ATOMIC: frozenset[type] = frozenset({int, str, bytes, bool, type(None), UUID, date, timedelta})

KEY_MAX_BYTES = 200
DEPTH_MAX = 20
NODES_MAX = 10_000
TEXT_MAX = 1_000_000  # characters of the text that a digest is made of
_DIGEST_BYTES = 20
_HEAD_BYTES = KEY_MAX_BYTES - 2 * _DIGEST_BYTES - 1
_PLAIN_MAX = 150  # characters of a text that is a key without a further look
_INT_MAX = 1 << 512  # above it decimal digits cost too much

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {39: "\\'", 92: "\\\\"}
_HINT = "Pass `key=` to say what the value depends on, or give the class a method `__cache_key__()`."

Binder = Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]


def encode_key(arguments: tuple[object, ...], named: Mapping[str, object], names: tuple[str, ...] = ()) -> bytes:
    """The key of a call, `KEY_MAX_BYTES` at most. `names` are those of the positions, for errors.

    Raises WrongCacheKey, with the place of what cannot be part of a key.
    """
    if len(arguments) == 1 and not named:
        value = arguments[0]
        if type(value) is int:
            if -_INT_MAX < value < _INT_MAX:
                return b"(%d)" % value
        elif type(value) is str and len(value) < _PLAIN_MAX and value.isascii() and value.isprintable():  # noqa: SIM102
            if "'" not in value and "\\" not in value:
                return f"('{value}')".encode()
    writing = _Writing()
    parts: list[str] = []
    for at, value in enumerate(arguments):
        parts.append(_argument(writing, value, names[at] if at < len(names) else f"argument {at + 1}"))
    for name in sorted(named):
        parts.append(f"{name}={_argument(writing, named[name], name)}")
    return _bounded(f"({','.join(parts)})")


def binder_for(function: Callable[..., Any]) -> Binder:
    """What turns the two ways to write a call, by position and by name, with and without defaults, into one.

    It gives a value for each parameter, in their order: `*rest` a tuple, `**more` a tuple of pairs sorted by name.
    It raises TypeError where the call itself would.
    """
    signature = signature_of(function)
    if signature is None:
        return lambda args, kwargs: (args, tuple(sorted(kwargs.items())))
    parameters = tuple(signature.parameters.values())
    if any(each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters):
        return lambda args, kwargs: _bound_with_rest(signature, function, args, kwargs)
    positional = tuple(each for each in parameters if each.kind is not each.KEYWORD_ONLY)
    count = len(parameters) if len(positional) == len(parameters) else -1  # so many positions are the whole call
    tails = _tails(parameters, positional)
    named = {each.name: at for at, each in enumerate(parameters) if each.kind is not each.POSITIONAL_ONLY}
    defaults = tuple(each.default for each in parameters)

    def bind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        if not kwargs:
            if len(args) == count:
                return args
            tail = tails.get(len(args))
            if tail is not None:
                return args + tail
        given = len(args)
        if given <= len(positional):
            values = [*args, *defaults[given:]]
            for name, value in kwargs.items():
                at = named.get(name, -1)
                if at < given:
                    break
                values[at] = value
            else:
                if not any(value is inspect.Parameter.empty for value in values[given:]):
                    return tuple(values)
        raise _wrong_call(signature, function, args, kwargs)

    return bind


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """The parameters of a function; None for the few of C's that do not tell theirs."""
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        return inspect.signature(function)
    except ValueError:
        return None


def _tails(
    parameters: tuple[inspect.Parameter, ...], positional: tuple[inspect.Parameter, ...]
) -> dict[int, tuple[Any, ...]]:
    """What defaults add to a call of so many positions and no names, for the calls that are complete with it."""
    tails: dict[int, tuple[Any, ...]] = {}
    for given in range(len(positional) + 1):
        rest = tuple(each.default for each in parameters[given:])
        if not any(each is inspect.Parameter.empty for each in rest):
            tails[given] = rest
    return tails


def _bound_with_rest(
    signature: inspect.Signature, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        raise _wrong_call(signature, function, args, kwargs) from None
    bound.apply_defaults()
    return tuple(
        tuple(sorted(value.items())) if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else value
        for name, value in bound.arguments.items()
    )


def _wrong_call(
    signature: inspect.Signature, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TypeError:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return TypeError(f"{getattr(function, '__qualname__', function)}() {error}")
    return TypeError(f"{getattr(function, '__qualname__', function)}() was called with arguments it does not take")


def _bounded(text: str) -> bytes:
    key = text.encode("utf-8", "surrogatepass")
    if len(key) <= KEY_MAX_BYTES:
        return key
    # A short key ends in ")", a long one in a hexadecimal digit: neither can be the other.
    head = key[:_HEAD_BYTES].decode("utf-8", "ignore").encode()
    return head + b"~" + blake2b(key, digest_size=_DIGEST_BYTES).hexdigest().encode()


# --- values as text -------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A value without a text; `path` leads to it, from the inside outwards."""

    def __init__(self, why: str, hint: str = _HINT) -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint
        self.path: list[str] = []


class _Writing:
    """The bounds that all arguments of a call share."""

    __slots__ = ("characters", "nodes")

    def __init__(self) -> None:
        self.nodes = NODES_MAX
        self.characters = TEXT_MAX

    def took(self, text: str) -> str:
        self.characters -= len(text)
        if self.characters < 0:
            raise _Refused(f"the text of its values is over {TEXT_MAX} characters, too large for a key")
        return text


def _argument(writing: _Writing, value: object, name: str) -> str:
    try:
        return _text(writing, value, 0)
    except _Refused as refused:
        where = name + "".join(reversed(refused.path))
        raise WrongCacheKey(f"{where}: {refused.why}", hint=refused.hint) from None


def _text(writing: _Writing, value: object, depth: int) -> str:
    kind = type(value)
    write = _LEAVES.get(kind)
    writing.nodes -= 1
    if writing.nodes < 0:
        raise _Refused(f"more than {NODES_MAX} values are too many for a key")
    if write is not None:
        return writing.took(write(value))
    if depth >= DEPTH_MAX:
        raise _Refused(f"values nested over {DEPTH_MAX} deep, or in themselves, are no key")
    branch = _BRANCHES.get(kind)
    if branch is not None:
        return branch(writing, value, depth + 1)
    return _others(writing, value, depth + 1)


def _str(value: str) -> str:
    return f"'{value.translate(_ESCAPES)}'"


def _int(value: int) -> str:
    return str(value) if -_INT_MAX < value < _INT_MAX else hex(value)


def _float(value: float) -> str:
    if value != value:
        raise _Refused("NaN equals nothing, not even itself, and is no key")
    return repr(value)


def _decimal(value: Decimal) -> str:
    if value.is_nan():
        raise _Refused("a Decimal that is no number equals nothing, and is no key")
    return f"Decimal({value})"


def _moment(value: datetime | time) -> str:
    # The zone's rules matter to whoever adds days; of zones of other kinds only the offset can be told.
    zone = value.tzinfo
    named = f",{_str(zone.key)}" if isinstance(zone, ZoneInfo) and zone.key else ""
    return f"{type(value).__name__}({value.isoformat()}{',fold' if value.fold else ''}{named})"


def _zone(value: ZoneInfo) -> str:
    if not value.key:
        raise _Refused("a ZoneInfo without a name cannot be part of a cache key")
    return f"ZoneInfo({_str(value.key)})"


def _class(value: type) -> str:
    return f"{value.__module__}.{value.__qualname__}"


_LEAVES: dict[type, Callable[[Any], str]] = {
    type(None): repr,
    bool: repr,
    type(...): repr,
    int: _int,
    float: _float,
    str: _str,
    bytes: repr,
    UUID: lambda value: f"UUID({value})",
    Decimal: _decimal,
    Fraction: lambda value: f"Fraction({_int(value.numerator)},{_int(value.denominator)})",
    datetime: _moment,
    time: _moment,
    date: lambda value: f"date({value.isoformat()})",
    timedelta: lambda value: f"timedelta({value.days},{value.seconds},{value.microseconds})",
    ZoneInfo: _zone,
    ipaddress.IPv4Address: lambda value: f"IPv4Address({value})",
    ipaddress.IPv6Address: lambda value: f"IPv6Address({value})",
    ipaddress.IPv4Network: lambda value: f"IPv4Network({value})",
    ipaddress.IPv6Network: lambda value: f"IPv6Network({value})",
}


def _in(writing: _Writing, value: object, depth: int, place: str) -> str:
    try:
        return _text(writing, value, depth)
    except _Refused as refused:
        refused.path.append(place)
        raise


def _items(writing: _Writing, values: Iterable[object], depth: int) -> list[str]:
    return [_in(writing, value, depth, f"[{at}]") for at, value in enumerate(values)]


def _tuple(writing: _Writing, value: tuple[object, ...], depth: int) -> str:
    items = _items(writing, value, depth)
    return f"({items[0]},)" if len(items) == 1 else f"({','.join(items)})"


def _list(writing: _Writing, value: list[object], depth: int) -> str:
    return f"[{','.join(_items(writing, value, depth))}]"


def _members(writing: _Writing, value: Iterable[object], depth: int) -> str:
    return ",".join(sorted([_in(writing, each, depth, " (one of the set)") for each in value]))


def _pairs(writing: _Writing, value: Mapping[Any, Any], depth: int) -> list[str]:
    return [
        f"{_in(writing, key, depth, ' (a key of it)')}:{_in(writing, each, depth, f'[{_shown(key)}]')}"
        for key, each in value.items()
    ]


def _fields(writing: _Writing, value: object, names: Iterable[str], depth: int) -> str:
    told = [f"{name}={_in(writing, getattr(value, name, ...), depth, f'.{name}')}" for name in names]
    return f"{_class(type(value))}({','.join(told)})"


_BRANCHES: dict[type, Callable[[_Writing, Any, int], str]] = {
    tuple: _tuple,
    list: _list,
    set: lambda writing, value, depth: f"set({_members(writing, value, depth)})",
    frozenset: lambda writing, value, depth: f"frozenset({_members(writing, value, depth)})",
    dict: lambda writing, value, depth: f"{{{','.join(sorted(_pairs(writing, value, depth)))}}}",
}


def _others(writing: _Writing, value: Any, depth: int) -> str:
    """The text of a value whose class is not one of Python's plain ones."""
    kind = type(value)
    if isinstance(value, type):
        return writing.took(_of_class(value))
    if callable(own := getattr(kind, "__cache_key__", None)):
        return f"{_class(kind)}<{_in(writing, own(value), depth, '.__cache_key__()')}>"
    if isinstance(value, Enum):
        named = f"({value.value!r})" if isinstance(value, Flag) else f".{value.name}"
        return writing.took(f"{_class(kind)}{named}")
    if isinstance(value, msgspec.Struct):
        return _fields(writing, value, kind.__struct_fields__, depth)
    if dataclasses.is_dataclass(value):
        if not kind.__dataclass_params__.frozen:
            raise _Refused(
                f"{_named(kind)}, a dataclass that can change, cannot be part of a cache key",
                f"Make it @dataclass(frozen=True). {_HINT}",
            )
        return _fields(writing, value, [each.name for each in dataclasses.fields(value)], depth)
    if _is_pydantic(kind):
        return _fields(writing, value, [*kind.model_fields, *sorted(value.__pydantic_extra__ or ())], depth)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return _fields(writing, value, kind._fields, depth)
    if isinstance(value, PurePath):
        return writing.took(f"{kind.__name__}({_str(str(value))})")
    return _subclassed(writing, value, depth)


_PLAIN: tuple[type, ...] = (str, bytes, bool, int, float, Decimal, datetime, time, date, timedelta, UUID, Fraction)


def _subclassed(writing: _Writing, value: Any, depth: int) -> str:
    """A value of a class made of a plain one: its class, and what it is as the plain one. Not with more to it."""
    kind = type(value)
    if not getattr(value, "__dict__", None):
        if isinstance(value, dict):
            pairs = _pairs(writing, value, depth)
            told = ",".join(pairs if isinstance(value, OrderedDict) else sorted(pairs))
            return f"{_class(kind)}({told})"
        for items in (tuple, list, set, frozenset):
            if isinstance(value, items):
                return f"{_class(kind)}({_BRANCHES[items](writing, items(value), depth)})"
        for plain in _PLAIN:
            if isinstance(value, plain):
                return writing.took(f"{_class(kind)}({_as_plain(plain, value)})")
    raise _Refused(f"{_named(kind)} cannot be part of a cache key")


def _as_plain(plain: type, value: Any) -> str:
    """The subclass may print itself otherwise; what counts is the plain class's own text."""
    if plain is str:
        return _str(str.__str__(value))
    if plain is int:
        return _int(int(value))
    if plain is float:
        return _float(float(value))
    if plain is bytes:
        return repr(bytes(value))
    return _LEAVES[plain](value)


def _of_class(value: type) -> str:
    if "<locals>" in value.__qualname__:
        raise _Refused(f"the class {_named(value)} is made inside a function, and not the same in every process")
    return f"class {_class(value)}"


def _is_pydantic(kind: type) -> bool:
    """A model of values; not one that stands for a row of a database, whose state is elsewhere."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel) and not hasattr(kind, "_sa_class_manager")


def _named(kind: type) -> str:
    article = "an" if kind.__name__[:1].lower() in tuple("aeiou") else "a"
    return f"{article} {kind.__name__}" if kind.__module__ == "builtins" else f"{article} {_class(kind)}"


def _shown(key: object) -> str:
    text = repr(key) if type(key) in _LEAVES else type(key).__name__
    return text if len(text) <= 40 else f"{text[:40]}…"
