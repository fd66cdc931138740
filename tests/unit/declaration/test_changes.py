"""What `up` would change: every key has a cost, every difference a sentence, never a secret in it."""

from __future__ import annotations

import pytest

from headway.declaration.changes import CACHE_COSTS, EDGE_COSTS, SERVICE_COSTS, changes, check_shards, shards_to_write
from headway.errors import Conflict
from headway.model.declared import Cache, Edge, Service, System


def system(**tables) -> System:
    return System.model_validate({"name": "shop", **tables})


WEB = {"app": "shop:app", "routes": ["/"], "replicas": 2}


def only(before: System, after: System):
    (change,) = changes(before, after)
    return change


def test_every_key_says_what_changing_it_costs() -> None:
    assert set(SERVICE_COSTS) == set(Service.model_fields)
    assert set(EDGE_COSTS) == set(Edge.model_fields)
    assert set(CACHE_COSTS) == set(Cache.model_fields)


def test_the_same_system_changes_nothing() -> None:
    assert changes(system(services={"web": WEB}), system(services={"web": WEB})) == ()


@pytest.mark.parametrize(
    ("key", "value", "sentence", "edge_reload", "replaces"),
    [
        ("replicas", 4, "services.web.replicas: 2 → 4; 2 are added", False, ()),
        ("replicas", 1, "services.web.replicas: 2 → 1; 1 is drained and stopped", False, ()),
        ("replicas", None, "services.web.replicas: 2 → shared cores; replicas are added or removed", False, ()),
        (
            "replicas",
            {"min": 2, "max": 8},
            "services.web.replicas: 2 → 2–8; their number follows the load",
            False,
            (),
        ),
        ("limit", 40, "services.web.limit: unset → 40; applies at once", False, ()),
        (
            "limit",
            5000,
            "services.web.limit: unset → 5000; its replicas are replaced one by one",
            False,
            ("web",),
        ),
        ("overload", "observe", "services.web.overload: adapt → observe; the edge reloads", True, ()),
        ("criticality", "sheddable", "services.web.criticality: critical → sheddable; the edge reloads", True, ()),
        (
            "at",
            {"/r": {"slo": "5s", "criticality": "sheddable"}, "/s": {}},
            "services.web.at: none → /r slo 5 s, criticality sheddable; /s; the edge reloads",
            True,
            (),
        ),
        ("routes", ["/a", "/b"], "services.web.routes: / → /a, /b; the edge reloads", True, ()),
        ("deadline", "90s", "services.web.deadline: 30 s → 90 s; the edge reloads", True, ()),
        ("slo", "250ms", "services.web.slo: unset → 250 ms; applies at once", False, ()),
        ("memory_max", "512MiB", "services.web.memory_max: unset → 512 MiB; applies at once", False, ()),
        (
            "cancel",
            True,
            "services.web.cancel: false → true; its replicas are replaced one by one, and the edge reloads",
            True,
            ("web",),
        ),
        ("sticky", True, "services.web.sticky: false → true; the edge reloads", True, ()),
        ("app", "b:b", "services.web.app: shop:app → b:b; its replicas are replaced one by one", False, ("web",)),
        (
            "body_max",
            "1MiB",
            "services.web.body_max: 1 GiB → 1 MiB; its replicas are replaced one by one, and the edge reloads",
            True,
            ("web",),
        ),
        (
            "static",
            {"/s": "/x"},
            "services.web.static: none → /s = /x; its replicas are replaced one by one",
            False,
            ("web",),
        ),
    ],
)
def test_a_changed_key_is_a_sentence_with_its_cost(key, value, sentence, edge_reload, replaces) -> None:
    change = only(system(services={"web": WEB}), system(services={"web": {**WEB, key: value}}))
    assert (change.path, change.kind) == (f"services.web.{key}", "changed")
    assert (change.sentence, change.edge_reload, change.replaces) == (sentence, edge_reload, replaces)


def test_another_slo_of_a_route_reloads_nothing() -> None:
    before, after = (system(services={"web": {**WEB, "at": {"/r": {"slo": slo}}}}) for slo in ("1s", "2s"))
    change = only(before, after)
    assert change.sentence == "services.web.at: /r slo 1 s → /r slo 2 s; applies at once"
    assert not change.edge_reload


