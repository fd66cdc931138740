"""Metrics in the text format of Prometheus, from the status document and the counts of caches and calls. Pure.

Names follow its conventions: base units, `_total` for what only grows. What is a rate elsewhere in Headway is left out
where its total is there: whoever scrapes has rates of any length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATES = ("starting", "ready", "degraded", "stopping")
# How a call of a cached function was answered, by the counter that counts it.
_ANSWERS = {"hits_near": "process", "hits_shared": "server", "waits": "waited", "stale": "stale"}
_CALL_COUNTERS = {
    "calls": "Calls to another service.",
    "attempts": "Attempts of calls.",
    "retries": "Attempts after the first.",
    "refused": "Calls refused for want of room, there or in the calling process.",
    "failed": "Calls that nobody answered.",
    "deadline": "Calls whose deadline passed.",
    "turned_away": "Calls that were not sent, for the service failed too often.",
}
_CACHE_COUNTERS = {
    "loads": "Loads that were begun and came back.",
    "refreshes": "Loads in the background, before a value ended.",
    "errors": "Loads that raised, and values that did not decode.",
    "overtaken": "Loads whose value was not kept, for it was invalidated meanwhile.",
    "away": "Calls that met no server.",
    "too_large": "Values that were too large to be kept.",
    "bypassed": "Requests answered by the app, for they or its answer were not to be kept.",
}


def metrics_text(
    status: Mapping[str, Any],
    caches: Mapping[str, Mapping[str, Any]],
    calls: Mapping[tuple[str, str], Mapping[str, int]],
    dropped: Mapping[str, int],
) -> str:
    """The whole page. `caches` has for each its `server` (None: away) and its counters by function, which grow; `calls`
    the counters of services that call another; `dropped` spans without room by replica."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        _Once(
            [
                *_system(status),
                *_services(status),
                *_databases(status),
                *_caches(status, caches),
                *_calls(status, calls),
                _counter(
                    "spans_dropped",
                    "Spans that a replica had no room to write down.",
                    ("replica",),
                    {(replica,): count for replica, count in dropped.items()},
                ),
            ]
        )
    )
    return generate_latest(registry).decode()


class _Once(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, Any]) -> Metric:
    return _filled(GaugeMetricFamily(f"headway_{name}", text, labels=labels), values)


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, Any]) -> Metric:
    return _filled(CounterMetricFamily(f"headway_{name}", text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Any, Any]) -> Metric:
    """With a sample for each value that is known, by the values of its labels."""
    for key, value in values.items():
        if value is not None:
            family.add_metric(list(key), float(value))
    return family


def _system(status: Mapping[str, Any]) -> Iterator[Metric]:
    traffic = status["traffic"]
    states = {(state,): state == status["state"] for state in _STATES}
    yield _gauge("state", "1 for the state that the system is in.", ("state",), states)
    yield _gauge("edge_up", "Whether the edge answers.", (), {(): status["edge"]["state"] == "ready"})
    yield _counter("edge_reloads", "Reloads of the edge.", (), {(): status["edge"]["reloads"]})
    yield _counter("requests", "Requests that the edge answered.", (), {(): traffic["requests_total"]})
    yield _gauge("queued", "Requests that wait at the edge.", (), {(): traffic["queued"]})
    yield _gauge("connections", "Open connections of clients.", (), {(): traffic["connections"]})
    seconds = {
        (quantile,): None if traffic[key] is None else traffic[key] / 1000
        for quantile, key in (("0.5", "p50_ms"), ("0.99", "p99_ms"))
    }
    yield _gauge("latency_seconds", "Latency at the edge in the last seconds.", ("quantile",), seconds)


