"""The page for Prometheus, read back by its own parser."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from test_status import _facts

from headway.control.metrics import metrics_text
from headway.control.status import CacheStatus, DatabaseStatus, document
from headway.model.observed import Observed
from headway.model.traffic import Traffic
from headway.model.wanted import Wanted

SERVER = {"used_bytes": 7, "max_bytes": None, "keys": 3, "evicted": 2}
FUNCTIONS = {
    'shop.top"\n': {"hits_near": 90, "hits_shared": 5, "loads": 10, "refreshes": 4, "load_ms_sum": 2500, "waits": 1},
    "*": {"bytes_near": 7},
}


def _read(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _page(**given: object) -> dict[tuple[str, ...], float]:
    facts = replace(
        _facts(
            True,
            databases=(DatabaseStatus("main", "ready", (("a", "ready", ""), ("b", "down", ""))),),
            caches=(CacheStatus("hot", "ready", "unix:///s"), CacheStatus("cold", "down", "unix:///t")),
        ),
        traffic=Traffic(requests_total=41, p50_ms=None, p99_ms=250.0),
    )
    status = document(Wanted(()), {}, Observed(), facts)
    caches = {"hot": {"server": SERVER, "functions": FUNCTIONS}, "cold": {"server": None, "functions": {}}}
    calls = {("web", "inventory"): {"calls": 9, "attempts": 10, "retries": 1}}
    status["services"]["web"] = {
        **dict.fromkeys(("ready", "wanted"), 1),
        "replicas": [],
        "overload": None,
        "calls": {"inventory": {"in_flight": 2, "bound": 4, "bound_max": 8, "open_in": 1}},
    }
    return _read(metrics_text(status, caches, calls, {"web.1": 3}))


def test_the_page_says_what_the_status_says() -> None:
    found = _page()
    assert [state for state in ("starting", "ready", "degraded", "stopping") if found["headway_state", state]] == [
        "degraded"
    ]
    assert found["headway_requests_total",] == 41
    assert found["headway_latency_seconds", "0.99"] == 0.25
    assert ("headway_latency_seconds", "0.5") not in found  # nobody asked: no figure, rather than a wrong one
    assert (found["headway_database_up", "main", "a"], found["headway_database_up", "main", "b"]) == (1, 0)
    assert (found["headway_cache_up", "hot"], found["headway_cache_up", "cold"]) == (1, 0)


def test_calls_of_a_function_by_how_they_were_answered() -> None:
    found = _page()
    calls = {key[1]: value for key, value in found.items() if key[0] == "headway_cache_calls_total"}
    assert calls == {"process": 90, "server": 5, "waited": 1, "stale": 0, "loaded": 6}
    named = ("hot", 'shop.top"\n')
    assert found["headway_cache_load_seconds_total", *named] == 2.5
    assert found["headway_cache_refreshes_total", *named] == 4
    assert not [key for key in found if "*" in key]
    assert (found["headway_cache_memory_bytes", "hot"], found["headway_cache_evicted_total", "hot"]) == (7, 2)
    assert ("headway_cache_memory_max_bytes", "hot") not in found
    assert ("headway_cache_memory_bytes", "cold") not in found


def test_calls_to_other_services() -> None:
    found = _page()
    calls = {key[0]: value for key, value in found.items() if key[0].startswith("headway_call")}
    assert {name: value for name, value in calls.items() if value} == {
        "headway_calls_total": 9,
        "headway_call_attempts_total": 10,
        "headway_call_retries_total": 1,
        "headway_call_in_flight": 2,
        "headway_call_bound": 4,
        "headway_call_bound_max": 8,
        "headway_call_breaker_open": 1,
    }
    assert found["headway_calls_total", "web", "inventory"] == 9
