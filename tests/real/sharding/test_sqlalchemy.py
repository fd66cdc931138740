"""SQLAlchemy's engines and sessions on the shards of a database, on two real servers; the models know of no shard."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from client_place import AT_WORK, CONNECT_S, Sharded, at_once, sharded
from harness import wait_for
from sqlalchemy import BigInteger, Text, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from headway.errors import DatabaseBusy, ServerDown, ShardMoved, WrongShard
from headway.model.sharding import FENCED, schema_name
from headway.sharding.client.database import Database
from headway.sharding.client.place import Places
from headway.sharding.client.told import Told
from headway.sharding.keys import WrongKey, shard_of

SHARDS = 16


class Model(DeclarativeBase):
    pass


class Order(Model):
    __tablename__ = "orders"

    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text, default="")
    count: Mapped[int] = mapped_column(default=0)


@pytest.fixture(scope="module")
def orders() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        yield found


def key_on(server: str, skip: int = 0) -> int:
    """A key whose shard lies on that server."""
    first = server == "s1"
    found = (key for key in range(1, 10_000) if (shard_of(key, SHARDS, "int") < SHARDS // 2) == first)
    return next(key for index, key in enumerate(found) if index == skip)


def rows(orders: Sharded, server: str, key: int) -> list[tuple[object, ...]]:
    """What the shard's own table holds, as its server says."""
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))
    with orders.admin(server) as admin:
        return admin.execute(
            f'SELECT id, note FROM "{schema}".orders WHERE customer_id = %s ORDER BY id',  # type: ignore[arg-type]
            (key,),
        ).fetchall()


# -- where a key goes -------------------------------------------------------------------------------------------------


def test_a_session_works_on_the_shard_of_its_key(orders):
    database = orders.database()
    for server in ("s1", "s2"):
        key = key_on(server)
        with database.sqlalchemy.session(key) as session, session.begin():
            session.add_all([Order(customer_id=key, id=1, note="here"), Order(customer_id=key, id=2)])
        assert rows(orders, server, key) == [(1, "here"), (2, "")]
        with database.sqlalchemy.session(key) as session:
            order = session.get(Order, (key, 1))
            assert order is not None
            order.note = "there"
            session.commit()
            assert session.scalar(select(func.count()).select_from(Order).where(Order.customer_id == key)) == 2
        with database.sqlalchemy.engine(key).begin() as connection:
            connection.execute(text("DELETE FROM orders WHERE id = 2"))
        assert rows(orders, server, key) == [(1, "there")]
    database.sqlalchemy.close()


def test_an_asynchronous_session_does_as_well(orders):
    async def use() -> None:
        database = orders.database()
        for server in ("s1", "s2"):
            key = key_on(server, skip=1)
            async with database.sqlalchemy.async_session(key) as session, session.begin():
                session.add(Order(customer_id=key, id=1, note="here"))
            assert rows(orders, server, key) == [(1, "here")]
            async with database.sqlalchemy.async_session(key) as session:
                order = await session.get(Order, (key, 1))
                assert order is not None
                order.note = "there"
                await session.commit()
            async with database.sqlalchemy.async_engine(key).connect() as connection:
                assert await connection.scalar(text("SELECT note FROM orders WHERE customer_id = :key"), {"key": key})
            assert rows(orders, server, key) == [(1, "there")]
        await database.sqlalchemy.aclose()

    asyncio.run(use())


