"""Which walls a system has, when they are hit, and in which order they are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.cli.walls import amount, rate
from headway.lab.wall_facts import CacheFacts, DatabaseFacts, Facts, FilesUsed, ServiceFacts
from headway.lab.walls import Wall, about, headline, how_to_measure, walls

WEB = ServiceFacts(
    name="web",
    is_app=True,
    is_at_edge=True,
    is_wsgi=True,
    replicas=2,
    limit_each=8,
    limit_now=16,
    in_flight=4.0,
    sightings=300,
    queue_max=40,
    slo_s=0.25,
    rss_bytes=50 << 20,
    cores_each=(0.2, 0.25),
    databases=("main",),
)
FACTS = Facts(
    running=True,
    services=(WEB,),
    cores=4,
    memory_bytes=8 << 30,
    memory_used_bytes=1 << 30,
    memory_free_bytes=6 << 30,
    disk_free_bytes=50 << 30,
    somaxconn=4096,
    ports_max=28_232,
    ports_are_reused=False,
    databases=(DatabaseFacts("main", True, 10, 200, 30),),
    files=(FilesUsed("edge", None, 20_000), FilesUsed("supervisor", 10, 20_000)),
    url="http://127.0.0.1:8000",
    requests_per_s=100.0,
    busy_cores=1.0,
    others_cores=0.5,
    edge_cores=0.1,
    connections=50,
    connections_max=10_000,
    backlog_now=0,
    replica_bytes=60 << 20,
    state_bytes=1 << 20,
)


def by_name(facts: Facts) -> dict[str, Wall]:
    found = walls(facts)
    assert len({wall.what for wall in found}) == len(found)
    return {wall.what: wall for wall in found}


def with_service(**changes: Any) -> Facts:
    return replace(FACTS, services=(replace(WEB, **changes),))


def test_every_limit_and_every_single_point_is_named() -> None:
    assert set(by_name(FACTS)) == {
        "web: threads",
        "web: queue at the edge",
        "web: one core a replica",
        "web: open streams",
        "cores",
        "memory of 2 replicas and the rest",
        "disk of the state folder",
        "edge: client connections",
        "edge: its threads",
        "edge: connections not yet accepted",
        "edge: open files",
        "supervisor: open files",
        "main: PostgreSQL connections",
        "main: ports for new connections",
        "this machine",
        "the edge's process",
        "the controller",
        "the supervisor",
        "database main: one server",
    }


@pytest.mark.parametrize(
    ("what", "hit_at_per_s"),
    [
        ("web: threads", 400.0),  # 4 of 16 busy at 100/s
        ("web: one core a replica", 400.0),  # the busiest uses a quarter of one
        ("cores", 350.0),  # 1 of the 3.5 that others leave
        ("edge: its threads", 1000.0),
        ("edge: client connections", 20_000.0),
    ],
)
def test_a_wall_is_as_far_away_as_it_takes_to_grow_to_it(what: str, hit_at_per_s: float) -> None:
    wall = by_name(FACTS)[what]
    assert wall.hit_at_per_s == pytest.approx(hit_at_per_s)
    assert wall.known == "derived"


def test_others_on_the_cores_leave_what_is_used_already() -> None:
    assert by_name(replace(FACTS, others_cores=4.0))["cores"].hit_at_per_s == pytest.approx(100.0)


def test_the_nearest_comes_first_and_single_points_last() -> None:
    found = walls(FACTS)
    assert found[0].what == "cores"
    assert headline(found, FACTS) == "The next wall: cores, at about 350 requests/s (now 100 requests/s)."
    assert [wall.kind for wall in found] == sorted(wall.kind for wall in found)


@given(st.floats(0, 10_000), st.floats(0, 4), st.floats(0, 500), st.integers(0, 20_000))
def test_rates_are_in_order_whatever_is_seen(per_s: float, busy: float, in_flight: float, connections: int) -> None:
    facts = replace(with_service(in_flight=in_flight), requests_per_s=per_s, busy_cores=busy, connections=connections)
    rates = [wall.hit_at_per_s for wall in walls(facts) if wall.kind == "limit"]
    known = [one for one in rates if one is not None]
    assert known == sorted(known)
    assert rates[: len(known)] == known
    assert per_s >= 10 or known == []


@pytest.mark.parametrize("per_s", [0.0, 3.0, 9.9])
def test_too_little_traffic_is_not_extrapolated(per_s: float) -> None:
    facts = replace(FACTS, requests_per_s=per_s)
    found = walls(facts)
    assert [wall for wall in found if wall.hit_at_per_s is not None] == []
    assert "not known" in headline(found, facts)
    assert how_to_measure(facts).startswith("headway load http://127.0.0.1:8000 ")
    assert by_name(facts)["web: threads"].known == "unknown"


def test_what_is_hit_now_is_measured_and_first() -> None:
    facts = replace(with_service(is_overloaded=True, refused_per_s=60.0, in_flight=16.0), requests_per_s=160.0)
    first = walls(facts)[0]
    assert (first.what, first.known, first.hit_at_per_s) == ("web: threads", "measured", 100.0)
    assert "60 requests/s are refused" in first.then
    assert headline(walls(facts), facts).startswith("At the wall now: web: threads, at 100 requests/s")


def test_a_few_requests_say_nothing_of_how_many_there_are_at_once() -> None:
    wall = by_name(with_service(sightings=2))["web: threads"]
    assert (wall.hit_at_per_s, wall.known) == (None, "unknown")


def test_what_the_traffic_does_not_use_is_not_unknown() -> None:
    wall = by_name(FACTS)["web: open streams"]
    assert (wall.now, wall.hit_at_per_s, wall.known) == (0, None, "derived")
    assert by_name(with_service(streams=20))["web: open streams"].hit_at_per_s == pytest.approx(100 * 2000 / 20)


def test_threads_bound_the_connections_of_a_database() -> None:
    wall = by_name(FACTS)["main: PostgreSQL connections"]
    assert (wall.limit, wall.hit_at_per_s, wall.known) == (197, None, "derived")
    assert wall.then.startswith("never")
    many = by_name(with_service(replicas=40))["main: PostgreSQL connections"]
    assert many.hit_at_per_s == pytest.approx(100 * 197 / 10)


def test_a_database_elsewhere_is_not_measured() -> None:
    facts = replace(FACTS, databases=(DatabaseFacts("far", False),))
    wall = by_name(facts)["far: PostgreSQL connections"]
    assert (wall.now, wall.limit, wall.known) == (None, None, "unknown")
    assert "SHOW max_connections" in wall.next


def test_ports_run_out_only_where_they_are_used_up() -> None:
    def ports(waiting: int, *, reused: bool = False) -> Wall:
        database = DatabaseFacts("main", True, 10, 200, waiting)
        return by_name(replace(FACTS, databases=(database,), ports_are_reused=reused))[
            "main: ports for new connections"
        ]

    assert ports(60).hit_at_per_s is None  # looks at its health leave so many behind
    assert ports(6000).hit_at_per_s == pytest.approx(100 * 28_232 / 6000)
    assert (ports(6000, reused=True).hit_at_per_s, ports(6000, reused=True).known) == (None, "derived")


def test_more_replicas_are_advised_while_there_are_cores_for_them() -> None:
    assert by_name(FACTS)["web: one core a replica"].next.startswith("headway scale web 3; after that")
    assert "scale" not in by_name(with_service(replicas=4))["web: one core a replica"].next


def test_an_only_replica_is_a_single_point() -> None:
    wall = by_name(with_service(replicas=1))["web: one replica"]
    assert (wall.kind, wall.hit_at_per_s) == ("single point", None)
    assert "replicas = 2" in wall.next


def test_a_service_without_bound_is_told_how_to_get_one() -> None:
    wall = by_name(with_service(queue_max=None, slo_s=None))["web: queue at the edge"]
    assert (wall.limit, wall.known) == (None, "unknown")
    assert 'slo = "250ms" in [services.web]' in wall.next


def test_a_command_has_no_requests() -> None:
    facts = with_service(is_app=False, is_at_edge=False, memory_max_bytes=1 << 30)
    assert [what for what in by_name(facts) if what.startswith("web")] == ["web: memory of a replica"]


def test_what_does_not_run_has_the_limits_of_its_declaration() -> None:
    facts = replace(FACTS, running=False, requests_per_s=0.0, connections=None, busy_cores=None, edge_cores=None)
    found = by_name(facts)
    assert found["web: threads"].limit == 16
    assert {wall.known for wall in found.values()} <= {"derived", "unknown"}
    assert "nothing runs here" in headline(walls(facts), facts)
    assert how_to_measure(facts).startswith("headway up")


def test_an_extrapolated_rate_has_the_digits_it_is_good_for() -> None:
    assert [about(per_s) for per_s in (1572.3, 94.6, 7.14, 123_456)] == ["1,600", "95", "7", "120,000"]


def test_a_column_says_what_is_known() -> None:
    wall = by_name(FACTS)["cores"]
    assert rate(wall) == "350/s"
    assert rate(replace(wall, known="measured")) == "now, 350/s"
    assert rate(replace(wall, hit_at_per_s=None)) == "–"
    assert rate(replace(wall, hit_at_per_s=None, known="unknown")) == "?"
    assert [amount(None, "files"), amount(1 << 20, "bytes"), amount(0.25, "cores"), amount(20_000, "files")] == [
        "?",
        "1 MiB",
        "0.25",
        "20,000",
    ]


def test_the_document_has_the_keys_that_tools_rely_on() -> None:
    for wall in walls(FACTS):
        assert list(wall.as_json())[:7] == ["what", "now", "limit", "hit_at_per_s", "then", "next", "known"]


def test_a_cache_is_bounded_by_memory_and_goes_on_being_one() -> None:
    full = CacheFacts("hot", True, used_bytes=60 << 20, max_bytes=64 << 20, evicted=1234)
    far = CacheFacts("far", False, used_bytes=1 << 30)
    found = {wall.what: wall for wall in walls(replace(FACTS, caches=(full, far)))}
    hot = found["hot: memory of the cache"]
    assert (hot.now, hot.limit, hot.hit_at_per_s) == (60 << 20, 64 << 20, None)
    assert hot.then.startswith("1,234 keys have gone")
    assert "memory_max in [caches.hot]" in hot.next
    assert found["far: memory of the cache"].then.startswith("it has no bound")
    assert "headway break cache hot" in found["cache hot: one server"].next
    assert found["cache far: one server"].kind == "single point"
