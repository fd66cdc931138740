"""What is gathered for the rule that scales: the fullest class, processes that stayed, the fullest database."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nouns import WEB, edge, replica, seen

from headway.control.scaling import LOOK_EVERY_S, Look, Scaler, _look, awaits_count, gather
from headway.model.declared import System
from headway.model.observed import EdgeServer, MemoryObserved, Observed
from headway.model.overload import SLOW, ClassCounts, Counts, EdgeQueue
from headway.model.replica import Phase
from headway.model.wanted import Wanted, WantedService
from headway.overload.scaling import PACE, Connections
from headway.sharding.connection import RoleConnections, Uncounted

SERVICE = replace(WEB, waits_for=("main",))
WANTED = Wanted((SERVICE,))
BEFORE = Look(10.0, {"web.1": (7, 5.0), "web.2": (8, 1.0)}, {"web": 100})
AFTER = Look(12.0, {"web.1": (7, 6.0), "web.2": (8, 1.5)}, {"web": 104})
TWO = {"web.1": replica(1), "web.2": replica(2)}


def place(sessions: int, limit: int) -> EdgeServer:
    return EdgeServer("ready", is_up=True, sessions=sessions, limit=limit)


def observed(**changes: object) -> Observed:
    found = Observed(
        replicas={"web.1": seen(rss_bytes=5, streams=2), "web.2": seen(rss_bytes=9)},
        edge=edge(web_1=place(6, 12), web_2=place(0, 10)),
        memory=MemoryObserved(total_bytes=100, available_bytes=60),
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def test_what_is_known_of_a_service() -> None:
    counted = {"main": RoleConnections(30, 100, at_s=11.0)}
    found = gather(SERVICE, WANTED, TWO, observed(), counted, BEFORE, AFTER)
    assert found.replicas == 2
    assert found.utilisation == pytest.approx(4 / 20)  # without the streams, which hold places of their own
    assert found.cpu_cores == pytest.approx(0.75)
    assert (found.shed_per_s, found.queued) == (2.0, 0)
    assert (found.rss_bytes, found.available_bytes) == (9, 60)
    assert found.connections == Connections("main", 30, 100, 15.0)


def test_connections_of_others_count_against_the_most_and_not_as_a_replicas_own() -> None:
    counted = {"main": RoleConnections(80, 100, at_s=11.0, own=30)}
    found = gather(SERVICE, WANTED, TWO, observed(), counted, BEFORE, AFTER)
    assert found.connections == Connections("main", 80, 100, 15.0)


def test_the_limit_of_the_role_counts_where_it_leaves_less_room_though_the_server_is_fuller() -> None:
    counted = {"main": RoleConnections(100, 197, at_s=11.0, own=2, own_most=7)}
    found = gather(SERVICE, WANTED, TWO, observed(), counted, BEFORE, AFTER)
    assert found.connections == Connections("main", 2, 7, 1.0)
    roomy = {"main": RoleConnections(100, 197, at_s=11.0, own=2, own_most=190)}
    found = gather(SERVICE, WANTED, TWO, observed(), roomy, BEFORE, AFTER)
    assert found.connections == Connections("main", 100, 197, 1.0)


def test_what_comes_is_spoken_for() -> None:
    counted = {"main": RoleConnections(30, 100, at_s=11.0)}
    other = replace(SERVICE, name="api", replicas=3)
    coming = Wanted((replace(SERVICE, replicas=4), other))
    found = gather(SERVICE, coming, TWO, observed(), counted, BEFORE, AFTER)
    assert found.available_bytes == 60 - (2 + 3) * 9
    assert found.connections == Connections("main", 30 + 5 * 15, 100, 15.0)


def test_processor_time_counts_from_reading_to_reading() -> None:
    def at(now_s: float, read_at_s: float, cpu_s: float) -> Observed:
        return Observed(replicas={"web.1": replace(seen(), cpu_s=cpu_s, cpu_at_s=read_at_s)}, edge=edge())

    look, rates = None, []
    for step in range(20):  # looked at twice a second, read every 1.1 s: all of a core
        now_s = 100 + step / 2
        read_at_s = 100 + int(step / 2 / 1.1) * 1.1
        look = _look(WANTED, at(now_s, read_at_s, read_at_s), now_s, look)
        rates.append(look.cores.get("web.1"))
    assert rates[:3] == [None, None, None]
    assert rates[3:] == pytest.approx([1.0] * 17)


def test_the_fullest_class_counts_and_all_of_their_queues() -> None:
    at_edge = replace(
        edge(web_1=place(0, 12), web_2=place(0, 12)),
        classes={("web.1", 2): place(3, 4), ("web.2", 2): place(3, 4)},
        queues={("web", 0): EdgeQueue(queued=1), ("web", 2): EdgeQueue(queued=4), ("api", 0): EdgeQueue(queued=9)},
    )
    quiet = {name: seen() for name in TWO}
    found = gather(SERVICE, WANTED, TWO, observed(edge=at_edge, replicas=quiet), {}, BEFORE, AFTER)
    assert (found.utilisation, found.queued) == (0.75, 5)


def test_another_process_of_the_same_name_makes_its_processor_time_unknown() -> None:
    after = replace(AFTER, cpu={**AFTER.cpu, "web.2": (99, 0.1)})
    assert gather(SERVICE, WANTED, TWO, observed(), {}, BEFORE, after).cpu_cores is None


def test_those_that_start_leave_or_are_replaced_do_not_count() -> None:
    replicas = {
        "web.1": replica(1),
        "web.2": replica(2, leave=True),
        "web.3": replica(3, Phase.STARTING),
        "web.4": replica(4, retire="another release"),
    }
    assert gather(SERVICE, WANTED, replicas, observed(), {}, BEFORE, AFTER).replicas == 1


def test_an_edge_that_is_not_seen_is_no_empty_one() -> None:
    found = gather(SERVICE, WANTED, TWO, observed(edge=edge()), {}, BEFORE, replace(AFTER, cpu={}))
    assert (found.utilisation, found.cpu_cores, found.queued) == (None, None, 0)


def test_a_counter_that_began_anew_sheds_nothing() -> None:
    assert gather(SERVICE, WANTED, TWO, observed(), {}, BEFORE, replace(AFTER, refused={"web": 3})).shed_per_s == 0


@pytest.mark.parametrize(
    ("counted", "now_s", "awaited"),
    [
        ({}, 101.0, False),  # nobody counts
        ({"main": Uncounted.UNTOLD}, 101.0, True),
        ({"main": Uncounted.SOON}, 101.0, True),
        ({"main": Uncounted.SOON}, 200.0, True),  # a controller that has just come
        ({"main": RoleConnections(5, 100, at_s=99.0)}, 101.0, True),
        ({"main": RoleConnections(5, 100, at_s=100.5)}, 101.0, False),
        ({"main": Uncounted.UNTOLD}, 200.0, False),  # it cannot be counted
        ({"main": Uncounted.FULL}, 101.0, False),  # that is known, and enough
        ({"main": Uncounted.AWAY}, 101.0, False),
    ],
)
def test_connections_are_counted_after_the_last_replica_came(counted, now_s, awaited) -> None:
    assert awaits_count(SERVICE, WANTED, TWO, counted, now_s) is awaited


SYSTEM = System.model_validate({"services": {"web": {"app": "a:b", "replicas": {"min": 1, "max": 4}}}})
PRESSED = Observed(replicas={"web.1": seen()}, edge=edge(web_1=place(40, 40)))


class Round:
    """A scaler carried round for a while."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, str]] = []
        self.scaler = Scaler(4.0, lambda *entry: self.told.append(entry))
        self.now_s = 1000.0
        self.counted: dict[str, RoleConnections | Uncounted] = {}

    def run(self, seconds: float, *, wanted: int = 1, by_hand: frozenset[str] = frozenset()) -> dict[str, int]:
        service: WantedService = replace(WEB, replicas=wanted, waits_for=tuple(self.counted))
        until_s = self.now_s + seconds
        found: dict[str, int] = {}
        while self.now_s < until_s:
            self.now_s += LOOK_EVERY_S / 2
            replicas = {"web.1": replica(1)}
            found = self.scaler.look(
                SYSTEM, Wanted((service,)), replicas, PRESSED, self.counted, self.now_s, by_hand=by_hand
            )
        return found


