"""Each thing that can go wrong, alone, with what exactly must come of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulate import System, app

from headway.model.action import Action, AdmitReplica, DrainReplica, EndReplica, StartReplica
from headway.model.replica import Phase
from headway.model.wanted import Wanted, WantedService
from headway.runtimes.memory import Behaviour, Offer

EXACT = Behaviour(start_s=(1.0, 1.0), stop_s=(0.1, 0.1))
QUIET = Offer(rate_per_s=20.0, stream_share=0.0)


def system_of(*services: WantedService, seed: int = 1, behaviour: Behaviour = EXACT) -> System:
    """A system with these services, not started yet."""
    system = System(seed, Wanted(services or (app(),)))
    for service in system.wanted.services:
        system.world.behave(service.name, behaviour)
    return system


def ready(*services: WantedService, seed: int = 1, offer: Offer = QUIET) -> System:
    """A system that is as wanted and has served for three seconds."""
    system = system_of(*services, seed=seed)
    system.settle(20.0)
    system.watch.never_empty = True
    for service in system.wanted.services:
        if service.is_at_edge:
            system.world.offer(service.name, offer)
    system.run(3.0)
    return system


def capacity(system: System) -> int:
    """Replicas that take requests and work."""
    now_s, world = system.world.now_s(), system.world
    return sum(
        process.works(now_s)
        for server in world.edge.servers.values()
        if server.admin == "ready" and server.is_up and (process := world.processes.table.get(server.name))
    )


def nobody_noticed(system: System) -> None:
    tally = system.world.tally("web")
    assert tally.served > 50
    assert not tally.failed, f"{tally.reasons}\n{system.story()}"


# -- replicas --------------------------------------------------------------------------------------------------------


def test_a_killed_replica_is_back_after_its_own_start_up() -> None:
    system = ready()
    system.world.crash("web.1")
    took_s = system.until(lambda: capacity(system) == 2, 5.0)
    assert took_s <= 1.0 + 0.5
    assert system.loop.replicas["web.1"].restarts == 1
    assert system.watch.starts == {"web.1": 2, "web.2": 1}
    nobody_noticed(system)


def test_a_stopped_replica_is_out_at_once_and_killed_after_five_seconds() -> None:
    system = ready()
    system.world.freeze("web.1", 1e9)
    assert system.until(lambda: not system.world.edge.servers["web.1"].is_up, 2.0) <= 0.6
    assert system.until(lambda: system.loop.replicas["web.1"].phase is Phase.DOWN, 10.0) <= 5.2
    assert system.settle(5.0) <= 2.0
    nobody_noticed(system)


def test_a_replica_that_stands_still_for_a_moment_stays() -> None:
    system = ready()
    system.world.freeze("web.1", 3.0)
    system.run(15.0)
    assert system.watch.starts == {"web.1": 1, "web.2": 1}
    nobody_noticed(system)


def test_a_stuck_event_loop_is_killed_after_the_hang_timeout() -> None:
    system = ready()
    system.world.stick("web.2", 1e9)
    took_s = system.until(lambda: system.loop.replicas["web.2"].phase is Phase.DOWN, 20.0)
    assert 9.9 <= took_s <= 10.3
    system.settle(5.0)
    system.run(5.0)
    nobody_noticed(system)


def test_a_leaking_replica_is_replaced_without_a_request_lost() -> None:
    system = ready()
    system.world.swell("web.1", 1 << 30)
    least = 2
    for _ in range(200):
        system.tick()
        least = min(least, capacity(system))
    assert least == 2
    assert set(system.loop.replicas) == {"web.2", "web.3"}
    assert system.world.tally("web").cut == 0
    nobody_noticed(system)


def test_an_app_that_is_always_over_its_memory_is_not_replaced_without_a_pause() -> None:
    system = system_of(app(replicas=1), behaviour=replace(EXACT, rss_bytes=1 << 30))
    system.run(120.0)
    assert 8 <= system.watch.starts.total() <= 12  # one in ten seconds and its own start
    assert capacity(system) >= 1


def test_an_app_that_cannot_be_imported_backs_off_and_says_why() -> None:
    system = system_of(app(replicas=1), behaviour=Behaviour(fate="import", start_s=(0.4, 0.4)))
    system.run(60.0)
    # 0 0.5 1 2 4 8 16 seconds between starts that take 0.4 to 0.6 each; the next would be 30 later.
    assert system.watch.starts == {"web.1": 8}
    replica = system.loop.replicas["web.1"]
    assert replica.failure is not None
    assert replica.failure.kind == "import"
    assert sum("crash loop" in line for line in system.journal.lines) == 1
    system.world.behave("web", EXACT)
    assert system.settle(35.0) <= 32.0


def test_an_app_that_serves_and_crashes_soon_is_not_kept_down_for_longer_than_it_was_well() -> None:
    system = system_of(app(replicas=1), behaviour=replace(EXACT, lives_s=2.0))
    system.run(120.0)
    # A second to start, two of life, as long down: a start every five seconds, not every three and not every thirty.
    assert 22 <= system.watch.starts["web.1"] <= 30


def test_a_start_up_that_never_ends_is_ended() -> None:
    system = system_of(app(replicas=1, start_timeout_s=5.0), behaviour=Behaviour(fate="never"))
    system.run(6.0)
    replica = system.loop.replicas["web.1"]
    assert replica.failure is not None
    assert replica.failure.kind == "start_timeout"
    system.run(60.0)
    assert system.watch.starts["web.1"] <= 9


def test_the_failure_told_is_that_of_the_last_run() -> None:
    system = system_of(app(replicas=1), behaviour=Behaviour(fate="import"))
    system.until(lambda: system.loop.replicas["web.1"].failures == 1 if system.loop.replicas else False, 5.0)
    system.world.behave("web", Behaviour(fate="crash"))
    system.until(lambda: system.loop.replicas["web.1"].failures == 3, 10.0)
    failure = system.loop.replicas["web.1"].failure
    assert failure is not None
    assert failure.message == "ended with status 1 while starting"


# -- the edge --------------------------------------------------------------------------------------------------------


def test_a_killed_edge_comes_back_with_its_servers() -> None:
    system = ready()
    system.world.crash_edge()
    assert system.until(system.settled, 2.0) <= 0.7
    system.run(5.0)
    nobody_noticed(system)


def test_a_hung_edge_is_replaced_within_two_seconds() -> None:
    system = ready()
    system.world.hang_edge()
    assert system.until(lambda: system.settled() and system.world.edge.deaths == 1, 5.0) <= 2.0
    system.run(5.0)
    nobody_noticed(system)


def test_an_edge_that_hangs_for_a_blink_stays() -> None:
    system = ready()
    system.world.hang_edge()
    system.run(0.7)
    system.world.edge.wake()
    system.run(3.0)
    assert system.world.edge.deaths == 0


def test_an_edge_that_starts_slowly_is_not_killed_again_and_again() -> None:
    system = ready()
    system.world.edge.boot_s = (3.0, 3.0)
    system.world.hang_edge()
    system.settle(6.0)
    assert system.world.edge.deaths == 1


def test_no_replica_ends_while_a_hung_edge_may_still_send_to_it() -> None:
    system = ready(app(replicas=3))
    system.mortal.refuses = lambda action: type(action).__name__ == "ReplaceEdge"
    system.want("web", replicas=2)
    system.tick()
    system.world.hang_edge()
    system.run(9.0)
    assert system.loop.replicas["web.3"].phase is Phase.DRAINING
    assert system.world.processes.table["web.3"].alive
    # But not for ever: after drain_timeout (10 s) it is asked, and as its answers reach nobody, killed 8 s later.
    system.until(lambda: "web.3" not in system.loop.replicas, 10.5)
    system.world.edge.wake()
    system.settle(5.0)  # and what the edge still had of it is taken away


def test_a_drain_that_is_always_lost_does_not_hold_a_replica_for_ever() -> None:
    system = ready(app(replicas=3))
    system.mortal.refuses = lambda action: isinstance(action, DrainReplica)
    system.want("web", replicas=2)
    assert 9.5 <= system.settle(15.0) <= 12.0
    nobody_noticed(system)


def test_a_replacement_counts_only_when_the_edge_has_it() -> None:
    system = ready(app(replicas=1))
    system.mortal.refuses = lambda action: isinstance(action, AdmitReplica)
    system.want("web", key="two")
    for _ in range(100):
        system.tick()
        assert capacity(system) == 1
    assert system.loop.replicas["web.2"].phase is Phase.READY
    system.mortal.refuses = lambda action: False
    system.settle(8.0)
    assert set(system.loop.replicas) == {"web.2"}
    nobody_noticed(system)


# -- the controller and the supervisor -------------------------------------------------------------------------------


def test_nobody_notices_that_the_controller_is_gone() -> None:
    system = ready()
    before = dict(system.loop.replicas)
    system.restart_controller(gap_s=5.0)
    system.run(8.0)
    assert dict(system.loop.replicas) == before
    assert system.watch.starts == {"web.1": 1, "web.2": 1}
    nobody_noticed(system)


@pytest.mark.parametrize("actions", range(9))
def test_a_controller_killed_between_any_two_actions_leaves_nothing_behind(actions: int) -> None:
    system = ready()
    system.kill_controller_within(actions)
    system.want("web", key="two", replicas=3)
    system.settle(30.0)
    assert {replica.key for replica in system.loop.replicas.values()} == {"two"}
    nobody_noticed(system)
    system.stop()


def test_a_controller_without_memory_adopts_what_runs_and_loses_no_request() -> None:
    system = ready()
    system.world.settle({}, system.wanted)
    system.restart_controller(gap_s=0.5)
    system.settle(30.0)
    assert len(system.loop.replicas) == 2
    nobody_noticed(system)


def test_without_a_supervisor_nothing_starts_and_what_runs_goes_on() -> None:
    system = ready(app(replicas=3))
    system.world.lose_supervisor(6.0)
    system.world.crash("web.1")
    system.run(5.0)
    assert system.watch.starts["web.1"] == 1
    assert system.settle(5.0) <= 3.0
    nobody_noticed(system)


def test_a_machine_that_stood_still_kills_nobody() -> None:
    system = ready()
    system.world.pause(120.0)
    system.run(3.0)
    assert system.watch.starts == {"web.1": 1, "web.2": 1}


def test_a_full_disk_stops_nothing_is_told_once_and_stored_when_there_is_room() -> None:
    system = ready()
    before = system.world.stored
    system.world.fill_disk(10.0)
    system.want("web", key="two")
    system.run(9.0)
    assert system.world.stored == before
    assert all(replica.key == "two" for replica in system.loop.replicas.values()), "the roll went on"
    system.run(2.0)
    assert dict(system.world.stored.replicas) == system.loop.replicas
    told = [line for line in system.journal.lines if "edge" in line and "store" in line]
    assert len(told) == 2, told
    assert "store failed: no space left on device" in told[0]
    nobody_noticed(system)


# -- scaling, replacing, stopping ------------------------------------------------------------------------------------


def test_a_roll_keeps_the_capacity_and_takes_room_for_one_more() -> None:
    system = ready(app(replicas=3))
    system.want("web", key="two")
    sizes, least = set(), 3
    while not system.settled():
        system.tick()
        least = min(least, capacity(system))
        sizes.add(sum(not r.leave for r in system.loop.replicas.values()))
    assert least == 3
    assert max(sizes) == 4
    nobody_noticed(system)


def test_a_scale_down_in_the_middle_of_a_roll() -> None:
    system = ready(app(replicas=4))
    system.want("web", key="two")
    system.run(2.0)
    system.want("web", replicas=2)
    least = 4
    while not system.settled():
        system.tick()
        least = min(least, capacity(system))
    assert least >= 2
    assert system.watch.starts.total() <= 4 + 4
    nobody_noticed(system)


def test_a_release_that_breaks_leaves_the_old_one_serving() -> None:
    system = ready()
    system.world.behave("web", Behaviour(fate="import"), "broken")
    system.want("web", key="broken")
    system.run(30.0)
    assert capacity(system) == 2
    system.want("web", key="one")
    assert system.settle(3.0) <= 1.0
    assert system.watch.starts["web.1"] == system.watch.starts["web.2"] == 1  # nothing was replaced for it
    nobody_noticed(system)


def test_scale_to_zero_and_back() -> None:
    system = ready()
    system.watch.never_empty = False
    system.want("web", replicas=0)
    assert system.settle(20.0) < 12.0
    assert not system.world.processes.table
    system.want("web", replicas=2)
    assert system.settle(5.0) <= 1.6


def test_scale_to_zero_and_back_before_the_drain_is_over() -> None:
    system = ready(offer=Offer(5.0, stream_share=0.5, stream_s=(30.0, 30.0)))
    system.watch.never_empty = False
    system.want("web", replicas=0)
    system.run(0.5)
    system.want("web", replicas=2)
    system.settle(20.0)
    assert set(system.loop.replicas) == {"web.3", "web.4"}


def test_scale_down_keeps_those_that_work() -> None:
    system = ready(app(replicas=3))
    system.world.freeze("web.1", 1e9)
    system.run(1.0)
    system.want("web", replicas=2)
    system.run(1.0)
    assert capacity(system) == 2
    assert system.loop.replicas["web.1"].leave


def test_a_service_that_waits_for_its_database() -> None:
    system = system_of(app(waits_for=("main",)))
    system.run(5.0)
    assert not system.watch.starts
    system.world.databases["main"] = 5.0
    system.settle(3.0)
    system.world.databases["main"] = 1e9
    system.run(2.0)
    assert system.settled()  # it is the app that tells its users of a lost database
    system.want("web", replicas=1)
    system.settle(3.0)


def test_a_service_that_is_not_declared_any_more_leaves() -> None:
    system = ready(app(), app("stock", 1, is_at_edge=False))
    system.set_wanted(replace(system.wanted, services=(system.service("web"),)))
    system.settle(5.0)
    assert set(system.loop.replicas) == {"web.1", "web.2"}


def test_a_command_may_finish_its_work_before_it_ends() -> None:
    mailer = app("mailer", 1, kind="command", is_at_edge=False)
    system = system_of(mailer, behaviour=replace(EXACT, stop_s=(9.5, 9.5)))
    system.settle(3.0)
    system.want("mailer", replicas=0)
    system.run(1.0)
    process = system.world.processes.table["mailer.1"]
    system.settle(12.0)
    assert process.exit_status == 0


def test_a_replica_that_hangs_while_it_drains_is_not_waited_for() -> None:
    system = ready(offer=Offer(20.0, stream_share=0.3, stream_s=(100.0, 100.0)))
    system.want("web", drain_timeout_s=60.0, hang_timeout_s=3.0)
    system.world.stick("web.2", 1e9)
    system.want("web", replicas=1)
    assert system.settle(10.0) <= 4.5


def test_stopping_ends_everything_even_what_hangs_or_does_not_listen() -> None:
    system = ready(app(replicas=3), offer=Offer(20.0, stream_share=0.2, stream_s=(100.0, 100.0)))
    system.world.stick("web.1", 1e9)
    deaf = system.world.processes.table["web.2"]
    deaf.behaviour = replace(deaf.behaviour, is_deaf=True)
    assert system.stop() <= 10.0 + 8.0 + 1.0


def test_stopping_while_the_edge_is_gone() -> None:
    system = ready()
    system.mortal.refuses = lambda action: type(action).__name__ == "ReplaceEdge"
    system.world.hang_edge()
    system.set_wanted(replace(system.wanted, stopping=True))
    system.until(lambda: not system.loop.replicas, 10.0 + 8.0 + 1.0)
    assert not system.world.processes.table


def test_a_lost_kill_is_tried_again_and_nothing_starts_beside() -> None:
    lost: list[Action] = []

    def refuses(action: Action) -> bool:
        if isinstance(action, EndReplica) and not lost:
            lost.append(action)
            return True
        return False

    system = ready()
    system.mortal.refuses = refuses
    system.world.stick("web.1", 1e9)
    assert system.until(lambda: system.watch.starts["web.1"] == 2, 20.0) <= 13.0
    assert lost


def test_a_start_that_fails_backs_off() -> None:
    system = system_of(app(replicas=1))
    tries: list[Action] = []

    def refuses(action: Action) -> bool:
        if isinstance(action, StartReplica):
            tries.append(action)
            return True
        return False

    system.mortal.refuses = refuses
    system.run(60.0)
    assert 6 <= len(tries) <= 9
    system.mortal.refuses = lambda action: False
    system.settle(35.0)


# -- requests --------------------------------------------------------------------------------------------------------


def test_what_is_not_idempotent_is_cut_rather_than_sent_twice() -> None:
    system = ready(offer=Offer(20.0, work_s=1.0, post_share=1.0, stream_share=0.0))
    in_flight = system.world.processes.table["web.1"].in_flight
    assert in_flight > 0
    system.world.crash("web.1")
    system.tick()
    assert system.world.tally("web").cut == in_flight


def test_a_full_service_queues() -> None:
    system = ready(app(limit=1), offer=Offer(30.0, work_s=0.2, post_share=0.0, stream_share=0.0))
    system.run(2.0)
    assert all(server.sessions <= 1 for server in system.world.edge.servers.values())
    assert not system.world.tally("web").failed


def test_open_streams_take_no_place_of_requests() -> None:
    system = ready(offer=Offer(10.0, stream_share=0.3, stream_s=(100.0, 100.0)))
    system.run(5.0)
    for name, server in system.world.edge.servers.items():
        streams = system.loop.observed.replicas[name].streams
        assert streams > 0
        assert server.limit == 40 + streams
