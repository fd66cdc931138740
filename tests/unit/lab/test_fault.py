"""Which part a word names, and why one cannot be broken."""

from __future__ import annotations

from typing import Any

import pytest

from headway.errors import Conflict, HeadwayError, NotRunning
from headway.lab.fault import (
    Part,
    check_rate,
    check_ready,
    fault_of,
    find_part,
    parts_of,
    route_of,
    slow_bound_s,
)
from headway.lab.fault_run import bad_reasons


def document(**changes: Any) -> dict[str, Any]:
    """A system of two services and two databases, one of them elsewhere."""

    def replica(name: str, pid: int | None) -> dict[str, Any]:
        return {"name": name, "pid": pid, "state": "ready" if pid else "down"}

    return {
        "system": "shop",
        "state": "ready",
        "supervisor": "ready",
        "controller": {"pid": 2},
        "edge": {"url": "http://127.0.0.1:8000", "pid": 3, "state": "ready"},
        "services": {
            "web": {
                "ready": 2,
                "wanted": 2,
                "routes": ["shop.example", "/"],
                "replicas": [replica("web.1", 11), replica("web.2", 12)],
            },
            "api": {"ready": 0, "wanted": 1, "routes": ["/api/v2", "/api"], "replicas": [replica("api.1", None)]},
        },
        "databases": {
            "main": {"servers": [{"name": "main", "state": "ready"}]},
            "far": {"servers": [{"name": "far", "state": "ready"}]},
        },
        "caches": {"hot": {"state": "ready"}, "away": {"state": "ready"}},
        **changes,
    }


RECORD = {
    "processes": [
        {"name": name, "pid": pid, "ticks": 100 + pid}
        for name, pid in {
            "controller": 2,
            "edge": 3,
            "web.1": 11,
            "web.2": 12,
            "database.main": 20,
            "cache.hot": 30,
        }.items()
    ]
}
PARTS = parts_of(document(), RECORD)


def test_every_part_has_the_word_that_names_it() -> None:
    labels = [part.label for part in PARTS]
    assert labels == [
        "replica web.1",
        "replica web.2",
        "replica api.1",
        "edge",
        "controller",
        "server main",
        "server far",
        "cache hot",
        "cache away",
    ]


@pytest.mark.parametrize(
    ("words", "pid"),
    [
        ("replica web.2", 12),
        ("edge", 3),
        ("controller", 2),
        ("server main", 20),
        ("server main/main", 20),
        ("cache hot", 30),
    ],
)
def test_a_part_is_found_with_its_process(words: str, pid: int) -> None:
    part = find_part(words.split(), PARTS)
    assert (part.pid, part.ticks) == (pid, 100 + pid)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("replica web.9", "there is no replica web.9", "replica web.1"),
        ("web.1", "no part", "headway break replica web.1"),
        ("supervisor", "no part", "there are: "),
        ("server", "which server", "server main"),
        ("server main/b", "there is no server main/b", "server main"),
        ("edge front", "no name 'front'", "headway break edge"),
        ("cache", "which cache", "cache hot"),
        ("cache cold", "there is no cache cold", "cache hot"),
        ("cache away", "not ours to break", "status"),
        ("node a", "not available yet", ""),
        ("server far", "not ours to break", "status"),
        ("", "no part", "edge"),
    ],
)
def test_what_cannot_be_broken_is_refused_with_what_can(words: str, message: str, hint: str) -> None:
    with pytest.raises(HeadwayError) as raised:
        find_part(words.split(), PARTS)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_a_part_that_does_not_run_cannot_be_broken() -> None:
    with pytest.raises(NotRunning, match=r"api\.1 is not running"):
        find_part(["replica", "api.1"], PARTS)


def test_a_process_that_the_supervisor_knows_by_another_pid_is_not_touched() -> None:
    moved = {"processes": [{**entry, "pid": entry["pid"] + 1000} for entry in RECORD["processes"]]}
    for words in (["replica", "web.1"], ["edge"], ["controller"]):
        with pytest.raises(NotRunning):
            find_part(words, parts_of(document(), moved))


def test_only_a_whole_system_is_broken() -> None:
    check_ready(document())
    with pytest.raises(Conflict, match="degraded"):
        check_ready(document(state="degraded"))
    with pytest.raises(Conflict, match="not started again"):
        check_ready(document(supervisor="gone"))


def test_a_hang_has_an_end() -> None:
    edge = find_part(["edge"], PARTS)
    assert fault_of(edge, "hang", None).for_s == 10
    assert fault_of(edge, "hang", 300).for_s == 300
    for how, for_s in (
        ("hang", 301),
        ("hang", 0),
        ("hang", -1),
        ("hang", float("nan")),
        ("kill", 1),
        ("partition", None),
    ):
        with pytest.raises(HeadwayError):
            fault_of(edge, how, for_s)


@pytest.mark.parametrize("rate", [0, 0.5, -3, 5001, float("nan"), float("inf")])
def test_a_load_that_measures_nothing_or_is_the_fault_is_refused(rate: float) -> None:
    check_rate(50)
    with pytest.raises(HeadwayError, match="--rate"):
        check_rate(rate)


def of(service: str) -> Part:
    return Part("replica", f"{service}.1", f"{service}.1", 1, 1, service=service)


def test_what_is_broken_is_what_is_asked_for() -> None:
    assert route_of(of("api"), document()) == ("", "/api")
    assert route_of(of("web"), document()) == ("", "/")
    assert route_of(find_part(["edge"], PARTS), document()) == ("", "/")


def test_a_service_that_is_known_by_its_host_is_asked_by_that_host() -> None:
    hosts = document()
    hosts["services"]["api"]["routes"] = ["api.example/v2", "api.example"]
    assert route_of(of("api"), hosts) == ("api.example", "/")
    assert route_of(of("api"), hosts, "/v2/x") == ("api.example", "/v2/x")
    assert route_of(of("web"), hosts, "/v2/x") == ("", "/v2/x")
    hosts["services"]["web"]["routes"] = []
    assert route_of(of("web"), hosts) == ("api.example", "/"), "a private one is seen through a public one"
    assert route_of(find_part(["edge"], PARTS), hosts) == ("api.example", "/")
    hosts["services"]["api"]["routes"] = ["api.example/v2"]
    assert route_of(of("api"), hosts) == ("api.example", "/v2")
    assert route_of(of("api"), hosts, "/v3") == ("", "/v3"), "nobody answers that: the load will say so"


def test_slow_is_later_than_promised_and_unusual() -> None:
    assert slow_bound_s(None, 0.005) == 1.0
    assert slow_bound_s(0.25, 0.005) == 0.25
    assert slow_bound_s(0.25, 0.1) == pytest.approx(1.0)
    assert slow_bound_s(None, 0.4) == pytest.approx(4.0)


def test_each_reason_why_requests_came_to_nothing_is_told_once() -> None:
    found = bad_reasons({"status 404": 90, "deadline": 2}, {"404": 90, "200": 8, "503": 3})
    assert found == "90 x status 404, 2 x deadline, 3 x status 503"