def test_pressure_raises_the_number_and_the_journal_says_why() -> None:
    carried = Round()
    assert carried.run(PACE.up_after_s + 2) == {"web": 2}
    assert carried.told == [("web", "scale", "1 → 2 replicas: in flight 100% of the limit", "note")]
    # The second one does not come; nothing more is asked for.
    assert carried.run(60, wanted=2) == {"web": 2}


def test_what_is_set_by_hand_is_left_alone_and_taken_over_as_it_is() -> None:
    carried = Round()
    assert carried.run(60, wanted=3, by_hand=frozenset({"web"})) == {"web": 3}
    assert carried.told == []
    assert carried.run(1, wanted=3) == {"web": 3}


KNOWN = RoleConnections(5, 100, at_s=2000.0)


@pytest.mark.parametrize(
    ("before", "held", "why"),
    [
        (KNOWN, Uncounted.UNTOLD, "the connections to database main can no longer be counted"),
        (KNOWN, Uncounted.FULL, "database main is full: it refuses another connection"),
        (KNOWN, Uncounted.AWAY, "database main is not ready"),
        # A controller that came while it was so has never seen a number.
        (Uncounted.FULL, Uncounted.FULL, "database main is full: it refuses another connection"),
        (Uncounted.AWAY, Uncounted.AWAY, "database main is not ready"),
    ],
)
def test_nothing_grows_on_a_database_that_is_full_away_or_no_longer_counted(before, held, why) -> None:
    carried = Round()
    carried.counted = {"main": before}
    carried.run(1)
    carried.counted = {"main": held}
    assert carried.run(60) == {"web": 1}
    reasons = [reason for *_, reason, _level in carried.told]
    assert reasons == [f"more than 1 are needed (in flight 100% of the limit), but {why}"]