def test_what_is_not_committed_is_not_there(orders):
    key = key_on("s1", skip=2)
    database = orders.database()
    with database.sqlalchemy.session(key) as session:
        session.add(Order(customer_id=key, id=1))
        session.flush()
    with pytest.raises(ZeroDivisionError):
        database.sqlalchemy.run(key, lambda session: (session.add(Order(customer_id=key, id=2)), 1 // 0))
    assert rows(orders, "s1", key) == []


def test_a_row_of_another_shard_is_refused(orders):
    here, other = key_on("s1"), key_on("s2")
    database = orders.database()
    with (
        pytest.raises(WrongShard, match="orders: the row's key is of another shard"),
        database.sqlalchemy.session(here) as session,
        session.begin(),
    ):
        session.add(Order(customer_id=other, id=7))

    async def use() -> None:
        async with database.sqlalchemy.async_session(here) as session, session.begin():
            session.add(Order(customer_id=other, id=7))

    with pytest.raises(WrongShard, match="orders: the row's key is of another shard"):
        asyncio.run(use())


def test_what_is_no_key_is_refused(orders):
    database = orders.database()
    with pytest.raises(WrongKey):
        database.sqlalchemy.engine("1")
    with pytest.raises(WrongKey), database.sqlalchemy.session(None):
        pass


def test_errors_of_the_app_are_sqlalchemys_own(orders):
    key = key_on("s1", skip=3)
    database = orders.database()
    with pytest.raises(ProgrammingError, match="nothing_of_the_kind"), database.sqlalchemy.session(key) as session:
        session.execute(text("SELECT * FROM nothing_of_the_kind"))
    with pytest.raises(IntegrityError), database.sqlalchemy.session(key) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES (:key, 1), (:key, 1)"), {"key": key})

    async def use(statement: str) -> None:
        async with database.sqlalchemy.async_session(key) as session:
            await session.execute(text(statement))

    with pytest.raises(ProgrammingError, match="nothing_of_the_kind"):
        asyncio.run(use("SELECT * FROM nothing_of_the_kind"))


def test_a_plain_database_needs_no_key(orders):
    url = orders.servers["s1"].url
    database = Database("main", Places(Told("main", is_sharded=False, url=url, logins={}, active_max=2)))
    with database.sqlalchemy.session() as session:
        assert session.scalar(text("SELECT current_schema()")) == "public"
    assert database.sqlalchemy.run(None, lambda session: session.scalar(text("SELECT 7"))) == 7
    assert "***" in repr(database.sqlalchemy.engine())

    async def use() -> int:
        found: int = await database.sqlalchemy.run_async(None, lambda session: session.scalar(text("SELECT 8")))
        return found

    assert asyncio.run(use()) == 8


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_threads_stay_within_the_bound(orders):
    database = orders.database(active_max=3, wait_s=100)
    spans = []

    def work(number: int) -> None:
        for turn in range(10):
            with database.sqlalchemy.session(key_on("s1", skip=number + turn)) as session:
                began_s, _, ended_s = session.execute(text(AT_WORK.format(0.01))).one()
                spans.append((float(began_s), float(ended_s)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(spans) == 160
    assert 1 <= at_once(spans) <= 3
    assert database._places.permits("s1").at_work == 0


def test_tasks_stay_within_the_bound_together_with_the_other_client(orders):
    database = orders.database(active_max=3, wait_s=100)
    look = AT_WORK.format(0.01)
    spans = []

    async def work(number: int) -> None:
        for turn in range(10):
            key = key_on("s1", skip=number + turn)
            if number % 2:
                async with database.sqlalchemy.async_session(key) as session:
                    row = (await session.execute(text(look))).one()
            else:
                async with database.at(key) as connection:
                    row = await connection.fetchrow(look)
            spans.append((float(row[0]), float(row[2])))

    async def use() -> None:
        await asyncio.gather(*(work(number) for number in range(16)))
        await database.sqlalchemy.aclose()
        await database.close()

    asyncio.run(use())
    assert len(spans) == 160
    assert 1 <= at_once(spans) <= 3
    assert database._places.permits("s1").at_work == 0


def test_one_who_waits_too_long_is_told_so(orders):
    key = key_on("s1")
    database = orders.database(active_max=1, wait_s=0.2)

    async def use() -> None:
        async with database.sqlalchemy.async_session(key) as session:
            await session.execute(text("SELECT 1"))

    with database.sqlalchemy.session(key) as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseBusy), database.sqlalchemy.session(key) as second:
            second.execute(text("SELECT 1"))
        with pytest.raises(DatabaseBusy):
            asyncio.run(use())
        session.commit()  # its connection is back, and so is its permit
        asyncio.run(use())
    assert database._places.permits("s1").at_work == 0


def test_a_cancelled_transaction_holds_nothing(orders):
    key = key_on("s1")

    async def use() -> None:
        database = orders.database(active_max=1, wait_s=60)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), database.sqlalchemy.async_session(key) as session:
                    await session.execute(text("SELECT pg_sleep(30)"))
            began_s = time.monotonic()
            async with database.sqlalchemy.async_session(key) as session:
                assert await session.scalar(text("SELECT 1")) == 1
            assert time.monotonic() - began_s < 15  # half of the sleep: who waits for it waits longer
        await database.sqlalchemy.aclose()

    asyncio.run(use())


def test_connections_stay_within_the_budget_and_serve_the_right_shard(orders):
    database = orders.database(idle_max=3)
    look = text("SELECT pg_backend_pid(), current_schema(), (SELECT count(*) FROM orders)")
    seen: dict[str, set[int]] = {"plain": set(), "asynchronous": set()}
    for key in range(200):
        with database.sqlalchemy.session(key) as session:
            pid, schema, _ = session.execute(look).one()
        assert schema == schema_name("orders", shard_of(key, SHARDS, "int"))
        seen["plain"].add(pid)
    database.sqlalchemy.close()

    async def use() -> None:
        for key in range(200):
            async with database.sqlalchemy.async_session(key) as session:
                pid, schema, _ = (await session.execute(look)).one()
            assert schema == schema_name("orders", shard_of(key, SHARDS, "int"))
            seen["asynchronous"].add(pid)
        await database.sqlalchemy.aclose()

    asyncio.run(use())
    assert {kind: len(pids) for kind, pids in seen.items()} == {"plain": 6, "asynchronous": 6}  # 3 to each server


def test_sessions_prepare_anew_with_each_map(orders):
    """The driver does not see that a text it knows already has ended what it had prepared."""
    database = orders.database(idle_max=1)
    key = key_on("s1")
    look = text("SELECT pg_backend_pid() FROM (SELECT count(*) FROM orders WHERE customer_id = :key) AS found")
    pids = set()
    for times in (1, 1, 9, 9, 9):
        for _ in range(times):
            with database.sqlalchemy.session(key) as session:
                pids.add(session.scalar(look, {"key": key}))
                session.commit()  # a rollback would end what is prepared, and the driver knows of those
        epoch = database._places.map.epoch
        orders.tell("SELECT 1")
        wait_for(lambda known=epoch: database._places.map.epoch > known, 30, "a newer map")
    assert len(pids) == 1
    database.sqlalchemy.close()


# -- a shard that moves, by hand --------------------------------------------------------------------------------------


@contextmanager
def moving(orders: Sharded, key: int, *, refuses: str) -> Iterator[Callable[[], None]]:
    """What a call does: the shard of `key` goes from s1 to s2, and s1 refuses from then on."""
    shard = shard_of(key, SHARDS, "int")
    schema, role = schema_name("orders", shard), orders.servers["s1"].role
    with orders.admin("s2") as admin:
        orders.make_shard(admin, shard, orders.servers["s2"].role)
    telling: list[threading.Timer] = []

    def move() -> None:
        with orders.admin("s1") as admin:
            if refuses == "by its fence":
                admin.execute(
                    f"CREATE OR REPLACE FUNCTION public.fence() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}'; END $$"
                )
                fence = f'CREATE TRIGGER fence BEFORE INSERT ON "{schema}".orders EXECUTE FUNCTION public.fence()'
                admin.execute(fence)  # type: ignore[arg-type]
            else:
                admin.execute(f'REVOKE ALL ON "{schema}".orders FROM {role}')  # type: ignore[arg-type]
        tell = f"UPDATE headway.shard_map SET server = 's2' WHERE shard = {shard}"
        telling.append(threading.Timer(0.1, orders.tell, [tell]))
        telling[-1].start()

    try:
        with pytest.MonkeyPatch.context() as patch:
            for client in ("sqlalchemy", "sync", "checkout"):  # the newer map comes, and is late on a busy machine
                patch.setattr(f"headway.sharding.client.{client}.NEWER_WAIT_S", 30.0)
            yield move
    finally:
        for each in telling:
            each.join()
        orders.tell(f"UPDATE headway.shard_map SET server = 's1' WHERE shard = {shard}")
        with orders.admin("s2") as admin:
            admin.execute(f'DROP SCHEMA "{schema}" CASCADE')  # type: ignore[arg-type]
        with orders.admin("s1") as admin:
            admin.execute(f'DROP TRIGGER IF EXISTS fence ON "{schema}".orders')  # type: ignore[arg-type]
            admin.execute(f'GRANT ALL ON "{schema}".orders TO {role}')  # type: ignore[arg-type]


@pytest.mark.parametrize("refuses", ["by its fence", "by rights"])
@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_a_transaction_caught_by_a_move_is_run_again_at_the_new_place(orders, kind, refuses):
    key = key_on("s1", skip=10 + ["asynchronous", "plain"].index(kind))
    database = orders.database(wait_s=60)
    attempts = []
    with moving(orders, key, refuses=refuses) as move:

        def insert(session: Session) -> Order:
            attempts.append(1)
            if len(attempts) == 1:
                session.execute(select(Order)).all()
                move()
            session.add(order := Order(customer_id=key, id=5, note="moved"))
            return order

        async def insert_later(session: AsyncSession) -> Order:
            return await session.run_sync(insert)

        if kind == "plain":
            engine = database.sqlalchemy.engine(key)
            order = database.sqlalchemy.run(key, insert)
            with engine.connect() as connection:  # the engine from before leads to the shard as well
                assert connection.scalar(select(func.count()).select_from(Order)) == 1
        else:
            order = asyncio.run(database.sqlalchemy.run_async(key, insert_later))
        assert len(attempts) >= 2
        assert order.note == "moved"
        assert rows(orders, "s2", key) == [(5, "moved")]
        assert rows(orders, "s1", key) == []


def test_a_session_caught_by_a_move_is_told_so(orders):
    key = key_on("s1", skip=14)
    database = orders.database()

    def use(move: Callable[[], None]) -> None:
        with database.sqlalchemy.session(key) as session, session.begin():
            session.execute(select(Order)).all()
            move()
            session.add(Order(customer_id=key, id=5))

    with (
        moving(orders, key, refuses="by rights") as move,
        pytest.raises(ShardMoved, match="nothing was committed"),
    ):
        use(move)


def test_a_fenced_shard_is_waited_for(orders, monkeypatch):
    monkeypatch.setattr("headway.sharding.client.sqlalchemy_pool.FENCE_WAIT_S", 30.0)  # who waits is woken
    key = key_on("s1", skip=5)
    shard = shard_of(key, SHARDS, "int")
    database = orders.database()
    database.sqlalchemy.run(key, lambda session: session.execute(select(Order)).all())
    orders.tell(f"UPDATE headway.shard_map SET fenced = true WHERE shard = {shard}")
    wait_for(lambda: shard in database._places.map.fenced, 60, "it has heard of it")
    release = f"UPDATE headway.shard_map SET fenced = false WHERE shard = {shard}"
    began_s = time.monotonic()
    threading.Timer(0.3, orders.tell, [release]).start()
    database.sqlalchemy.run(key, lambda session: session.execute(select(Order)).all())
    assert 0.2 < time.monotonic() - began_s < 15


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_the_first_of_two_transactions_wins_and_the_other_is_run_again(orders, kind):
    key = key_on("s1", skip=20 + ["asynchronous", "plain"].index(kind))
    database = orders.database()
    database.sqlalchemy.run(key, lambda session: session.add(Order(customer_id=key, id=1)))
    attempts = []

    def count(session: Session) -> None:
        order = session.get(Order, (key, 1))
        assert order is not None
        attempts.append(order.count)
        if len(attempts) == 1:
            with database.sqlalchemy.engine(key).begin() as other:
                other.execute(text("UPDATE orders SET count = count + 1 WHERE customer_id = :key"), {"key": key})
        order.count += 1

    async def count_later(session: AsyncSession) -> None:
        await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        await session.run_sync(count)

    def count_now(session: Session) -> None:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        count(session)

    if kind == "plain":
        database.sqlalchemy.run(key, count_now)
    else:
        asyncio.run(database.sqlalchemy.run_async(key, count_later))
    assert attempts == [0, 1]
    assert database.sqlalchemy.run(key, lambda session: session.scalar(select(Order.count))) == 2


def test_changed_tables_break_no_prepared_statement(orders):
    key = key_on("s1", skip=40)
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))
    database = orders.database()
    query = text("SELECT count FROM orders WHERE customer_id = :key")

    def change(type_: str) -> None:
        with orders.admin("s1") as admin:
            admin.execute(f'ALTER TABLE "{schema}".orders ALTER COLUMN count TYPE {type_}')  # type: ignore[arg-type]

    def raise_epoch() -> None:
        before = database._places.map.epoch
        orders.tell("SELECT 1")
        wait_for(lambda: database._places.map.epoch > before, 60, "it has heard of it")

    def read(session: Session) -> None:
        session.execute(query, {"key": key}).all()

    async def use() -> None:
        for type_ in ("bigint", "int"):
            await database.sqlalchemy.run_async(key, lambda session: session.run_sync(read))
            change(type_)  # nobody says so: the transaction is run again
            await database.sqlalchemy.run_async(key, lambda session: session.run_sync(read))
        change("bigint")
        await asyncio.to_thread(raise_epoch)  # as a migration does: not even a first attempt fails
        async with database.sqlalchemy.async_session(key) as session:
            await session.run_sync(read)
        await database.sqlalchemy.aclose()

    def read_often(session: Session) -> None:
        for _ in range(8):  # psycopg prepares what it has seen five times
            read(session)

    try:
        asyncio.run(use())
        for type_ in ("int", "bigint"):
            database.sqlalchemy.run(key, read_often)
            change(type_)
            database.sqlalchemy.run(key, read_often)
        change("int")
        raise_epoch()
        with database.sqlalchemy.session(key) as session:
            read_often(session)
    finally:
        change("int")


