"""The model itself: it survives being written down, and says everything the reference needs."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from headway.declaration.keys import SECTIONS, fields_of
from headway.model.declared import RESERVED, ReplicaRange, Service, System

FULL = {
    "name": "shop",
    "edge": {"bind": ["127.0.0.1:1"], "client_rate": "0.1/s", "header_timeout": "1m30s", "tls": {"certificate": "c"}},
    "services": {
        "web": {"app": "a:b", "slo": "333ms", "memory_max": "1.5GiB", "env": {"A": 1}, "static": {"/s": "x"}},
        "mail": {"command": "celery -A shop", "replicas": {"min": 1, "max": 3}},
        "api": {
            "app": "a:b",
            "at": {"/reports": {"slo": "1m30s", "criticality": "sheddable"}, "/x": {}},
            "overload": "observe",
            "criticality": "critical_plus",
        },
    },
    "databases": {"main": {"schema": "s.sql"}},
}


def test_a_dumped_system_is_read_back_as_the_same() -> None:
    system = System.model_validate(FULL)
    assert System.model_validate(system.model_dump()) == system
    assert System.model_validate_json(system.model_dump_json()) == system


def test_a_system_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        System().name = "other"  # type: ignore[misc]


def test_field_names_carry_their_unit() -> None:
    service = Service.model_validate({"app": "a:b", "slo": "250ms", "memory_max": "1MiB"})
    assert (service.slo_s, service.memory_max_bytes, service.deadline_s) == (0.25, 2**20, 30.0)


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_key_has_a_description_and_an_example_that_is_toml(section) -> None:
    for key, field in fields_of(section).items():
        assert field.description, key
        assert field.examples, key
        tomllib.loads(f"{key} = {field.examples[0]}")


def test_what_is_reserved_is_not_there_already() -> None:
    for pattern in RESERVED:
        section, _, key = pattern.rpartition(".")
        assert key not in (fields_of(section) if section in SECTIONS else ())


def test_a_number_that_follows_the_load_has_two_bounds() -> None:
    service = Service.model_validate({"app": "a:b", "replicas": {"min": 2, "max": 4}})
    assert service.replicas == ReplicaRange(min=2, max=4)
    assert [ReplicaRange(min=2, max=4).clamp(count) for count in (0, 2, 3, 4, 9)] == [2, 2, 3, 4, 4]
    with pytest.raises(ValidationError, match="min 5 is above max 2"):
        ReplicaRange(min=5, max=2)
    with pytest.raises(ValidationError):
        ReplicaRange(min=0, max=2)
