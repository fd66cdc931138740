"""Shards are laid out whole or not at all: refusals by name, a kill in the middle, quickly when nothing is to do."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from empty_servers import schemas
from postgresql_place import die_with_parent, wait_for

from headway.errors import AppError, Conflict
from headway.model.sharding import LEDGER_TABLE, MARKER_TABLE
from headway.sharding import locks
from headway.sharding.admin import AdminServer, connect
from headway.sharding.ids import shard_of_id
from headway.sharding.keys import shard_of
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout

SHARDS = 256
SCHEMA = """
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('ch'), ('li');
CREATE TABLE orders (id bigint NOT NULL, customer text NOT NULL, country text REFERENCES countries);
CREATE TABLE lines (customer varchar(80) NOT NULL, number int GENERATED ALWAYS AS IDENTITY);
"""
KEYS = {"orders": "customer", "lines": "customer"}


def wanted(folder: Path, schema: str = SCHEMA, *, shards: int = 8, **more: object) -> Layout:
    file = folder / "schema.sql"
    file.write_text(schema)
    found = Layout("shop", "orders", shards, KEYS, ("countries",), file)
    return replace(found, **more)  # type: ignore[arg-type]


def test_what_is_there_costs_no_second(servers, tmp_path):
    began_s = time.monotonic()
    layout = wanted(tmp_path, shards=SHARDS)
    map_, made = lay_out(layout, servers)
    first_s = time.monotonic() - began_s
    assert made
    assert {name: key.kind for name, key in map_.keys.items()} == {"orders": "text", "lines": "text"}
    assert [len(map_.on(name)) for name in ("s1", "s2")] == [SHARDS // 2, SHARDS // 2]
    took_s = []
    for _ in range(3):  # one of them has the machine for as long as it needs
        began_s = time.monotonic()
        again, made = lay_out(layout, servers)
        took_s.append(time.monotonic() - began_s)
        assert not made
        assert again == map_
    assert min(took_s) < max(1.0, first_s / 2)
    for server in servers:
        with connect(server) as connection:
            found = connection.execute(
                "SELECT count(*) FILTER (WHERE conname = 'headway_shard') FROM pg_constraint"
            ).fetchone()
            assert found == (SHARDS,)  # two tables in each of half the shards
            assert connection.execute("SELECT count(*) FROM headway_reference.countries").fetchone() == (2,)
            place = schemas(server)[0]
            rows = connection.execute(f"SELECT name FROM {place}.{LEDGER_TABLE}").fetchall()  # type: ignore[call-overload]
            assert {row[0] for row in rows} == {"schema:schema.sql", "schema:shards"}
            assert connection.execute(f"SELECT to_regclass('{place}.{MARKER_TABLE}')::text").fetchone() != (None,)  # type: ignore[call-overload]


CHILD = """
import sys
from pathlib import Path
from headway.sharding.admin import AdminServer
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout
a, b, file = eval(sys.argv[1]), eval(sys.argv[2]), Path(sys.argv[3])
lay_out(Layout("shop", "orders", 256, {"orders": "customer", "lines": "customer"}, ("countries",), file),
        (AdminServer(**a), AdminServer(**b)))
