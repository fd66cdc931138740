"""The word for a whole system, from the states of its databases and caches; what is told of a cache."""

from __future__ import annotations

import pytest

from headway.control.status import CacheStatus, DatabaseStatus, Facts, document, state_of
from headway.model.observed import Observed
from headway.model.wanted import Wanted, WantedService


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
    facts = _facts(
        was_ready, databases=tuple(DatabaseStatus(f"d{number}", state, ()) for number, state in enumerate(databases))
    )
    assert state_of(Wanted(()), {}, Observed(), facts) == word
    assert state_of(Wanted((), stopping=True), {}, Observed(), facts) == "stopping"


@pytest.mark.parametrize(
    ("state", "was_ready", "word"),
    [
        ("ready", False, "ready"),
        ("starting", False, "starting"),
        ("failed", False, "starting"),
        ("down", False, "degraded"),  # apps go on without it
        ("starting", True, "degraded"),
    ],
)
def test_a_cache_that_is_away_does_not_keep_a_system_from_starting(state, was_ready, word):
    facts = _facts(was_ready, caches=(CacheStatus("hot", state, "unix:///s"),))
    assert state_of(Wanted(()), {}, Observed(), facts) == word


def test_what_a_server_said_is_told_while_it_is_there():
    told = {"used_bytes": 7, "max_bytes": 9, "evicted": 0, "keys": 2, "connected": 3, "rss_bytes": 5}
    for state, used_bytes in (("ready", 7), ("down", None)):
        facts = _facts(True, caches=(CacheStatus("hot", state, "unix:///s", told),))
        cache = document(Wanted(()), {}, Observed(), facts)["caches"]["hot"]
        assert (cache["state"], cache["url"], cache["used_bytes"]) == (state, "unix:///s", used_bytes)
        assert "rss_bytes" not in cache


def test_a_service_that_another_declaration_has_just_taken_away_is_told_all_the_same():
    service = WantedService("former", "command", "key", 1, limit=1, threads=1, is_at_edge=False)
    told = document(Wanted((service,)), {}, Observed(), _facts(True))["services"]["former"]
    assert (told["declared"], told["wanted"]) == (0, 1)


def _facts(was_ready, **more):
    return Facts(
        system="shop",
        source="",
        controller_pid=1,
        supervisor="ready",
        edge_urls=(),
        edge_reloads=0,
        detached=True,
        was_ready=was_ready,
        declared={},
        overrides={},
        ranges={},
        holds={},
        calls_from={},
        routes={},
        addresses={},
        logs="",
        **more,
    )