@pytest.mark.parametrize(("held", "found"), [(Uncounted.UNTOLD, 2), (KNOWN, 2), (Uncounted.SOON, 1)])
def test_a_database_that_never_told_bounds_nothing_and_one_that_soon_will_is_awaited(held, found) -> None:
    carried = Round()
    carried.counted = {"main": held}
    assert carried.run(20) == {"web": found}


def test_two_that_are_pressed_at_once_share_what_is_left() -> None:
    """Memory and connections for one more: it is not for each of them."""
    both = System.model_validate(
        {"services": {name: {"app": "a:b", "replicas": {"min": 1, "max": 4}} for name in ("web", "api")}}
    )
    wanted = Wanted(tuple(replace(WEB, name=name, replicas=1, waits_for=("main",)) for name in ("web", "api")))
    replicas = {f"{name}.1": replace(replica(1), name=f"{name}.1", service=name) for name in ("web", "api")}
    seen_now = Observed(
        replicas={name: seen(rss_bytes=50) for name in replicas},
        edge=edge(web_1=place(40, 40), api_1=place(40, 40)),
    )
    for memory, most in ((MemoryObserved(1000, 70), 1000), (MemoryObserved(10_000, 5000), 40)):
        told: list[tuple[str, str, str, str]] = []
        scaler = Scaler(8.0, lambda *entry, told=told: told.append(entry))
        counted = {"main": RoleConnections(20, most, at_s=2000.0)}
        numbers: dict[str, int] = {}
        for look in range(12):
            now_wanted = Wanted(
                tuple(replace(service, replicas=numbers.get(service.name, 1)) for service in wanted.services)
            )
            numbers = scaler.look(
                both,
                now_wanted,
                replicas,
                replace(seen_now, memory=memory),
                counted,
                1000.0 + look / 2,
                by_hand=(),
            )
        assert numbers == {"web": 2, "api": 1}
        assert "but" in told[-1][2]


def test_what_a_starting_replica_has_taken_is_not_spoken_for_again() -> None:
    coming = Wanted((replace(SERVICE, replicas=4),))
    replicas = {**TWO, "web.3": replica(3, Phase.STARTING), "web.4": replica(4, Phase.STARTING)}
    now = observed()
    now = replace(now, replicas={**now.replicas, "web.3": seen(rss_bytes=4)})
    assert gather(SERVICE, coming, replicas, now, {}, BEFORE, AFTER).available_bytes == 60 - (9 + 9 - 4)


def test_of_two_databases_the_one_with_room_for_fewer_replicas_counts() -> None:
    service = replace(SERVICE, waits_for=("main", "reports"))
    api = replace(SERVICE, name="api", waits_for=("main",))
    counted = {"main": RoleConnections(60, 100, at_s=11.0, own=2), "reports": RoleConnections(50, 100, 11.0)}
    found = gather(service, Wanted((service, replace(api, replicas=0))), TWO, observed(), counted, BEFORE, AFTER)
    assert found.connections == Connections("reports", 50, 100, 25.0)


def test_a_machine_that_others_keep_busy_gets_no_more_of_ours() -> None:
    carried, clock = Round(), iter(range(10_000))
    carried.scaler = Scaler(4.0, lambda *entry: carried.told.append(entry), lambda: 1000 + next(clock) * 2.0)
    assert carried.run(30) == {"web": 1}  # 2 core seconds each half second: all four
    assert [reason for *_, reason, _level in carried.told] == [
        "more than 1 are needed (in flight 100% of the limit), but 4.0 of 4 cores are in use, by whomever"
    ]


def test_streams_of_the_main_class_do_not_hide_how_full_another_is() -> None:
    found = edge(web_1=place(6, 12), web_2=place(0, 10))
    found = replace(found, classes={("web.1", SLOW): place(4, 5), ("web.2", SLOW): place(0, 5)})
    main_class, slow = ClassCounts(in_flight=4), ClassCounts(in_flight=4)
    counts = Counts(11.0, 0.0, (main_class, slow))
    see = observed(edge=found, replicas={"web.1": seen(streams=2, counts=counts), "web.2": seen()})
    assert gather(SERVICE, WANTED, TWO, see, {}, BEFORE, AFTER).utilisation == pytest.approx(4 / 10)