"""


def _told(server: AdminServer) -> str:
    return repr({name: getattr(server, name) for name in AdminServer.__slots__})


def test_a_kill_in_the_middle_is_gone_on_from(servers, tmp_path):
    layout = wanted(tmp_path, shards=SHARDS)
    arguments = [*map(_told, servers), str(layout.schema_file)]
    with psycopg.connect(servers[0].admin) as one, psycopg.connect(servers[1].admin) as other:
        # It has to wait for these, which come to nothing.
        one.execute("CREATE SCHEMA orders_0100")
        other.execute("CREATE SCHEMA orders_0200")
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], preexec_fn=die_with_parent())
        wait_for(lambda: len(schemas(servers[0])) > 10, "the first shards are there", 100)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
        before = len(schemas(servers[0])) + len(schemas(servers[1]))
        assert 10 < before < SHARDS
        one.rollback()
        other.rollback()
    with pytest.raises(Conflict, match="holds shard 0 of 256, 512 are declared"):
        lay_out(wanted(tmp_path, shards=512), servers)
    map_, made = lay_out(layout, servers)
    assert made
    assert len(schemas(servers[0])) + len(schemas(servers[1])) == SHARDS == map_.shards


@pytest.mark.parametrize(
    ("schema", "more", "told"),
    [
        ("CREATE TABLE more (id int);" + SCHEMA, {}, "databases.orders.keys: table more has no key"),
        (SCHEMA, {"keys": {**KEYS, "gone": "id"}}, "databases.orders.keys.gone: the schema creates no table gone"),
        (SCHEMA, {"keys": {**KEYS, "orders": "who"}}, "table orders has no column who"),
        (SCHEMA, {"keys": {**KEYS, "orders": "country"}}, "column country of table orders may be NULL"),
        (SCHEMA, {"keys": {**KEYS, "orders": "id"}}, "keys are of different types: int, text"),
        (SCHEMA.replace("id bigint", "id real"), {"keys": {**KEYS, "orders": "id"}}, "column id is of type real"),
        (SCHEMA, {"reference": ("countries", "cities")}, "reference: the schema creates no table cities"),
        (SCHEMA, {"ids": {"orders": "number"}}, "ids.orders: table orders has no column number"),
        (SCHEMA, {"ids": {"lines": "number"}}, "ids.lines: column number is of type integer"),
        (SCHEMA + "SELEC 1;", {}, "schema.sql"),
        (SCHEMA + "ROLLBACK;", {}, "ROLLBACK does not go into a schema"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_leaves_no_shard(servers, tmp_path, schema, more, told):
    with pytest.raises(AppError, match=told) as caught:
        lay_out(wanted(tmp_path, schema, **more), servers)
    assert caught.value.hint
    assert schemas(servers[0]) == schemas(servers[1]) == []
    map_, _ = lay_out(wanted(tmp_path), servers)  # corrected, it goes on
    assert map_.shards == 8


def test_a_catalog_of_something_else_is_left_alone(servers, tmp_path):
    lay_out(wanted(tmp_path), servers)
    for other, told in (
        ({"shards": 16}, "it was created with 8, and 16 are declared"),
        ({"system": "site"}, "holds the catalog of database orders of system shop"),
    ):
        with pytest.raises(Conflict, match=told):
            lay_out(wanted(tmp_path, **other), servers)
    with pytest.raises(Conflict, match="s2 holds shards and is not declared any more"):
        lay_out(wanted(tmp_path), servers[:1])


def _draw(server: AdminServer, schema: str, keys: list[str]) -> list[int]:
    """Ids of new rows that are written without one, as the app does it."""
    with psycopg.connect(server.admin, options=f"-c search_path={schema}") as app:
        app.execute(f"SET ROLE {server.role}")  # type: ignore[call-overload]
        insert = "INSERT INTO orders (customer) VALUES (%s) RETURNING id"
        rows = [app.execute(insert, (key,)).fetchone() for key in keys]
    return [int(row[0]) for row in rows if row is not None]


def test_declared_ids_are_filled_in_also_where_the_shards_were_there_before(servers, tmp_path):
    plain = wanted(tmp_path)
    lay_out(plain, servers)
    lay_out(replace(plain, ids={"orders": "id"}), servers)
    by_shard: dict[int, list[str]] = {}
    for number in range(200):
        by_shard.setdefault(shard_of(f"c{number}", 8, "text"), []).append(f"c{number}")
    drawn: list[int] = []
    for server in servers:
        for schema in schemas(server):
            shard = int(schema[-4:])
            found = _draw(server, schema, by_shard[shard])
            assert {shard_of_id(number, 8) for number in found} == {shard}
            assert {shard_of_id(number, 16) % 8 for number in found} == {shard}
            drawn += found
    assert len(set(drawn)) == len(drawn) == 200
    lay_out(plain, servers)  # and no longer, when they are not declared any more
    with pytest.raises(psycopg.errors.NotNullViolation):
        _draw(servers[0], schemas(servers[0])[0], by_shard[int(schemas(servers[0])[0][-4:])])


def test_a_fresh_shard_has_its_ids_at_once(servers, tmp_path):
    _, made = lay_out(wanted(tmp_path, ids={"orders": "id"}), servers)
    assert made
    key = next(f"c{number}" for number in range(200) if shard_of(f"c{number}", 8, "text") == 0)
    assert shard_of_id(_draw(servers[0], "orders_0000", [key])[0], 8) == 0


def test_ids_wait_for_a_shard_that_moves(servers, tmp_path, monkeypatch):
    plain = wanted(tmp_path)
    lay_out(plain, servers)
    with connect(servers[0]) as catalog:
        catalog.execute("SELECT pg_advisory_lock(hashtext('headway.move'), 5)")
        monkeypatch.setattr(locks, "_PATIENCE_S", 0.1)
        with pytest.raises(Conflict, match="shard 5 is moving"):
            lay_out(replace(plain, ids={"orders": "id"}), servers)
        # The connection of one that has ended ends a moment later.
        monkeypatch.setattr(locks, "_PATIENCE_S", 60.0)
        ending = threading.Timer(0.5, catalog.execute, ["SELECT pg_advisory_unlock_all()"])
        ending.start()
        lay_out(replace(plain, ids={"orders": "id"}), servers)
        ending.join()


def test_a_lost_catalog_is_made_anew_from_where_the_shards_are(servers, tmp_path):
    layout = wanted(tmp_path)
    before, _ = lay_out(layout, servers)
    with connect(servers[0]) as connection:
        connection.execute("DROP SCHEMA headway CASCADE")
    after, _ = lay_out(layout, servers[::-1])
    assert after.owners == before.owners
    with connect(servers[1]) as connection:
        connection.execute("DROP SCHEMA headway CASCADE")
        connection.execute("CREATE SCHEMA orders_0000 CREATE TABLE headway_ledger (name text, checksum text)")
    with pytest.raises(Conflict, match="shard 0 is on servers s1 and s2"):
        lay_out(layout, servers)


def test_a_table_that_a_migration_made_is_held_to_its_key(servers, tmp_path):
    layout = wanted(tmp_path)
    lay_out(layout, servers)
    for server in servers:
        with connect(server) as connection:
            for schema in schemas(server):
                connection.execute(f"CREATE TABLE {schema}.carts (customer text NOT NULL)")  # type: ignore[call-overload]
    map_, _ = lay_out(replace(layout, keys={**KEYS, "carts": "customer"}), servers)
    assert "carts" in map_.keys
    for server in servers:
        insert = f"INSERT INTO {schemas(server)[0]}.carts SELECT 'c' || n FROM generate_series(1, 20) n"
        with connect(server) as connection, pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(insert)  # type: ignore[call-overload]


def test_another_reference_table_is_made_beside_those_that_are_there(servers, tmp_path):
    lay_out(wanted(tmp_path), servers)
    more = SCHEMA + "CREATE TABLE cities (name text); INSERT INTO cities VALUES ('chur');"
    lay_out(wanted(tmp_path, more, reference=("countries", "cities")), servers)
    with connect(servers[1]) as connection:
        assert connection.execute("SELECT count(*) FROM headway_reference.countries").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM headway_reference.cities").fetchone() == (1,)


def test_a_server_that_comes_later_has_the_reference_rows_of_today(servers, tmp_path):
    schema = SCHEMA.replace(
        "CREATE TABLE orders", "CREATE TABLE cities (code text REFERENCES countries);\nCREATE TABLE orders"
    )
    declared = wanted(tmp_path, schema, reference=("cities", "countries"))
    lay_out(declared, servers[:1])
    with connect(servers[0]) as connection:
        connection.execute("INSERT INTO headway_reference.countries VALUES ('fr')")
        connection.execute("DELETE FROM headway_reference.countries WHERE code = 'li'")
        connection.execute("INSERT INTO headway_reference.cities VALUES ('fr'), ('ch')")
    lay_out(declared, servers)
    with connect(servers[1]) as connection:
        found = connection.execute("SELECT code FROM headway_reference.countries ORDER BY 1").fetchall()
        assert found == [("ch",), ("fr",)]
        assert connection.execute("SELECT count(*) FROM headway_reference.cities").fetchone() == (2,)
