"""Partitioned tables go into shards as a whole, while their partitions come, go and are written to."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from import_place import SHARD, SOURCE, Shop, run_import, servers, shopping
from postgresql_place import wait_for

from headway.errors import AppError

# By range, list and hash, over two levels, with defaults, and with columns in another order than the table's.
PARTITIONS = {
    "customers": """PARTITION BY RANGE (id);
        CREATE TABLE customers_first PARTITION OF customers FOR VALUES FROM (MINVALUE) TO (50) PARTITION BY HASH (id);
        CREATE TABLE customers_even PARTITION OF customers_first FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE customers_odd PARTITION OF customers_first FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        CREATE TABLE customers_rest PARTITION OF customers DEFAULT""",
    "orders": """PARTITION BY HASH (id);
        CREATE SCHEMA archive;
        CREATE TABLE archive."orders 0" PARTITION OF orders FOR VALUES WITH (MODULUS 3, REMAINDER 0);
        CREATE TABLE orders_1 PARTITION OF orders FOR VALUES WITH (MODULUS 3, REMAINDER 1);
        CREATE TABLE orders_2 (note text, status mood NOT NULL DEFAULT 'new', gone int, id bigint NOT NULL,
            twice bigint GENERATED ALWAYS AS (id * 2) STORED, customer_id integer NOT NULL);
        ALTER TABLE orders_2 DROP COLUMN gone;
        ALTER TABLE orders ATTACH PARTITION orders_2 FOR VALUES WITH (MODULUS 3, REMAINDER 2)""",
    "order_lines": """PARTITION BY LIST (product);
        CREATE TABLE order_lines_1 PARTITION OF order_lines FOR VALUES IN (1);
        CREATE TABLE order_lines_few PARTITION OF order_lines FOR VALUES IN (2, 3);
        CREATE TABLE order_lines_rest PARTITION OF order_lines DEFAULT""",
}


def partitioned(script: str = SOURCE) -> str:
    """The shop's schema with partitions."""
    statements = script.split(";\n")
    for number, statement in enumerate(statements):
        name = statement.removeprefix("CREATE TABLE ").split(" ")[0]
        statements[number] += f" {PARTITIONS[name]}" if name in PARTITIONS else ""
    return ";\n".join(statements)


@pytest.fixture
def place() -> Iterator[Shop]:
    with servers("main", "s1", "s2") as found:
        found.create_source(partitioned())
        with found.admin("main") as admin:
            role = found.servers["main"].role
            admin.execute(
                f'GRANT USAGE ON SCHEMA archive TO {role}; GRANT ALL ON archive."orders 0" TO {role}'.encode()
            )
        found.fill(80)
        found.lay_out()
        yield found


def follow(place: Shop) -> tuple[int, object]:
    import_id, checked = place.importer().begin(place.source)
    assert (checked.left_alone, checked.rows > 300) == (("visits",), True)
    carrier = run_import(place, import_id, switch_max_s=150.0)
    wait_for(lambda: stage(place) == "verified" or not carrier.is_alive(), "it follows", 100)
    assert carrier.is_alive(), carrier.error
    return import_id, carrier


def stage(place: Shop) -> str:
    now = place.importer().now()
    return now.stage if now is not None else ""


def at_source(place: Shop, *statements: str) -> None:
    """Tables are locked in the order in which the customers lock them: else one of the two meets a deadlock."""
    with place.admin("main") as admin:
        admin.execute("SET lock_timeout = '60s'")
        for statement in statements:
            if not statement.startswith(("INSERT", "DELETE", "UPDATE", "TRUNCATE")):
                statement = f"BEGIN; LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE; {statement}; COMMIT"
            admin.execute(statement.encode())


def compared_again(place: Shop, why: str) -> None:
    wait_for(lambda: any(why in told.waiting for told in place.told), why, 60)
    wait_for(lambda: stage(place) == "verified", "all is compared again", 100)
    place.told.clear()


def test_all_partitions_go_into_the_shards_while_they_are_written_to(place):
    with shopping(place) as customers:
        import_id, carrier = follow(place)
        at_source(place, "CREATE TABLE order_lines_far PARTITION OF order_lines FOR VALUES IN (7, 8)")
        compared_again(place, "partitions of order_lines were changed")
        at_source(
            place,
            "INSERT INTO order_lines SELECT min(id), 7, 1 FROM orders",
            "DELETE FROM order_lines WHERE product = 7",
            "ALTER TABLE order_lines DETACH PARTITION order_lines_far",
            "INSERT INTO order_lines SELECT min(id), 7, 1 FROM orders",  # into the default one
        )
        compared_again(place, "partitions of order_lines were changed")
        before = sum(one.done for one in customers)
        wait_for(lambda: sum(one.done for one in customers) > before + 100, "customers go on", 100)
        place.importer().switch()
        carrier.join(170)
        assert carrier.error is None
        assert place.importer().read(import_id).stage == "done"
        wait_for(lambda: all(one.refused > 3 for one in customers), "the source refuses all")
    place.audit()
    assert place.leftovers(after_switch=True) == []
    # Whoever names a partition meets the fence as well, at every level.
    for name in ("customers_first", "customers_odd", "customers_rest", "orders_2", 'archive."orders 0"'):
        with psycopg.connect(place.servers["main"].url) as app, pytest.raises(psycopg.Error) as refused:
            app.execute(f"DELETE FROM {name}".encode())
        assert refused.value.sqlstate == "HW001", name
    at_source(place, "DROP SCHEMA headway_import_orders CASCADE", "DELETE FROM customers_rest")


