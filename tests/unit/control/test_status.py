"""The word for a whole system, from the states of its databases."""

from __future__ import annotations

import pytest

from headway.control.status import DatabaseStatus, Facts, state_of
from headway.model.observed import Observed
from headway.model.wanted import Wanted


@pytest.mark.parametrize(
    ("databases", "was_ready", "word"),
    [
        ((), False, "ready"),
        (("ready", "ready"), False, "ready"),
        (("ready", "starting"), False, "starting"),
        (("ready", "starting"), True, "degraded"),
        (("ready", "degraded"), False, "degraded"),  # one of several servers is away: the others are served
        (("degraded", "starting"), False, "starting"),
        (("down",), False, "starting"),
        (("failed",), True, "degraded"),
    ],
)
def test_a_database_counts_for_the_whole(databases, was_ready, word):
    facts = Facts(
        system="shop",
        source="",
        controller_pid=1,
        supervisor_gone=False,
        edge_urls=(),
        edge_reloads=0,
        detached=True,
        was_ready=was_ready,
        declared={},
        overrides={},
        ranges={},
        holds={},
        routes={},
        addresses={},
        logs="",
        databases=tuple(DatabaseStatus(f"d{number}", state, ()) for number, state in enumerate(databases)),
    )
    assert state_of(Wanted(()), {}, Observed(), facts) == word
    assert state_of(Wanted((), stopping=True), {}, Observed(), facts) == "stopping"
