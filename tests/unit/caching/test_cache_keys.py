"""A key tells apart what a function can, nothing else, and is the same in every process."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from sqlalchemy import Integer
from sqlalchemy.orm import DeclarativeBase, mapped_column

from headway.caching.keys import ATOMIC, KEY_MAX_BYTES, binder_for, encode_key
from headway.errors import HeadwayError, WrongCacheKey

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = 1


class Paint(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    seen: int = field(default=0, compare=False)


class Pair(NamedTuple):
    x: int
    y: int


class Place(msgspec.Struct):
    x: int
    y: int


class Query(pydantic.BaseModel):
    text: str
    page: int = 1


class Safe(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Customer:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> int:
        return self.number


DIFFERENT: list[Any] = [
    1, True, 1.0, "1", b"1", Decimal(1), Fraction(1), Level.LOW, 0, False, None, 0.0, -0.0, float("inf"), "None",
    "True", (), [], {}, set(), frozenset(), "", b"", (1,), [1], {1}, frozenset({1}), {1: 1}, ((1,),), "(1)", ...,
    Decimal("1.0"), Decimal("1.00"), Colour.RED, Paint.RED, Right.READ, Right.WRITE, Right.READ | Right.WRITE,
    Point(1), Point(1, seen=2), Pair(1, 0), Place(1, 0), Query(text="a"), Query(text="a", page=2), Safe("a"), "a",
    "'a'", "\\'a", uuid.UUID(int=1), str(uuid.UUID(int=1)), date(2026, 1, 2), "2026-01-02", datetime(2026, 1, 2),
    time(1), timedelta(1), datetime(2026, 7, 1, 12, tzinfo=UTC), datetime(2026, 7, 1, 14, tzinfo=BERLIN),
    datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 10, 25, 2, 30, fold=1),
    datetime(2026, 10, 25, 2, 30), PurePosixPath("a"), ip_address("127.0.0.1"), "127.0.0.1", Customer(1), int, str,
    BERLIN, OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), {"a": 1, "b": 2}, "a,b", ("a", "b"), ("a,b",), ["a", "b"],
    "\x00", "\\x00", "ü", "\udc80", 1 << 600, (1 << 600) + 1, "x" * 300, "x" * 301,
]  # fmt: skip


def test_what_a_function_can_tell_apart_has_keys_of_its_own() -> None:
    keys: dict[bytes, object] = {}
    for value in DIFFERENT:
        key = encode_key((value,), {})
        assert key not in keys, f"{value!r} and {keys.get(key)!r}"
        assert len(key) <= KEY_MAX_BYTES
        keys[key] = value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({"x", "y", "z", "q"}, {"q", "z", "y", "x"}),
        (frozenset({(1, 2), (3,)}), frozenset({(3,), (1, 2)})),
        (Point(1), Point(1)),
        (Customer(7), Customer(7)),
    ],
)
def test_what_it_cannot_tell_apart_has_one_key(one: object, other: object) -> None:
    assert encode_key((one,), {}) == encode_key((other,), {})


@pytest.mark.parametrize(
    ("arguments", "named", "key"),
    [
        ((), {}, "()"),
        ((7,), {}, "(7)"),
        (("alice", True), {"page": 2, "all": None}, "('alice',True,all=None,page=2)"),
        ((["a"], {"b": 1.5}), {}, "(['a'],{'b':1.5})"),
        ((date(2026, 1, 2), Decimal("1.50")), {}, "(date(2026-01-02),Decimal(1.50))"),
    ],
)
def test_a_short_key_reads_like_the_call(arguments: tuple[object, ...], named: dict[str, object], key: str) -> None:
    assert encode_key(arguments, named) == key.encode()


def test_a_long_key_keeps_its_beginning_and_ends_in_a_digest() -> None:
    key = encode_key((7, "ü" * 500), {})
    assert len(key) <= KEY_MAX_BYTES
    assert key.startswith("(7,'üüü".encode())
    assert key.decode()  # not cut within a character
    assert key != encode_key((7, "ü" * 501), {})


def test_keys_are_the_same_in_another_process() -> None:
    """Hashes of texts differ from process to process, and so does the order of sets."""
    program = (
        "from headway.caching.keys import encode_key; print(encode_key(({'a','b','c','d'}, {'x': 'y' * 300}), {}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_a_key_written_today_is_found_by_later_versions() -> None:
    """A change of these bytes makes all values of all apps miss once, and two versions that run at once share none."""
    arguments = ((1, "a'b\n", b"c"), {"k": {3, 1, 2}}, uuid.UUID(int=5), Point(1, 2), Colour.RED)
    name = f"{__name__}."
    expected = (
        "((1,'a\\'b\\x0a',b'c'),{'k':set(1,2,3)},UUID(00000000-0000-0000-0000-000000000005),"
        f"{name}Point(x=1,y=2,seen=0),{name}Colour.RED)"
    )
    assert len(expected) <= KEY_MAX_BYTES
    assert encode_key(arguments, {}).decode() == expected


# --- refusals -------------------------------------------------------------------------------------------------------


@dataclass
class Changing:
    x: int


class Holding(dict[str, int]):
    more = 1


def itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "user: an object cannot be part of a cache key"),
        ([1, {"a": object()}], "user[1]['a']: an object cannot"),
        (Point(object()), "user.x: an object"),  # type: ignore[arg-type]
        ({object()}, "user (one of the set): an object"),
        (float("nan"), "user: NaN"),
        (Decimal("nan"), "user: a Decimal that is no number"),
        (Changing(1), "Changing, a dataclass that can change, cannot"),
        (itself(), "nested over 20 deep"),
        (list(range(20_000)), "too many for a key"),
        ("x" * 2_000_000, "too large for a key"),
        (lambda: None, "user: a function cannot"),
        (type("Local", (), {}), "made inside a function"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_its_place(value: object, says: str) -> None:
    if isinstance(value, type):
        value.__qualname__ = "made.<locals>.Local"
    with pytest.raises(WrongCacheKey) as caught:
        encode_key((1, value), {}, ("shop", "user"))
    assert says in caught.value.message
    assert "key=" in caught.value.hint
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, HeadwayError)


def test_an_argument_without_a_name_is_told_by_its_position() -> None:
    with pytest.raises(WrongCacheKey, match=r"^argument 2: an object"):
        encode_key((1, object()), {})
    with pytest.raises(WrongCacheKey, match=r"^user: an object"):
        encode_key((1,), {"user": object()})


def test_a_plain_value_with_more_to_it_is_refused() -> None:
    value = Holding(a=1)
    assert encode_key((value,), {})
    value.more = 2
    with pytest.raises(WrongCacheKey, match="Holding cannot be part"):
        encode_key((value,), {})


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"
    id = mapped_column(Integer, primary_key=True)


class Row(pydantic.BaseModel):
    _sa_class_manager: ClassVar[object] = object()  # as SQLModel's classes of rows have it
    id: int


@pytest.mark.parametrize("row", [Product(id=1), Row(id=1)])
def test_a_row_of_a_database_is_no_key(row: object) -> None:
    """What it says of itself now may be loaded anew at the next look."""
    with pytest.raises(WrongCacheKey, match="cannot be part"):
        encode_key((row,), {})


def test_equal_atoms_of_one_type_have_one_key() -> None:
    """What a table in the process finds by `==` and type must be what the key says."""
    pairs: list[tuple[Any, Any]] = [
        (1, 1), ("a", "a"), (b"a", b"a"), (True, True), (None, None), (uuid.UUID(int=1), uuid.UUID(int=1)),
        (date(2026, 1, 2), date(2026, 1, 2)), (timedelta(hours=24), timedelta(days=1)),
    ]  # fmt: skip
    assert {type(one) for one, _ in pairs} == ATOMIC
    for one, other in pairs:
        assert one == other
        assert encode_key((one,), {}) == encode_key((other,), {})


# --- calls ----------------------------------------------------------------------------------------------------------


def plain(a: int, b: int = 2, *, c: int = 3) -> None: ...


def only(a: int, b: int) -> None: ...


def positions(a: int, b: int = 2, /, c: int = 3) -> None: ...


def rest(a: int, *more: int, k: int = 5, **named: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "calls", "bound"),
    [
        (plain, [((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((1,), {"c": 3, "b": 2})], (1, 2, 3)),
        (plain, [((1, 5), {}), ((1,), {"b": 5}), ((), {"b": 5, "a": 1})], (1, 5, 3)),
        (only, [((1, 2), {}), ((1,), {"b": 2}), ((), {"b": 2, "a": 1})], (1, 2)),
        (positions, [((1,), {}), ((1, 2), {"c": 3}), ((1, 2, 3), {})], (1, 2, 3)),
        (rest, [((1,), {}), ((1,), {"k": 5})], (1, (), 5, ())),
        (rest, [((1, 2, 3), {"z": 1, "y": 2}), ((1, 2, 3), {"y": 2, "z": 1})], (1, (2, 3), 5, (("y", 2), ("z", 1)))),
    ],
)
def test_a_call_written_in_two_ways_is_one(function: Any, calls: list[Any], bound: tuple[Any, ...]) -> None:
    bind = binder_for(function)
    assert [bind(args, named) for args, named in calls] == [bound] * len(calls)


@pytest.mark.parametrize("function", [plain, only, positions, rest])
@pytest.mark.parametrize(
    ("args", "named"),
    [((), {}), ((1,), {"a": 2}), ((1,), {"z": 2}), ((1, 2, 3, 4), {}), ((1,), {"b": 1, "z": 1}), ((), {"a": 1})],
)
def test_a_wrong_call_is_refused_as_python_does(function: Any, args: Any, named: Any) -> None:
    """Every call either binds to what Python binds it to, or raises where Python raises."""
    try:
        function(*args, **named)
    except TypeError:
        with pytest.raises(TypeError, match=function.__name__):
            binder_for(function)(args, named)
    else:
        binder_for(function)(args, named)


def test_values_that_refuse_to_be_compared_bind() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("compares nothing")

    odd = Odd()
    assert binder_for(plain)((1,), {"c": odd})[2] is odd


def test_what_does_not_tell_its_parameters_binds_as_it_is_called() -> None:
    assert binder_for(dict)((), {"b": 1, "a": 2}) == ((), (("a", 2), ("b", 1)))
