"""What comes out of a cache is what went in, or an error says where it is not; and bytes from strangers are bounded."""

from __future__ import annotations

import enum
import random
import re
import sys
import typing
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest

from headway.caching.codec import COMPRESS_FROM, carried, codec_for, compressed, plain, returned, weigh
from headway.errors import CannotCarry


class Colour(enum.Enum):
    RED = "red"


class Pair(NamedTuple):
    x: int
    colour: Colour


class Row(TypedDict):
    id: int
    price: Decimal


class Place(msgspec.Struct):
    id: UUID
    when: datetime


@dataclass
class Line:
    price: Decimal
    tags: tuple[str, ...] = ()


@dataclass
class Order:
    id: int
    lines: list[Line]
    by: dict[UUID, set[int]] = field(default_factory=dict)
    on: date | None = None


@dataclass
class Other:
    name: str


class Owner(pydantic.BaseModel):
    name: str
    since: datetime | None = None
    code: bytes = b"\xff\x00"
    share: float = float("nan")
    renamed: int = pydantic.Field(5, validation_alias="in", serialization_alias="out")


class Shop(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    owner: Owner
    site: pydantic.HttpUrl
    levels: dict[int, tuple[int, ...]] = {}


@dataclass
class Holding:
    owner: Owner


MOMENT = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=UTC)
ORDER = Order(1, [Line(Decimal("1.50"), ("a", "b"))], {UUID(int=3): {1, 2}}, date(2026, 1, 2))

CARRIED: list[tuple[Any, Any]] = [
    (Any, {"a": [1, 2.5, None, True, "ü", b"\x00"], (1, 2): {3: "x"}, "when": MOMENT}),
    (object, [float("nan"), float("inf"), -0.0]),
    (None, None),
    (Order, ORDER),
    (list[Order] | None, [ORDER]),
    (list[Order] | None, None),
    (dict[str, Row], {"a": {"id": 1, "price": Decimal("2.00")}}),
    (Pair, Pair(1, Colour.RED)),
    (Place, Place(UUID(int=1), MOMENT)),
    (datetime, datetime(2026, 7, 1, 12, 30)),
    (datetime, MOMENT.astimezone(ZoneInfo("UTC"))),
    (timedelta, timedelta(days=1, seconds=2)),
    (frozenset[int], frozenset({1, 2})),
    (tuple[int, str], (1, "a")),
    (Order | Other, Other("a")),
    (Order | Other, ORDER),
    (str | date, "2026"),
    (list[Owner], [Owner(name="a", since=MOMENT)]),
    (Shop, Shop(owner=Owner(name="a"), site="https://example.org/", levels={1: (2, 3)}, more="x")),
    (dict[str, Holding], {"a": Holding(Owner(name="a"))}),
    (typing.Annotated[Owner | None, "of a shop"], Owner(name="a")),
]


@pytest.mark.parametrize(("annotation", "value"), CARRIED)
def test_what_the_annotation_says_comes_back_as_it_went_in(annotation: Any, value: Any) -> None:
    codec = codec_for(annotation)
    data, again = carried(codec, value)
    assert type(again) is type(value)
    assert repr(again).replace("key='UTC'", "") == repr(value).replace(
        "zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc"
    )
    assert repr(codec.decode(data)) == repr(again)


def test_the_value_that_is_kept_is_not_the_one_that_the_function_may_still_change() -> None:
    value = {"lines": [1]}
    _, again = carried(codec_for(Any), value)
    value["lines"].append(2)
    assert again == {"lines": [1]}


class Safe(str):
    __slots__ = ()


class Record:
    """As asyncpg's: neither dict nor tuple."""

    def keys(self) -> list[str]:
        return []

    def __getitem__(self, name: str) -> int:
        return 1


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


