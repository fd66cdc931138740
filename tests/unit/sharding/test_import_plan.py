"""What is imported into which table, and what stands against it."""

from __future__ import annotations

from dataclasses import replace

from headway.model.sharding import Join, TableKey, parse_join
from headway.sharding.importing import statements
from headway.sharding.importing.carriers import carriers
from headway.sharding.importing.nouns import Column, FoundTable, Partition
from headway.sharding.importing.partitions import changed_shapes
from headway.sharding.importing.plan import Declared, ServerFacts, SourceFacts, make_plan, notes, of_servers

SCHEMA = "orders_0000"


def column(name: str, type_: str = "bigint", **more: bool) -> Column:
    return Column(name, type_, is_plain=more.pop("is_plain", True), **more)


ORDERS = FoundTable("orders", (column("id"), column("customer_id"), column("mood", "mood", is_plain=False)), ("id",),
                    unique=frozenset({"id"}))  # fmt: skip
LINES = FoundTable("lines", (column("order_id"), column("n")), ("order_id", "n"))
SHARD_ORDERS = replace(ORDERS, columns=(*ORDERS.columns[:2], column("mood", "orders_0000.mood", is_plain=False)))
SHARD_LINES = replace(LINES, columns=(column("customer_id", is_required=True), *LINES.columns))
KEYS = {"lines": TableKey("customer_id", "int"), "orders": TableKey("customer_id", "int")}
DECLARED = Declared("orders", 16, KEYS, (), {"lines": Join("order_id", "orders", "id")})


def plan(declared=DECLARED, orders=ORDERS, lines=LINES, shard_orders=SHARD_ORDERS, shard_lines=SHARD_LINES):
    source = {table.name: table for table in (orders, lines) if table is not None}
    return make_plan(declared, "public", source, {"orders": shard_orders, "lines": shard_lines}, SCHEMA)


def told(reasons) -> list[str]:
    assert all(reason.hint for reason in reasons)
    return [reason.message for reason in reasons]


def test_a_join_is_written_as_an_equation():
    assert parse_join("order_id = orders.id") == Join("order_id", "orders", "id")
    assert parse_join(" order_id=orders.id ") == Join("order_id", "orders", "id")
    for wrong in ("", "order_id", "order_id = id", "orders.id = order_id", "a = b.c; drop", "a = b.c.d"):
        assert parse_join(wrong) is None


def test_parents_come_before_their_children():
    found, reasons = plan()
    assert reasons == []
    assert [table.name for table in found.tables] == ["orders", "lines"]
    assert [table.name for table in found.children("orders")] == ["lines"]
    assert not found.table("orders").can_filter
    assert found.table("lines").join == Join("order_id", "orders", "id")


def test_what_others_refer_to_comes_before_them():
    names = ("a", "b", "c")
    keys = {name: TableKey("id", "int") for name in names}
    found = {name: FoundTable(name, (column("id"),), ("id",)) for name in names}

    def order(**refers: str) -> list[str]:
        shard = {name: replace(found[name], refers=frozenset(refers.get(name, ""))) for name in names}
        planned, reasons = make_plan(Declared("orders", 4, keys, (), {}), "public", found, shard, SCHEMA)
        assert reasons == []
        return [table.name for table in planned.tables]

    assert order(a="b", b="c") == ["c", "b", "a"]
    assert order(a="c", c="b") == ["b", "c", "a"]
    assert order(a="b", b="a") == ["c", "a", "b"]


def test_a_type_of_the_shards_own_is_the_same_in_each():
    found, _ = plan()
    assert found.table("orders").types["mood"] == '"@@".mood'
    assert '::"orders_0003".mood' in statements.fill(found, found.table("orders"), 3)


def test_a_key_at_the_source_needs_no_join():
    found, reasons = plan(lines=SHARD_LINES)
    assert reasons == []
    assert found.table("lines").join is None


def test_joins_in_a_circle_have_no_end():
    joins = {"lines": Join("order_id", "orders", "id"), "orders": Join("id", "lines", "order_id")}
    orders = replace(ORDERS, columns=(column("id"), ORDERS.columns[2]))
    lines = replace(LINES, unique=frozenset({"order_id"}))
    _, reasons = plan(replace(DECLARED, joins=joins), orders, lines)
    assert "joins of [databases.orders] go in a circle: lines, orders" in told(reasons)


def test_every_reason_is_told_at_once():
    orders = replace(ORDERS, columns=(*ORDERS.columns, column("more", "text")), is_logged=False, key=())
    _, reasons = plan(replace(DECLARED, joins={}), orders)
    assert told(reasons) == [
        "table lines of the source has no column customer_id, its key",
        "table orders of the source is unlogged, and what is not in the log is missed",
        "table orders of the source has no primary key, so its changed rows cannot be told apart",
        "column orders.more is not in the shards",
    ]


def test_a_key_of_another_type():
    orders = replace(ORDERS, columns=(column("id"), column("customer_id", "text"), ORDERS.columns[2]))
    _, reasons = plan(orders=orders)
    assert "the key orders.customer_id is text at the source, and the shards are spread by int" in told(reasons)


def test_what_the_shards_need_and_the_source_has_not():
    lines = replace(SHARD_LINES, columns=(*SHARD_LINES.columns, column("price", is_required=True)))
    _, reasons = plan(shard_lines=lines)
    assert told(reasons) == ["column lines.price of the shards is not at the source, and has no default"]
    lines = replace(SHARD_LINES, columns=(*SHARD_LINES.columns, column("price", is_required=True, has_default=True)))
    assert plan(shard_lines=lines)[1] == []


