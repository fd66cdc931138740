"""Keys of any arguments: canonical, bounded, and different where types or values are."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headway.caching.keys import KEY_MAX_BYTES, encode_key

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
    st.dates(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
)
hashable = st.recursive(atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(hashable, inner, max_size=3) | st.sets(hashable, max_size=3)
    ),
    max_leaves=8,
)


def exactly(value: Any) -> Any:
    """The value with its types, in a form whose `==` misses nothing."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, frozenset((exactly(key), exactly(each)) for key, each in value.items())
    if isinstance(value, set | frozenset):
        return kind, frozenset(exactly(each) for each in value)
    if isinstance(value, list | tuple):
        return kind, tuple(exactly(each) for each in value)
    if hasattr(value, "isoformat"):
        return kind, value.isoformat(), str(getattr(value, "tzinfo", "")), getattr(value, "fold", 0)
    return kind, repr(value)


@given(values, values)
def test_two_values_have_one_key_exactly_if_they_are_the_same(one: Any, other: Any) -> None:
    assert (encode_key((one,), {}) == encode_key((other,), {})) is (exactly(one) == exactly(other))


@given(values)
def test_a_copy_in_another_order_has_the_same_bounded_key(value: Any) -> None:
    key = encode_key((value, 1), {"named": value})
    assert encode_key((turned(copy.deepcopy(value)), 1), {"named": value}) == key
    assert len(key) <= KEY_MAX_BYTES


def turned(value: Any) -> Any:
    """The same, with all that has no order in the other order."""
    if isinstance(value, dict):
        return {key: turned(each) for key, each in reversed(value.items())}
    if isinstance(value, set):
        members = list(value)
        members.reverse()
        return set(members)
    if isinstance(value, list):
        return [turned(each) for each in value]
    return value


@given(
    st.lists(st.one_of(st.text(), st.integers()), max_size=3), st.lists(st.one_of(st.text(), st.integers()), max_size=3)
)
def test_no_text_breaks_out_of_its_place(one: list[Any], other: list[Any]) -> None:
    assert (encode_key(tuple(one), {}) == encode_key(tuple(other), {})) is (one == other)
