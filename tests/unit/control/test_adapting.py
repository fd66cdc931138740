"""What is remembered from tick to tick: of what exists, told once, and no longer than it says something."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from nouns import WEB, edge, replica, seen

from headway.control.adapting import Adapted, adapt
from headway.control.status import overload_of
from headway.model.action import AssignRoute, CapReplica, Tell
from headway.model.observed import EdgeServer, MemoryObserved, Observed
from headway.model.overload import MAIN, SLOW, ClassCounts, Counts, EdgeQueue, QueueBound, RouteCounts
from headway.model.replica import Phase
from headway.model.wanted import Wanted, WantedClass, WantedService

SERVICE = replace(WEB, slo_s=0.25)
OTHER = replace(SERVICE, name="api")
PLACE = EdgeServer("ready", is_up=True, sessions=0, limit=16)


def counts(at_s: float, *routes: RouteCounts) -> Counts:
    return Counts(at_s, 0.0, (ClassCounts(), ClassCounts()), routes)


def observed(at_s: float, *routes: RouteCounts, refused: int = 0) -> Observed:
    found = edge(web_1=PLACE)
    queues = {("web", MAIN): EdgeQueue(refused=refused), ("api", MAIN): EdgeQueue()}
    return Observed(replicas={"web.1": seen(counts=counts(at_s, *routes))}, edge=replace(found, queues=queues))


def test_the_end_of_an_overload_is_told_once_beside_a_service_at_rest() -> None:
    state, told = Adapted(), []
    for tick in range(100):
        now_s = 100 + tick / 10
        refused = min(tick, 20) if tick > 1 else 0
        state, actions = adapt(
            state, {"web.1": replica(1)}, Wanted((SERVICE, OTHER)), observed(now_s, refused=refused), now_s
        )
        told += [action.reason for action in actions if isinstance(action, Tell) and action.about == "web"]
    assert len(told) == 2
    assert told[1].startswith("the overload is over")


def test_what_is_gone_is_forgotten() -> None:
    bound = QueueBound(40)
    before = Adapted(
        caps={"web.1": 160, "web.2": 160},
        in_force={("web", MAIN): bound, ("gone", MAIN): bound},
        slow={"gone": frozenset({"/reports"})},
        at_s=99.9,
    )
    after, _ = adapt(before, {"web.1": replica(1)}, Wanted((SERVICE,)), observed(100.0), 100.0)
    assert set(after.caps) == {"web.1"}
    assert set(after.in_force) == {("web", MAIN)}
    assert not after.slow


def test_a_replica_that_comes_again_is_told_its_cap_again() -> None:
    fixed = Wanted((replace(SERVICE, adapts=False, limit=40),))
    state, caps = Adapted(), []
    there, gone = {"web.1": replica(1)}, {}
    for tick, replicas in enumerate([there] * 3 + [gone] * 3 + [there] * 3):
        now_s = 100 + tick / 10
        state, actions = adapt(state, replicas, fixed, observed(now_s), now_s)
        caps += [tick for action in actions if isinstance(action, CapReplica)]
    assert len(caps) == 2
    assert caps[1] > 5


def caps_of(services: list[WantedService], phases: list[Phase] | None = None) -> tuple[list[int], Adapted]:
    """Caps told, in the order of the ticks; one service, as it is in each of them."""
    state, caps = Adapted(), []
    for tick, service in enumerate(services):
        now_s = 100 + tick / 10
        phase = phases[tick] if phases else Phase.READY
        state, actions = adapt(state, {"web.1": replica(1, phase)}, Wanted((service,)), observed(now_s), now_s)
        caps += [action.cap for action in actions if isinstance(action, CapReplica)]
    return caps, state


@pytest.mark.parametrize("slo_s", [0.25, None])
def test_a_worker_has_a_cap_from_the_first_limit_on(slo_s: float | None) -> None:
    service = replace(SERVICE, slo_s=slo_s, limit=2048, at=(WantedClass(2, slo_s, 30.0),))
    caps, state = caps_of([service] * 5)
    total = sum(limit for (name, _), limit in state.limits.items() if name == "web.1")
    assert len(caps) == 1
    assert total < caps[0] <= 2 * total


def test_a_limit_held_by_hand_has_a_cap_of_its_own() -> None:
    caps, _ = caps_of([SERVICE] * 3 + [replace(SERVICE, held=True, held_limit=100)] * 3 + [SERVICE] * 3)
    assert caps == [32, 200, 80]  # given back, it goes on from what is declared to be the most


def test_a_process_that_starts_anew_under_the_same_name_is_told_its_cap_again() -> None:
    caps, _ = caps_of([SERVICE] * 9, [Phase.READY] * 3 + [Phase.DOWN] * 2 + [Phase.STARTING] + [Phase.READY] * 3)
    assert caps == [32, 32]


def test_a_cap_is_lowered_when_the_edge_has_the_lower_limit() -> None:
    fixed = replace(SERVICE, adapts=False)
    state, told = Adapted(), {}
    for tick, service in enumerate([fixed] * 3 + [replace(fixed, limit=10)] * 3):
        state, actions = adapt(
            state, {"web.1": replica(1)}, Wanted((service,)), observed(100 + tick / 10), 100 + tick / 10
        )
        told.update((tick, action.cap) for action in actions if isinstance(action, CapReplica))
    assert told == {0: 80, 4: 20}


def test_a_route_that_turns_slow_is_not_outvoted_by_its_past() -> None:
    """Six samples a second, as of a hundred requests; a new process that counts from zero changes nothing."""
    state, assigned_s = Adapted(), None
    samples, spent_s, now_s = 0, 0.0, 0.0
    while assigned_s is None and now_s < 4000:
        now_s += 1.0
        if now_s == 1000:
            samples, spent_s = 0, 0.0
        samples, spent_s = samples + 6, spent_s + 6 * (1.0 if now_s > 3290 else 0.01)
        routes = (RouteCounts("/reports", samples, spent_s), RouteCounts("/pages", samples, samples * 0.01))
        state, actions = adapt(state, {"web.1": replica(1)}, Wanted((SERVICE,)), observed(now_s, *routes), now_s)
        assigned_s = next((now_s for action in actions if isinstance(action, AssignRoute)), None)
    assert assigned_s is not None
    assert 0 < assigned_s - 3290 <= 5


def test_routes_go_on_being_looked_at_when_their_controller_is_another() -> None:
    """What long-lived workers have counted before is their past."""
    state, now_s, samples = Adapted(), 0.0, 500_000
    for _ in range(3):
        now_s, samples = now_s + 1.0, samples + 6
        slow = RouteCounts("/reports", samples, 5_000.0 + (samples - 500_000) * 1.0)
        routes = (slow, RouteCounts("/pages", samples, samples * 0.01))
        state, actions = adapt(state, {"web.1": replica(1)}, Wanted((SERVICE,)), observed(now_s, *routes), now_s)
    assert [action.prefix for action in actions if isinstance(action, AssignRoute)] == ["/reports"]


def test_a_replica_that_works_and_tells_nothing_is_called_blind_once() -> None:
    busy = edge(web_1=replace(PLACE, sessions=9))
    dumb = Observed(replicas={"web.1": seen(counts=None)}, edge=busy, memory=MemoryObserved(100, 50))
    state, _ = adapt(Adapted(), {"web.1": replica(1)}, Wanted((SERVICE,)), observed(99.9), 99.9)
    told, limits = [], set()
    for tick in range(40):
        state, actions = adapt(state, {"web.1": replica(1)}, Wanted((SERVICE,)), dumb, 100 + tick / 10)
        told += [action.reason for action in actions if isinstance(action, Tell) and action.about == "web.1"]
        limits.add(state.limits["web.1", MAIN])
    assert told == ["tells nothing for 1 s while it works: its limit stays as it is"]
    assert len(limits) == 1
    short = replace(dumb, memory=MemoryObserved(100, 5))
    for tick in range(40):
        state, _ = adapt(state, {"web.1": replica(1)}, Wanted((SERVICE,)), short, 104 + tick / 10)
    assert state.limits["web.1", MAIN] < min(limits), "a shortage of memory counts for the blind as well"


def blind_told(see: Observed, state: Adapted, from_s: float = 100.0) -> tuple[list[str], Adapted]:
    told = []
    for tick in range(40):
        state, actions = adapt(state, {"web.1": replica(1)}, Wanted((SERVICE,)), see, from_s + tick / 10)
        told += [action.reason for action in actions if isinstance(action, Tell) and action.about == "web.1"]
    return told, state


BLIND = "tells nothing for 1 s while it works: its limit stays as it is"


def test_counters_that_stand_still_and_then_cannot_be_read_are_told_once() -> None:
    busy = edge(web_1=replace(PLACE, sessions=9))
    stale, none = counts(99.9), seen(counts=None)
    state, _ = adapt(Adapted(), {"web.1": replica(1)}, Wanted((SERVICE,)), observed(99.9), 99.9)
    told, state = blind_told(Observed(replicas={"web.1": seen(counts=stale)}, edge=busy), state)
    more, state = blind_told(Observed(replicas={"web.1": none}, edge=busy), state, 104.0)
    again, state = blind_told(Observed(replicas={"web.1": seen(counts=counts(108.0))}, edge=busy), state, 108.0)
    assert told == [BLIND]
    assert more == []
    assert again[0] == "tells again what it does: its limit adapts again"


def test_a_replica_that_never_told_anything_is_called_blind_and_feels_a_shortage() -> None:
    place = EdgeServer("ready", is_up=True, sessions=9, limit=30)
    unseen = {"web.1": seen(serving=False, counts=None)}
    dumb = Observed(replicas=unseen, edge=edge(web_1=place), memory=MemoryObserved(100, 50))
    told, state = blind_told(dumb, Adapted())
    assert told == [BLIND]
    assert state.limits["web.1", MAIN] == 30
    told, state = blind_told(replace(dumb, memory=MemoryObserved(100, 5)), state, 104.0)
    assert told == []
    assert state.limits["web.1", MAIN] < 10
    again, _ = blind_told(replace(dumb, replicas={"web.1": seen(counts=counts(108.0))}), state, 108.0)
    assert again[0] == "tells again what it does: its limit adapts again"


def test_a_replica_that_works_on_slow_routes_alone_can_be_blind() -> None:
    found = replace(edge(web_1=PLACE), classes={("web.1", SLOW): replace(PLACE, sessions=3)})
    before = Adapted(slow={"web": frozenset({"/reports"})})
    state, _ = adapt(before, {"web.1": replica(1)}, Wanted((SERVICE,)), observed(99.9), 99.9)
    told, _ = blind_told(Observed(replicas={"web.1": seen(counts=counts(99.9))}, edge=found), state)
    assert told == [BLIND]


@pytest.mark.parametrize("replicas", [1, 2, 5])
@pytest.mark.parametrize("kept", [1.0, 0.6])
def test_the_capacity_of_a_service_is_the_sum_of_what_its_replicas_do(replicas: int, kept: float) -> None:
    """Each does a hundred a second, and tells it when it does: not all at every look, and some of it never."""
    random = Random(replicas)
    names = [f"web.{number + 1}" for number in range(replicas)]
    held = {name: replica(number + 1) for number, name in enumerate(names)}
    found = replace(
        edge(**{name.replace(".", "_"): replace(PLACE, sessions=16) for name in names}),
        queues={("web", MAIN): EdgeQueue(queued=40)},
    )
    state, said, capacity = Adapted(), {name: counts(99.9) for name in names}, []
    for tick in range(100):
        now_s = 100 + tick / 10
        for name in names:
            if random.random() < kept:
                done = ClassCounts(completed=10 * tick, service_s=tick * 1.6, in_flight=16)
                said[name] = Counts(now_s, 0.0, (done, ClassCounts()), ())
        see = Observed(replicas={name: seen(counts=said[name]) for name in names}, edge=found)
        state, _ = adapt(state, held, Wanted((replace(SERVICE, replicas=replicas),)), see, now_s)
        capacity.append(state.queues["web", MAIN].rate_per_s)
    assert sum(capacity[20:]) / 80 == pytest.approx(100 * replicas, rel=0.05)
    assert min(capacity[20:]) >= 0.8 * 100 * replicas


def test_a_replica_that_tells_nothing_any_more_does_not_count_for_ever() -> None:
    held = {"web.1": replica(1), "web.2": replica(2)}
    place = replace(PLACE, sessions=16)
    found = replace(edge(web_1=place, web_2=place), queues={("web", MAIN): EdgeQueue(queued=40)})
    state = Adapted()
    for tick in range(60):
        now_s = 100 + tick / 10
        done = [ClassCounts(completed=10 * t, service_s=t * 1.6, in_flight=16) for t in (tick, min(tick, 20))]
        at_s = (now_s, min(now_s, 102.0))
        both = {
            name: seen(counts=Counts(at_s[number], 0.0, (done[number], ClassCounts()), ()))
            for number, name in enumerate(held)
        }
        state, _ = adapt(state, held, Wanted((SERVICE,)), Observed(replicas=both, edge=found), now_s)
        if tick in (19, 24):
            assert state.queues["web", MAIN].rate_per_s == pytest.approx(200, rel=0.05)
    assert state.queues["web", MAIN].rate_per_s == pytest.approx(100, rel=0.05)


def test_a_queue_follows_a_limit_that_is_held_by_hand() -> None:
    """The bound learned at sixteen requests at once would keep people waiting for what a limit of two can do."""
    state, bounds = Adapted(), []
    completed, service_s = 0, 0.0
    for tick in range(120):
        now_s = 100 + tick / 10
        service = SERVICE if tick < 40 else replace(SERVICE, held=True, held_limit=2)
        completed, service_s = completed + (16 if tick < 40 else 2), service_s + (1.6 if tick < 40 else 0.2)
        done = ClassCounts(completed, 0, service_s, 2)
        place = replace(PLACE, sessions=16 if tick < 40 else 2, limit=16 if tick < 40 else 2)
        found = replace(edge(web_1=place), queues={("web", MAIN): EdgeQueue(queued=5, refused=10 * tick)})
        see = Observed(replicas={"web.1": seen(counts=Counts(now_s, 0.0, (done, ClassCounts()), ()))}, edge=found)
        state, _ = adapt(state, {"web.1": replica(1)}, Wanted((service,)), see, now_s)
        bounds.append((state.queues["web", MAIN].rate_per_s, state.queues["web", MAIN].bound.queue_max))
    assert bounds[39][0] == pytest.approx(160, rel=0.05)
    assert bounds[-1][0] == pytest.approx(20, rel=0.05)
    assert bounds[-1][1] < bounds[39][1]
    assert state.limits["web.1", MAIN] == 2


def limits_of_threads(threads: int) -> set[int]:
    """The limits of a WSGI replica whose few slow answers come irregularly, while requests wait all the time."""
    random = Random(threads)
    service = replace(WEB, threads=threads, limit=40)
    state, limits, completed = Adapted(), set(), 0
    found = replace(
        edge(web_1=replace(PLACE, sessions=threads, limit=threads)), queues={("web", MAIN): EdgeQueue(queued=3)}
    )
    for tick in range(1200):
        now_s = 100 + tick / 10
        completed += random.random() < 0.25
        done = ClassCounts(completed=completed, service_s=0.8 * completed, in_flight=threads)
        reading = Counts(now_s, 0.0, (done, ClassCounts()), ())
        see = Observed(replicas={"web.1": seen(is_wsgi=True, cpu_s=tick / 200, counts=reading)}, edge=found)
        state, _ = adapt(state, {"web.1": replica(1)}, Wanted((service,)), see, now_s)
        limits.add(state.limits["web.1", MAIN])
    return limits


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_that_are_free_are_not_withheld_for_one_slow_request(threads: int) -> None:
    assert min(limits_of_threads(threads)) >= min(2, threads)


def test_streams_hold_no_places_of_a_class_that_has_none_when_a_limit_is_taken_over() -> None:
    """A controller that comes back finds ten open streams in the main class, and a limit of six for the slow one."""
    place = replace(PLACE, sessions=12, limit=26)
    slow = replace(PLACE, sessions=0, limit=6)
    found = replace(edge(web_1=place), classes={("web.1", SLOW): slow})
    see = Observed(replicas={"web.1": seen(streams=10, counts=counts(100.0))}, edge=found)
    state, _ = adapt(
        Adapted(slow={"web": frozenset({"/reports"})}), {"web.1": replica(1)}, Wanted((SERVICE,)), see, 100.0
    )
    assert (state.limits["web.1", MAIN], state.limits["web.1", SLOW]) == (16, 6)


def test_a_declared_limit_of_several_classes_is_one_limit_to_the_worker_and_in_the_status() -> None:
    fixed = replace(SERVICE, adapts=False, limit=40, at=(WantedClass(2, 0.25, 30.0),))
    caps, state = caps_of([fixed] * 3)
    assert caps == [80]
    place = replace(PLACE, limit=25 + 3)
    found = replace(edge(web_1=place), classes={("web.1", 2): replace(PLACE, limit=15)})
    see = Observed(
        replicas={"web.1": seen(streams=3)}, edge=replace(found, servers={"web.1": replace(place, sessions=3)})
    )
    told = overload_of(fixed, see, state)
    assert told is not None
    assert [cls["limit"] for cls in told["classes"].values()] == [25, 15]
