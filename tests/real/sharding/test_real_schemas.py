"""Schemas that nobody here designed live in shards and move: pgbench's own, and a store after Chinook's structure."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator

import psycopg
import pytest
from client_place import Sharded, sharded

from headway.errors import AppError
from headway.model.sharding import schema_name
from headway.sharding import layout
from headway.sharding.catalog import read_map
from headway.sharding.keys import shard_of
from headway.sharding.move.mover import Mover
from headway.sharding.move.nouns import MoveServer
from headway.sharding.postgresql import Server

# Chinook's published structure (customers, invoices, lines, the catalogue), in PostgreSQL's types; every table that
# belongs to a customer carries the customer's number, the catalogue is reference.
CHINOOK_REFERENCE = """
CREATE TABLE artist (artist_id int PRIMARY KEY, name varchar(120));
CREATE TABLE album (album_id int PRIMARY KEY, title varchar(160) NOT NULL, artist_id int NOT NULL REFERENCES artist);
CREATE TABLE genre (genre_id int PRIMARY KEY, name varchar(120));
CREATE TABLE media_type (media_type_id int PRIMARY KEY, name varchar(120));
CREATE TABLE track (
    track_id int PRIMARY KEY, name varchar(200) NOT NULL, album_id int REFERENCES album,
    media_type_id int NOT NULL REFERENCES media_type, genre_id int REFERENCES genre, composer varchar(220),
    milliseconds int NOT NULL, bytes int, unit_price numeric(10,2) NOT NULL
);
"""
CHINOOK_SHARD = """
CREATE TYPE invoice_state AS ENUM ('open', 'paid');
CREATE TABLE customer (
    customer_id int PRIMARY KEY, first_name varchar(40) NOT NULL, last_name varchar(20) NOT NULL, company varchar(80),
    address varchar(70), city varchar(40), country varchar(40), postal_code varchar(10), email varchar(60) NOT NULL
);
CREATE TABLE invoice (
    customer_id int NOT NULL REFERENCES customer, invoice_id int NOT NULL, invoice_date timestamp NOT NULL,
    billing_country varchar(40), total numeric(10,2) NOT NULL, state invoice_state NOT NULL DEFAULT 'open',
    PRIMARY KEY (customer_id, invoice_id)
);
CREATE TABLE invoice_line (
    customer_id int NOT NULL, invoice_line_id int GENERATED ALWAYS AS IDENTITY, invoice_id int NOT NULL,
    track_id int NOT NULL REFERENCES track, unit_price numeric(10,2) NOT NULL, quantity int NOT NULL,
    PRIMARY KEY (customer_id, invoice_line_id),
    FOREIGN KEY (customer_id, invoice_id) REFERENCES invoice ON DELETE CASCADE
);
CREATE INDEX ON invoice_line (track_id);
CREATE VIEW turnover AS SELECT customer_id, sum(total) AS total FROM invoice GROUP BY customer_id;
CREATE FUNCTION pay(who int) RETURNS void LANGUAGE sql AS
  $$ UPDATE invoice SET state = 'paid' WHERE customer_id = who $$;
