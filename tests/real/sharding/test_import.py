"""A plain database's tables go into shards while they are written to: what was committed is there once."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from import_place import SHARDS, Shop, run_import, shop, shopping
from postgresql_place import wait_for

from headway.model.sharding import schema_name


@pytest.fixture
def place() -> Iterator[Shop]:
    with shop() as found:
        yield found


def stage(place: Shop) -> str:
    now = place.importer().now()
    return now.stage if now is not None else ""


def test_all_goes_into_the_shards_while_it_is_written_to(place):
    import_id, checked = place.importer().begin(place.source)
    assert checked.left_alone == ("visits",)
    with shopping(place) as customers:
        carrier = run_import(place, import_id, switch_max_s=150.0)
        wait_for(lambda: stage(place) == "verified" or not carrier.is_alive(), "it follows", 100)
        assert carrier.is_alive(), carrier.error
        before = sum(one.done for one in customers)
        wait_for(lambda: sum(one.done for one in customers) > before + 100, "customers go on", 100)
        assert stage(place) == "verified"
        place.importer().switch()
        carrier.join(170)
        assert carrier.error is None
        result = place.importer().read(import_id)
        assert result.stage == "done", result
        wait_for(lambda: all(one.refused > 3 for one in customers), "the source refuses all")
    place.audit()
    assert place.leftovers(after_switch=True) == []
    assert result.number("write_pause_ms") > 0
    assert result.number("rows") > 200
    with place.admin("s2") as admin:
        assert admin.execute("SELECT name FROM headway_reference.countries WHERE code = 'ch'").fetchall() == [
            ("Switzerland",)
        ]
        assert admin.execute("SELECT count(*) FROM headway_reference.countries").fetchone() == (2,)
    print(f"pause {result.number('write_pause_ms')} ms, compared {result.number('compared')}, {result.facts}")


def test_the_shards_are_the_truth_after_it(place):
    import_id, _ = place.importer().begin(place.source)
    carrier = run_import(place, import_id, switch_max_s=150.0)
    place.importer().switch()
    carrier.join(100)
    assert (carrier.error, place.importer().read(import_id).stage) == (None, "done")
    place.audit()
    with place.admin("main") as admin:
        highest = admin.execute("SELECT max(id) FROM orders").fetchone()[0]
    # As the app: it writes to the shards and not to the source, and numbers are given once in all shards.
    numbers = []
    map_ = place.map()
    for shard in range(SHARDS):
        server = place.servers[map_.owners[shard]]
        with psycopg.connect(server.url, options=f"-c search_path={schema_name('orders', shard)}") as app:
            customer = app.execute("SELECT id FROM customers LIMIT 1").fetchone()[0]
            for _ in range(3):
                made = app.execute("INSERT INTO orders (customer_id) VALUES (%s) RETURNING id", (customer,))
                numbers.append(made.fetchone()[0])
            # As it was written for one server: the row's key is its parent's.
            app.execute("INSERT INTO order_lines (order_id, product, quantity) VALUES (%s, 1, 1)", (numbers[-1],))
            made = app.execute("SELECT customer_id FROM order_lines WHERE order_id = %s", (numbers[-1],))
            assert made.fetchone()[0] == customer
    assert len(set(numbers)) == 3 * SHARDS
    assert min(numbers) > highest
    with psycopg.connect(place.servers["main"].url) as app, pytest.raises(psycopg.Error) as refused:
        app.execute("DELETE FROM orders")
    assert refused.value.sqlstate == "HW001"


def test_an_abort_leaves_nothing(place):
    with shopping(place):
        for wanted in ("prepared", "copied", "verified"):
            place.told.clear()
            import_id, _ = place.importer().begin(place.source)
            carrier = run_import(place, import_id, switch_max_s=150.0)
            wait_for(lambda w=wanted: any(told.stage == w for told in place.told), wanted, 100)
            place.importer().abort()
            carrier.join(100)
            assert "aborted by hand" in str(carrier.error)
            assert place.importer().read(import_id).stage == "aborted"
            assert place.leftovers(after_switch=False) == []
            assert place.shard_rows("orders") == []
    with place.admin("s1") as admin:
        assert admin.execute("SELECT * FROM headway_reference.countries").fetchall() == [("at", "from the schema")]
