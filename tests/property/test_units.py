"""Durations, sizes and rates: what is spelled is read back exactly, what is shown is near, all else is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway.model.units import (
    format_bytes,
    format_duration,
    parse_duration_s,
    parse_rate_per_s,
    parse_size_bytes,
    spell_duration,
    spell_rate,
    spell_size,
)

seconds = st.floats(min_value=0.001, max_value=30 * 86400)
sizes = st.integers(min_value=1, max_value=2**50)


@given(seconds.map(lambda s: round(s, 6)))
@example(0.25)
@example(1 / 1000)
def test_a_spelled_duration_is_read_back_exactly(value) -> None:
    assert parse_duration_s(spell_duration(value)) == value


@given(sizes)
def test_a_spelled_size_is_read_back_exactly(value) -> None:
    assert parse_size_bytes(spell_size(value)) == value


@given(st.floats(min_value=0.001, max_value=1e9).map(lambda r: round(r, 6)))
def test_a_spelled_rate_is_read_back_exactly(value) -> None:
    assert parse_rate_per_s(spell_rate(value)) == value


@given(seconds)
@example(0.99999)
@example(119.9999)
@example(7199.999)
def test_a_shown_duration_is_within_a_hundredth_and_can_be_read(value) -> None:
    assert math.isclose(parse_duration_s(format_duration(value)), value, rel_tol=0.01)


@given(sizes)
@example(1023)
@example(1024**2 - 1)
def test_a_shown_size_is_within_a_hundredth_and_can_be_read(value) -> None:
    assert math.isclose(parse_size_bytes(format_bytes(value)), value, rel_tol=0.01)


@given(st.integers(min_value=1, max_value=59), st.integers(min_value=1, max_value=59))
def test_parts_of_a_duration_add_up(minutes, rest_s) -> None:
    assert parse_duration_s(f"{minutes}m{rest_s}s") == minutes * 60 + rest_s


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
@example("9" * 400 + "s")
@example("9" * 400 + "GiB")
@example("0s")
@example("-1s")
@example("1e3s")
@example("٣s")
@example("0.1B")
@example("5 parsecs")
@example("10/fortnight")
@example("0/s")
def test_anything_is_read_as_a_positive_finite_number_or_refused_with_an_example(value) -> None:
    for parse in (parse_duration_s, parse_size_bytes, parse_rate_per_s):
        try:
            number = parse(value)
        except ValueError as error:
            refusal = str(error)
            assert "; write" in refusal
        else:
            assert isinstance(value, str)
            assert 0 < number < float("inf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250ms", 0.25), ("30s", 30), (" 5 m ", 300), ("2min", 120), ("1h", 3600), ("1d", 86400), ("1h30m", 5400)],
)
def test_durations_as_people_write_them(text, expected) -> None:
    assert parse_duration_s(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512MiB", 2**29),
        ("512M", 2**29),
        ("1gb", 10**9),
        ("64kB", 64000),
        ("1.5GiB", 3 * 2**29),
        ("7 B", 7),
        ("2T", 2**41),
    ],
)
def test_sizes_as_people_write_them(text, expected) -> None:
    assert parse_size_bytes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("200/s", 200), ("600/m", 10), ("36 / h", 0.01), ("60/min", 1)])
def test_rates_as_people_write_them(text, expected) -> None:
    assert parse_rate_per_s(text) == expected


@pytest.mark.parametrize("value", ["30S", "1M", "5", "", "s", 30, 1.5, True, None, "1m 30"])
def test_what_is_no_duration(value) -> None:
    with pytest.raises(ValueError, match="is not a duration; write"):
        parse_duration_s(value)


def test_a_bare_number_is_answered_with_itself_and_a_unit() -> None:
    with pytest.raises(ValueError, match='30 is not a duration; write its unit too, like "30s"'):
        parse_duration_s(30)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 ms"), (0.25, "250 ms"), (0.9999, "1000 ms"), (1.5, "1.5 s"), (180, "3 min"), (7200, "2 h")],
)
def test_durations_as_they_are_shown(value, text) -> None:
    assert format_duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (512, "512 B"), (1023, "1023 B"), (79 * 2**20, "79 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes_as_they_are_shown(value, text) -> None:
    assert format_bytes(value) == text
