"""What `doctor` makes of what it finds: the bounds, and that whatever is not good says what to do."""

from __future__ import annotations

import pytest

from headway.cli import checks
from headway.cli.checks import Check, overall

GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (checks.descriptors(1024, 2047), "bad"),
        (checks.descriptors(1024, 2048), "warning"),
        (checks.descriptors(1024, 65536), "good"),
        (checks.somaxconn(128), "warning"),
        (checks.somaxconn(4096), "good"),
        (checks.cores(0.5, 8), "warning"),
        (checks.cores(2, 8), "good"),
        (checks.memory(64 * MIB, 16 * GIB, 8 * GIB), "bad"),
        (checks.memory(16 * GIB, 16 * GIB, 64 * MIB), "bad"),
        (checks.memory(256 * MIB, 16 * GIB, 8 * GIB), "warning"),
        (checks.memory(4 * GIB, 16 * GIB, 8 * GIB), "good"),
        (checks.overcommit(0), "good"),
        (checks.overcommit(1), "good"),
        (checks.overcommit(2), "warning"),
        (checks.disk("state folder", "/s", 99 * MIB, writable=True, there=True), "bad"),
        (checks.disk("state folder", "/s", 900 * MIB, writable=True, there=True), "warning"),
        (checks.disk("state folder", "/s", 2 * GIB, writable=True, there=False), "good"),
        (checks.disk("state folder", "/s", 2 * GIB, writable=False, there=True), "bad"),
        (checks.granian("granian", "/p", None, "No module named 'granian'"), "bad"),
        (checks.granian("granian", "/p", "2.6.9"), "bad"),
        (checks.granian("granian", "/p", "2.7.0"), "good"),
        (checks.granian("granian", "/p", "2.10.1"), "good"),
        (checks.granian("granian", "/p", "3.0.0"), "bad"),
        (checks.open_files([("edge", 10, 100), ("web.1", 81, 100)]), "warning"),
        (checks.open_files([("edge", 10, 100), ("web.1", 80, 100)]), "good"),
    ],
)
def test_states_and_hints(check: Check, state: str) -> None:
    assert check.state == state
    assert bool(check.hint) == (state != "good")


def test_the_connections_that_a_declared_system_gets_are_told() -> None:
    assert "9,999 connections of clients at once" in checks.descriptors(1024, 20_000, 9_999).value
    assert checks.descriptors(1024, 20_000, 9_999).state == "warning"
    assert checks.descriptors(1024, 20_000, 15_392).state == "good"


def test_the_fullest_process_is_named() -> None:
    assert checks.open_files([("edge", 900, 10_000), ("web.1", 50, 100)]).value.endswith("web.1 has 50 of 100")


def test_what_a_container_leaves_is_told_beside_what_is_there() -> None:
    assert checks.cores(1.5, 8).value == "1.5 of 8 (affinity or quota)"
    assert checks.memory(2 * GIB, 16 * GIB, 8 * GIB).value == "2 GiB of 16 GiB (control group), 8 GiB free"


def test_the_worst_check_decides() -> None:
    good, warning, bad = Check("a", "good", ""), Check("b", "warning", ""), Check("c", "bad", "")
    assert overall([]) == overall([good]) == "good"
    assert overall([good, warning]) == "warning"
    assert overall([warning, bad, good]) == "bad"