# -- servers that are away --------------------------------------------------------------------------------------------


def test_a_killed_server_refuses_and_comes_back():
    with sharded(SHARDS) as orders:
        here, there = key_on("s1"), key_on("s2")
        database = orders.database()

        def one(session: Session) -> object:
            return session.scalar(text("SELECT 1"))

        async def ask(key: int) -> object:
            async with database.sqlalchemy.async_session(key) as session:
                return await session.scalar(text("SELECT 1"))

        async def use() -> None:
            for key in (here, there):
                assert await ask(key) == 1
                assert database.sqlalchemy.run(key, one) == 1
            with database.sqlalchemy.session(there) as session:
                session.execute(text("SELECT 1"))
                orders.processes["s2"].send_signal(signal.SIGQUIT)
                orders.processes["s2"].wait(60)
                with pytest.raises(ServerDown, match="the connection broke"):
                    session.execute(text("SELECT 1"))
            for _ in range(5):
                began_s = time.monotonic()
                with pytest.raises(ServerDown, match="server s2 of database orders"):
                    await ask(there)
                with pytest.raises(ServerDown, match="server s2 of database orders"):
                    database.sqlalchemy.run(there, one)
                assert time.monotonic() - began_s < 0.75 * CONNECT_S, "less than a connection may take"
                assert await ask(here) == 1
            assert database._places.permits("s2").at_work == 0
            orders.processes["s2"] = orders.place.start_again(orders.servers["s2"])
            until_s = time.monotonic() + 60
            while True:
                try:
                    assert await ask(there) == 1
                    break
                except (ServerDown, OperationalError, DBAPIError):
                    assert time.monotonic() < until_s
                    await asyncio.sleep(0.05)
            assert database.sqlalchemy.run(there, one) == 1
            await database.sqlalchemy.aclose()

        asyncio.run(use())