def _services(status: Mapping[str, Any]) -> Iterator[Metric]:
    services = status["services"]
    one, each, cls = ("service",), ("service", "replica"), ("service", "class")
    yield _gauge("replicas", "Replicas that are ready.", one, {(n,): s["ready"] for n, s in services.items()})
    yield _gauge("replicas_wanted", "Replicas wanted.", one, {(n,): s["wanted"] for n, s in services.items()})
    replicas = {(n, r["name"]): r for n, s in services.items() for r in s["replicas"]}
    for name, text, key in (
        ("replica_in_flight", "Requests in a replica.", "in_flight"),
        ("replica_streams", "Open streams of a replica.", "streams"),
        ("replica_memory_bytes", "Resident memory of a replica.", "rss_bytes"),
        ("replica_limit", "Requests at once that the edge sends to a replica.", "limit"),
    ):
        yield _gauge(name, text, each, {at: r[key] for at, r in replicas.items()})
    cancelled = {at: r["cancelled"] for at, r in replicas.items()}
    yield _counter("replica_cancelled", "Requests whose work nobody waited for, and was cancelled.", each, cancelled)
    restarts = {at: r["restarts"] for at, r in replicas.items()}
    yield _counter("replica_restarts", "Restarts of a replica.", each, restarts)
    classes = {(n, c): o for n, s in services.items() if s["overload"] for c, o in s["overload"]["classes"].items()}
    for name, text, key in (
        ("class_limit", "Requests at once of a class.", "limit"),
        ("class_queued", "Requests of a class that wait.", "queued"),
        ("class_queue_max", "How many may wait.", "queue_max"),
        ("class_overloaded", "Whether a class has more than it can bear.", "overloaded"),
        ("class_refused_per_second", "Requests of a class refused with 503, a second.", "refused_per_s"),
    ):
        yield _gauge(name, text, cls, {at: o[key] for at, o in classes.items()})


def _databases(status: Mapping[str, Any]) -> Iterator[Metric]:
    servers = {(n, s["name"]): s for n, d in status["databases"].items() for s in d["servers"]}
    labels = ("database", "server")
    up = {at: s["state"] == "ready" for at, s in servers.items()}
    yield _gauge("database_up", "Whether a server of a database answers.", labels, up)
    yield _gauge("database_shards", "Shards on a server.", labels, {at: s["shards"] for at, s in servers.items()})


def _caches(status: Mapping[str, Any], caches: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    up = {(n,): c["state"] == "ready" for n, c in status["caches"].items()}
    yield _gauge("cache_up", "Whether the server of a cache answers.", ("cache",), up)
    servers = {(n,): c["server"] for n, c in caches.items() if c["server"] is not None}
    for name, text, key in (
        ("cache_memory_bytes", "Memory that the server uses.", "used_bytes"),
        ("cache_memory_max_bytes", "Memory that it may use.", "max_bytes"),
        ("cache_keys", "Keys on the server.", "keys"),
    ):
        yield _gauge(name, text, ("cache",), {at: s[key] for at, s in servers.items()})
    yield _counter(
        "cache_evicted", "Keys let go of for room.", ("cache",), {a: s["evicted"] for a, s in servers.items()}
    )
    labels = ("cache", "function")
    functions = {
        (n, function): counts
        for n, c in caches.items()
        for function, counts in c["functions"].items()
        if function != "*"
    }
    answers = {
        (*at, answer): counts.get(counter, 0)
        for at, counts in functions.items()
        for counter, answer in _ANSWERS.items()
    }
    loaded = {(*at, "loaded"): counts.get("loads", 0) - counts.get("refreshes", 0) for at, counts in functions.items()}
    yield _counter("cache_calls", "Calls, by how they were answered.", (*labels, "answer"), answers | loaded)
    for counter, text in _CACHE_COUNTERS.items():
        yield _counter(f"cache_{counter}", text, labels, {at: c.get(counter, 0) for at, c in functions.items()})
    seconds = {at: counts.get("load_ms_sum", 0) / 1000 for at, counts in functions.items()}
    yield _counter("cache_load_seconds", "Time spent in loads.", labels, seconds)


def _calls(status: Mapping[str, Any], calls: Mapping[tuple[str, str], Mapping[str, int]]) -> Iterator[Metric]:
    labels = ("service", "target")
    now = {(n, target): told for n, s in status["services"].items() for target, told in s["calls"].items()}
    for name, text, key in (
        ("call_in_flight", "Calls that are under way.", "in_flight"),
        ("call_bound", "Calls that may be under way at once.", "bound"),
        ("call_bound_max", "Calls that may be, where the service is quick.", "bound_max"),
        ("call_breaker_open", "Processes that do not ask the service now, for it failed too often.", "open_in"),
    ):
        yield _gauge(name, text, labels, {at: told[key] for at, told in now.items()})
    for counter, text in _CALL_COUNTERS.items():
        name = "calls" if counter == "calls" else f"call_{counter}"
        yield _counter(name, text, labels, {at: counts.get(counter, 0) for at, counts in calls.items()})
