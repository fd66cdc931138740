"""Which migrations a shard needs, and which histories are refused."""

from __future__ import annotations

import pytest

from headway.sharding.migrations import migrations, pending, up_to

FILES = {
    "0002_lines.sql": "CREATE TABLE lines (id int);",
    "0001_orders.sql": "BEGIN;\nCREATE TABLE orders (id int);\nCOMMIT;",
    "0010_index.sql": "-- headway: no transaction\nCREATE INDEX CONCURRENTLY found ON orders (id);",
}


def test_files_are_ordered_by_their_numbers():
    found, problems = migrations(FILES)
    assert problems == ()
    assert [migration.name for migration in found] == ["0001_orders.sql", "0002_lines.sql", "0010_index.sql"]
    assert [migration.alone for migration in found] == [False, False, True]
    assert "BEGIN" not in found[0].sql


@pytest.mark.parametrize(
    ("name", "text", "path", "told"),
    [
        ("orders.sql", "", "orders.sql", "no number"),
        ("0001_again.sql", "SELECT 1;", "0001_orders.sql", "has the number of 0001_again.sql"),
        (
            "0003_i.sql",
            "SELECT 1;\nCREATE INDEX CONCURRENTLY i ON o (id);",
            "0003_i.sql:2",
            "cannot run in a transaction",
        ),
        ("0003_v.sql", "VACUUM orders;", "0003_v.sql:1", "cannot run in a transaction"),
        ("0003_r.sql", "\nROLLBACK;", "0003_r.sql:2", "ROLLBACK cannot be applied in one transaction"),
        ("0003_m.sql", "\\copy orders from 'x'\n", "0003_m.sql:1", "is psql's"),
        ("0003_a.sql", "-- headway: no transaction\nSELECT 1; SELECT 2;", "0003_a.sql", "holds 2 statements"),
    ],
)
def test_what_cannot_be_applied_is_refused_with_its_place(name, text, path, told):
    _, problems = migrations({**FILES, name: text})
    assert [(problem.path, told in problem.message) for problem in problems] == [(path, True)]
    assert all(problem.hint for problem in problems)


def test_each_shard_gets_what_it_lacks():
    found, _ = migrations(FILES)
    first, second, third = found
    has_first = {first.name: first.checksum}
    needed, problems = pending(found, {0: {}, 1: has_first, 2: {one.name: one.checksum for one in found}})
    assert problems == ()
    assert needed == {0: (first, second, third), 1: (second, third), 2: ()}


def test_a_changed_past_is_refused_once_for_all_shards():
    found, _ = migrations(FILES)
    first, second, third = found
    ledger = {first.name: "another", "0000_gone.sql": "x", third.name: third.checksum}
    _, problems = pending(found, dict.fromkeys(range(100), ledger))
    assert {(problem.path, problem.message) for problem in problems} == {
        (first.name, "was changed after it was applied"),
        ("0000_gone.sql", "was applied and is gone"),
        (second.name, "comes before one that was applied already, first on shard 0"),
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("0001_orders.sql", 1),
        ("0002_lines", 2),
        ("10", 3),
        ("0010", 3),
        ("head", 3),
        ("3", 0),
        ("0002", 2),
        ("nix", 0),
        ("", 0),
    ],
)
def test_a_migration_is_named_by_its_file_or_its_number(name, count):
    assert len(up_to(migrations(FILES)[0], name)) == count


def test_a_plain_database_is_told_by_its_name():
    found, _ = migrations(FILES)
    _, problems = pending(found, {0: {found[1].name: found[1].checksum}}, lambda _shard: "database main")
    assert [problem.hint for problem in problems] == [
        "Give it a number behind the last one.",
    ]
    assert problems[0].message.endswith("first on database main")


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("CREATE INDEX CONCURRENTLY found ON orders (id);", "found"),
        ('create unique index concurrently if not exists "a b"\n  on only shop.orders (id)', 'shop."a b"'),
        ("CREATE INDEX CONCURRENTLY ON orders (id)", ""),  # a name that PostgreSQL finds
        ("DROP INDEX CONCURRENTLY found", ""),
    ],
)
def test_the_index_that_is_built_outside_of_a_transaction_is_known(sql, index):
    (found,), problems = migrations({"0001_i.sql": f"-- headway: no transaction\n{sql}"})
    assert problems == ()
    assert (found.index, found.drops) == (index, sql.startswith("DROP"))
