"""What stands against an import is named before anything is done, all of it at once; faults in its middle undo it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from import_place import JOINS, KEYS, SHARD, SHARDS, SOURCE, Shop, run_import, servers, shop, shopping
from postgresql_place import wait_for

from headway.errors import AppError, Conflict, EngineError
from headway.model.sharding import Join, schema_name
from headway.sharding.importing.nouns import Source
from headway.sharding.keys import shard_of


@pytest.fixture(scope="module")
def started() -> Iterator[Shop]:
    with shop(customers=30) as found:
        yield found


@pytest.fixture
def place(started: Shop) -> Iterator[Shop]:
    """Afterwards nothing is there that was not before."""
    started.joins, started.reference = dict(JOINS), ("countries",)
    yield started
    if started.importer().now() is not None:
        started.importer().abort()
        with pytest.raises(AppError):
            started.importer().resume(started.importer().now().id, started.source)
    assert started.leftovers(after_switch=False) == []


def refusal(place: Shop, *statements: str) -> str:
    """What is said against an import when the source has been changed so; then it is changed back."""
    with place.admin("main") as admin:
        for statement in statements[: (len(statements) + 1) // 2]:
            admin.execute(statement.encode())
    try:
        with pytest.raises(AppError) as error:
            place.importer().begin(place.source)
        assert error.value.hint
        return error.value.message
    finally:
        with place.admin("main") as admin:
            for statement in statements[(len(statements) + 1) // 2 :]:
                admin.execute(statement.encode())


def test_all_reasons_are_told_at_once(place):
    told = refusal(
        place,
        "ALTER TABLE customers ADD COLUMN extra int",
        "ALTER TABLE line_notes SET UNLOGGED",
        "ALTER TABLE orders RENAME COLUMN note TO noted",
        "ALTER TABLE customers DROP COLUMN extra",
        "ALTER TABLE line_notes SET LOGGED",
        "ALTER TABLE orders RENAME COLUMN noted TO note",
    )
    assert "column customers.extra is not in the shards" in told
    assert "table line_notes of the source is unlogged" in told
    assert "column orders.noted is not in the shards" in told


def test_a_type_that_differs(place):
    told = refusal(
        place, "ALTER TABLE order_lines ALTER product TYPE bigint", "ALTER TABLE order_lines ALTER product TYPE int"
    )
    assert "order_lines.product is bigint at the source and integer in the shards" in told


def test_a_table_without_a_key_of_its_rows(place):
    told = refusal(
        place,
        "ALTER TABLE line_notes DROP CONSTRAINT line_notes_pkey",
        "ALTER TABLE line_notes ADD CONSTRAINT line_notes_pkey PRIMARY KEY (id)",
    )
    assert "line_notes of the source has no primary key" in told


def test_a_table_that_is_not_there(place):
    told = refusal(place, "ALTER TABLE line_notes RENAME TO notes", "ALTER TABLE notes RENAME TO line_notes")
    assert "the source has no table public.line_notes" in told


def test_rows_that_belong_to_no_shard(place):
    told = refusal(
        place,
        "ALTER TABLE line_notes DROP CONSTRAINT line_notes_order_ref_fkey; "
        "INSERT INTO line_notes VALUES (gen_random_uuid(), 1, 1, 'lost', 999999)",
        "DELETE FROM line_notes WHERE order_ref = 999999; ALTER TABLE line_notes ADD FOREIGN KEY (order_ref) "
        "REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE",
    )
    assert "line_notes of the source has rows without a parent in orders" in told


def test_a_child_without_a_join(place):
    place.joins = {"order_lines": JOINS["order_lines"]}
    with pytest.raises(AppError, match="line_notes of the source has no column customer_id") as error:
        place.importer().begin(place.source)
    assert "joins = { line_notes" in error.value.hint


def test_joins_that_cannot_be(place):
    place.joins = {"order_lines": Join("order_id", "orders", "note"), "line_notes": Join("nothing", "orders", "id")}
    with pytest.raises(AppError) as error:
        place.importer().begin(place.source)
    assert "orders.note is not unique" in error.value.message
    assert "line_notes of the source has no column nothing" in error.value.message


def test_shards_that_hold_rows(place):
    schema = schema_name("orders", 0)
    with place.admin("s1") as admin:
        admin.execute(f'SET session_replication_role = replica; SET search_path = "{schema}"'.encode())
        customer = next(number for number in range(100) if shard_of(number, SHARDS, "int") == 0)
        admin.execute("INSERT INTO customers (id, email, country) VALUES (%s, '', 'at')", (customer,))
    with pytest.raises(AppError, match=r"table customers holds rows in shard 0 already"):
        place.importer().begin(place.source)
    with place.admin("s1") as admin:
        admin.execute(f'DELETE FROM "{schema}".customers'.encode())


def test_the_source_is_a_server_of_the_shards(place):
    with pytest.raises(AppError, match="the source is the database of server s1 itself"):
        place.importer().begin(Source("x", place.way("s1"), place.way("s1")))


def test_a_source_that_is_not_there(place):
    nowhere = "host=/nonexistent port=1"
    with pytest.raises(EngineError, match="the source does not answer"):
        place.importer().begin(Source("x", nowhere, nowhere))


def test_a_table_in_the_way_of_the_copies(place):
    with place.admin("s2") as admin:
        admin.execute("CREATE TABLE public.orders (mine int)")
    try:
        with pytest.raises(AppError, match="server s2 has tables orders in schema public"):
            place.importer().begin(place.source)
    finally:
        with place.admin("s2") as admin:
            admin.execute("DROP TABLE public.orders")


def test_one_at_a_time(place):
    with place.admin("main") as admin:
        admin.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '512MB'")
        admin.execute("SELECT pg_reload_conf()")

    def is_known() -> bool:
        """To those who come from now on."""
        with place.admin("main") as newcomer:
            return bool(newcomer.execute("SHOW max_slot_wal_keep_size").fetchone() == ("512MB",))

    wait_for(is_known, "the server has read its files anew")
    import_id, checked = place.importer().begin(place.source)
    assert "no more than 512 MiB of log" in checked.notes[0]
    with pytest.raises(Conflict, match="is under way"):
        place.importer().begin(place.source)
    carrier = run_import(place, import_id, switch_max_s=150.0)
    place.importer().abort()
    carrier.join(100)
    with pytest.raises(AppError, match="nothing is being imported"):
        place.importer().switch()


def test_a_migration_in_the_middle_undoes_it(place):
    import_id, _ = place.importer().begin(place.source)
    carrier = run_import(place, import_id, switch_max_s=150.0)
    wait_for(lambda: place.importer().now().stage == "verified", "it follows", 100)
    with place.admin("main") as admin:
        admin.execute("ALTER TABLE orders ADD COLUMN later int")
    place.importer().switch()
    carrier.join(100)
    with place.admin("main") as admin:
        admin.execute("ALTER TABLE orders DROP COLUMN later")
    assert "were changed during the import" in str(carrier.error)


def test_rows_that_the_shards_have_otherwise_undo_it(place):
    import_id, _ = place.importer().begin(place.source)
    carrier = run_import(place, import_id, switch_max_s=150.0)
    wait_for(lambda: place.importer().now().stage == "verified", "it follows", 100)
    carrier.halt()
    # Nobody compares now, and changes are carried on.
    with place.admin("main") as admin:
        number = admin.execute("INSERT INTO orders (customer_id, note) VALUES (7, 'right') RETURNING id").fetchone()[0]
    wait_for(lambda: len(place.shard_rows("orders")) == len(place.rows("orders")), "it arrives", 60)
    for server in ("s1", "s2"):
        with place.admin(server) as admin:
            admin.execute("SET session_replication_role = replica")
            for shard in place.map().on(server):
                schema = schema_name("orders", shard)
                admin.execute(f"UPDATE \"{schema}\".orders SET note = 'wrong' WHERE id = {number}".encode())
    with pytest.raises(AppError, match=f'table orders: 1 rows differ .*"id": {number}'):
        place.importer().resume(import_id, place.source)


def test_a_table_that_is_emptied_is_compared_anew():
    with shop(customers=20) as place:
        import_id, _ = place.importer().begin(place.source)
        with shopping(place):
            carrier = run_import(place, import_id, switch_max_s=150.0)
            wait_for(lambda: place.importer().now().stage == "verified", "it follows", 100)
            with place.admin("main") as admin:
                admin.execute("TRUNCATE order_lines")
            place.importer().switch()
            carrier.join(170)
        assert carrier.error is None
        place.audit()


def test_a_key_that_tells_rows_apart_is_filtered_at_the_source():
    """Each server gets its own rows alone."""
    keys = {**KEYS, "customers": "id"}
    with servers("main", "s1", "s2") as place:
        place.create_source(SOURCE.replace("PRIMARY KEY,\n                     customer_id", ",\n customer_id").replace(
            "STORED);\nCREATE TABLE order_lines", "STORED, PRIMARY KEY (id, customer_id), UNIQUE (id));"
            "\nCREATE TABLE order_lines"
        ).replace("REFERENCES orders ON", "REFERENCES orders (id) ON"))  # fmt: skip
        place.fill(40)
        place.lay_out(keys, SHARD)
        import_id, checked = place.importer().begin(place.source)
        assert [table.name for table in checked.plan.tables if table.can_filter] == ["customers", "orders"]
        with shopping(place):
            carrier = run_import(place, import_id, switch_max_s=150.0)
            wait_for(lambda: place.importer().now().stage == "verified", "it follows", 100)
            counts = []
            for server in ("s1", "s2"):
                with place.admin(server) as admin:
                    counts.append(admin.execute("SELECT count(*) FROM public.orders").fetchone()[0])
            assert all(0 < count < sum(counts) for count in counts)
            place.importer().switch()
            carrier.join(170)
        assert carrier.error is None
        place.audit()
