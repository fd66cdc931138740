"""What servers are asked for a statement over all shards, and what is refused because its answer would be another."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from headway.errors import CannotScatter
from headway.model.sharding import TableKey
from headway.sharding.merge import Column, Order
from headway.sharding.scatter import scatter

KEYS = {"t": TableKey("k", "int"), "u": TableKey("owner", "int"), "v": TableKey("k", "int")}
REFERENCE = ("ref",)


def _asked(sql: str) -> str:
    return scatter(sql, KEYS, REFERENCE).server_sql(["s"])


def test_a_statement_for_a_server_is_one_over_its_shards():
    plan = scatter("SELECT a FROM t JOIN ref r ON r.id = t.id WHERE b = $1", KEYS, REFERENCE)
    assert plan.server_sql(["x_0", 'x"1']) == (
        '(SELECT a FROM "x_0".t JOIN "headway_reference".ref AS r ON r.id = t.id WHERE b = $1)\n'
        "UNION ALL\n"
        '(SELECT a FROM "x""1".t JOIN "headway_reference".ref AS r ON r.id = t.id WHERE b = $1)'
    )
    assert (plan.columns, plan.groups, plan.order, plan.needs) == ((), None, (), 1)


def test_a_text_like_our_placeholder_stays_a_text():
    assert _asked("SELECT '\"headway_any_shard\"' FROM t") == '(SELECT \'"headway_any_shard"\' FROM "s".t)'


@pytest.mark.parametrize(
    ("sql", "asked"),
    [
        ("SELECT k FROM t LIMIT 3 OFFSET 4", '(SELECT k FROM "s".t LIMIT 7)'),
        ("SELECT k FROM t ORDER BY k DESC LIMIT $1", '(SELECT k FROM "s".t ORDER BY k DESC LIMIT $1)'),
        ("SELECT k FROM t LIMIT $1 OFFSET $2", '(SELECT k FROM "s".t LIMIT ($1::BIGINT + $2::BIGINT))'),
        ("SELECT K AS A, \"K\" FROM T", '(SELECT k AS a, "K" FROM "s".t)'),
        ("SELECT date_part('hour', a), 2 ^ a FROM t", "(SELECT date_part('hour', a), 2 ^ a FROM \"s\".t)"),
        ("SELECT a FROM t OFFSET $1", '(SELECT a FROM "s".t WHERE ($1::BIGINT IS NULL OR TRUE))'),
    ],
)  # fmt: skip
def test_what_a_shard_is_asked(sql, asked):
    assert re.sub(r"CAST\((\$\d) AS BIGINT\)", r"\1::BIGINT", _asked(sql)) == asked


def test_what_an_aggregate_is_asked_as():
    plan = scatter("SELECT g, count(*) AS n, avg(a), count(DISTINCT b) FROM t GROUP BY g LIMIT 2", KEYS)
    assert plan.server_sql(["s"]) == (
        '(SELECT g AS "g", COUNT(*) AS "n", SUM((a) * 1) AS "avg", COUNT(a) AS "headway_n2", '
        'ARRAY_AGG(DISTINCT b) AS "count" FROM "s".t GROUP BY g)'
    )
    assert [column.merge for column in plan.columns] == ["", "sum", "avg", "sum", "distinct"]
    assert plan.groups == (0,)


@pytest.mark.parametrize(
    ("sql", "is_whole"),
    [
        ("SELECT k, avg(a) FROM t GROUP BY k", True),
        ("SELECT a, count(*) FROM t GROUP BY a, t.k", True),
        ("SELECT t.k, count(*) FROM t JOIN u ON t.k = u.owner GROUP BY t.k", True),
        ("SELECT t.k, count(*) FROM t LEFT JOIN u ON t.k = u.owner GROUP BY t.k", True),
        ("SELECT u.owner, count(*) FROM t RIGHT JOIN u ON t.k = u.owner GROUP BY u.owner", True),
        # Where there is no row of u, its key is NULL: on several shards.
        ("SELECT u.owner, count(*) FROM t LEFT JOIN u ON t.k = u.owner GROUP BY u.owner", False),
        ("SELECT t.k, count(*) FROM t RIGHT JOIN u ON t.k = u.owner GROUP BY t.k", False),
        ("SELECT t.k, count(*) FROM t FULL JOIN u ON t.k = u.owner GROUP BY t.k", False),
        # Columns that have the name of another table's key.
        ("SELECT u.k, count(*) FROM t JOIN u ON t.k = u.owner GROUP BY u.k", False),
        ("SELECT t.owner, count(*) FROM t JOIN u ON t.k = u.owner GROUP BY t.owner", False),
        ("SELECT r.k, count(*) FROM t JOIN ref r ON t.id = r.id GROUP BY r.k", False),
    ],
)
def test_groups_are_only_left_to_shards_where_the_key_tells_them_apart(sql, is_whole):
    assert (scatter(sql, KEYS, REFERENCE).groups is None) == is_whole


def test_only_the_key_itself_is_counted_by_adding():
    sql = "SELECT count(DISTINCT {}) FROM t JOIN u ON t.k = u.owner"
    assert scatter(sql.format("t.k"), KEYS).columns[0].merge == "sum"
    assert scatter(sql.format("u.k"), KEYS).columns[0].merge == "distinct"


def test_a_key_to_order_by_is_told_with_its_type():
    plan = scatter("SELECT a FROM t ORDER BY a DESC, k", KEYS)
    assert plan.columns == (Column("", hidden=True), Column("", hidden=True))
    # The type, the value, then the key, whose type is known.
    assert plan.order == (Order(0), Order(-1, is_desc=True, nulls_first=True), Order(1))
    assert scatter("SELECT a FROM t ORDER BY a", {"t": TableKey("a", "text")}).order == (Order(0), Order(-1))


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        ("SELECT a AS x, b AS a FROM t ORDER BY a", 1),
        ("SELECT a, b FROM t ORDER BY t.b", 1),
        ("SELECT a, b FROM t ORDER BY 2", 1),
        ("SELECT a, b AS x FROM t ORDER BY (b)", 1),
    ],
)
def test_order_is_by_the_name_before_the_column(sql, index):
    assert scatter(sql, KEYS).order[-1].column == index - 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM t a JOIN t b ON a.k = b.k",
        "SELECT count(*) FROM t a JOIN u b ON (a.id = b.id AND (a.k = b.owner))",
        "SELECT count(*) FROM t, u WHERE u.owner = t.k",
        "SELECT count(*) FROM t JOIN v USING (k)",
        "SELECT count(*) FROM t a, t b, u c WHERE a.k = b.k AND b.k = c.owner",
        "SELECT count(*) FROM t LEFT JOIN ref r ON r.id = t.id",
        "SELECT count(*) FROM ref r JOIN t ON r.id = t.id LEFT JOIN v ON v.k = t.k",
        "SELECT count(*) FROM ref r RIGHT JOIN t ON r.id = t.id",
    ],
)
def test_joins_of_rows_that_are_on_one_shard(sql):
    assert scatter(sql, KEYS, REFERENCE).columns[0].merge == "sum"


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT 1 FROM t JOIN u ON t.id = u.id", "joined by another column than its key"),
        ("SELECT 1 FROM t JOIN v ON t.k = v.k OR t.id = 1", "joined by another column"),
        ("SELECT 1 FROM t JOIN v ON NOT (t.k = v.k)", "joined by another column"),
        ("SELECT 1 FROM t JOIN v ON t.k = v.k + 1", "joined by another column"),
        ("SELECT 1 FROM t a JOIN t b ON a.k = b.k, u c JOIN u d ON c.owner = d.owner", "joined by another column"),
        ("SELECT 1 FROM t a JOIN u b ON a.id = b.id LEFT JOIN v ON v.k = a.k AND a.k = b.owner", "joined by another"),
        ("SELECT 1 FROM ref r LEFT JOIN t ON t.id = r.id", "keeps rows that every shard has"),
        ("SELECT 1 FROM t RIGHT JOIN ref r ON t.id = r.id", "keeps rows that every shard has"),
        ("SELECT 1 FROM t FULL JOIN ref r ON t.id = r.id", "keeps rows that every shard has"),
        ("SELECT x FROM unnest(ARRAY[1]) x LEFT JOIN t ON t.id = x", "keeps rows that every shard has"),
        ("SELECT jsonb_agg(a) FROM t", "is not put together"),
        ("SELECT every(a) FROM t", "is not put together"),
        ("SELECT range_agg(a) FROM t", "is not put together"),
        ("SELECT pg_catalog.count(*) FROM t", "computes with aggregates"),
        ("SELECT mode() WITHIN GROUP (ORDER BY a) FROM t", "is not put together"),
        ("SELECT 1 FROM t HAVING true", "HAVING"),
        ("SELECT lower(a) AS a, count(*) FROM t GROUP BY a", "neither an aggregate nor in GROUP BY"),
        ("SELECT 1 AS a, count(*) FROM t GROUP BY a", "the column where there is one"),
        ("SELECT count(*) FROM t GROUP BY 5", "is not a column of the answer"),
        ("SELECT count(*) FROM t GROUP BY ()", "GROUP BY ()"),
        ("SELECT a, count(*) FROM t GROUP BY GROUPING SETS ((a), ())", "GROUPING SETS"),
        ("SELECT * FROM t ORDER BY 2", "is not a column of the answer"),
        ("SELECT DISTINCT a FROM t ORDER BY b", "what DISTINCT does not keep"),
        ("SELECT a FROM t WHERE a > 1_000", "the number 1_000"),
        ("SELECT a FROM t WHERE a > 0x1F", "not decimal"),
        ("SELECT a FROM t FETCH FIRST 2 ROWS WITH TIES", "LIMIT and OFFSET"),
        ("DELETE FROM t", "takes a SELECT, not DELETE"),
    ],
)
def test_what_would_be_answered_otherwise_is_refused_with_a_hint(sql, told):
    with pytest.raises(CannotScatter) as caught:
        scatter(sql, KEYS, REFERENCE)
    assert told in caught.value.message
    assert caught.value.hint


def test_an_app_that_does_not_ask_all_shards_does_not_pay_for_reading_sql():
    code = "import sys, headway.sharding.client.database, headway.sharding.merge; print('sqlglot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
