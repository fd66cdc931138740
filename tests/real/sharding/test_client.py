"""The app's way into a sharded database, on two real servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
from client_place import AT_WORK, CONNECT_S, Sharded, at_once, sharded
from harness import die_with_parent, wait_for

import headway
from headway import by_id
from headway.errors import DatabaseBusy, NotRunning, ServerDown, ShardMoved, WrongShard
from headway.model.sharding import FENCED, schema_name
from headway.sharding.client.told import told
from headway.sharding.client.watch import MapWatch
from headway.sharding.ids import slots
from headway.sharding.keys import VECTORS, WrongKey, shard_of, shard_sql

SHARDS = 16


@pytest.fixture(scope="module")
def orders() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        yield found


def key_on(server: str, skip: int = 0) -> int:
    """A key whose shard lies on that server."""
    first = server == "s1"
    found = (key for key in range(1, 10_000) if (shard_of(key, SHARDS, "int") < SHARDS // 2) == first)
    return next(key for index, key in enumerate(found) if index == skip)


# -- where a key goes -------------------------------------------------------------------------------------------------


def test_the_server_finds_the_same_shard(orders):
    """Also where the number of shards is no power of two, whose arithmetic in SQL is another."""
    with orders.admin("s1") as connection:
        for shards in (1, 3, 7, 16, 1000, 4096):
            for kind, keys in {
                "int": [
                    *(key for kind, key, _ in VECTORS if kind == "int"),
                    -1,
                    0,
                    2**31,
                    -(2**31),
                    2**63 - 1,
                    -(2**63),
                ],
                "text": [*(key for kind, key, _ in VECTORS if kind == "text"), "a" * 11, "ü", "🎲" * 7, "x" * 1000],
                "uuid": [uuid.UUID(int=number) for number in (0, 1, 2**127, 2**128 - 1)] + [uuid.uuid4()],
            }.items():
                for key in keys:
                    row = connection.execute(
                        f"SELECT {shard_sql('%s', shards, kind).replace('%', '%%').replace('%%s', '%s')}",
                        [key] * shard_sql("%s", shards, kind).count("%s"),
                    ).fetchone()
                    assert row == (shard_of(key, shards, kind),), (kind, key, shards)


def test_a_key_is_written_and_read_on_its_own_server(orders):
    async def use() -> None:
        database = orders.database()
        for server in ("s1", "s2"):
            key = key_on(server)
            async with database.at(key) as connection, connection.transaction():
                await connection.execute("INSERT INTO orders VALUES ($1, 1, 'here')", key)
            schema = schema_name("orders", shard_of(key, SHARDS, "int"))
            with orders.admin(server) as admin:
                assert admin.execute(
                    f'SELECT note FROM "{schema}".orders WHERE customer_id = %s', (key,)
                ).fetchone() == ("here",)
            with database.sync.at(key) as plain:
                assert plain.execute("SELECT note FROM orders WHERE customer_id = %s", (key,)).fetchone() == ("here",)
                plain.execute("UPDATE orders SET note = 'there' WHERE customer_id = %s", (key,))
            async with database.at(key) as connection:
                assert await connection.fetchval("SELECT note FROM orders WHERE customer_id = $1", key) == "there"
        await database.close()
        database.sync.close()

    asyncio.run(use())


def test_a_row_of_another_shard_is_refused(orders):
    here, other = key_on("s1"), key_on("s2")

    async def write() -> None:
        database = orders.database()
        async with database.at(here) as connection:
            await connection.execute("INSERT INTO orders VALUES ($1, 7)", other)

    with pytest.raises(WrongShard, match="orders: the row's key is of another shard"):
        asyncio.run(write())
    database = orders.database()
    with pytest.raises(WrongShard), database.sync.at(here) as connection:
        connection.execute("INSERT INTO orders VALUES (%s, 7)", (other,))


@pytest.mark.parametrize("key", [None, "1", 1.5, True, float("nan")])
def test_what_is_no_key_is_refused_before_anything_happens(orders, key):
    database = orders.database()

    async def use() -> None:
        async with database.at(key):
            pass

    with pytest.raises(WrongKey):
        asyncio.run(use())
    with pytest.raises(WrongKey), database.sync.at(key):
        pass


def test_errors_of_the_app_are_the_drivers_own(orders):
    database = orders.database()

    async def use(statement: str) -> None:
        async with database.at(key_on("s1")) as connection:
            await connection.execute(statement)

    with pytest.raises(asyncpg.UndefinedTableError):
        asyncio.run(use("SELECT * FROM nothing_of_the_kind"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        asyncio.run(use("CREATE TABLE mine (id int)"))
    with pytest.raises(psycopg.errors.UndefinedTable), database.sync.at(key_on("s1")) as connection:
        connection.execute("SELECT * FROM nothing_of_the_kind")


# -- what a check-out leaves ------------------------------------------------------------------------------------------


def test_a_transaction_left_open_is_rolled_back(orders):
    key = key_on("s1", skip=3)

    async def use() -> None:
        database = orders.database()
        async with database.at(key) as connection:
            await connection.execute("BEGIN")
            await connection.execute("INSERT INTO orders VALUES ($1, 99)", key)
            pid = connection.get_server_pid()
        async with database.at(key) as connection:
            assert connection.get_server_pid() == pid
            assert await connection.fetch("SELECT 1 FROM orders WHERE customer_id = $1 AND id = 99", key) == []

    asyncio.run(use())


def test_a_session_that_was_changed_is_put_right(orders):
    key = key_on("s1")

    async def use() -> None:
        database = orders.database()
        async with database.at(key) as connection:
            await connection.execute("SET statement_timeout = '1h'")
            await connection.execute("SET search_path = pg_catalog")
        async with database.at(key) as connection:
            assert await connection.fetchval("SHOW statement_timeout") != "1h"
            assert await connection.fetchval("SELECT count(*) FROM orders WHERE false") == 0

    asyncio.run(use())


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again(orders):
    """After a restart, say: it is back, and each that was idle would fail somebody once."""
    key = key_on("s1", skip=50)
    database = orders.database()
    with database.sync.at(key) as first, database.sync.at(key) as second, database.sync.at(key) as third:
        pids = [connection.info.backend_pid for connection in (first, second, third)]
    with orders.admin("s1") as admin:
        admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", (pids,))
        left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
        wait_for(lambda: admin.execute(left, (pids,)).fetchone() == (0,), 60, "they have ended")
    for _ in range(3):
        with database.sync.at(key) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_app_with_many_clients_hears_of_a_newer_map_over_one_connection(orders):
    """Its descriptors are above 1023 then."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    many = [os.dup(nothing) for _ in range(1100)]
    listening = "SELECT pid FROM pg_stat_activity WHERE application_name = 'headway map'"
    try:
        with orders.admin("s1") as admin:
            others = {row[0] for row in admin.execute(listening)}
            database = orders.database()
            with database.sync.at(key_on("s1")):
                pass
            mine = {row[0] for row in admin.execute(listening)} - others
            for _ in range(3):
                epoch = database._places.map.epoch
                orders.tell("SELECT 1")
                wait_for(lambda epoch=epoch: database._places.map.epoch > epoch, 60, "it hears of it")
            assert {row[0] for row in admin.execute(listening)} - others == mine
        assert database._places.watch.error == ""
    finally:
        for descriptor in (nothing, *many):
            os.close(descriptor)