@pytest.mark.parametrize(("before", "after"), [({}, {"cancel": True}), ({"cancel": False}, {})])
def test_what_workers_are_told_of_a_route_replaces_them(before, after) -> None:
    own = {"/a": {"slo": "1s"}, "/b": {"slo": "1s"}}
    systems = [
        system(services={"web": {**WEB, "at": {**own, "/b": {"slo": "1s", **more}}}}) for more in (before, after)
    ]
    change = only(*systems)
    assert change.edge_reload
    assert change.replaces == ("web",)


@pytest.mark.parametrize(
    ("before", "after", "reloads"), [(None, "http://a:4318", True), ("http://a:4318", "http://b:4318", False)]
)
def test_a_collector_that_comes_gives_the_edge_spans_of_its_own(before, after, reloads) -> None:
    change = only(*(system(**({"otlp": url} if url else {})) for url in (before, after)))
    assert change.path == "system.otlp"
    assert (change.edge_reload, "the edge reloads" in change.sentence) == (reloads, reloads)


def test_a_range_becomes_a_number_again() -> None:
    before = system(services={"web": {**WEB, "replicas": {"min": 1, "max": 8}}})
    change = only(before, system(services={"web": WEB}))
    assert change.sentence == "services.web.replicas: 1–8 → 2; replicas are added or removed"
    assert change.replaces == ()


def test_a_private_service_costs_the_edge_nothing() -> None:
    before, after = ({"app": "a:b", "deadline": f"{s}s"} for s in (1, 2))
    change = only(system(services={"a": before}), system(services={"a": after}))
    assert not change.edge_reload
    assert change.sentence.endswith("applies at once")


@pytest.mark.parametrize(("routes", "reload"), [(["/"], True), ([], False)])
def test_services_come_and_go(routes, reload) -> None:
    with_web, without = system(services={"web": {**WEB, "routes": routes}}), system()
    added, removed = only(without, with_web), only(with_web, without)
    assert (added.kind, added.edge_reload) == ("added", reload)
    assert (removed.kind, removed.edge_reload) == ("removed", reload)
    assert ("the edge reloads" in added.sentence) is reload


def test_env_and_commands_are_told_without_values() -> None:
    before = {"command": ["x", "hunter1"], "env": {"A": "hunter2", "B": "hunter3", "C": "same"}}
    after = {"command": ["x", "hunter4"], "env": {"A": "hunter5", "C": "same", "D": "hunter6"}}
    told = changes(system(services={"a": before}), system(services={"a": after}))
    text = "\n".join(change.sentence for change in told)
    assert "D added, B removed, A changed" in text
    assert "hunter" not in text
    assert all(change.replaces == ("a",) for change in told)


def test_the_edge_and_its_certificate() -> None:
    plain, first = system(), system(edge={"tls": {"certificate": "a.pem"}})
    second = system(edge={"tls": {"certificate": "b.pem"}})
    assert only(plain, first).sentence == "edge.tls: on; the edge reloads"
    assert only(first, plain).edge_reload
    swapped = only(first, second)
    assert not swapped.edge_reload
    assert "without a reload" in swapped.sentence
    bind = only(plain, system(edge={"bind": ["127.0.0.1:9000"], "client_rate": None}))
    assert bind.sentence == "edge.bind: 127.0.0.1:8000 → 127.0.0.1:9000; the edge reloads"
    assert (
        only(plain, system(edge={"client_rate": "10/s"})).sentence == "edge.client_rate: unset → 10/s; the edge reloads"
    )


def test_a_database_that_moves_replaces_those_that_use_it_and_hides_its_url() -> None:
    services = {"web": {**WEB, "uses": ["main"]}, "b": {"app": "b:b", "env": {"U": "{main.url}"}}, "c": {"app": "c:c"}}
    before = system(services=services, databases={"main": {}})
    after = system(services=services, databases={"main": {"url": "postgresql://u:hunter2@h/d"}})
    change = only(before, after)
    assert change.replaces == ("web", "b")
    assert "hunter2" not in change.sentence
    added, removed = only(system(), system(databases={"a": {}})), only(system(databases={"a": {}}), system())
    assert "its data stays" in removed.sentence
    assert added.kind == "added"
    schema = only(system(databases={"a": {}}), system(databases={"a": {"schema": "/s.sql"}}))
    assert "unset → /s.sql" in schema.sentence


