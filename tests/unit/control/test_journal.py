"""Which parts a name means: the journal and the logs are asked with the names that the status shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.control.journal import Journal, is_of, read_journal

PARTS = ("web.1", "web2.1", "edge", "database.main", "database.orders.s1", "database.orders.s2", "cache.hot")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("web", ["web.1"]),
        ("web.1", ["web.1"]),
        ("main", ["database.main"]),
        ("orders", ["database.orders.s1", "database.orders.s2"]),
        ("orders/s2", ["database.orders.s2"]),
        ("database.orders", ["database.orders.s1", "database.orders.s2"]),
        ("hot", ["cache.hot"]),
        ("s1", []),
        ("", []),
    ],
)
def test_a_name_means_parts(name: str, parts: list[str]) -> None:
    assert [part for part in PARTS if is_of(part, name)] == parts


def test_the_journal_is_read_by_the_names_of_the_status(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for part in PARTS:
        journal.write(part, "ready", "it answers")
    assert [e["about"] for e in read_journal(tmp_path / "journal.jsonl", "orders", 9)] == list(PARTS[4:6])
    assert [e["about"] for e in read_journal(tmp_path / "journal.jsonl", "main", 9)] == ["database.main"]