NOT_CARRIED: list[tuple[Any, Any, str, str]] = [
    (Any, [1, {"price": (2, 3)}], "[1]['price']: a tuple came back as a list", "Annotate the return type"),
    (Any, {"a": [{"b": Decimal(1)}]}, "['a'][0]['b']: a decimal.Decimal came back as a str", "Annotate"),
    (Any, [{1, 2}], "[0]: a set came back as a list", "Annotate"),
    (Any, [datetime(2026, 1, 1)], "[0]: a datetime.datetime came back as a str", "Annotate"),
    (Any, [Colour.RED], "[0]: a test_cache_codec.Colour came back as a str", "Annotate"),
    (Any, [Other("a")], "[0]: a test_cache_codec.Other came back as a dict", "Annotate"),
    (Any, Pair(1, Colour.RED), "a test_cache_codec.Pair came back as a list", "Annotate"),
    (Any, [Safe("<b>")], "[0]: test_cache_codec.Safe cannot be carried", "plain data"),
    (Any, [Owner(name="a")], "[0]: test_cache_codec.Owner cannot be carried", "`-> Owner`"),
    (Any, [{"row": Record()}], "[0]['row']: test_cache_codec.Record cannot be carried", "dict(row)"),
    (Any, [1 << 70], "[0]: an int of more than 64 bits", "as text"),
    (Iterator[int], iter([1]), "the value: builtins.list_iterator cannot be carried", "list of what it gives"),
    (Any, deep(), "the value: nested too deeply", ""),
    (
        datetime,
        datetime(2026, 7, 1, 14, tzinfo=timezone(timedelta(hours=2))),
        "the value: 2026-07-01 14:00:00+02:00 came back as 2026-07-01 12:00:00+00:00",
        "in UTC",
    ),
    (datetime, datetime(2026, 7, 1, 14, tzinfo=ZoneInfo("Europe/Berlin")), "came back as", "in UTC"),
    (list[Order], [Order(1, [], on="2026-01-02")], "[0].on: a str came back as a datetime.date", "Annotate"),
    (list[Order], [Order("x", [])], "[0].id: not what the annotation says: Expected `int`, got `str`", "Annotate"),
    (Order | Other, 3, "the value: not what the annotation says", "Annotate"),
    (Owner, Shop(owner=Owner(name="a"), site="https://example.org/"), "the value: ", ""),
]


@pytest.mark.parametrize(("annotation", "value", "says", "hint"), NOT_CARRIED)
def test_what_would_not_come_back_is_refused_with_its_place(annotation: Any, value: Any, says: str, hint: str) -> None:
    with pytest.raises(CannotCarry) as caught:
        carried(codec_for(annotation), value)
    assert says in caught.value.message.replace(f"{__name__}.", "test_cache_codec.")
    assert hint in caught.value.hint
    assert caught.value.hint


def test_an_attribute_that_the_class_does_not_declare_is_not_lost_unseen() -> None:
    class Private(pydantic.BaseModel):
        name: str
        _token: str = pydantic.PrivateAttr("")

    value = Private(name="a")
    carried(codec_for(Private), value)
    value._token = "t"
    with pytest.raises(CannotCarry, match=re.escape("._token")):
        carried(codec_for(Private), value)


def test_bytes_of_another_kind_are_an_error_to_decode() -> None:
    for annotation in (Order, Owner, int):
        codec = codec_for(annotation)
        for data in (b"", b"\xc1", b"\xff" * 10, codec_for(Any).encode("text")):
            with pytest.raises(ValueError):
                codec.decode(data)


def test_nothing_is_run_by_what_is_decoded() -> None:
    """The bytes of a pickle, which would run a command, are refused or plain data."""
    poison = b"cposix\nsystem\n(S'exit 3'\ntR."
    with pytest.raises(ValueError):
        codec_for(Any).decode(poison)


class Cursor:
    """Any class that only its own library knows."""


def test_an_annotation_that_nobody_can_read_is_refused_where_it_is_written() -> None:
    with pytest.raises(CannotCarry, match=r"the annotation .*Record \| .*Cursor: ") as caught:
        codec_for(Record | Cursor)
    assert "`codec=`" in caught.value.hint


# --- what the function says of its value ----------------------------------------------------------------------------


