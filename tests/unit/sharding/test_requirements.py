"""What a server must allow, and the words that change it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.sharding.requirements import ServerFacts, findings

GOOD = ServerFacts(17, "logical", 20, 20, 64, 200, "4GB", "0", "0", True, True, True, True, True, "owner")
PLAIN = replace(
    GOOD, is_superuser=False, may_create_roles=False, may_replicate=False, may_subscribe=False, may_create=False
)


def test_a_server_that_allows_everything_has_nothing_to_change():
    assert {finding.level for finding in findings(GOOD, 100)} == {"ok"}
    assert all(not finding.change for finding in findings(GOOD, 100))


@pytest.mark.parametrize(
    ("change", "what", "told"),
    [
        ({"major": 14}, "PostgreSQL", "15 or newer"),
        ({"wal_level": "replica"}, "moves: wal_level", "ALTER SYSTEM SET wal_level = logical"),
        ({"slots_free": 0}, "moves: free slots", "max_replication_slots"),
        ({"senders_free": 1}, "moves: free senders", "max_wal_senders"),
        ({"prepared_max": 0}, "transactions over shards", "max_prepared_transactions = 64"),
        ({"connections_max": 20}, "connections", "max_connections = 100"),
        ({"wal_keep": "-1"}, "moves: log kept for a slot", "max_slot_wal_keep_size"),
        ({"statement_timeout": "30s"}, "moves: no time-outs", "statement_timeout = 0"),
    ],
)
def test_what_is_missing_says_what_to_change(change, what, told):
    found = [finding for finding in findings(replace(GOOD, **change), 100) if finding.level != "ok"]
    assert [finding.what for finding in found] == [what]
    assert told in found[0].change


def test_a_plain_login_is_told_every_right_that_it_lacks():
    lacking = {finding.what: finding.level for finding in findings(PLAIN, 100) if finding.level != "ok"}
    assert lacking == {
        "shards: create schemas": "missing",
        "the app's own role": "warning",
        "moves: replicate from here": "missing",
        "moves: subscribe here": "missing",
    }
