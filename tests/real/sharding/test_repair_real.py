"""Servers are damaged in every way that `db repair` knows; it says so, mends it, and finds nothing the second time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from headway.errors import HeadwayError
from headway.model.sharding import Join, schema_name
from headway.sharding import settings
from headway.sharding.admin import AdminServer, connect
from headway.sharding.keys import shard_of
from headway.sharding.move.look import tables_of
from headway.sharding.move.sessions import connect as connect_for_long
from headway.sharding.move.statements import create_fence
from headway.sharding.postgresql import Server
from headway.sharding.repairing import Found, Repairer
from headway.sharding.shards import lay_out
from headway.sharding.wanted import Layout

SHARDS = 4
SCHEMA = """
CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL DEFAULT '');
INSERT INTO countries (code) VALUES ('ch'), ('li');
CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, country text REFERENCES countries);
CREATE TABLE lines (order_id bigint NOT NULL, customer bigint NOT NULL, number int, PRIMARY KEY (order_id, number));
"""


@dataclass
class Damaged:
    """A sharded database that a test damages."""

    servers: tuple[AdminServer, ...]
    wanted: Layout
    urls: dict[str, str]

    def repairer(self, *names: str) -> Repairer:
        """`names`: the servers that answer; by default all."""
        reached = [server for server in self.servers if not names or server.name in names]
        return Repairer(
            self.wanted, reached, [one.name for one in self.servers], self.urls, lambda _line: None, lambda: False
        )

    def run(self, server: str, *statements: str) -> None:
        with connect(next(one for one in self.servers if one.name == server)) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, server: str, question: str) -> list[tuple[object, ...]]:
        with connect(next(one for one in self.servers if one.name == server)) as connection:
            return connection.execute(question.encode()).fetchall()

    def mended(self, *kinds: str, **keep: str) -> Found:
        """Look, expect these kinds of mends, carry them out, and find nothing afterwards."""
        repairer = self.repairer()
        found = repairer.find({int(what[1:]) if what[1:].isdecimal() else what: to for what, to in keep.items()})
        assert [one.kind for one in found.plan.mends] == list(kinds), found.plan
        for one in found.plan.mends:
            repairer.mend(found, one)
            repairer.mend(found, one)  # as after a kill that nobody knows the moment of
        left = self.repairer().find().plan
        assert left.complete, left
        return found


@pytest.fixture
def database(engines: tuple[Server, ...], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Damaged]:
    """Two servers, each with a database of this test's own."""
    name = f"d{abs(hash(request.node.name)) % 10**9}"
    servers, urls = [], {}
    for number, engine in enumerate(engines, 1):
        way = {"host": str(engine.socket_folder), "port": engine.port, "user": settings.SUPERUSER}
        with psycopg.connect(**way, dbname="postgres", autocommit=True) as admin:  # type: ignore[arg-type]
            admin.execute(f"CREATE DATABASE {name} OWNER {engine.role}")  # type: ignore[call-overload]
        conninfo = make_conninfo(**way, dbname=name)  # type: ignore[arg-type]
        url = f"postgresql://{engine.role}@127.0.0.1:{engine.port}/{name}"
        urls[f"s{number}"] = f"postgresql://{engine.role}:{engine.password}@127.0.0.1:{engine.port}/{name}"
        servers.append(
            AdminServer(f"s{number}", conninfo, conninfo, url, engine.role, settings.SUPERUSER, name, is_ours=True)
        )
    (tmp_path / "schema.sql").write_text(SCHEMA)
    keys = {"orders": "customer", "lines": "customer"}
    joins = {"lines": Join("order_id", "orders", "id")}
    wanted = Layout(
        "shop", "orders", SHARDS, keys, ("countries",), tmp_path / "schema.sql", joins, None, {"orders": "id"}
    )
    lay_out(wanted, servers)
    found = Damaged(tuple(servers), wanted, urls)
    for customer in range(20):
        shard = shard_of(customer, SHARDS, "int")
        server = "s1" if shard < SHARDS // 2 else "s2"
        found.run(
            server, f"INSERT INTO {schema_name('orders', shard)}.orders (customer, country) VALUES ({customer}, 'ch')"
        )
    assert found.repairer().find().plan.complete
    yield found
    for server in servers:
        for (slot,) in found.ask(
            server.name, "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        ):
            found.run(server.name, f"SELECT pg_drop_replication_slot('{slot}')")


def count(database: Damaged, server: str, shard: int) -> int:
    return int(str(database.ask(server, f"SELECT count(*) FROM {schema_name('orders', shard)}.orders")[0][0]))


def copy_to(database: Damaged, shard: int, source: str, target: str) -> None:
    """A second copy of a shard, as a restored backup makes one."""
    from headway.sharding.move.dump import dump_schema
    from headway.sharding.move.statements import ddl_for_target
    from headway.sharding.programs import dump_programs

    schema = schema_name("orders", shard)
    ways = {one.name: one for one in database.servers}
    dump = dump_schema(ways[source].admin, source, schema, dump_programs())
    with connect(ways[target]) as there, connect(ways[source]) as here, there.transaction():
        there.execute(ddl_for_target(dump, {}).encode())
        there.execute("SET LOCAL session_replication_role = replica")
        for table in ("orders", "lines", "headway_ledger"):
            with (
                here.cursor().copy(f"COPY {schema}.{table} TO STDOUT".encode()) as out,
                there.cursor().copy(f"COPY {schema}.{table} FROM STDIN".encode()) as into,
            ):
                for block in out:
                    into.write(block)


def test_the_map_follows_the_only_copy(database):
    rows = count(database, "s1", 0)
    copy_to(database, 0, "s1", "s2")
    database.run("s1", "DROP SCHEMA orders_0000 CASCADE")
    database.mended("point")
    assert database.ask("s1", "SELECT server, fenced FROM headway.shard_map WHERE shard = 0") == [("s2", False)]
    assert count(database, "s2", 0) == rows


def test_a_row_of_the_map_that_is_gone_is_found_again(database):
    database.run("s1", "DELETE FROM headway.shard_map WHERE shard = 2")
    database.mended("point")
    assert database.ask("s1", "SELECT server FROM headway.shard_map WHERE shard = 2") == [("s2",)]


def test_what_has_just_ended_is_waited_for(database, monkeypatch):
    """A move's, a split's and an import's session end a moment after whoever carried them."""
    monkeypatch.setattr("headway.sharding.locks._PATIENCE_S", 60.0)
    database.run("s1", "DELETE FROM headway.shard_map WHERE shard = 2")
    locks = "pg_advisory_lock(hashtext('headway.move'), 2)"
    locks += "".join(f", pg_advisory_lock(hashtext('headway.{what}'))" for what in ("split", "import"))
    with connect(database.servers[0]) as ending:
        ending.execute(f"SELECT {locks}".encode())
        timer = threading.Timer(0.5, ending.execute, ["SELECT pg_advisory_unlock_all()"])
        timer.start()
        database.mended("point")
        timer.join()


def test_a_second_copy_is_set_aside_when_it_is_the_same_and_decided_when_it_is_not(database):
    copy_to(database, 0, "s1", "s2")
    found = database.mended("aside")
    assert found.plan.mends[0].name == "orders_0000_lost_1"
    copy_to(database, 0, "s1", "s2")
    database.run("s2", "DELETE FROM orders_0000.orders WHERE id = (SELECT min(id) FROM orders_0000.orders)")
    before = [count(database, name, 0) for name in ("s1", "s2")]
    plan = database.repairer().find().plan
    assert plan.mends == ()
    assert "table orders: 1 missing" in plan.decisions[0].why
    assert [count(database, name, 0) for name in ("s1", "s2")] == before
    database.mended("point", "aside", _0="s2")
    assert count(database, "s2", 0) == before[1]
    assert database.ask("s1", "SELECT count(*) FROM orders_0000_lost_1.orders") == [(before[0],)]
    assert database.repairer().find().plan.kept == (
        "server s1 keeps schema orders_0000_lost_1",
        "server s2 keeps schema orders_0000_lost_1",
    )


def test_what_is_no_shard_of_this_database_is_set_aside(database):
    """Left by a move that was aborted while this server was away, and of more shards than there are."""
    copy_to(database, 0, "s1", "s2")
    database.run("s2", "COMMENT ON SCHEMA orders_0000 IS 'headway: being moved here (c0ffee 3)'")
    database.run("s2", "CREATE SCHEMA orders_0009", "CREATE TABLE orders_0009.orders (id bigint)")
    rows = database.ask("s2", "SELECT count(*) FROM orders_0000.orders")
    database.mended("aside", "aside")
    assert database.ask("s2", "SELECT count(*) FROM orders_0000_lost_1.orders") == rows
    assert database.ask("s2", "SELECT count(*) FROM orders_0009_lost_1.orders") == [(0,)]
    assert database.ask("s1", "SELECT server FROM headway.shard_map WHERE shard = 0") == [("s1",)]


def test_a_shard_that_is_nowhere_is_made_empty(database):
    database.run("s2", "DROP SCHEMA orders_0003 CASCADE")
    found = database.mended("lay_out")
    assert "rows that it held are in a backup" in found.plan.mends[0].why
    assert count(database, "s2", 3) == 0


def test_what_a_move_left_is_dropped_and_what_it_closed_opened(database):
    (catalog_id,) = database.ask("s1", "SELECT left(id::text, 8) FROM headway.catalog")[0]
    link = f"headway_move_{catalog_id}_7"
    database.run("s1", f"CREATE PUBLICATION {link} FOR TABLE orders_0000.orders")
    database.run("s1", f"SELECT pg_create_logical_replication_slot('{link}', 'pgoutput')")
    database.run("s1", "UPDATE headway.shard_map SET fenced = true WHERE shard = 0")
    database.run(
        "s2",
        f"CREATE SUBSCRIPTION {link} CONNECTION '{database.servers[0].admin}' PUBLICATION {link} "
        f"WITH (connect = false, slot_name = '{link}')",
    )
    with connect_for_long(database.servers[0].admin, "test") as source:
        source.execute(create_fence("orders_0000", tables_of(source, "orders_0000")))
    with pytest.raises(psycopg.OperationalError, match="being moved"):
        database.run("s1", "DELETE FROM orders_0000.orders")
    database.mended("subscription", "slot", "publication", "release", "open")
    database.run("s1", "UPDATE orders_0000.orders SET country = 'li'")


def test_what_a_shard_lacks_is_given_back(database):
    (role,) = {server.role for server in database.servers}
    database.run(
        "s1",
        "ALTER TABLE orders_0000.orders DROP CONSTRAINT headway_shard",
        "DROP TRIGGER headway_next_id ON orders_0001.orders",
        "DROP TRIGGER headway_key ON orders_0001.lines",
        f"REVOKE INSERT ON orders_0001.orders FROM {role}",
        f"REVOKE SELECT ON headway.shard_map FROM {role}",
    )
    database.run("s2", f"REVOKE USAGE ON SCHEMA headway_reference FROM {role}")
    database.mended("constrain", "triggers", "rights", "rights", "rights")
    customer = next(key for key in range(100, 200) if shard_of(key, SHARDS, "int") == 1)
    database.run("s1", f"INSERT INTO orders_0001.orders (customer) VALUES ({customer})")
    database.run(
        "s1",
        "INSERT INTO orders_0001.lines (order_id, number) SELECT id, 1 FROM orders_0001.orders "
        f"WHERE customer = {customer}",
    )
    with pytest.raises(psycopg.errors.CheckViolation):
        database.run("s1", f"INSERT INTO orders_0000.orders (customer) VALUES ({customer})")


def test_rows_of_other_shards_keep_the_constraint_from_being_added_and_stay(database):
    customer = next(key for key in range(100, 200) if shard_of(key, SHARDS, "int") == 1)
    database.run(
        "s1",
        "ALTER TABLE orders_0000.orders DROP CONSTRAINT headway_shard",
        f"INSERT INTO orders_0000.orders (id, customer) VALUES (1, {customer})",
    )
    repairer = database.repairer()
    found = repairer.find()
    with pytest.raises(HeadwayError, match="shard 0"):
        repairer.mend(found, found.plan.mends[0])
    assert database.ask("s1", "SELECT customer FROM orders_0000.orders WHERE id = 1") == [(customer,)]


def test_a_reference_table_is_filled_again_or_decided(database):
    database.run("s2", "UPDATE orders_0002.orders SET country = NULL", "UPDATE orders_0003.orders SET country = NULL")
    database.run("s2", "DELETE FROM headway_reference.countries")
    database.mended("fill")
    database.run("s2", "UPDATE headway_reference.countries SET name = 'Schweiz' WHERE code = 'ch'")
    database.run("s1", "INSERT INTO headway_reference.countries (code) VALUES ('at')")
    plan = database.repairer().find().plan
    assert "table countries: 1 missing, 1 different" in plan.decisions[0].why
    # Rows of shards refer to one that changes.
    database.mended("fill", countries="s2")
    both = [
        database.ask(name, "SELECT code, name FROM headway_reference.countries ORDER BY 1") for name in ("s1", "s2")
    ]
    assert both[0] == both[1] == [("ch", "Schweiz"), ("li", "")]
    assert database.ask("s1", "SELECT count(*) FROM headway_lost.countries_1") == [(3,)]
    database.run("s2", "ALTER TABLE orders_0002.orders DROP CONSTRAINT orders_country_fkey")
    database.run("s2", "ALTER TABLE orders_0003.orders DROP CONSTRAINT orders_country_fkey")
    database.run("s2", "DROP TABLE headway_reference.countries")
    found = database.repairer().find()
    assert "lay_out" in [one.kind for one in found.plan.mends]


def test_a_transaction_that_nobody_ends_is_ended(database, monkeypatch):
    import headway.sharding.doubt
    import headway.sharding.survey

    monkeypatch.setattr(
        headway.sharding.survey, "_LEFTOVERS", headway.sharding.survey._LEFTOVERS.replace("1 minute", "0 seconds")
    )
    monkeypatch.setattr(headway.sharding.doubt.end_doubts, "__defaults__", (0.0,))
    with psycopg.connect(database.urls["s2"], autocommit=True) as app:
        app.execute("BEGIN")
        app.execute("UPDATE orders_0002.orders SET country = 'li'")
        app.execute("PREPARE TRANSACTION 'headway:orders:t1:0'")
        app.execute("BEGIN")
        app.execute("PREPARE TRANSACTION 'somebody'")
    plan = database.repairer().find().plan
    assert [(one.kind, one.name) for one in plan.mends] == [("doubt", "headway:orders:t1:0")]
    assert [one.what for one in plan.decisions] == ["server s2 has prepared transaction somebody"]
    database.run("s2", "ROLLBACK PREPARED 'somebody'")
    database.mended("doubt")


def test_a_server_that_is_away_keeps_nothing_else_from_being_mended(database):
    (role,) = {server.role for server in database.servers}
    database.run("s1", f"REVOKE INSERT ON orders_0001.orders FROM {role}", "DROP SCHEMA orders_0000 CASCADE")
    repairer = database.repairer("s1")
    found = repairer.find()
    assert found.plan.away == ("s2",)
    assert [one.kind for one in found.plan.mends] == ["rights"]
    assert "may have it" in found.plan.decisions[0].why
    for one in found.plan.mends:
        repairer.mend(found, one)
    assert database.repairer("s1").find().plan.mends == ()


def test_what_is_to_be_kept_has_to_be_there(database):
    for keep, told in (({0: "s2"}, "no shard 0 on server s2"), ({0: "s9"}, "no server s9")):
        with pytest.raises(HeadwayError, match=told):
            database.repairer().find(keep)