def test_rows_that_come_or_go_with_a_partition_undo_it(place):
    changes = {
        "come": (
            "CREATE TABLE order_lines_far (LIKE order_lines INCLUDING ALL)",
            "INSERT INTO order_lines_far SELECT min(id), 7, 1 FROM orders",
            "ALTER TABLE order_lines ATTACH PARTITION order_lines_far FOR VALUES IN (7)",
        ),
        "are emptied": ("TRUNCATE order_lines_1",),
        "change while they are away": (
            "ALTER TABLE order_lines DETACH PARTITION order_lines_few",
            "UPDATE order_lines_few SET quantity = 99",
            "ALTER TABLE order_lines ATTACH PARTITION order_lines_few FOR VALUES IN (2, 3)",
        ),
        "go": ("ALTER TABLE order_lines DETACH PARTITION order_lines_few",),
    }
    for how, statements in changes.items():
        _, carrier = follow(place)
        # In one transaction: what was looked at before and after it is as alike as it can be.
        at_source(place, f"BEGIN; {'; '.join(statements)}; COMMIT")
        place.importer().switch()
        carrier.join(100)
        message = str(carrier.error)
        assert "table order_lines: " in message, how
        assert "partitions of order_lines were changed meanwhile" in message, how
        assert "that are empty" in carrier.error.hint, how
        assert place.leftovers(after_switch=False) == [], how
        assert place.shard_rows("order_lines") == [], how


def test_a_partition_that_goes_and_comes_back_as_it_was(place):
    import_id, carrier = follow(place)
    at_source(
        place,
        "BEGIN; ALTER TABLE order_lines DETACH PARTITION order_lines_1; "
        "ALTER TABLE order_lines ATTACH PARTITION order_lines_1 FOR VALUES IN (1); COMMIT",
    )
    compared_again(place, "partitions of order_lines were changed")
    place.importer().switch()
    carrier.join(170)
    assert carrier.error is None
    assert place.importer().read(import_id).stage == "done"
    place.audit()


def test_partitions_that_cannot_be_carried_are_named_before_and_during_it(place):
    def refusal() -> str:
        with pytest.raises(AppError) as error:
            place.importer().begin(place.source)
        assert error.value.hint
        return error.value.message

    at_source(place, "ALTER TABLE order_lines_1 SET UNLOGGED", "ALTER TABLE orders_1 REPLICA IDENTITY FULL")
    message = refusal()
    assert "partition order_lines_1 of table order_lines of the source is unlogged" in message
    assert "partition orders_1 of table orders of the source has another replica identity" in message
    at_source(
        place,
        "ALTER TABLE order_lines_1 SET LOGGED",
        "ALTER TABLE orders_1 REPLICA IDENTITY DEFAULT",
        "ALTER TABLE order_lines DROP CONSTRAINT order_lines_pkey, DROP CONSTRAINT order_lines_order_id_fkey",
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere",
        "CREATE FOREIGN TABLE order_lines_far PARTITION OF order_lines FOR VALUES IN (7) SERVER nowhere",
    )
    message = refusal()
    assert "table order_lines of the source has no primary key" in message
    assert "partition order_lines_far of table order_lines of the source is on another server" in message
    at_source(
        place, "DROP FOREIGN TABLE order_lines_far", "ALTER TABLE order_lines ADD PRIMARY KEY (order_id, product)"
    )
    _, carrier = follow(place)
    at_source(place, "CREATE UNLOGGED TABLE order_lines_far PARTITION OF order_lines FOR VALUES IN (7)")
    carrier.join(100)
    assert "partition order_lines_far of table order_lines of the source is unlogged" in str(carrier.error)
    assert place.leftovers(after_switch=False) == []


def test_shards_may_be_partitioned_as_well():
    with servers("main", "s1", "s2") as place:
        place.create_source(
            partitioned().replace("CREATE SCHEMA archive;", "").replace('archive."orders 0"', "orders_0")
        )
        place.fill(30)
        shard = SHARD.replace("text,\n                     status", "text, status").replace(
            "quantity integer NOT NULL, PRIMARY KEY (order_id, product));",
            "quantity integer NOT NULL, PRIMARY KEY (order_id, product)) PARTITION BY HASH (order_id);"
            "CREATE TABLE order_lines_0 PARTITION OF order_lines FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            "CREATE TABLE order_lines_1 PARTITION OF order_lines FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
        )
        place.lay_out(schema=shard)
        with shopping(place):
            _, carrier = follow(place)
            place.importer().switch()
            carrier.join(170)
        assert carrier.error is None
        place.audit()
