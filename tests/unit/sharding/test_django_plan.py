"""Which of Django's migrations a shard needs, and which projects shards cannot take their tables from."""

from __future__ import annotations

import pytest

from headway.sharding.django import Django, _cannot_begin
from headway.sharding.django_migrations import (
    DjangoMigration,
    DjangoTable,
    Project,
    left_out,
    lost,
    not_whole,
    pending,
    problems,
)

FIRST = DjangoMigration("sales", "0001_initial", creates=("orders", "sales_note"))
SECOND = DjangoMigration("sales", "0002_more")
BOTH = DjangoMigration("sales", "0001_squashed", replaces=(FIRST.id, SECOND.id))
THIRD = DjangoMigration("sales", "0003_last", atomic=False)
ORDERS = DjangoTable("orders", "sales.Order", {"id": False, "customer": False, "note": True})
KEYS = {"orders": "customer"}


def project(*migrations: DjangoMigration, tables: tuple[DjangoTable, ...] = (ORDERS,)) -> Project:
    return Project(migrations, tables, {})


def test_a_shard_needs_what_its_own_table_does_not_name():
    found = pending(
        project(FIRST, SECOND), {0: frozenset(), 1: frozenset({FIRST.id}), 2: frozenset({SECOND.id, FIRST.id})}
    )
    assert found == {0: (FIRST.id, SECOND.id), 1: (SECOND.id,), 2: ()}


def test_a_squashed_migration_is_there_when_all_that_it_stands_for_is():
    applied = {0: frozenset({FIRST.id, SECOND.id}), 1: frozenset({FIRST.id}), 2: frozenset({BOTH.id})}
    assert pending(project(BOTH, THIRD), applied) == {0: (THIRD.id,), 1: (BOTH.id, THIRD.id), 2: (THIRD.id,)}


def test_what_was_applied_and_is_gone_is_left_alone():
    assert pending(project(FIRST), {0: frozenset({FIRST.id, "old.0001_initial"})}) == {0: ()}


def test_outside_of_a_transaction_one_operation_is_whole_and_two_are_not():
    two = DjangoMigration("sales", "0004_two", atomic=False, operations=2)
    by_id = {one.id: one for one in (FIRST, THIRD, two)}
    assert not_whole(by_id, frozenset({FIRST.id, THIRD.id})) is None
    found = not_whole(by_id, frozenset(by_id))
    assert found is not None
    assert found.message.startswith("sales.0004_two has atomic = False and 2 operations")


@pytest.mark.parametrize(
    ("tables", "keys", "path", "told", "hint"),
    [
        ((ORDERS,), {"carts": "customer"}, "migrations.django", "has a table for the shards: carts", "ShardRouter"),
        ((), KEYS, "migrations.django", "has a table for the shards: orders", "managed"),
        ((ORDERS, DjangoTable("auth_user", "auth.User", {})), KEYS, "keys", "table auth_user of auth.User", "keep it"),
        ((ORDERS, DjangoTable("lands", "sales.Land", {})), KEYS, "reference", "lands is a reference table", "managed"),
        ((ORDERS,), {"orders": "buyer"}, "keys.orders", "sales.Order has no column buyer", "id, customer, note"),
        ((ORDERS,), {"orders": "note"}, "keys.orders", "note of sales.Order may be NULL", "null=True"),
    ],
)
def test_what_does_not_fit_is_told_by_name(tables, keys, path, told, hint):
    (found,) = problems(project(FIRST, tables=tables), keys, ("lands",))
    assert found.path == path
    assert told in found.message
    assert hint in found.hint


def test_two_last_migrations_are_told():
    (found,) = problems(Project((), (ORDERS,), {"sales": ("0002_a", "0002_b")}), KEYS, ())
    assert "app sales has 2 last migrations: 0002_a, 0002_b" in found.message
    assert "--merge" in found.hint
    assert problems(project(FIRST), KEYS, ()) == ()


def test_tables_that_shards_are_not_given_are_told():
    told = left_out(project(FIRST, SECOND), frozenset({FIRST.id}), KEYS)
    assert told == ("sales.0001_initial makes no table sales_note in shards: it is not under keys",)
    assert left_out(project(FIRST), frozenset(), KEYS) == ()
    found = lost({**KEYS, "carts": "customer"}, frozenset({"orders"}))
    assert found is not None
    assert found.path == "keys.carts"
    assert lost(KEYS, frozenset({"orders"})) is None


def test_commands_of_hints_work_in_folders_with_blanks() -> None:
    django = Django("/srv/my site/manage.py", "/srv/my site/.venv/bin/python", "/srv/my site")
    broken = _cannot_begin("main", django, {"kind": "", "message": "settings.py:3: '(' was never closed"})
    assert broken.hint == "Try it there: cd '/srv/my site'; '/srv/my site/.venv/bin/python' manage.py check"
    lacking = _cannot_begin("main", django, {"message": "", "missing": "django.db"})
    assert lacking.hint == "'/srv/my site/.venv/bin/python' -m pip install django"
