"""What a replica did, as its limits are told: where others of its service are full it need not be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nouns import edge, replica, seen

from headway.control.looking import View, view
from headway.model.action import Tell
from headway.model.observed import EdgeObserved, EdgeServer
from headway.model.overload import MAIN, ClassCounts, Counts, EdgeQueue

LIMIT = 16


def at_edge(sessions: int, queued: int, streams: int = 0) -> EdgeObserved:
    place = EdgeServer("ready", is_up=True, sessions=sessions + streams, limit=LIMIT + streams)
    return replace(edge(web_1=place), queues={("web", MAIN): EdgeQueue(queued=queued)})


def views(found: EdgeObserved, per_look: int, seconds: float = 8.0, streams: int = 0) -> list[View]:
    """Looks at a replica that answers so many quick requests between two of them."""
    last, all_of_them = None, []
    for tick in range(round(seconds * 10)):
        done = ClassCounts(completed=tick * per_look, service_s=tick * per_look * 0.001)
        see = seen(counts=Counts(100 + tick / 10, 0.0, (done,)), streams=streams)
        did = view(last, {MAIN: LIMIT}, [MAIN], replica(1), see, found, 100 + tick / 10)
        last = did.look
        all_of_them.append(did)
    return all_of_them


def told(found: list[View]) -> list[str]:
    return [action.reason for did in found for action in did.told if isinstance(action, Tell)]


def test_a_replica_with_free_places_is_not_saturated_though_others_have_a_queue() -> None:
    for sessions, streams in ((0, 0), (1, 0), (1, 300)):
        found = views(at_edge(sessions, 40, streams), 6, streams=streams)
        assert not any(did.measured[MAIN].saturated for did in found[2:])
        assert told(found) == [], "nor does it lie"
        assert found[-1].measured[MAIN].service_s == pytest.approx(0.006)


def test_a_replica_whose_limit_was_just_raised_is_saturated_while_requests_wait() -> None:
    found = views(at_edge(LIMIT - 3, 40), 100)
    assert all(did.measured[MAIN].saturated for did in found[2:])


def test_a_full_replica_that_claims_to_take_no_time_is_called_a_liar() -> None:
    assert len(told(views(at_edge(LIMIT, 40), 6))) == 1
