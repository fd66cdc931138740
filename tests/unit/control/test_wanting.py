"""What the loop works towards: numbers from the declaration and the machine, and which of them need another process."""

from __future__ import annotations

import json

import pytest

from headway.control.wanting import (
    caches_of,
    cancels,
    launch_of,
    replicas_declared,
    told_of_caches,
    told_of_services,
    want,
)
from headway.model.declared import Service, System
from headway.process.machine import Machine

MACHINE = Machine(cores=4, memory_bytes=8 << 30, descriptors_max=65536, somaxconn=4096)


def key(**keys: object) -> str:
    service = Service.model_validate({"app": "a:b", **keys})
    return launch_of("web", service, {}, MACHINE).key


@pytest.mark.parametrize("change", [{"limit": 1}, {"limit": 2048}, {"slo": "1s"}, {"overload": "observe"}])
def test_what_edge_and_worker_are_told_while_they_run_needs_no_other_process(change) -> None:
    assert key(**change) == key()


def test_a_limit_beyond_what_a_process_was_started_for_needs_another() -> None:
    assert key(limit=2049) != key()
    assert key(limit=3000) == key(limit=4096)
    assert launch_of("web", Service(app="a:b", limit=5000), {}, MACHINE).limit == 8192


def test_criticality_routes_that_differ_and_the_number_of_replicas_need_no_other_process() -> None:
    assert key(criticality="sheddable", at={"/x": {"slo": "1s"}}, replicas={"min": 1, "max": 3}) == key()


def test_a_range_starts_with_its_lower_bound() -> None:
    services = {
        "web": {"app": "a:b", "routes": ["/"], "replicas": {"min": 3, "max": 9}},
        "api": {"app": "a:b", "routes": ["/api"]},
        "mail": {"command": "x", "replicas": {"min": 2, "max": 2}},
        "jobs": {"command": "x"},
    }
    system = System.model_validate({"services": services})
    assert replicas_declared(system, MACHINE) == {"web": 3, "api": 2, "mail": 2, "jobs": 1}


def test_a_service_waits_for_the_caches_it_uses_and_is_told_of_them() -> None:
    services = {
        "web": {"app": "a:b", "uses": ["hot"], "env": {"URL": "{far.url}", "OWN": "{main.url}"}},
        "other": {"app": "a:b"},
    }
    declared = System.model_validate(
        {"services": services, "databases": {"main": {}}, "caches": {"hot": {}, "far": {}, "unused": {}}}
    )
    assert caches_of(declared.services["web"], declared.caches) == ("hot", "far")
    wanted = want(
        declared,
        replicas={"web": 1, "other": 1},
        keys={},
        limits={"web": 1, "other": 1},
        machine=MACHINE,
        at_edge={"web"},
    )
    assert {service.name: service.waits_for for service in wanted.services} == {
        "web": ("main", "hot", "far"),
        "other": (),
    }
    env = told_of_caches({"hot": {"url": "unix:///s", "near_bytes": 1}})
    assert json.loads(env["HEADWAY_CACHES"]) == {"hot": {"url": "unix:///s", "near_bytes": 1}}
    assert told_of_caches({}) == {}


def test_a_service_is_told_of_those_it_calls() -> None:
    called = {"stock": {"socket": "/run/s/stock.sock", "deadline_s": 30.0}}
    assert json.loads(told_of_services(called, "/run/app")["HEADWAY_SERVICES"]) == called
    assert told_of_services({}, "/run/app") == {}


def test_a_route_is_cancelled_as_its_service_unless_it_says_otherwise() -> None:
    at = {"/a": {}, "/b": {"cancel": False}, "/c": {"cancel": True}}

    def found(**keys: object) -> tuple[int, ...]:
        return cancels(Service.model_validate({"app": "a:b", **keys}))

    assert found() == ()
    assert found(cancel=True) == tuple(range(8))  # so that a new route under `at` starts no process anew
    assert found(cancel=True, at=at) == (0, 1, 2, 4, 5, 6, 7)
    assert found(at=at) == (4,)