"""
SHARD = 1


@pytest.fixture
def store() -> Iterator[Sharded]:
    with sharded(4) as found:
        yield found


def mover(store: Sharded) -> Mover:
    def server(name: str, one: Server) -> MoveServer:
        way = f"host={one.socket_folder} port={one.port} user=_headway dbname={one.database}"
        return MoveServer(name, way, way, one.role)

    servers = {name: server(name, one) for name, one in store.servers.items()}
    return Mover("orders", servers["s1"].admin, servers, progress=lambda _: None, stop=threading.Event())


def pgbench(server: Server, schema: str, *arguments: str) -> str:
    """PostgreSQL's own load, in one shard, as the administrator."""
    done = subprocess.run(
        [
            server.engine.program("pgbench"),
            *arguments,
            f"host={server.socket_folder} port={server.port} user=_headway dbname={server.database} "
            f"options='-csearch_path={schema}'",
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pgbench_runs_in_a_shard_and_its_tables_move(store):
    schema = schema_name("orders", SHARD)
    source, target = store.servers["s1"], store.servers["s2"]
    pgbench(source, schema, "--initialize", "--quiet", "--scale=1")
    assert "number of failed transactions: 0" in pgbench(source, schema, "--time=1", "--client=2")
    with pytest.raises(AppError, match="pgbench_history") as refused:
        mover(store).begin(SHARD, "s2")
    assert refused.value.hint
    with store.admin("s1") as admin:
        admin.execute(f'ALTER TABLE "{schema}".pgbench_history ADD id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY')
        before = _sums(admin, schema)
    moving = mover(store)
    result = moving.resume(moving.begin(SHARD, "s2"))
    assert (result.stage, result.verified) == ("done", True)
    assert result.rows >= 100_000
    with store.admin("s2") as admin:
        assert _sums(admin, schema) == before
    assert "number of failed transactions: 0" in pgbench(target, schema, "--time=1", "--client=2", "--no-vacuum")
    with store.admin("s1") as admin:
        assert admin.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,)


def _sums(admin: psycopg.Connection[tuple[object, ...]], schema: str) -> list[object]:
    found: list[object] = []
    for table, column in (("accounts", "abalance"), ("tellers", "tbalance"), ("branches", "bbalance")):
        found += admin.execute(f'SELECT count(*), sum({column}) FROM "{schema}".pgbench_{table}').fetchall()  # type: ignore[arg-type]
    return found


def test_a_store_after_chinook_moves_with_types_views_functions_and_sequences(store):
    schema = schema_name("orders", SHARD)
    customer = next(key for key in range(1, 1000) if shard_of(key, 4, "int") == SHARD)
    for name, server in store.servers.items():
        with store.admin(name) as admin, admin.transaction():
            admin.execute(layout.CREATE_REFERENCE)
            admin.execute(f"SET LOCAL search_path = {layout.REFERENCE_SCHEMA}")
            admin.execute(CHINOOK_REFERENCE)
            admin.execute(
                "INSERT INTO artist VALUES (1, 'AC/DC'); INSERT INTO album VALUES (1, 'Let There Be Rock', 1)"
            )
            admin.execute("INSERT INTO media_type VALUES (1, 'MPEG'); INSERT INTO genre VALUES (1, 'Rock')")
            admin.execute("INSERT INTO track VALUES (1, 'Go Down', 1, 1, 1, NULL, 331180, 10847611, 0.99)")
            admin.execute(layout.grant_reference(server.role))
    with store.admin("s1") as admin, admin.transaction():
        admin.execute(layout.search_path(schema))
        admin.execute(CHINOOK_SHARD)
        ours = layout.create_shard(schema)  # what is ours in every shard; the schema itself is there already
        admin.execute(ours.replace(f'CREATE SCHEMA "{schema}";', ""))
        admin.execute(layout.grant(schema, store.servers["s1"].role))
    database = store.database(wait_s=60)  # a move takes its time on a busy machine

    def buy(connection: psycopg.Connection[tuple[object, ...]], invoice: int) -> None:
        connection.execute(
            "INSERT INTO invoice (customer_id, invoice_id, invoice_date, total) VALUES (%s, %s, now(), 0.99)",
            (customer, invoice),
        )
        connection.execute(
            "INSERT INTO invoice_line (customer_id, invoice_id, track_id, unit_price, quantity) "
            "VALUES (%s, %s, 1, 0.99, 1)",
            (customer, invoice),
        )

    with database.sync.at(customer) as connection:
        connection.execute(
            "INSERT INTO customer (customer_id, first_name, last_name, email) VALUES (%s, 'Luís', 'Gonçalves', 'l@x')",
            (customer,),
        )
    bought = threading.Event()
    count = 0

    def shop() -> None:
        nonlocal count
        while not bought.is_set():
            count += 1
            database.sync.run(customer, buy, count)

    shopping = threading.Thread(target=shop)
    shopping.start()
    try:
        moving = mover(store)
        result = moving.resume(moving.begin(SHARD, "s2"))
    finally:
        bought.set()
        shopping.join(100)
    assert (result.stage, result.verified) == ("done", True)
    with store.admin("s1") as admin:
        assert read_map(admin).owners[SHARD] == "s2"
    with database.sync.at(customer) as connection:
        rows = connection.execute(
            "SELECT count(*), count(DISTINCT invoice_line_id), max(t.name) "
            "FROM invoice_line JOIN track t USING (track_id)"
        ).fetchone()
        assert rows == (count, count, "Go Down")
        assert connection.execute("SELECT total FROM turnover").fetchone()[0] * 100 == count * 99
        connection.execute("SELECT pay(%s)", (customer,))
        assert connection.execute("SELECT DISTINCT state::text FROM invoice").fetchall() == [("paid",)]
    database.sync.run(customer, buy, count + 1)  # the sequence goes on behind what was given
