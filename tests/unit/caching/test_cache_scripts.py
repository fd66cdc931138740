"""What scripts and values must agree on."""

from __future__ import annotations

from headway.caching.blob import HEADER
from headway.caching.scripts import FILL, KEEP, TAKE, TOKEN_BYTES


def test_scripts_and_values_agree_on_the_sizes_of_what_they_compare() -> None:
    assert f"string.sub(value, 1, {HEADER.size})".encode() in TAKE.text
    assert all(f"1, {TOKEN_BYTES})".encode() in script.text for script in (FILL, KEEP))
    assert f"string.sub(lease, {TOKEN_BYTES + 1})".encode() in TAKE.text
