"""The decision as a whole: what only shows when lifecycle, placement and admission come together."""

from __future__ import annotations

from dataclasses import replace

from nouns import UP, WEB, all_up, edge, replica, seen

from headway.control.decide import decide
from headway.model.action import CapReplica, EndReplica, ForgetReplica, LimitReplica, StartReplica, SuspendReplica, Tell
from headway.model.observed import Observed
from headway.model.overload import ClassCounts, Counts
from headway.model.replica import Phase
from headway.model.wanted import Wanted


def test_a_killed_one_is_suspended_and_starts_again_in_one_tick() -> None:
    observed = Observed(replicas={"web.1": seen(alive=False, exit_status=-9)}, edge=edge(web_1=UP))
    decision = decide({"web.1": replica()}, Wanted((replace(WEB, replicas=1),)), observed, 101.0)
    assert [type(action) for action in decision.actions] == [Tell, StartReplica, SuspendReplica]
    assert decision.replicas["web.1"].phase is Phase.STARTING


def test_a_hung_one_is_killed_and_starts_only_when_it_is_gone() -> None:
    wanted = Wanted((replace(WEB, replicas=1),))
    hung = Observed(replicas={"web.1": seen(beat_age_s=9.0)}, edge=edge())
    first = decide({"web.1": replica()}, wanted, hung, 101.0)
    assert [type(action) for action in first.actions] == [EndReplica, Tell]
    second = decide(first.replicas, wanted, hung, 101.1)
    assert second.actions == ()
    gone = Observed(replicas={"web.1": seen(alive=False)}, edge=edge())
    third = decide(second.replicas, wanted, gone, 101.2)
    assert [type(action) for action in third.actions] == [StartReplica]


def test_starts_are_bounded_over_all_services() -> None:
    wanted = Wanted((replace(WEB, replicas=3), replace(WEB, name="stock", replicas=3, is_at_edge=False)), starts_max=4)
    decision = decide({}, wanted, Observed(edge=edge()), 0.0)
    assert [action.replica for action in decision.actions if isinstance(action, StartReplica)] == [
        "web.1",
        "web.2",
        "web.3",
        "stock.1",
    ]


def test_nothing_starts_without_a_supervisor_a_database_or_a_key() -> None:
    waiting = Wanted((replace(WEB, waits_for=("main",)),))
    assert decide({}, waiting, Observed(edge=edge()), 0.0).actions == ()
    assert decide({}, waiting, Observed(edge=edge(), ready_databases=frozenset({"main"})), 0.0).actions != ()
    assert decide({}, Wanted((WEB,)), Observed(edge=edge(), can_start=False), 0.0).actions == ()
    assert decide({}, Wanted((replace(WEB, key=""),)), Observed(edge=edge()), 0.0).actions == ()


def test_a_service_that_waits_for_its_database_still_scales_down() -> None:
    wanted = Wanted((replace(WEB, replicas=1, waits_for=("main",)),))
    held = {r.name: r for r in (replica(1), replica(2))}
    assert decide(held, wanted, all_up(*held.values()), 101.0).replicas["web.2"].leave


def test_a_service_that_is_gone_is_told_once() -> None:
    first = decide({"web.1": replica()}, Wanted(), all_up(replica()), 101.0)
    assert [action for action in first.actions if isinstance(action, Tell)] == [
        Tell("web.1", "leaves: its service is not declared any more")
    ]
    assert first.replicas["web.1"].leave
    assert not any(isinstance(a, Tell) for a in decide(first.replicas, Wanted(), all_up(replica()), 101.1).actions)


def test_stopping_lets_everything_go_and_starts_nothing() -> None:
    held = {r.name: r for r in (replica(1), replica(2, Phase.DOWN), replica(3, Phase.STARTING))}
    decision = decide(held, Wanted((WEB,), stopping=True), all_up(replica(1)), 101.0)
    assert all(r.leave for r in decision.replicas.values())
    assert not any(isinstance(action, StartReplica) for action in decision.actions)


def test_strays_are_adopted_or_cleared_away() -> None:
    observed = Observed(
        replicas={"web.7": seen(), "web.8": seen(alive=False), "web.9": seen(serving=False)}, edge=edge(web_7=UP)
    )
    decision = decide({}, Wanted((replace(WEB, replicas=1),)), observed, 5.0)
    assert ForgetReplica("web.8", "nobody knows it") in decision.actions
    assert decision.replicas["web.7"].phase is Phase.READY  # it serves until another does
    assert decision.replicas["web.9"].leave
    assert [action.replica for action in decision.actions if isinstance(action, StartReplica)] == ["web.1"]


def test_a_worker_knows_its_cap_before_the_edge_lets_more_through() -> None:
    counts = Counts(100.9, 0.0, (ClassCounts(), ClassCounts()))
    observed = Observed(replicas={"web.1": seen(counts=counts)}, edge=edge(web_1=replace(UP, limit=2)))
    wanted = Wanted((replace(WEB, replicas=1, adapts=False),))
    found = [type(action) for action in decide({"web.1": replica()}, wanted, observed, 101.0).actions]
    assert found == [CapReplica, LimitReplica]
