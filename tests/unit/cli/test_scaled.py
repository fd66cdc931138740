"""Which replicas `scale` and `reload` take for ones that do not start."""

from __future__ import annotations

from typing import Any

import pytest

from headway.cli.look import _does_not_start


def _replica(**changed: Any) -> dict[str, Any]:
    return {
        "failure": "ended with status 1 while starting",
        "restarts": 2,
        "ready_once": False,
        "release": "b",
    } | changed


@pytest.mark.parametrize(
    ("changed", "former", "expected"),
    [
        ({}, None, True),
        ({"restarts": 1}, None, False),
        ({"failure": None}, None, False),
        # Two deaths long ago and a stop now: it is replaced, and has started three times.
        ({"failure": "stopped by a signal for 1.58 s", "ready_once": True}, None, False),
        ({"failure": "stopped by a signal for 1.58 s", "ready_once": True, "release": "a"}, {"a"}, False),
        # What was ready is the release before; this one never was.
        ({"ready_once": True}, {"a"}, True),
    ],
)
def test_one_that_was_ready_is_not_taken_for_one_that_does_not_start(
    changed: dict[str, Any], former: set[str] | None, expected: bool
) -> None:
    assert _does_not_start(_replica(**changed), former) is expected
