"""The edge brought to what it should have: each kind of difference, and none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nouns import UP, WEB, edge, replica, seen

from headway.control.admission import reconcile
from headway.model.action import (
    Action,
    AdmitReplica,
    DrainReplica,
    LimitReplica,
    RemoveReplica,
    ReplaceEdge,
    SuspendReplica,
)
from headway.model.observed import EdgeObserved, EdgeServer, Failure, Observed
from headway.model.overload import FIRST_AT, MAIN, ClassCounts, Counts, EdgeQueue
from headway.model.replica import Phase, Replica
from headway.model.wanted import Wanted, WantedClass
from headway.runtimes.local.edge_plan import edge_replicas

WANTED = Wanted((WEB,))
DRAIN, MAINT = replace(UP, admin="drain"), replace(UP, admin="maint")


def reconciled(one: Replica, server: EdgeServer | None, **process: object) -> list[Action]:
    at_edge = edge(web_1=server) if server else edge()
    return reconcile([one], WANTED, Observed(replicas={"web.1": seen(**process)}, edge=at_edge))


@pytest.mark.parametrize(
    ("phase", "server", "deed"),
    [
        (Phase.READY, None, AdmitReplica),
        (Phase.READY, MAINT, AdmitReplica),
        (Phase.READY, DRAIN, AdmitReplica),
        (Phase.READY, UP, None),
        (Phase.STARTING, None, None),
        (Phase.STARTING, UP, SuspendReplica),
        (Phase.STARTING, MAINT, None),
        (Phase.DRAINING, UP, DrainReplica),
        (Phase.DRAINING, DRAIN, None),
        (Phase.DRAINING, None, None),
        (Phase.STOPPING, DRAIN, None),
        (Phase.DOWN, UP, SuspendReplica),
        (Phase.DOWN, MAINT, None),
        (Phase.DOWN, None, None),
    ],
)
def test_one_replica_against_its_server(phase: Phase, server: EdgeServer | None, deed: type[Action] | None) -> None:
    assert [type(action) for action in reconciled(replica(phase=phase), server)] == ([deed] if deed else [])


@pytest.mark.parametrize("server", [UP, DRAIN, MAINT])
def test_one_that_left_is_removed(server: EdgeServer) -> None:
    actions = reconciled(replica(phase=Phase.DOWN, leave=True), server)
    assert actions == [RemoveReplica("web.1", "web", "it has ended")]


def test_the_limit_follows_streams_and_threads() -> None:
    busy = replace(UP, sessions=5)
    assert reconciled(replica(), busy, streams=3) == [LimitReplica("web.1", "web", 43, "its limit and open streams")]
    assert reconciled(replica(), replace(busy, limit=43), streams=3) == []
    assert reconciled(replica(), None, is_wsgi=True) == [AdmitReplica("web.1", "web", 8, "ready")]


@pytest.mark.parametrize(
    ("main", "at", "at_work", "added"),
    [
        (30, 0, (0, 0), (30, 0)),  # only one class has anything: the streams are there, whatever the worker counts
        (0, 30, (0, 0), (0, 30)),
        (35, 8, (5, 8), (30, 0)),
        (5, 38, (5, 8), (0, 30)),
        (25, 18, (5, 8), (20, 10)),
        (40, 40, (2, 2), (30, 30)),  # readings of two moments: rather a place too many than none for requests
        (3, 0, (5, 0), (30, 0)),
    ],
)
def test_open_streams_get_places_in_the_class_that_carries_them(
    main: int, at: int, at_work: tuple[int, int], added: tuple[int, int]
) -> None:
    service = replace(WEB, at=(WantedClass(FIRST_AT, None, 30.0),))
    counts = Counts(1.0, 0.0, (ClassCounts(in_flight=at_work[0]), ClassCounts(), ClassCounts(in_flight=at_work[1])))
    at_edge = replace(
        edge(web_1=replace(UP, sessions=main, limit=1)),
        classes={("web.1", FIRST_AT): replace(UP, sessions=at, limit=1)},
    )
    process = seen(streams=30, counts=counts)
    limits = {("web.1", MAIN): 10, ("web.1", FIRST_AT): 20}
    observed = Observed(replicas={"web.1": process}, edge=at_edge)
    told = [a for a in reconcile([replica()], Wanted((service,)), observed, limits) if isinstance(a, LimitReplica)]
    assert [(action.number, action.limit) for action in told] == [(MAIN, 10 + added[0]), (FIRST_AT, 20 + added[1])]


FIXED = replace(WEB, adapts=False, at=(WantedClass(FIRST_AT, None, 30.0), WantedClass(FIRST_AT + 1, None, 30.0)))
FIXED_NUMBERS = (MAIN, FIRST_AT, FIRST_AT + 1)


def fixed(
    sessions: tuple[int, ...], queued: tuple[int, ...], in_force: tuple[int, ...], total: int = 40
) -> dict[int, int]:
    """Limits by class after one look, of a replica with a declared limit and three classes."""
    servers = {n: replace(UP, sessions=s, limit=f) for n, s, f in zip(FIXED_NUMBERS, sessions, in_force, strict=True)}
    at_edge = replace(
        edge(web_1=servers[MAIN]),
        classes={("web.1", number): server for number, server in servers.items() if number != MAIN},
        queues={("web", n): EdgeQueue(queued=q) for n, q in zip(FIXED_NUMBERS, queued, strict=True)},
    )
    limits = {("web.1", number): total for number in FIXED_NUMBERS}
    observed = Observed(replicas={"web.1": seen()}, edge=at_edge)
    told = reconcile([replica()], Wanted((FIXED,)), observed, limits)
    return dict(zip(FIXED_NUMBERS, in_force, strict=True)) | {
        action.number: action.limit for action in told if isinstance(action, LimitReplica)
    }


def settled(
    sessions: tuple[int, ...], queued: tuple[int, ...], in_force: tuple[int, ...], total: int = 40
) -> tuple[int, ...]:
    """The limits after some looks; they never let in more together than was declared, whatever is still at work."""
    at_work, waiting = list(sessions), list(queued)
    for _ in range(10):
        in_force = tuple(fixed(tuple(at_work), tuple(waiting), in_force, total).values())
        assert sum(max(pair) for pair in zip(at_work, in_force, strict=True)) <= max(total, sum(at_work), len(in_force))
        for at in range(len(at_work)):  # what was at work is done, and those who wait take the places
            there = at_work[at] + waiting[at]
            at_work[at] = min(there, in_force[at])
            waiting[at] = there - at_work[at]
    return in_force


@pytest.mark.parametrize(
    ("sessions", "queued", "after"),
    [
        ((0, 0, 0), (0, 0, 0), (30, 5, 5)),
        ((30, 0, 0), (500, 0, 0), (30, 5, 5)),
        ((0, 5, 0), (0, 500, 0), (5, 30, 5)),
        ((30, 5, 0), (500, 500, 0), (18, 17, 5)),
        ((30, 5, 5), (500, 500, 500), (14, 13, 13)),
        ((30, 5, 5), (500, 5, 500), (15, 10, 15)),
        ((3, 5, 0), (0, 4, 0), (26, 9, 5)),
    ],
)
def test_a_declared_limit_is_that_of_the_replica_and_shared_by_its_classes(
    sessions: tuple[int, ...], queued: tuple[int, ...], after: tuple[int, ...]
) -> None:
    assert settled(sessions, queued, (30, 5, 5)) == after


def test_a_declared_limit_is_shared_from_the_first_look() -> None:
    assert fixed((0, 0, 0), (0, 0, 0), (40, 40, 40)) == {MAIN: 30, FIRST_AT: 5, FIRST_AT + 1: 5}
    assert fixed((0, 0, 0), (0, 0, 0), (1, 1, 1), total=1) == {MAIN: 1, FIRST_AT: 1, FIRST_AT + 1: 1}


def test_places_change_hands_when_they_are_free_and_not_for_nothing() -> None:
    assert fixed((30, 5, 0), (90, 90, 0), (30, 5, 5)) == {MAIN: 18, FIRST_AT: 5, FIRST_AT + 1: 5}
    assert fixed((25, 5, 0), (90, 90, 0), (18, 5, 5)) == {MAIN: 18, FIRST_AT: 10, FIRST_AT + 1: 5}
    assert fixed((12, 3, 1), (0, 0, 0), (18, 17, 5)) == {MAIN: 18, FIRST_AT: 17, FIRST_AT + 1: 5}


def test_why_it_is_down_is_told() -> None:
    down = replica(phase=Phase.DOWN, failure=Failure("exit", "ended with status 3"))
    assert reconciled(down, UP) == [SuspendReplica("web.1", "web", "ended with status 3")]


def test_a_server_nobody_knows_is_removed() -> None:
    actions = reconcile([], WANTED, Observed(edge=edge(web_9=UP)))
    assert actions == [RemoveReplica("web.9", "web", "nobody knows it any more")]


def test_private_replicas_are_none_of_the_edges_business() -> None:
    wanted = Wanted((replace(WEB, is_at_edge=False),))
    assert reconcile([replica()], wanted, Observed(edge=edge())) == []


def test_a_replica_of_no_service_still_leaves_in_order() -> None:
    drained = reconcile([replica(phase=Phase.DRAINING)], Wanted(), Observed(edge=edge(web_1=UP)))
    assert drained == [DrainReplica("web.1", "web", "leaves")]


@pytest.mark.parametrize(
    ("away", "replaced"),
    [
        (EdgeObserved(pid=None, unreachable_s=60.0), False),  # dead: its supervisor starts it
        (EdgeObserved(pid=1, unreachable_s=0.7), False),
        (EdgeObserved(pid=1, unreachable_s=0.9), True),
        (EdgeObserved(pid=1, unreachable_s=4.9, answered=False), False),  # still starting
        (EdgeObserved(pid=1, unreachable_s=5.1, answered=False), True),
    ],
)
def test_an_edge_that_does_not_answer(away: EdgeObserved, replaced: bool) -> None:
    actions = reconcile([replica()], WANTED, Observed(edge=away))
    assert [type(action) for action in actions] == ([ReplaceEdge] if replaced else [])


def test_the_edges_file_holds_who_serves_or_comes_back() -> None:
    crashed = replica(3, Phase.DOWN, ready_once=True)
    never = replica(4, Phase.STARTING)
    gone = replica(5, Phase.STOPPING, ready_once=True, leave=True)
    held = {r.name: r for r in (crashed, never, gone, replica(10), replica(2))}
    found = edge_replicas(held, "web", dict.fromkeys(held, 7), lambda name: f"/run/{name}.sock")
    assert [(entry.name, entry.enabled) for entry in found] == [("web.2", True), ("web.3", False), ("web.10", True)]
