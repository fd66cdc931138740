"""The edge's header is read in all its forms, and nothing that stands in it makes a request fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.worker import origin
from headway.worker.origin import Origin


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "http 10.0.0.7 51234 - 0 1764000012345",
            Origin("10.0.0.7", 51234, False, False, 0, 1764000012345, True),
        ),
        ("https ::1 443 stream 2 1764", Origin("::1", 443, True, True, 2, 1764, True)),
        ("http 10.0.0.7 51234 - 7 -", Origin("10.0.0.7", 51234, False, False, 7, None, True)),
        ("http 10.0.0.7 51234", Origin("10.0.0.7", 51234, False)),
        ("https 10.0.0.7 51234 stream", Origin("10.0.0.7", 51234, True, True)),
    ],
)
def test_forms(value: str, expected: Origin) -> None:
    assert origin.read(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "http 10.0.0.7",
        "gopher 10.0.0.7 70",
        "http 10.0.0.7 port - 0 1764",
        "http 10.0.0.7 70000",
        "http  80",
        "http 10.0.0.7 80 - 8 1764",
        "http 10.0.0.7 80 - x 1764",
        "http 10.0.0.7 80 - 0",
        "http 10.0.0.7 80 - 0 1764 more",
    ],
)
def test_what_is_none_of_the_forms(value: str) -> None:
    assert origin.read(value) is None


@given(st.text() | st.lists(st.sampled_from(["http", "::1", "80", "-", "0", "9" * 5000, "²", ""])).map(" ".join))
def test_nothing_raises(value: str) -> None:
    read = origin.read(value)
    assert read is None or 0 <= read.port <= 65535
