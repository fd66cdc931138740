"""The pure parts of a move: the text it sends, what it objects to, which rows are newer, which way it may go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.sharding.move.compare import Difference, bucket_count, is_newer
from headway.sharding.move.nouns import COMMITTED, ENDED, FORWARD, Move, MoveServer, Table
from headway.sharding.move.objections import SchemaFacts, ServerFacts, objections
from headway.sharding.move.statements import (
    create_fence,
    create_subscription,
    ddl_for_target,
    fenced,
    link_name,
    moved_name,
)

SOURCE = ServerFacts("a", 180004, "one", has_schema=True)
TARGET = ServerFacts("b", 150000, "two", has_schema=False)
SCHEMA = SchemaFacts(tables=("orders",))


def told(source: ServerFacts = SOURCE, target: ServerFacts = TARGET, dump_major: int = 18) -> list[str]:
    return [reason.message for reason in objections("shop_0001", source, target, SCHEMA, dump_major)]


def test_nothing_stands_against_a_plain_move():
    assert told() == []


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (replace(SOURCE, version=140011), TARGET, "server a runs PostgreSQL 14"),
        (SOURCE, replace(TARGET, version=130000), "server b runs PostgreSQL 13"),
        (SOURCE, replace(TARGET, identity="one"), "one and the same database"),
        (replace(SOURCE, has_schema=False), TARGET, "server a has no schema shop_0001"),
        (SOURCE, replace(TARGET, has_schema=True), "server b has a schema shop_0001 already"),
        (replace(SOURCE, wal_level="replica"), TARGET, "wal_level = replica"),
        (replace(SOURCE, slots_free=1), TARGET, "no two replication slots or senders"),
        (replace(SOURCE, senders_free=0), TARGET, "no two replication slots or senders"),
        (SOURCE, replace(TARGET, workers=0), "max_logical_replication_workers = 0"),
        (replace(SOURCE, may_publish=False), TARGET, "server a may not replicate"),
        (SOURCE, replace(TARGET, may_subscribe=False), "server b may not create a subscription"),
        (SOURCE, replace(TARGET, has_app_role=False, app_role="shop"), "server b has no role shop"),
    ],
)
def test_what_a_server_lacks_is_named(source, target, said):
    (message,) = told(source, target)
    assert said in message


def test_a_dump_program_that_is_too_old_is_named():
    (message,) = told(dump_major=17)
    assert message == "pg_dump 17 cannot read server a, which runs PostgreSQL 18"


def test_what_an_aborted_move_left_is_no_obstacle():
    assert told(target=replace(TARGET, has_schema=True, leftover=True)) == []


def test_many_tables_are_named_by_a_few():
    found = SchemaFacts(tables=("a",), no_identity=tuple(f"t{number}" for number in range(8)))
    (reason,) = objections("s", SOURCE, TARGET, found, 18)
    assert "t0, t1, t2, t3, t4 and 3 more" in reason.message
    assert reason.hint


def test_an_empty_schema_is_not_moved():
    (reason,) = objections("s", SOURCE, TARGET, SchemaFacts(), 18)
    assert "holds no table" in reason.message


DUMP = '''\
--
-- PostgreSQL database dump
--
\\restrict abc
SET statement_timeout = 0;
SET transaction_timeout = 0;
SET check_function_bodies = false;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE SCHEMA shop_0001;
ALTER SCHEMA shop_0001 OWNER TO _headway;
SET default_table_access_method = heap;
CREATE TABLE shop_0001.t (a integer DEFAULT 'OWNER TO shop;'::text);
ALTER TABLE shop_0001.t OWNER TO "Shop ""x""";
REVOKE ALL ON TABLE shop_0001.t FROM shop;
GRANT SELECT,INSERT ON TABLE shop_0001.t TO shop WITH GRANT OPTION;
GRANT SELECT ON TABLE shop_0001.t TO shopper;
\\unrestrict abc
'''


def test_a_dump_is_made_to_fit_the_target():
    text = ddl_for_target(DUMP, {"_headway": "postgres", "shop": "Shop Two", 'Shop "x"': "y"})
    assert "restrict" not in text
    assert "transaction_timeout" not in text
    assert "SET default_table_access_method = heap;" in text
    assert 'ALTER SCHEMA shop_0001 OWNER TO "postgres";' in text
    assert 'ALTER TABLE shop_0001.t OWNER TO "y";' in text
    assert 'REVOKE ALL ON TABLE shop_0001.t FROM "Shop Two";' in text
    assert 'GRANT SELECT,INSERT ON TABLE shop_0001.t TO "Shop Two" WITH GRANT OPTION;' in text
    assert "TO shopper;" in text
    assert "'OWNER TO shop;'" in text


def test_the_fence_leaves_the_marker_open():
    tables = (Table("headway_ledger", ("name",)), Table("headway_marker", ("one",)), Table("orders", ("id",)))
    assert [table.name for table in fenced(tables)] == ["headway_ledger", "orders"]
    text = create_fence("s", tables).as_string()
    assert "'HW001'" in text
    assert '"s"."orders"' in text
    assert "headway_marker" not in text


def test_a_subscription_makes_no_slot_and_applies_in_order():
    text = create_subscription("m", "host=x password='it''s'", major=18).as_string()
    assert "create_slot = false" in text
    assert "streaming = off" in text
    assert "origin" in text
    assert "origin" not in create_subscription("m", "host=x", major=15).as_string()


def test_names_fit_in_what_a_name_may_be():
    assert link_name("12345678-aaaa", 7) == "headway_move_12345678_7"
    assert len(moved_name("x" * 63, 123456)) == 63
    assert moved_name("shop_0001", 7) == "shop_0001_moved_7"


@pytest.mark.parametrize(
    ("xmin", "newer"),
    [
        (90, False),
        (95, True),  # was running
        (97, False),
        (100, True),  # the first that was not given out yet
        (2**31, True),
        (2**31 + 200, False),  # half the circle away is past
    ],
)
def test_rows_that_are_newer_than_a_snapshot(xmin, newer):
    assert is_newer(xmin, "95:100:95,98") is newer


def test_numbers_of_transactions_go_round():
    snapshot = f"{2**32 + 10}:{2**32 + 20}:{2**32 + 12}"  # of the second round
    assert is_newer(20, snapshot)
    assert is_newer(12, snapshot)
    assert not is_newer(11, snapshot)
    assert not is_newer(2**32 - 5, snapshot)


@pytest.mark.parametrize(("pages", "buckets"), [(0, 1), (16, 1), (33, 2), (1000, 64), (10**7, 1024)])
def test_a_bucket_is_some_thousand_rows(pages, buckets):
    assert bucket_count(pages) == buckets


def test_a_difference_reads_as_a_sentence():
    assert Difference("t", 1, 0, 2, ("(1)", "(5)")).sentence == "table t: 1 missing, 2 different (keys (1), (5))"


def test_stages_go_to_the_commit_point_and_on():
    assert "fencing" not in COMMITTED
    assert FORWARD[0] == "begun"
    assert FORWARD[-1] in ENDED
    assert not COMMITTED & {"aborting", "aborted"}


def test_secrets_are_not_shown():
    assert "secret" not in repr(MoveServer("a", "password=secret", "password=secret", "app"))


def test_a_result_of_a_move_that_has_only_begun():
    result = Move(1, "begun", {}, 0, "a", "b").result()
    assert (result.rows, result.verified, result.rows_per_s, result.stage) == (0, False, 0.0, "begun")