def test_another_name_waits_for_the_next_start() -> None:
    change = only(System(name="a"), System(name="b"))
    assert (change.path, change.edge_reload, change.replaces) == ("system.name", False, ())


SHARDED = {"shards": 8, "servers": {"a": "postgresql://u:secret@a/d"}, "keys": {"orders": "customer_id"}}


def test_a_sharded_database_tells_its_changes_without_urls() -> None:
    before = system(services={"web": WEB}, databases={"orders": SHARDED})
    other = SHARDED | {"shards": 16, "servers": {"b": "postgresql://u:secret@b/d"}, "active_max": 3}
    found = [change.sentence for change in changes(before, system(services={"web": WEB}, databases={"orders": other}))]
    assert found == [
        "databases.orders.shards: 8 → 16; only after headway db split has done so",
        "databases.orders.servers: others than before; no shard moves by itself",
        "databases.orders.active_max: changed; its services' replicas are replaced",
    ]


@pytest.mark.parametrize(("shards", "told"), [(16, "it has 8, and 16 are declared"), (None, "and none are declared")])
def test_the_number_of_shards_stays(shards, told) -> None:
    before = system(databases={"orders": SHARDED})
    after = system(databases={"orders": SHARDED | {"shards": shards}})
    with pytest.raises(Conflict, match=told):
        check_shards(before, after)
    check_shards(before, before)
    check_shards(before, system())
    check_shards(system(), after)


def test_the_number_of_shards_follows_the_catalog() -> None:
    before = system(databases={"orders": SHARDED})
    after = system(databases={"orders": SHARDED | {"shards": 16}})
    check_shards(before, after, {"orders": 16})
    with pytest.raises(Conflict, match="it has 32, and 16 are declared"):
        check_shards(before, after, {"orders": 32})
    with pytest.raises(Conflict) as refused:
        check_shards(before, after, {"orders": 8})
    assert "headway db split orders" in refused.value.hint


def test_caches_come_and_go() -> None:
    with_one = system(services={"web": WEB}, caches={"hot": {}})
    assert only(system(services={"web": WEB}), with_one).sentence.startswith("caches.hot: added; it starts before")
    assert only(with_one, system(services={"web": WEB})).sentence.startswith("caches.hot: removed; what it holds is")


@pytest.mark.parametrize(
    ("before", "after", "sentence", "replaces"),
    [
        ({}, {"memory_max": "64MiB"}, "caches.hot.memory_max: unset → 64 MiB; applies at once", ()),
        ({}, {"near_max": "8MiB"}, "caches.hot.near_max: 32 MiB → 8 MiB; replicas of web are replaced", ("web",)),
        ({}, {"timeout": "50ms"}, "caches.hot.timeout: 100 ms → 50 ms; replicas of web are replaced", ("web",)),
        (
            {"url": "redis://:secret@a"},
            {"url": "redis://:secret@b"},
            "caches.hot.url: another server; replicas of web are replaced",
            ("web",),
        ),
    ],
)
def test_a_changed_cache_hides_its_url_and_names_who_uses_it(before, after, sentence, replaces) -> None:
    services = {"web": {**WEB, "uses": ["hot"]}, "other": {"command": "sleep 9"}}
    change = only(system(services=services, caches={"hot": before}), system(services=services, caches={"hot": after}))
    assert change.sentence.startswith(sentence)
    assert "secret" not in change.sentence
    assert change.replaces == replaces


def test_what_to_write_after_a_split_is_said_once_it_differs() -> None:
    declared = system(databases={"orders": SHARDED, "main": {}, "more": SHARDED})
    assert shards_to_write(declared, {"orders": 16, "main": None, "more": 8}) == {
        "databases.orders.shards": "8 are declared, and since a split there are 16: "
        "write shards = 16 in [databases.orders]"
    }
    assert shards_to_write(declared, {"orders": None}) == {}  # not known while it starts