def test_a_cancelled_statement_holds_nothing(orders):
    key = key_on("s1")

    async def use() -> None:
        database = orders.database(active_max=1)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), database.at(key) as connection:
                    await connection.execute("SELECT pg_sleep(30)")
            began_s = time.monotonic()
            async with database.at(key, wait_s=60) as connection:
                assert await connection.fetchval("SELECT 1") == 1
            assert time.monotonic() - began_s < 15  # half of the sleep: who waits for it waits longer

    asyncio.run(use())


def test_connections_stay_within_the_budget(orders):
    async def use() -> None:
        database = orders.database(idle_max=3, active_max=2)
        seen = set()
        for key in range(200):
            async with database.at(key) as connection:
                place = await connection.fetchval("SHOW search_path")
                assert place.strip('"').startswith(schema_name("orders", shard_of(key, SHARDS, "int")))
                assert await connection.fetch("SELECT count(*) FROM orders WHERE customer_id = $1", key)
                seen.add(connection.get_server_pid())
        assert len(seen) <= 6  # three to each of two servers

    asyncio.run(use())


def test_two_at_once_on_one_shard_take_no_other_shards_connection(orders):
    """Where as many may be kept as a server has shards, each shard's stays its own."""

    async def use() -> None:
        database = orders.database(idle_max=SHARDS // 2, active_max=4)
        keys = [next(key for key in range(10_000) if shard_of(key, SHARDS, "int") == shard) for shard in range(SHARDS)]
        pids: dict[int, int] = {}
        for shard, key in enumerate(keys):
            async with database.at(key) as connection:
                pids[shard] = connection.get_server_pid()
        for _ in range(5):
            for key in keys:
                async with database.at(key), database.at(key), database.at(key):
                    pass
        for shard, key in enumerate(keys):
            async with database.at(key) as first, database.at(key) as second, database.at(key) as third:
                taken = {connection.get_server_pid() for connection in (first, second, third)}
                assert pids[shard] in taken
                assert not taken & {pid for other, pid in pids.items() if other != shard}
        connections, _ = database._loop_pool().server(database._places.map, "s1")
        assert connections.open <= SHARDS // 2 + 4

    asyncio.run(use())


def test_threads_prepare_anew_after_each_turn(orders):
    """The driver does not see that a text it knows already has ended what it had prepared."""
    database = orders.database(idle_max=1)
    one, *others = (key_on("s1", skip) for skip in range(20))
    other = next(key for key in others if shard_of(key, SHARDS, "int") != shard_of(one, SHARDS, "int"))
    pids = set()
    for key, times in ((one, 1), (other, 1), (one, 9), (other, 9), (one, 9), (other, 9)):
        for _ in range(times):
            with database.sync.at(key) as connection:
                pids.add(connection.info.backend_pid)
                connection.execute("SELECT count(*) FROM orders WHERE customer_id = %s", (key,))
    assert len(pids) == 1
    database.sync.close()


def test_a_shards_own_connection_is_waited_for_when_all_are_in_use(orders, monkeypatch):
    """A turn costs more than most transactions; one that takes long is not waited for."""

    async def use() -> None:
        database = orders.database(idle_max=SHARDS // 2, active_max=4)
        keys = [key_on("s1", skip) for skip in range(40)]
        by_shard = {shard_of(key, SHARDS, "int"): key for key in keys}
        busy, *others = by_shard.values()
        for key in [busy, *others]:  # until there are as many as there may be; the busy one has one alone
            async with database.at(key), contextlib.AsyncExitStack() as more:
                for _ in range(0 if key == busy else 2):
                    await more.enter_async_context(database.at(key))
        connections, _ = database._loop_pool().server(database._places.map, "s1")
        assert connections.open == SHARDS // 2 + 4
        pids: dict[int, set[int]] = {}

        async def one(number: int, pause_s: float) -> None:
            async with database.at(busy, wait_s=60) as connection:
                pids.setdefault(number, set()).add(connection.get_server_pid())
                await asyncio.sleep(pause_s)

        with monkeypatch.context() as patch:  # however slow the machine is
            patch.setattr("headway.sharding.client.connections._BUSY_S", 30.0)
            await asyncio.gather(*(one(0, 0) for _ in range(2)))
        await asyncio.gather(*(one(1, 0.2) for _ in range(2)))
        assert (len(pids[0]), len(pids[1])) == (1, 2)
        assert connections.open == SHARDS // 2 + 4
        assert not connections._waiting

    asyncio.run(use())


def test_a_server_that_takes_no_more_sessions_is_served_by_those_there_are(orders):
    role = orders.servers["s2"].role
    with orders.admin("s2") as admin:
        # None that ends meanwhile leaves room for another one.
        end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s"
        wait_for(lambda: admin.execute(end, (role,)).fetchone() == (0,), 60, "those of other tests have ended")
        admin.execute(f'ALTER ROLE "{role}" CONNECTION LIMIT 2')
    try:

        async def use() -> None:
            database = orders.database(idle_max=SHARDS, active_max=2)
            seen = set()
            for key in [key_on("s2", skip) for skip in range(20)]:
                async with database.at(key) as connection:
                    place = await connection.fetchval("SHOW search_path")
                    assert place.strip('"').startswith(schema_name("orders", shard_of(key, SHARDS, "int")))
                    seen.add(connection.get_server_pid())
            assert len(seen) <= 2

        asyncio.run(use())
    finally:
        with orders.admin("s2") as admin:
            admin.execute(f'ALTER ROLE "{role}" CONNECTION LIMIT -1')


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_one_who_waits_too_long_is_told_so(orders):
    key = key_on("s1")

    async def use() -> None:
        database = orders.database(active_max=1)
        async with database.at(key):
            began_s = time.monotonic()
            with pytest.raises(DatabaseBusy, match=r"server s1 of database orders is busy: no place within 0.2 s \(1 "):
                async with database.at(key, wait_s=0.2):
                    pass
            assert 0.15 < time.monotonic() - began_s < 30
            with pytest.raises(DatabaseBusy), database.sync.at(key, wait_s=0.1):
                pass
        async with database.at(key, wait_s=30):
            pass

    asyncio.run(use())


_PROCESS = """
import asyncio, json, sys, time
from headway import database

async def main():
    orders, spans = database("orders"), []
    async def work(number):
        while time.monotonic() < until_s:
            async with orders.at(int(sys.argv[1]), wait_s=60) as connection:
                began_s, _, ended_s = await connection.fetchrow(sys.argv[3])
                spans.append((float(began_s), float(ended_s)))
    until_s = time.monotonic() + float(sys.argv[2])
    await asyncio.gather(*(work(number) for number in range(20)))
    print(json.dumps(spans))

asyncio.run(main())
"""


def test_processes_together_stay_within_the_bound(orders):
    key = key_on("s1")
    environ = {**os.environ, **orders.environ(active_max=3)}
    argv = [sys.executable, "-c", _PROCESS, str(key), "2", AT_WORK.format(0.002)]
    processes = [
        subprocess.Popen(argv, env=environ, preexec_fn=die_with_parent, stdout=subprocess.PIPE) for _ in range(4)
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert 2 <= at_once(span for told in said for span in json.loads(told)) <= 3


def test_a_killed_process_frees_its_places(orders):
    key = key_on("s2")
    environ = {**os.environ, **orders.environ(active_max=2)}
    argv = [sys.executable, "-c", _PROCESS, str(key), "60", AT_WORK.format(600)]
    process = subprocess.Popen(argv, env=environ, preexec_fn=die_with_parent)
    try:
        with orders.admin("s2") as admin:
            wait_for(
                lambda: (
                    admin.execute(
                        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = "
                        "'active' AND pid <> pg_backend_pid()"
                    ).rowcount
                    == 2
                ),
                60,
                "the process is at work, with all there is",
            )
        database = orders.database(active_max=2)
        with pytest.raises(DatabaseBusy), database.sync.at(key, wait_s=0.2):
            pass
    finally:
        process.kill()
        process.wait(60)
    with database.sync.at(key, wait_s=30) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


# -- a shard that moves, by hand --------------------------------------------------------------------------------------


def test_a_fenced_shard_is_waited_for(orders, monkeypatch):
    monkeypatch.setattr("headway.sharding.client.checkout.FENCE_WAIT_S", 30.0)  # who waits is woken
    key = key_on("s1", skip=5)
    shard = shard_of(key, SHARDS, "int")

    async def use() -> None:
        database = orders.database()
        async with database.at(key):
            pass
        orders.tell(f"UPDATE headway.shard_map SET fenced = true WHERE shard = {shard}")
        await asyncio.to_thread(wait_for, lambda: shard in database._places.map.fenced, 60, "it has heard of it")
        began_s = time.monotonic()
        waiting = asyncio.create_task(database.run(key, _count))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        orders.tell(f"UPDATE headway.shard_map SET fenced = false WHERE shard = {shard}")
        assert await waiting == 0
        assert time.monotonic() - began_s < 15

    asyncio.run(use())


async def _count(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM orders WHERE false")
    return found


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_a_transaction_caught_by_a_move_is_run_again_at_the_new_place(orders, kind):
    """The source refuses by its trigger; a moment later the map says where the shard is now."""
    key = key_on("s1", skip=10 if kind == "plain" else 20)
    shard = shard_of(key, SHARDS, "int")
    schema = schema_name("orders", shard)
    attempts = []
    with orders.admin("s2") as admin:
        orders.make_shard(admin, shard, orders.servers["s2"].role)
    with orders.admin("s1") as admin:
        admin.execute(
            f"CREATE OR REPLACE FUNCTION public.fence() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}'; END $$"
        )
    database = orders.database(wait_s=60)

    def move() -> None:
        with orders.admin("s1") as admin:
            admin.execute(f'CREATE TRIGGER fence BEFORE INSERT ON "{schema}".orders EXECUTE FUNCTION public.fence()')
        orders.tell(f"UPDATE headway.shard_map SET server = 's2' WHERE shard = {shard}")

    async def insert(connection: asyncpg.Connection) -> None:
        attempts.append(connection.get_server_pid())
        if len(attempts) == 1:
            move()
        await connection.execute("INSERT INTO orders VALUES ($1, 5)", key)

    def insert_plainly(connection: psycopg.Connection[tuple[object, ...]]) -> None:
        attempts.append(connection.info.backend_pid)
        if len(attempts) == 1:
            move()
        connection.execute("INSERT INTO orders VALUES (%s, 5)", (key,))

    try:
        if kind == "plain":
            database.sync.run(key, insert_plainly)
        else:
            asyncio.run(database.run(key, insert))
        assert len(attempts) >= 2
        with orders.admin("s2") as admin:
            assert admin.execute(f'SELECT id FROM "{schema}".orders').fetchall() == [(5,)]
        with orders.admin("s1") as admin:
            assert admin.execute(f'SELECT id FROM "{schema}".orders').fetchall() == []
    finally:
        orders.tell(f"UPDATE headway.shard_map SET server = 's1' WHERE shard = {shard}")
        with orders.admin("s2") as admin:
            admin.execute(f'DROP SCHEMA "{schema}" CASCADE')
        with orders.admin("s1") as admin:
            admin.execute(f'DROP TRIGGER fence ON "{schema}".orders')


@pytest.mark.parametrize("kind", ["asynchronous", "plain", "everywhere"])
def test_a_move_is_known_for_one_also_where_this_process_is_late_to_hear_of_it(orders, monkeypatch, kind):
    """The map names the new place, then the old one lets nobody in."""
    key = key_on("s1", skip=60)
    shard = shard_of(key, SHARDS, "int")
    schema, role = schema_name("orders", shard), orders.servers["s1"].role
    load, attempts = MapWatch._load, []

    def late(self: MapWatch, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        if attempts:
            time.sleep(2)
        load(self, connection)

    monkeypatch.setattr(MapWatch, "_load", late)
    database = orders.database(wait_s=60)
    with orders.admin("s2") as admin:
        orders.make_shard(admin, shard, orders.servers["s2"].role)

    def move() -> None:
        attempts.append(shard)
        if len(attempts) == 1:
            orders.tell(f"UPDATE headway.shard_map SET server = 's2' WHERE shard = {shard}")
            with orders.admin("s1") as admin:
                admin.execute(f'REVOKE ALL ON "{schema}".orders FROM {role}')

    async def insert(connection: asyncpg.Connection) -> None:
        move()
        await connection.execute("INSERT INTO orders VALUES ($1, 6)", key)

    def insert_plainly(connection: psycopg.Connection[tuple[object, ...]]) -> None:
        move()
        connection.execute("INSERT INTO orders VALUES (%s, 6)", (key,))

    async def ask() -> None:
        async with database.at(key):
            pass
        move()
        await database.everywhere("SELECT count(*) FROM orders")

    try:
        if kind == "plain":
            database.sync.run(key, insert_plainly)
        else:
            asyncio.run(ask() if kind == "everywhere" else database.run(key, insert))
        with orders.admin("s2") as admin:
            found = admin.execute(f'SELECT id FROM "{schema}".orders').fetchall()
        assert found == ([] if kind == "everywhere" else [(6,)])
    finally:
        attempts.clear()
        orders.tell(f"UPDATE headway.shard_map SET server = 's1' WHERE shard = {shard}")
        with orders.admin("s2") as admin:
            admin.execute(f'DROP SCHEMA "{schema}" CASCADE')
        with orders.admin("s1") as admin:
            admin.execute(f'GRANT ALL ON "{schema}".orders TO {role}')


def test_a_check_out_caught_by_a_move_is_told_so(orders):
    key = key_on("s1", skip=30)
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))
    database = orders.database()
    with orders.admin("s1") as admin:
        admin.execute(
            f"CREATE OR REPLACE FUNCTION public.fence() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}'; END $$"
        )
        admin.execute(f'CREATE TRIGGER fence BEFORE INSERT ON "{schema}".orders EXECUTE FUNCTION public.fence()')
        try:
            with pytest.raises(ShardMoved, match="nothing was committed"), database.sync.at(key) as connection:
                connection.execute("INSERT INTO orders VALUES (%s, 5)", (key,))
        finally:
            admin.execute(f'DROP TRIGGER fence ON "{schema}".orders')


def test_changed_tables_break_no_prepared_statement(orders):
    key = key_on("s1", skip=40)
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))

    async def use() -> None:
        database = orders.database()
        statement = "SELECT * FROM orders WHERE customer_id = $1"

        async def read(connection: asyncpg.Connection) -> list[asyncpg.Record]:
            found: list[asyncpg.Record] = await connection.fetch(statement, key)
            return found

        await database.run(key, read)
        for number in range(3):
            with orders.admin("s1") as admin:
                admin.execute(f'ALTER TABLE "{schema}".orders ADD COLUMN more_{number} int')
            await database.run(key, read)

    asyncio.run(use())


def test_an_id_leads_to_its_shard_without_the_key(orders):
    key = key_on("s2")
    number = 1 << 22 | shard_of(key, slots(SHARDS), "int") << 10
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))

    async def use() -> None:
        database = orders.database()
        async with database.at_id(number) as connection:
            assert await connection.fetchval("SELECT current_schema()") == schema

        async def where(connection: asyncpg.Connection) -> str:
            return str(await connection.fetchval("SELECT current_schema()"))

        assert await database.run(by_id(number), where) == schema
        assert database.shard_of(by_id(number)) == database.shard_of(key)
        for wrong, match in ((-1, "is no id"), ("7", "a whole number"), (None, "a whole number")):
            with pytest.raises(WrongKey, match=match):
                async with database.at_id(wrong):
                    pass

    asyncio.run(use())
    with orders.database().sync.at_id(number) as connection:
        assert connection.execute("SELECT current_schema()").fetchone() == (schema,)


