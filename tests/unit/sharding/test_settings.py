"""The texts PostgreSQL is configured with, and the numbers in them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from headway.sharding import settings

_GOLDEN = Path(__file__).parent / "golden"
_MIB, _GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        (
            "headway.conf",
            settings.render_configuration(settings.Settings("shop main", 20123, "/run/o'hara/pg-main", 256 * _MIB)),
        ),
        ("pg_hba.conf", settings.render_access()),
        ("pg_ident.conf", settings.render_users(("nobody", "root", "root"))),
    ],
)
def test_golden(file_name: str, text: str) -> None:
    assert text == (_GOLDEN / file_name).read_text()


@pytest.mark.parametrize(
    ("memory_bytes", "expected_bytes"),
    [
        (None, 128 * _MIB),
        (64 * _MIB, 16 * _MIB),
        (256 * _MIB, 64 * _MIB),
        (_GIB, 128 * _MIB),
        (4 * _GIB, 256 * _MIB),
        (64 * _GIB, _GIB),
    ],
)
def test_shared_buffers(memory_bytes: int | None, expected_bytes: int) -> None:
    assert settings.shared_buffers_bytes(memory_bytes) == expected_bytes


@pytest.mark.parametrize(
    ("name", "role", "database"),
    [
        ("shop", "shop", "shop"),
        ("pg_shop", "app_pg_shop", "pg_shop"),
        ("public", "app_public", "public"),
        ("template1", "template1", "app_template1"),
    ],
)
def test_names_that_postgresql_keeps(name: str, role: str, database: str) -> None:
    assert (settings.role_name(name), settings.database_name(name)) == (role, database)


def test_ports_are_bounded_and_follow_from_the_seed() -> None:
    ports = list(settings.port_candidates("a"))
    assert ports == list(settings.port_candidates("a"))
    assert len(set(ports)) == len(ports) == 200
    assert all(20_000 <= port < 30_000 for port in ports)
    assert next(islice(settings.port_candidates("b"), 1)) != ports[0]
