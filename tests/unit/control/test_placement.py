"""How many replicas and which: up, down, to nothing, one for another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nouns import UP, WEB, all_up, replica, seen

from headway.control.placement import place, starts
from headway.model.action import Action, StartReplica, Tell
from headway.model.observed import EdgeObserved, Observed
from headway.model.replica import Phase, Replica
from headway.model.wanted import WantedService

OLD = "its declaration or source changed"


def placed(
    service: WantedService, *replicas: Replica, observed: Observed | None = None, may_start: int = 9
) -> tuple[dict[str, Replica], list[Action]]:
    held, actions = place(
        service, replicas, observed if observed else all_up(*replicas), may_start=may_start, now_s=200.0
    )
    return {r.name: r for r in held}, actions


def started(actions: list[Action]) -> list[str]:
    return [action.replica for action in actions if isinstance(action, StartReplica)]


def leaving(held: dict[str, Replica]) -> list[str]:
    return sorted(name for name, r in held.items() if r.leave)


def test_missing_ones_start_as_many_as_may() -> None:
    held, actions = placed(replace(WEB, replicas=3), may_start=2)
    assert started(actions) == ["web.1", "web.2"]
    assert starts(actions) == 2
    assert {(r.number, r.phase, r.key) for r in held.values()} == {
        (1, Phase.STARTING, "one"),
        (2, Phase.STARTING, "one"),
    }


def test_as_wanted_nothing_happens() -> None:
    two = (replica(1), replica(2))
    assert placed(WEB, *two) == ({r.name: r for r in two}, [])


def test_a_name_is_free_when_nothing_goes_by_it() -> None:
    leaving_one = replica(1, Phase.STOPPING, leave=True)
    observed = Observed(replicas={"web.2": seen(alive=False)})
    _, actions = place(WEB, [leaving_one], observed, may_start=9, now_s=200.0, taken=("web.3",))
    assert started(actions) == ["web.4", "web.5"]


def test_over_the_number_the_highest_leave_first() -> None:
    held, actions = placed(replace(WEB, replicas=1), replica(1), replica(2), replica(3))
    assert leaving(held) == ["web.2", "web.3"]
    assert actions == [Tell("web.3", "leaves: 1 wanted"), Tell("web.2", "leaves: 1 wanted")]


@pytest.mark.parametrize("broken", ["starting", "down", "silent", "stuck", "out"])
def test_over_the_number_those_that_do_not_serve_go_before_the_highest(broken: str) -> None:
    phase = {"starting": Phase.STARTING, "down": Phase.DOWN}.get(broken, Phase.READY)
    replicas = (replica(1, phase, start_at_s=1e9 if broken == "down" else 0), replica(2), replica(3))
    observed = all_up(*replicas)
    if broken in ("silent", "stuck"):
        age = {"beat_age_s": 2.0} if broken == "silent" else {"loop_beat_age_s": 2.0}
        observed = replace(observed, replicas={**observed.replicas, "web.1": seen(**age)})
    if broken == "out":
        servers = {**observed.edge.servers, "web.1": replace(UP, is_up=False)}
        observed = replace(observed, edge=replace(observed.edge, servers=servers))
    held, _ = placed(WEB, *replicas, observed=observed)
    assert leaving(held) == ["web.1"]


def test_busy_threads_do_not_make_one_count_less() -> None:
    replicas = (replica(1), replica(2), replica(3))
    busy = seen(is_wsgi=True, loop_beat_age_s=9.0)
    observed = replace(all_up(*replicas), replicas=dict.fromkeys(("web.1", "web.2", "web.3"), busy))
    assert leaving(placed(WEB, *replicas, observed=observed)[0]) == ["web.3"]


def test_to_nothing_everything_leaves() -> None:
    held, actions = placed(replace(WEB, replicas=0), replica(1), replica(2, Phase.STARTING))
    assert leaving(held) == ["web.1", "web.2"]
    assert started(actions) == []
    held, _ = placed(replace(WEB, replicas=0), replica(1, retire=OLD, key="old"))
    assert leaving(held) == ["web.1"]


def test_a_replacement_starts_first() -> None:
    held, actions = placed(WEB, replica(1, retire=OLD, key="old"), replica(2, retire=OLD, key="old"))
    assert started(actions) == ["web.3"]  # one: there is room for one more
    assert leaving(held) == []


def test_when_it_serves_one_of_the_old_leaves_and_the_next_starts() -> None:
    old = (replica(1, retire=OLD, key="old"), replica(2, retire=OLD, key="old"))
    held, actions = placed(WEB, *old, replica(3))
    assert leaving(held) == ["web.1"]
    assert started(actions) == ["web.4"]


def test_until_the_edge_has_it_up_nobody_leaves() -> None:
    replicas = (replica(1, retire=OLD, key="old"), replica(2), replica(3))
    for server in (None, replace(UP, is_up=False), replace(UP, admin="maint")):
        servers = {"web.1": UP, "web.2": UP} | ({"web.3": server} if server else {})
        observed = replace(all_up(*replicas), edge=EdgeObserved(1, True, 0.0, servers))
        assert leaving(placed(WEB, *replicas, observed=observed)[0]) == []
    private = replace(WEB, is_at_edge=False)
    observed = replace(all_up(*replicas), edge=EdgeObserved())
    assert leaving(placed(private, *replicas, observed=observed)[0]) == ["web.1"]


def test_only_one_leaves_at_a_time() -> None:
    old = [replica(n, retire=OLD, key="old") for n in (1, 2)]
    held, _ = placed(WEB, *old, replica(3), replica(4))
    assert leaving(held) == ["web.1"]


def test_one_that_is_down_takes_the_new_release_over() -> None:
    down = replica(2, Phase.DOWN, key="old", failures=6, told_loop=True, start_at_s=230.0)
    held, actions = placed(WEB, replica(1), down)
    assert started(actions) == ["web.2"]
    assert (held["web.2"].key, held["web.2"].failures, held["web.2"].told_loop) == ("one", 0, False)


def test_one_that_starts_with_an_old_release_is_let_go() -> None:
    held, actions = placed(WEB, replica(1), replica(2, Phase.STARTING, key="old"))
    assert leaving(held) == ["web.2"]
    assert started(actions) == ["web.3"]


def test_without_a_release_known_nothing_is_replaced() -> None:
    unknown = replace(WEB, key="")
    replicas = (replica(1, Phase.STARTING), replica(2, Phase.DOWN, start_at_s=1e9))
    held, actions = placed(unknown, *replicas, may_start=0)
    assert held == {r.name: r for r in replicas}
    assert actions == []


def test_a_back_off_is_waited_for() -> None:
    waits = replica(2, Phase.DOWN, start_at_s=200.1)
    assert placed(WEB, replica(1), waits)[1] == []
    assert started(placed(WEB, replica(1), replace(waits, start_at_s=200.0))[1]) == ["web.2"]
    assert placed(WEB, replica(1), replace(waits, start_at_s=200.0), may_start=0)[1] == []


def test_a_back_off_by_the_clock_of_before_a_reboot_is_not() -> None:
    assert started(placed(WEB, replica(1), replica(2, Phase.DOWN, start_at_s=90_000.0))[1]) == ["web.2"]


def test_nothing_starts_beside_a_process_that_is_not_gone_yet() -> None:
    replicas = (replica(1), replica(2, Phase.DOWN))
    observed = replace(all_up(*replicas), replicas={"web.1": seen(), "web.2": seen(serving=False)})
    assert placed(WEB, *replicas, observed=observed)[1] == []


def test_those_that_drain_count_no_more() -> None:
    _, actions = placed(WEB, replica(1), replica(2, Phase.DRAINING, leave=True))
    assert started(actions) == ["web.3"]
