"""One replica's steps: every phase with every thing that can be seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nouns import NO_EDGE, UP, WEB, edge, replica, seen

from headway.control.lifecycle import CHANGED, adopt, advance, backoff_s, describe_exit, start
from headway.model.action import EndReplica, ForgetReplica, StartReplica, Tell
from headway.model.observed import EdgeObserved, Failure
from headway.model.replica import Phase

GONE = seen(alive=False, serving=False, exit_status=-9)
MAILER = replace(WEB, kind="command", is_at_edge=False, memory_max_bytes=None)


def test_backoff_doubles_from_half_a_second_to_thirty() -> None:
    assert [backoff_s(failures) for failures in range(10)] == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff_s(1000) == 30


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "ended"),
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-64, "was killed by signal 64"),
    ],
)
def test_describe_exit(status: int | None, told: str) -> None:
    assert describe_exit(status) == told


# -- starting --------------------------------------------------------------------------------------------------------


def test_a_starting_one_is_ready_when_it_serves() -> None:
    starting = replica(phase=Phase.STARTING, failure=Failure("exit", "before"))
    assert advance(starting, seen(serving=False), NO_EDGE, WEB, 101.0).replica == replace(starting, pid=7)
    step = advance(starting, seen(), NO_EDGE, WEB, 101.5)
    assert step.replica == replica(pid=7, since_s=101.5)
    assert step.actions == (Tell("web.1", "ready after 1.5 s"),)


def test_a_command_is_ready_when_it_lived_for_a_second() -> None:
    starting = replica(phase=Phase.STARTING)
    early = advance(starting, seen(serving=False), NO_EDGE, MAILER, 100.9).replica
    late = advance(starting, seen(serving=False), NO_EDGE, MAILER, 101.0).replica
    assert early is not None
    assert late is not None
    assert (early.phase, late.phase) == (Phase.STARTING, Phase.READY)


def test_a_start_that_takes_too_long_is_killed_and_is_down_until_the_process_is_gone() -> None:
    step = advance(replica(phase=Phase.STARTING), seen(serving=False), NO_EDGE, WEB, 160.1)
    assert step.replica is not None
    assert (step.replica.phase, step.replica.failures) == (Phase.DOWN, 1)
    assert step.replica.failure is not None
    assert 'start_timeout = "120s"' in step.replica.failure.hint
    assert step.actions[0] == EndReplica("web.1", "kill", "start-up did not end within 60 s")


def test_one_that_is_not_wanted_while_it_starts_is_asked_to_end() -> None:
    step = advance(replica(phase=Phase.STARTING, leave=True), seen(serving=False), NO_EDGE, WEB, 101.0)
    assert step.replica is not None
    assert step.replica.phase is Phase.STOPPING
    assert step.actions == (EndReplica("web.1", "ask", "not wanted any more"),)


# -- ended by itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "doing"), [(Phase.STARTING, "while starting"), (Phase.READY, "while it was ready")])
def test_one_that_ended_starts_again_at_once(phase: Phase, doing: str) -> None:
    step = advance(replica(phase=phase, pid=7, failure=Failure("import", "an old one")), GONE, NO_EDGE, WEB, 101.0)
    assert step.replica is not None
    assert (step.replica.phase, step.replica.pid, step.replica.start_at_s) == (Phase.DOWN, None, 101.0)
    assert step.replica.failure == Failure("exit", f"was killed by SIGKILL {doing}", "headway logs web.1")
    assert step.actions == (Tell("web.1", f"was killed by SIGKILL {doing}; it starts again at once", "warning"),)


def test_its_own_words_go_before_its_exit_status() -> None:
    failure = Failure("import", "cannot import it")
    step = advance(replica(phase=Phase.STARTING), replace(GONE, failure=failure), NO_EDGE, WEB, 101.0)
    assert step.replica is not None
    assert step.replica.failure == failure


def test_the_third_failure_in_a_row_is_told_as_a_loop_once() -> None:
    third = advance(replica(phase=Phase.STARTING, failures=2), GONE, NO_EDGE, WEB, 101.0)
    assert third.replica is not None
    assert third.replica.start_at_s == 102.0
    assert [type(action) for action in third.actions] == [Tell, Tell]
    assert "crash loop: 3 failures" in third.actions[1].reason
    fourth = advance(replace(third.replica, phase=Phase.STARTING), GONE, NO_EDGE, WEB, 103.0)
    assert len(fourth.actions) == 1


def test_one_without_a_process_at_all_ended() -> None:
    step = advance(replica(phase=Phase.STARTING), None, NO_EDGE, WEB, 101.0)
    assert step.replica is not None
    assert step.replica.phase is Phase.DOWN


# -- ready -----------------------------------------------------------------------------------------------------------


def test_earlier_failures_are_forgotten_after_half_a_minute() -> None:
    step = advance(replica(failures=5, told_loop=True), seen(), NO_EDGE, WEB, 131.0)
    assert step.replica == replica()
    assert advance(replica(failures=5), seen(), NO_EDGE, WEB, 129.0).replica == replica(failures=5)


@pytest.mark.parametrize(
    ("changes", "hangs"),
    [
        ({"beat_age_s": 4.9}, False),
        ({"beat_age_s": 5.1}, True),
        ({"loop_beat_age_s": 9.9}, False),
        ({"loop_beat_age_s": 10.1}, True),
        ({"loop_beat_age_s": 29.0, "is_wsgi": True}, False),
        ({"loop_beat_age_s": 30.1, "is_wsgi": True}, True),
    ],
)
def test_what_counts_as_a_hang(changes: dict[str, object], hangs: bool) -> None:
    step = advance(replica(), seen(**changes), NO_EDGE, WEB, 101.0)
    assert step.replica is not None
    assert (step.replica.phase is Phase.DOWN) == hangs
    assert any(isinstance(action, EndReplica) and action.how == "kill" for action in step.actions) == hangs


def test_a_command_gives_no_beat_and_does_not_hang() -> None:
    assert advance(replica(), seen(beat_age_s=1e6, loop_beat_age_s=1e6), NO_EDGE, MAILER, 101.0).actions == ()


def test_one_of_another_release_is_to_be_replaced_until_the_release_comes_back() -> None:
    retired = advance(replica(), seen(), NO_EDGE, replace(WEB, key="two"), 101.0).replica
    assert retired == replica(retire=CHANGED)
    assert advance(retired, seen(), NO_EDGE, WEB, 102.0).replica == replica()
    assert advance(replica(), seen(), NO_EDGE, replace(WEB, key=""), 101.0).replica == replica()


def test_one_over_its_memory_is_to_be_replaced_but_not_in_its_first_seconds() -> None:
    big = seen(rss_bytes=101)
    assert advance(replica(), big, NO_EDGE, WEB, 109.0).replica == replica()
    step = advance(replica(), big, NO_EDGE, WEB, 111.0)
    assert step.replica is not None
    assert "over memory_max" in step.replica.retire
    stays = advance(step.replica, seen(rss_bytes=1), NO_EDGE, WEB, 112.0).replica
    assert stays == step.replica


@pytest.mark.parametrize("why", ["leave", "undeclared"])
def test_a_ready_one_that_leaves_drains(why: str) -> None:
    service = None if why == "undeclared" else WEB
    step = advance(replica(leave=why == "leave"), seen(), NO_EDGE, service, 101.0)
    assert step.replica is not None
    assert step.replica.phase is Phase.DRAINING
    assert step.actions == ()


# -- draining and stopping -------------------------------------------------------------------------------------------

DRAINED = replace(UP, admin="drain")
DRAINING = replica(phase=Phase.DRAINING, leave=True)
HUNG_EDGE = EdgeObserved(pid=1, reachable=False, unreachable_s=5.0)


@pytest.mark.parametrize(
    ("observed", "at_edge", "at_s", "ends"),
    [
        (seen(), edge(web_1=UP), 101.0, False),  # the edge has not heard yet
        (seen(), edge(web_1=UP), 130.0, True),  # and never does
        (seen(), edge(web_1=DRAINED), 101.0, True),
        (seen(), edge(), 101.0, True),
        (seen(in_flight=1), edge(web_1=DRAINED), 129.0, False),
        (seen(streams=1), edge(web_1=DRAINED), 129.0, False),
        (seen(), edge(web_1=replace(DRAINED, sessions=1)), 129.0, False),
        (seen(in_flight=1), edge(web_1=DRAINED), 130.0, True),
        (seen(), HUNG_EDGE, 101.0, False),  # it may still send
        (seen(), HUNG_EDGE, 130.0, True),
        (seen(), NO_EDGE, 101.0, True),  # it is dead and comes back without this one
    ],
)
def test_a_draining_one_is_asked_to_end_when_nothing_comes_any_more(
    observed: object, at_edge: EdgeObserved, at_s: float, ends: bool
) -> None:
    step = advance(DRAINING, observed, at_edge, WEB, at_s)  # type: ignore[arg-type]
    assert [type(action) for action in step.actions] == ([EndReplica] if ends else [])
    assert step.replica is not None
    assert step.replica.phase is (Phase.STOPPING if ends else Phase.DRAINING)


def test_without_a_drain_timeout_the_edge_still_gets_to_hear_of_it() -> None:
    hasty = replace(WEB, drain_timeout_s=0.0)
    assert advance(DRAINING, seen(), edge(web_1=UP), hasty, 100.1).actions == ()
    assert advance(DRAINING, seen(in_flight=9), edge(web_1=DRAINED), hasty, 100.1).actions != ()


def test_a_private_one_does_not_wait_for_the_edge() -> None:
    assert advance(DRAINING, seen(), HUNG_EDGE, replace(WEB, is_at_edge=False), 100.1).actions != ()


def test_one_that_hangs_while_it_drains_is_killed() -> None:
    step = advance(DRAINING, seen(in_flight=3, beat_age_s=9.0), edge(web_1=DRAINED), WEB, 105.0)
    assert [action.how for action in step.actions if isinstance(action, EndReplica)] == ["kill"]


@pytest.mark.parametrize(("service", "patience_s"), [(WEB, 8.0), (MAILER, 30.0), (None, 8.0)])
def test_one_that_does_not_end_when_asked_is_killed(service: object, patience_s: float) -> None:
    stopping = replica(phase=Phase.STOPPING, leave=True)
    assert advance(stopping, seen(), NO_EDGE, service, 100 + patience_s - 0.1).actions == ()  # type: ignore[arg-type]
    step = advance(stopping, seen(), NO_EDGE, service, 100 + patience_s + 0.1)  # type: ignore[arg-type]
    assert step.actions == (EndReplica("web.1", "kill", "did not end when asked"),)


# -- down ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING])
def test_one_that_ended_as_asked_is_forgotten_when_the_edge_let_go(phase: Phase) -> None:
    held = advance(replica(phase=phase), GONE, edge(web_1=DRAINED), WEB, 101.0)
    assert held.replica is not None
    assert (held.replica.phase, held.replica.leave, held.actions) == (Phase.DOWN, True, ())
    assert advance(held.replica, GONE, edge(), WEB, 102.0).replica is None
    assert advance(replica(phase=phase), GONE, edge(), WEB, 101.0).actions == (ForgetReplica("web.1", "it has ended"),)


def test_one_that_was_killed_is_killed_again_when_it_stays() -> None:
    down = replica(phase=Phase.DOWN)
    assert advance(down, seen(), NO_EDGE, WEB, 101.9).actions == ()
    step = advance(down, seen(), NO_EDGE, WEB, 102.1)
    assert step.actions == (EndReplica("web.1", "kill", "it is still there"),)
    assert step.replica == replace(down, since_s=102.1)


def test_one_that_waits_for_its_next_start_stays() -> None:
    down = replica(phase=Phase.DOWN)
    assert advance(down, GONE, edge(web_1=UP), WEB, 101.0).replica == down


def test_one_over_its_memory_that_crashed_makes_room() -> None:
    assert advance(replica(phase=Phase.DOWN, retire="1 GiB resident"), GONE, edge(), WEB, 101.0).replica is None


# -- starting again, adopting ----------------------------------------------------------------------------------------


def test_start_counts_and_tells_why() -> None:
    fresh, action = start(replica(phase=Phase.DOWN), 101.0, "one")
    assert (fresh.restarts, action) == (0, StartReplica("web.1", "web", "wanted"))
    crashed = replica(phase=Phase.DOWN, failures=1, failure=Failure("exit", "ended with status 3"))
    again, action = start(crashed, 101.0, "two")
    assert (again.phase, again.restarts, again.key, again.since_s) == (Phase.STARTING, 1, "two", 101.0)
    assert action.reason == "starts again after: ended with status 3"


def test_adopt_takes_what_has_our_kind_of_name() -> None:
    serving = adopt("web.3", seen(), 5.0)
    assert serving is not None
    assert (serving.service, serving.number, serving.phase, bool(serving.retire)) == ("web", 3, Phase.READY, True)
    starting = adopt("web.3", seen(serving=False), 5.0)
    assert starting is not None
    assert (starting.phase, starting.retire) == (Phase.STARTING, "")
    assert adopt("edge", seen(), 5.0) is None
    assert adopt("edge.x", seen(), 5.0) is None