def test_servers_that_do_not_allow_it():
    source = SourceFacts(180000, "a", may_replicate=False, wal_level="replica", slots_free=1, role="app")
    one = ServerFacts("s1", 180000, "b", may_subscribe=False, workers=1, in_the_way=("orders",))
    assert told(of_servers(source, [one], "public")) == [
        "the source has wal_level = replica, which carries no logical replication",
        "the source has 1 of 2 needed replication slots to spare",
        "role app may not replicate from the source",
        "the login on server s1 may not create a subscription",
        "server s1 has max_logical_replication_workers = 1",
        "server s1 has tables orders in schema public",
    ]
    assert told(of_servers(source, [replace(one, identity="a")], "public")) == [
        "the source is the database of server s1 itself"
    ]
    old = replace(source, version=140010)
    assert "the source runs PostgreSQL 14, and 15 is the oldest that can be imported" in told(
        of_servers(old, [one], "public")
    )


def test_a_source_that_throws_log_away_is_told_of():
    source = SourceFacts(180000, "a")
    assert notes(source) == notes(replace(source, kept_max_mib=4096)) == ()
    assert "no more than 64 MiB of log" in notes(replace(source, kept_max_mib=64))[0]


def test_the_source_filters_where_the_key_is_in_what_tells_rows_apart():
    orders = replace(ORDERS, key=("customer_id", "id"))
    found, _ = plan(orders=orders)
    assert found.table("orders").can_filter
    text = statements.create_publication(found, "p", [0, 1])
    assert text.count("WHERE") == 1
    assert '"public"."lines" WITH' in text
    assert "IN (0, 1))" in text


def test_names_with_odd_letters_are_quoted():
    odd = FoundTable('o"rders', (column('i"d'), column("customer_id")), ('i"d',))
    declared = Declared("orders", 4, {'o"rders': TableKey("customer_id", "int")}, (), {})
    found, reasons = make_plan(declared, 'pub"lic', {odd.name: odd}, {odd.name: odd}, SCHEMA)
    assert reasons == []
    for text in (
        statements.staging(found, found.tables[0], "it's"),
        statements.fill(found, found.tables[0], 1),
        carriers(found, [0, 1]),
        statements.create_publication(found, 'n"ame', [0]),
    ):
        assert 'o"rders"' not in text.replace('o""rders', "")


def test_a_partitioned_table_is_imported_as_a_whole():
    partitions = (Partition("orders_old", kind="p"), Partition("orders_old_1"), Partition("archive.orders_2"))
    found, reasons = plan(orders=replace(ORDERS, kind="p", partitions=partitions))
    assert reasons == []
    assert [table.is_partitioned for table in found.tables] == [True, False]
    text = statements.create_publication(found, "p", [0])
    assert 'TABLE "headway_import_orders"."headway_marker", "public"."orders", "public"."lines" WITH' in text
    assert "publish_via_partition_root = true" in text
    # The copy is an ordinary table, and the fence is put on each partition.
    assert "PARTITION" not in statements.staging(found, found.table("orders"), "ours")
    assert 'pg_partition_tree(\'"public"."orders"\')' in statements.fence_source(found, found.table("orders"), 40)
    assert "pg_partition_tree" not in statements.fence_source(found, found.table("lines"), 40)


def test_partitions_whose_rows_cannot_be_carried_are_named():
    partitions = (
        Partition("far", kind="f"),
        Partition("theirs", is_owned=False),
        Partition("fast", is_logged=False),
        Partition("bare", has_key=False),
        Partition("other", identity="f"),
        Partition("other_2", identity="f"),
        Partition("inner", kind="p", has_key=False, identity="n"),
    )
    _, reasons = plan(orders=replace(ORDERS, kind="p", partitions=partitions))
    assert told(reasons) == [
        "partition far of table orders of the source is on another server, whose log does not come here",
        "partition theirs of table orders of the source is not the login's own, which cannot fence it",
        "partition fast of table orders of the source is unlogged, and what is not in the log is missed",
        "partition bare of table orders of the source has no primary key",
        "partition other of table orders of the source has another replica identity than the table",
    ]


def test_partitioned_tables_that_cannot_be_followed():
    _, reasons = plan(orders=replace(ORDERS, kind="p", key=()))
    assert told(reasons) == ["table orders of the source has no primary key, so its changed rows cannot be told apart"]
    assert "partitioned by" in reasons[0].hint
    _, reasons = plan(orders=replace(ORDERS, kind="p", identity="i"))
    assert told(reasons) == ["table orders of the source, which is partitioned, has a replica identity of its own"]
    _, reasons = plan(orders=replace(ORDERS, kind="p", unique=frozenset()))
    assert "orders.id is not unique" in told(reasons)[0]
    assert "give lines itself the column customer_id" in reasons[0].hint


def test_parts_of_other_kinds_are_refused():
    _, reasons = plan(orders=replace(ORDERS, partition_of="all_orders"))
    assert told(reasons) == ["table orders of the source is a partition of all_orders"]
    _, reasons = plan(orders=replace(ORDERS, kind="i"))
    assert told(reasons) == ["table orders of the source inherits, or is inherited from"]


def test_tables_whose_partitions_have_changed():
    assert changed_shapes({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == []
    assert changed_shapes({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ["a", "b", "c"]