async def tells() -> list[Order]: ...  # type: ignore[empty-body]


def tells_nothing(): ...  # type: ignore[no-untyped-def]


def tells_none() -> None: ...


def gives_awaitable() -> Awaitable[Order]: ...  # type: ignore[empty-body]


async def streams() -> AsyncIterator[int]:
    yield 1


def tells_what_is_elsewhere() -> Elsewhere: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "annotation"),
    [
        (tells, list[Order]),
        (tells_nothing, Any),
        (tells_none, type(None)),
        (gives_awaitable, Order),
        (streams, AsyncIterator[int]),
        (tells_what_is_elsewhere, Any),
        (print, Any),
    ],
)
def test_the_annotation_of_a_function(function: Any, annotation: Any) -> None:
    assert returned(function) == annotation


# --- compression ------------------------------------------------------------------------------------------------------


def test_large_data_is_compressed_where_it_is_worth_it() -> None:
    text = b"the same again and again, " * 1000
    small, is_compressed = compressed(text)
    assert is_compressed
    assert len(small) < len(text) * 0.1
    assert plain(small, len(text)) == text
    assert compressed(text[: COMPRESS_FROM - 1]) == (text[: COMPRESS_FROM - 1], False)


def test_data_without_a_pattern_stays_as_it_is() -> None:
    noise = random.Random(1).randbytes(20_000)
    assert compressed(noise) == (noise, False)


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    bomb = zlib.compress(bytes(200_000_000))
    assert len(bomb) < 300_000
    with pytest.raises(ValueError, match="more than 1000000 bytes"):
        plain(bomb, 1_000_000)


@pytest.mark.parametrize(
    "spoil", [lambda d: d[:-5], lambda d: d + b"x", lambda d: b"x" + d, lambda d: b"", lambda d: d[:4]]
)
def test_damaged_data_is_refused(spoil: Any) -> None:
    small, _ = compressed(b"a" * 10_000)
    with pytest.raises(ValueError, match="compressed data"):
        plain(spoil(small), 10_000)


# --- weight -----------------------------------------------------------------------------------------------------------


def true_weight(value: Any) -> int:
    """Everything in it, added up one by one."""
    seen: set[int] = set()

    def add(part: Any) -> int:
        if id(part) in seen:
            return 0
        seen.add(id(part))
        size = sys.getsizeof(part)
        if isinstance(part, dict):
            size += sum(add(key) + add(each) for key, each in part.items())
        elif isinstance(part, list | tuple | set):
            size += sum(add(each) for each in part)
        return size

    return add(value)


@pytest.mark.parametrize(
    "value",
    [
        7,
        "x" * 1000,
        b"x" * 1000,
        {"id": 12345, "name": "alice", "tags": ["red", "blue"]},
        [{"id": 1000 + at, "name": f"name {at}"} for at in range(50)],
        [{"id": 1000 + at, "name": f"name {at}"} for at in range(20_000)],
        {f"key {at}": [float(at), f"text {at}"] for at in range(20_000)},
        set(range(1000, 50_000)),
        [["x" * at] for at in range(3000)],
    ],
)
def test_a_weight_is_near_the_true_one(value: Any) -> None:
    assert weigh(value) == pytest.approx(true_weight(value), rel=0.15)


def test_a_large_value_is_weighed_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def counting(value: object) -> int:
        nonlocal looked
        looked += 1
        return 50

    monkeypatch.setattr("headway.caching.weight.sys.getsizeof", counting)
    weigh([[[at, at + 1]] * 3 for at in range(100_000)])
    assert looked < 5000


def test_records_and_objects_of_their_own_are_weighed_with_what_they_hold() -> None:
    for value in (
        Other("x" * 5000),
        Place(UUID(int=1), MOMENT),
        Owner(name="x" * 5000),
        Shop(owner=Owner(name="a"), site="https://a/"),
    ):
        assert weigh(value) > (5000 if "x" * 100 in repr(value) else 100)


def test_a_value_in_itself_is_weighed() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert 0 < weigh(value) < 1000
