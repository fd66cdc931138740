"""A shard goes from server to server while it is written to: what was acknowledged is there once, nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from statistics import median
from typing import Any

import psycopg
import pytest
from move_place import SCHEMA, SHARD, Shop, shop, writing

from headway.model.sharding import FENCED, ShardServer, TableKey, spread
from headway.sharding.catalog import create_catalog, read_map
from headway.sharding.ids import id_function_sql
from headway.sharding.move import finish, switch
from headway.sharding.move.compare import Compared
from headway.sharding.move.mover import Mover
from headway.sharding.move.nouns import MoveServer
from headway.sharding.postgresql import Server
from headway.sharding.url import without_password


@pytest.fixture(scope="module")
def place() -> Iterator[Shop]:
    with shop() as found:
        found.fill(5000)
        yield found


@pytest.mark.alone  # it measures for how long writes are refused
def test_there_and_back_while_it_is_written_to(place):
    with writing(place, 4, 0.002) as writers:
        results = [place.move() for _ in range(4)]
    assert [result.target for result in results] == ["s2", "s1", "s2", "s1"]
    assert [result.epoch for result in results] == sorted({result.epoch for result in results})
    for result in results:
        assert (result.stage, result.verified, result.note) == ("done", True, "")
        assert result.rows >= 5000
        assert 0 < result.copy_s < 10
        assert result.rows_per_s > 1000
    # Each move is met by a handful of refused writes, not by a storm of them.
    assert 0 < sum(writer.repeated for writer in writers) < 60
    # A bound for machines that do something else as well; on an idle one it is 10 to 40 ms.
    assert median(result.write_pause_ms for result in results) < 250
    assert place.leftovers() == []


def test_progress_is_told_stage_by_stage(place):
    place.told.clear()
    result = place.move()
    stages = list(dict.fromkeys(told.stage for told in place.told))
    assert stages == [
        "schema", "replicating", "copied", "verified", "opened", "unlinked", "checked", "done",
    ]  # fmt: skip
    assert place.told[-1].rows == result.rows


def test_a_move_that_has_ended_is_told_again_as_it_was(place):
    mover = place.mover()
    move_id = mover.begin(SHARD, place.other())
    assert mover.resume(move_id) == place.mover().resume(move_id)


def test_a_move_that_is_stopped_goes_on_where_it_was(place):
    mover = place.mover()
    move_id = mover.begin(SHARD, place.other())
    place.stop.set()
    assert mover.resume(move_id).stage != "done"
    assert place.mover().resume(move_id).verified


def test_sequences_go_on_behind_what_was_given(place):
    def drawn() -> int:
        with psycopg.connect(place.servers[place.owner()].url, options=f"-c search_path={SCHEMA}") as app:
            row = app.execute("INSERT INTO events (writer, seq) VALUES (-2, 0) RETURNING id").fetchone()
            assert row is not None
            return int(row[0])

    before = drawn()
    place.move()
    assert drawn() > before


def test_no_id_is_given_twice_while_the_shard_goes_there_and_back(place):
    """Drawn without a pause on both servers, also by a client that has not heard of the switch."""
    with place.admin(place.owner()) as admin:
        admin.execute(id_function_sql(SCHEMA, 0, 1, "int").encode())
        for server in place.servers.values():
            admin.execute(f'GRANT USAGE, UPDATE ON SEQUENCE "{SCHEMA}".headway_ids TO {server.role}'.encode())
    drawn: list[int] = []
    refused: set[str] = set()
    ended = threading.Event()

    def draw(server: Server) -> None:
        while not ended.is_set():
            try:
                with psycopg.connect(server.url, autocommit=True) as app:
                    while not ended.is_set():
                        row = app.execute(f'SELECT "{SCHEMA}".headway_next_id(7)'.encode()).fetchone()
                        assert row is not None
                        drawn.append(int(row[0]))
            except psycopg.Error as error:
                refused.add(str(error.sqlstate))
                ended.wait(0.005)

    threads = [threading.Thread(target=draw, args=(server,)) for server in place.servers.values() for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            assert place.move().verified
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)
    assert len(drawn) > 100
    assert len(set(drawn)) == len(drawn)
    assert FENCED in refused
    with place.admin(place.owner()) as admin:
        admin.execute(f'DROP FUNCTION "{SCHEMA}".headway_next_id; DROP SEQUENCE "{SCHEMA}".headway_ids'.encode())


def test_what_is_in_the_schema_comes_along(place):
    with place.admin(place.owner()) as admin:
        admin.execute(f"""
            SET search_path = "{SCHEMA}";
            CREATE TYPE mood AS ENUM ('ok', 'so so');
            CREATE DOMAIN "Odd Name" AS text CHECK (value <> '');
            CREATE TABLE "Mixed Case; --" ("t" int, "key" text, PRIMARY KEY ("key", "t"), mood mood, odd "Odd Name",
                twice int GENERATED ALWAYS AS ("t" * 2) STORED, big bytea, at timestamptz, f float8, j jsonb, a int[]);
            INSERT INTO "Mixed Case; --" VALUES
                (1, 'ä', 'ok', 'x', DEFAULT, '\\x00ff', '2024-02-29 12:00+02', 'NaN', '{{"a": [1]}}', '{{1,NULL}}');
            CREATE TABLE parts (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
            CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
            CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
            INSERT INTO parts SELECT n, n FROM generate_series(1, 20) n;
            CREATE TABLE named (a int NOT NULL, b text NOT NULL);
            CREATE UNIQUE INDEX named_b ON named (b);
            ALTER TABLE named REPLICA IDENTITY USING INDEX named_b;
            INSERT INTO named VALUES (1, 'one');
            CREATE TABLE whole (a int, b text);
            ALTER TABLE whole REPLICA IDENTITY FULL;
            INSERT INTO whole VALUES (1, 'one'), (1, 'one'), (NULL, NULL);
            CREATE VIEW all_parts AS SELECT * FROM parts;
            CREATE FUNCTION rung() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.b := NEW.b || ''!''; RETURN NEW; END';
            CREATE TRIGGER ring BEFORE INSERT ON named FOR EACH ROW EXECUTE FUNCTION rung();
            COMMENT ON TABLE parts IS 'in parts';
        """)
    for _ in range(2):
        result = place.move()
        assert (result.stage, result.verified) == ("done", True), result
        with place.admin(place.owner()) as admin:
            admin.execute(f'SET search_path = "{SCHEMA}"')
            assert admin.execute('SELECT twice, mood::text, f::text, a FROM "Mixed Case; --"').fetchone() == (
                2, "ok", "NaN", [1, None],
            )  # fmt: skip
            assert admin.execute("SELECT count(*) FROM ONLY parts_1").fetchone() == (9,)
            assert admin.execute("SELECT count(*) FROM all_parts").fetchone() == (20,)
            assert admin.execute("SELECT b FROM named").fetchall() == [("one",)]
            assert admin.execute("SELECT count(*) FROM whole").fetchone() == (3,)
            assert admin.execute("SELECT obj_description('parts'::regclass)").fetchone() == ("in parts",)
            assert admin.execute(
                "SELECT relreplident::text FROM pg_class WHERE oid IN ('named'::regclass, 'whole'::regclass) ORDER BY 1"
            ).fetchall() == [("f",), ("i",)]
    with place.admin(place.owner()) as admin:
        admin.execute(f'SET search_path = "{SCHEMA}"')
        admin.execute(
            'DROP VIEW all_parts; DROP TABLE "Mixed Case; --", parts, named, whole; DROP FUNCTION rung(); '
            'DROP TYPE mood; DROP DOMAIN "Odd Name"'
        )
    assert place.leftovers() == []


def test_two_databases_of_one_cluster(place):
    """Where one server creates a slot at itself and waits for it, a subscription would wait for ever."""
    server = place.servers["s1"]
    with place.admin("s1") as admin:
        admin.execute('CREATE DATABASE "left"')
        admin.execute('CREATE DATABASE "right"')
    ways = {name: place.way("s1", name) for name in ("left", "right")}
    with psycopg.connect(ways["left"], autocommit=True) as left:
        left.execute("CREATE SCHEMA pair_0000; CREATE TABLE pair_0000.things (id int PRIMARY KEY)")
        left.execute("INSERT INTO pair_0000.things SELECT generate_series(1, 1000)")
        create_catalog(
            left,
            system="shop",
            database="pair",
            servers=[ShardServer(name, without_password(server.url)) for name in ways],
            owners=spread(1, ("left",)),
            keys={"things": TableKey("id", "int")},
        )
    servers = {name: MoveServer(name, way, way, server.role) for name, way in ways.items()}
    mover = Mover("pair", ways["left"], servers, progress=lambda _: None, stop=threading.Event())
    for target in ("right", "left"):
        result = mover.resume(mover.begin(0, target))
        assert (result.stage, result.verified, result.rows) == ("done", True, 1000)
    with psycopg.connect(ways["left"], autocommit=True) as left:
        assert read_map(left).owners == ("left",)
        assert left.execute("SELECT count(*) FROM pg_replication_slots").fetchone() == (0,)
        assert left.execute("SELECT count(*) FROM pg_subscription").fetchone() == (0,)
    with place.admin("s1") as admin:
        admin.execute('DROP DATABASE "left" WITH (FORCE)')  # sessions end a moment after their clients
        admin.execute('DROP DATABASE "right" WITH (FORCE)')


def test_truncated_while_it_is_compared_for_the_last_time(place, monkeypatch):
    """The target is open by then, and the app may do so at any moment."""
    with place.admin(place.owner()) as admin:
        admin.execute(f'INSERT INTO "{SCHEMA}".queue SELECT -2, n FROM generate_series(1, 50) n')
    target, compare = place.other(), finish.compare

    def late(*arguments: Any, **named: Any) -> Compared:
        with place.admin(target) as admin:
            admin.execute(f'TRUNCATE "{SCHEMA}".queue')
        return compare(*arguments, **named)

    monkeypatch.setattr(finish, "compare", late)
    result = place.move()
    assert (result.verified, result.note) == (True, "")


def test_truncated_while_it_is_compared(place, monkeypatch):
    """To an older snapshot a truncated table is empty: that is no difference."""
    monkeypatch.setattr(switch, "_COMPARED_MAX", 50)  # as often as it is truncated between two looks
    stopping = threading.Event()

    def truncate() -> None:
        while not stopping.is_set():
            with psycopg.connect(place.way(place.owner()), autocommit=True) as admin:
                try:
                    admin.execute(f'TRUNCATE "{SCHEMA}".queue')
                    admin.execute(f'INSERT INTO "{SCHEMA}".queue SELECT -1, n FROM generate_series(1, 50) n')
                except psycopg.Error:
                    pass
            stopping.wait(0.01)

    thread = threading.Thread(target=truncate)
    thread.start()
    try:
        results = [place.move() for _ in range(2)]
    finally:
        stopping.set()
        thread.join(60)
    assert [result.verified for result in results] == [True, True]
