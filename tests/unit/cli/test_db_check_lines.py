"""What `headway db check` shows of a server: columns that fit, and what to change below what it is about."""

from __future__ import annotations

from dataclasses import asdict

from headway.cli.db_check import finding_lines
from headway.sharding.requirements import Finding


def test_what_to_change_stands_below_and_all_fits_80_columns() -> None:
    good = Finding("PostgreSQL", "ok", "18")
    change = "ALTER SYSTEM SET wal_level = logical; and restart the server"
    lines = finding_lines([asdict(good), asdict(Finding("moves: wal_level", "missing", "replica", change))])
    assert lines == [
        "  ✓  PostgreSQL        18",
        "  ✗  moves: wal_level  replica",
        f"     hint: {change}",
    ]
    assert max(map(len, lines)) <= 80
