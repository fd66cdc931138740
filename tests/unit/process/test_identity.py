"""Which user the engines get."""

from __future__ import annotations

import pwd
from collections.abc import Callable

import pytest

from headway.process.identity import Identity, engine_identity, identity_of


def _users(**uids: int) -> Callable[[str], pwd.struct_passwd]:
    def lookup(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", uids[name], 100 + uids[name], "", "/", "/bin/false"))

    return lookup


@pytest.mark.parametrize(
    ("euid", "users", "expected"),
    [
        (1000, {"headway": 5, "nobody": 6}, None),
        (0, {"headway": 5, "nobody": 6}, Identity("headway", 5, 105)),
        (0, {"nobody": 6}, Identity("nobody", 6, 106)),
        (0, {"headway": 0, "nobody": 6}, Identity("nobody", 6, 106)),
        (0, {}, None),
    ],
)
def test_engine_identity(euid: int, users: dict[str, int], expected: Identity | None) -> None:
    assert engine_identity(euid, _users(**users)) == expected


def test_identity_of_a_number_with_and_without_a_name() -> None:
    root = identity_of(0)
    assert root is not None
    assert (root.name, root.uid) == ("root", 0)
    assert identity_of(2**31 - 7) is None