def test_uuids_of_a_parent_and_its_children_are_not_alike():
    drawn = [headway.uuid7() for _ in range(1000)]
    assert drawn == sorted(set(drawn))
    # In one piece that no other writer of the pipe comes between.
    draw = "os.write(1, ' '.join([str(headway.uuid7()) for _ in range(100)] + ['']).encode())"
    code = f"import headway, os\nheadway.uuid7()\nos.fork()\n{draw}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    children = done.stdout.split()
    assert len(set(children)) == len(children) == 200


# -- servers and catalogs that are away -------------------------------------------------------------------------------


def test_a_killed_server_refuses_at_once_and_the_other_does_not_notice():
    with sharded(SHARDS) as orders:
        here, there = key_on("s1"), key_on("s2")

        async def use() -> None:
            database = orders.database()
            for key in (here, there):
                async with database.at(key) as connection:
                    assert await connection.fetchval("SELECT 1") == 1
            orders.processes["s2"].send_signal(signal.SIGQUIT)
            orders.processes["s2"].wait(60)
            for _ in range(20):
                began_s = time.monotonic()
                with pytest.raises(ServerDown, match="server s2 of database orders"):
                    async with database.at(there) as connection:
                        await connection.fetchval("SELECT 1")
                assert time.monotonic() - began_s < 0.75 * CONNECT_S, "less than a connection may take"
                async with database.at(here) as connection:
                    assert await connection.fetchval("SELECT 1") == 1
            orders.processes["s2"] = orders.place.start_again(orders.servers["s2"])

            async def again() -> bool:
                try:
                    async with database.at(there) as connection:
                        return bool(await connection.fetchval("SELECT true"))
                except ServerDown:
                    return False

            until_s = time.monotonic() + 60
            while not await again():
                assert time.monotonic() < until_s
                await asyncio.sleep(0.05)
            # The catalog is away: the map that is known goes on.
            orders.processes["s1"].send_signal(signal.SIGQUIT)
            orders.processes["s1"].wait(60)
            async with database.at(there) as connection:
                assert await connection.fetchval("SELECT 1") == 1

        asyncio.run(use())
        fresh = orders.database()
        with pytest.raises(ServerDown, match="database orders: there is no shard map"), fresh.sync.at(there):
            pass


def test_a_process_that_was_told_of_nothing_says_what_to_do():
    with pytest.raises(NotRunning, match="was not started by Headway") as found:
        told("orders", {})
    assert "headway run" in found.value.hint
    with pytest.raises(NotRunning, match="not among those of this service"):
        told("orders", {"HEADWAY_DATABASES": "{}"})
    with pytest.raises(NotRunning, match="cannot be read"):
        told("orders", {"HEADWAY_DATABASES": "[1"})
