"""Nothing that people choose can become a directive."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.edge.words import comment, milliseconds, word


@pytest.mark.parametrize("plain", ["web.1", "/api/v2", "10.0.0.0/8", "fd00::/8", "unix@/tmp/a.sock", "user-name_1"])
def test_harmless_values_stay_readable(plain: str) -> None:
    assert word(plain) == plain


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_other_value_is_one_word(value: str) -> None:
    assert shlex.split(word(value)) == [value]


@pytest.mark.parametrize("hostile", ["a\nb", "a\x00b", "a\rb", "a\x7fb", ""])
def test_refuses_what_would_end_the_line(hostile: str) -> None:
    if hostile:
        with pytest.raises(ValueError, match="control character"):
            word(hostile)
        assert "\n" not in comment(hostile)
    else:
        assert word(hostile) == "''"


def test_no_duration_is_zero() -> None:
    assert milliseconds(0.00001) == "1ms"
    assert milliseconds(1.5) == "1500ms"
