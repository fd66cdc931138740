"""Django's ORM on the shards of a database, on two real servers; the models know of no shard."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import django
import pytest
from asgiref.sync import sync_to_async
from client_place import AT_WORK, CONNECT_S, Sharded, at_once, sharded
from django.apps import apps
from django.conf import settings
from django.db import IntegrityError, OperationalError, ProgrammingError, connections, models, transaction
from postgresql_place import wait_for

from headway.errors import Conflict, DatabaseBusy, ServerDown, ShardMoved, WrongShard
from headway.model.sharding import FENCED, schema_name
from headway.sharding.client import database as client
from headway.sharding.client.database import Database
from headway.sharding.client.place import Places
from headway.sharding.client.told import Told
from headway.sharding.keys import WrongKey, shard_of

if not settings.configured:
    settings.configure(
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
            "orders": {"ENGINE": "headway.sharding.client.django_backend", "NAME": "orders"},
            "main": {"ENGINE": "headway.sharding.client.django_backend", "NAME": "main"},
        },
        DATABASE_ROUTERS=["headway.sharding.client.django.ShardRouter"],
        INSTALLED_APPS=["django.contrib.contenttypes"],
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()

from headway.sharding.client.django import NoShard, ShardRouter, migrate_shard, run_sharded, shard

SHARDS = 16


class Order(models.Model):
    """As any model of an app; its table has a compound key, of which Django 5.1 knows nothing."""

    id = models.BigIntegerField(primary_key=True)
    customer_id = models.BigIntegerField()
    note = models.TextField(default="")
    count = models.IntegerField(default=0)

    class Meta:
        app_label = "contenttypes"
        db_table = "orders"
        managed = False


ContentType = apps.get_model("contenttypes", "ContentType")


@pytest.fixture(autouse=True, scope="module")
def patient_django() -> Iterator[None]:
    """As `patient`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headway.sharding.client.django_backend.base._CONNECT_S", CONNECT_S)
        yield


@pytest.fixture(scope="module")
def place() -> Iterator[Sharded]:
    with sharded(SHARDS) as found:
        yield found


@pytest.fixture
def orders(place: Sharded) -> Iterator[Sharded]:
    with told(place, wait_s=60) as found:
        yield found


@contextmanager
def told(place: Sharded, **more: object) -> Iterator[Sharded]:
    """With the app's process told of it."""
    url = place.servers["s1"].url
    main = Database("main", Places(Told("main", is_sharded=False, url=url, logins={}, active_max=2)))
    former = dict(client._databases)
    client._databases |= {"orders": place.database(**more), "main": main}
    try:
        yield place
    finally:
        connections["orders"].shards.close()
        client._databases.clear()
        client._databases |= former


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


def at_work(server: str) -> int:
    return client._databases["orders"]._places.permits(server).at_work


# -- where a key goes -------------------------------------------------------------------------------------------------


def test_queries_in_a_block_go_to_the_shard_of_its_key(orders):
    for server in ("s1", "s2"):
        key = key_on(server)
        with shard("orders", key):
            Order.objects.create(customer_id=key, id=1, note="here")
            with transaction.atomic(using="orders"):
                Order.objects.filter(id=1).update(note="there")
                assert at_work(server) == 1
            assert [order.note for order in Order.objects.filter(customer_id=key)] == ["there"]
            assert Order.objects.filter(customer_id=key).aggregate(models.Count("id")) == {"id__count": 1}
        assert at_work(server) == 0
        assert rows(orders, server, key) == [(1, "there")]


def test_a_query_without_a_block_is_refused(orders):
    with pytest.raises(NoShard, match="database 'orders' has shards") as found:
        Order.objects.first()
    assert 'with shard("orders", key)' in found.value.hint
    with pytest.raises(NoShard), transaction.atomic(using="orders"):
        pass
    refused = []

    def elsewhere() -> None:
        try:
            Order.objects.first()
        except NoShard as error:
            refused.append(error)

    with shard("orders", key_on("s1")):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_an_open_transaction_is_rolled_back_by_an_error(orders):
    key = key_on("s1", skip=2)

    def fail() -> None:
        with shard("orders", key), transaction.atomic(using="orders"):
            Order.objects.create(customer_id=key, id=2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert rows(orders, "s1", key) == []
    assert at_work("s1") == 0


def test_errors_mean_what_they_mean_elsewhere(orders):
    key = key_on("s1")
    with pytest.raises(WrongShard, match="orders: the row's key is of another shard"), shard("orders", key):
        Order.objects.create(customer_id=key_on("s2"), id=3)
    with pytest.raises(IntegrityError), shard("orders", key):
        Order.objects.bulk_create([Order(customer_id=key, id=4), Order(customer_id=key, id=4)])
    with pytest.raises(ProgrammingError), shard("orders", key), connections["orders"].cursor() as cursor:
        cursor.execute("SELECT * FROM nothing_of_the_kind")
    with pytest.raises(WrongKey), shard("orders", "1"):
        pass
    assert at_work("s1") == 0


def test_blocks_in_blocks(orders):
    key, other = key_on("s1"), key_on("s2")
    with shard("orders", key):
        Order.objects.count()
        with shard("orders", key), transaction.atomic(using="orders"):
            Order.objects.count()
            assert at_work("s1") == 1  # a part of the outer one
            with shard("orders", key):
                Order.objects.count()
            with pytest.raises(Conflict, match="a transaction on shard"), shard("orders", other):
                pass
        with shard("orders", other):
            Order.objects.create(customer_id=other, id=31)
            assert at_work("s1") == at_work("s2") == 1
        with transaction.atomic(using="orders"):
            assert not Order.objects.filter(id=31).exists()
    assert at_work("s1") == at_work("s2") == 0


# -- tasks and threads ------------------------------------------------------------------------------------------------


def test_a_task_has_a_block_of_its_own(orders):
    keys = [key_on("s1", skip=3), key_on("s2", skip=3), key_on("s1", skip=4), key_on("s2", skip=4)]

    async def write(key: int) -> None:
        with shard("orders", key):
            for number in range(5):
                await Order.objects.acreate(customer_id=key, id=number)
                await asyncio.sleep(0.001)
            assert await Order.objects.filter(customer_id=key).acount() == 5

    async def write_all() -> None:
        await asyncio.gather(*(write(key) for key in keys))
        with shard("orders", keys[0]):
            async for order in Order.objects.filter(customer_id=keys[0]).order_by("id"):
                assert order.customer_id == keys[0]

    asyncio.run(write_all())
    for key in keys:
        server = "s1" if shard_of(key, SHARDS, "int") < SHARDS // 2 else "s2"
        assert len(rows(orders, server, key)) == 5
    assert at_work("s1") == at_work("s2") == 0


def test_threads_within_one_block_have_a_connection_each(orders):
    key = key_on("s1", skip=5)
    all_have_one = threading.Barrier(3)

    def add(number: int) -> int:
        with transaction.atomic(using="orders"):
            Order.objects.create(customer_id=key, id=number)
            with connections["orders"].cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                all_have_one.wait(60)
                return int(cursor.fetchone()[0])

    async def use() -> set[int]:
        with shard("orders", key):
            return set(await asyncio.gather(*(sync_to_async(add, thread_sensitive=False)(n) for n in range(3))))

    assert len(asyncio.run(use())) == 3
    assert len(rows(orders, "s1", key)) == 3
    assert at_work("s1") == 0


def test_threads_stay_within_the_bound(place):
    with told(place, active_max=2, wait_s=100):
        most, spans = [], []

        def work(number: int) -> None:
            for turn in range(5):
                with shard("orders", key_on("s1", skip=number + turn)), connections["orders"].cursor() as cursor:
                    cursor.execute(AT_WORK.format(0.01))
                    began_s, _, ended_s = cursor.fetchone()
                    spans.append((float(began_s), float(ended_s)))
                    most.append(at_work("s1"))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 40
        assert max(most) <= 2
        assert 1 <= at_once(spans) <= 2
        with shard("orders", key_on("s1")), shard("orders", key_on("s1", skip=2)):
            pass  # a block that asks nothing holds nothing


def test_one_who_waits_too_long_is_told_so(place):
    with told(place, active_max=1, wait_s=0.2):
        with shard("orders", key_on("s1")):
            Order.objects.count()
            busy = []

            def wait() -> None:
                try:
                    with shard("orders", key_on("s1")):
                        Order.objects.count()
                except DatabaseBusy as error:
                    busy.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
        assert len(busy) == 1
        assert at_work("s1") == 0


def test_connections_are_kept_within_the_budget(place):
    with told(place, idle_max=3):
        seen = set()
        for key in range(100):
            with shard("orders", key), connections["orders"].cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid(), current_schema()")
                pid, schema = cursor.fetchone()
            assert schema == schema_name("orders", shard_of(key, SHARDS, "int"))
            seen.add(pid)
        assert len(seen) == 6  # three to each of two servers


# -- a shard that moves, by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["alone", "in a block"])
def test_a_transaction_caught_by_a_move_is_run_again_at_the_new_place(orders, within):
    key = key_on("s1", skip=20 if within == "alone" else 21)
    number = shard_of(key, SHARDS, "int")
    schema = schema_name("orders", number)
    attempts = []
    with orders.admin("s2") as admin:
        orders.make_shard(admin, number, orders.servers["s2"].role)

    def insert() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            Order.objects.count()
            with orders.admin("s1") as admin:
                admin.execute(
                    f"CREATE OR REPLACE FUNCTION public.fence() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}'; END $$"
                )
                admin.execute(
                    f'CREATE TRIGGER fence BEFORE INSERT ON "{schema}".orders EXECUTE FUNCTION public.fence()'
                )
            threading.Timer(
                0.1, orders.tell, [f"UPDATE headway.shard_map SET server = 's2' WHERE shard = {number}"]
            ).start()
        return Order.objects.create(customer_id=key, id=5, note="moved").note

    try:
        if within == "alone":
            assert run_sharded("orders", key, insert) == "moved"
        else:
            with shard("orders", key):
                Order.objects.count()
                assert run_sharded("orders", key, insert) == "moved"
                assert Order.objects.filter(customer_id=key).count() == 1
        assert len(attempts) >= 2
        assert rows(orders, "s2", key) == [(5, "moved")]
        assert rows(orders, "s1", key) == []
    finally:
        orders.tell(f"UPDATE headway.shard_map SET server = 's1' WHERE shard = {number}")
        with orders.admin("s2") as admin:
            admin.execute(f'DROP SCHEMA "{schema}" CASCADE')  # type: ignore[arg-type]
        with orders.admin("s1") as admin:
            admin.execute(f'DROP TRIGGER fence ON "{schema}".orders')  # type: ignore[arg-type]


def test_a_block_caught_by_a_move_is_told_so(orders):
    key = key_on("s1", skip=22)
    schema = schema_name("orders", shard_of(key, SHARDS, "int"))
    with orders.admin("s1") as admin:
        admin.execute(
            f"CREATE OR REPLACE FUNCTION public.fence() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION 'fenced' USING ERRCODE = '{FENCED}'; END $$"
        )
        admin.execute(f'CREATE TRIGGER fence BEFORE INSERT ON "{schema}".orders EXECUTE FUNCTION public.fence()')
        try:
            with pytest.raises(ShardMoved, match="nothing was committed"), shard("orders", key):
                Order.objects.create(customer_id=key, id=5)
        finally:
            admin.execute(f'DROP TRIGGER fence ON "{schema}".orders')


def test_of_two_transactions_the_second_is_run_again(orders):
    key = key_on("s1", skip=23)
    run_sharded("orders", key, lambda: Order.objects.create(customer_id=key, id=1))
    attempts = []

    def elsewhere(call: Callable[[], object]) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def add() -> None:
        Order.objects.filter(customer_id=key).update(count=models.F("count") + 1)

    def count() -> None:
        with connections["orders"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        order = Order.objects.get(customer_id=key)
        attempts.append(order.count)
        if len(attempts) == 1:
            elsewhere(lambda: run_sharded("orders", key, add))
        order.count += 1
        order.save()

    run_sharded("orders", key, count)
    assert attempts == [0, 1]
    with shard("orders", key):
        assert Order.objects.get(customer_id=key).count == 2
        with pytest.raises(RuntimeError, match="durable"), transaction.atomic(using="orders"):
            run_sharded("orders", key, add)


# -- which models go there --------------------------------------------------------------------------------------------


def test_the_router_keeps_both_apart(orders):
    router = ShardRouter()
    assert router.db_for_read(Order) == router.db_for_write(Order) == "orders"
    assert router.db_for_read(ContentType) is None
    order, kind = Order(customer_id=1, id=1), ContentType()
    assert router.allow_relation(order, Order(customer_id=1, id=2)) is True
    assert router.allow_relation(order, kind) is False
    assert router.allow_relation(kind, ContentType()) is None
    assert router.allow_migrate("orders", "contenttypes", "order") is True
    assert router.allow_migrate("default", "contenttypes", "order") is False
    assert router.allow_migrate("orders", "contenttypes", "contenttype") is False
    assert router.allow_migrate("default", "contenttypes", "contenttype") is None
    assert router.allow_migrate("orders", "contenttypes") is None


def test_a_reference_table_is_of_the_database_too(place):
    with told(place, reference=["django_content_type"]):
        assert ShardRouter().db_for_read(ContentType) == "orders"


def test_one_shard_is_migrated(place):
    """With the tables that the router lets there, and a record of what was applied."""
    with told(place, reference=["django_content_type"]) as orders, orders.admin("s1") as admin:
        admin.execute("CREATE SCHEMA to_migrate")
        url = f"postgresql://{admin.info.user}@/{admin.info.dbname}?host={admin.info.host}&port={admin.info.port}"
        for _ in range(2):
            migrate_shard("orders", url, "to_migrate", verbosity=0)
        tables = admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'to_migrate' ORDER BY 1")
        assert tables.fetchall() == [("django_content_type",), ("django_migrations",)]
        assert admin.execute("SELECT count(*) FROM to_migrate.django_migrations").fetchone() == (2,)
        admin.execute("DROP SCHEMA to_migrate CASCADE")


def test_a_plain_database_needs_no_block(orders):
    permits = client._databases["main"]._places.permits("main")
    look = "SELECT current_schema()"
    with connections["main"].cursor() as cursor:
        cursor.execute(look)
        assert cursor.fetchone() == ("public",)
    connections["main"].close()
    with shard("main"), transaction.atomic(using="main"), connections["main"].cursor() as cursor:
        cursor.execute(look)
        assert cursor.fetchone() == ("public",)
        assert permits.at_work == 1
    assert permits.at_work == 0
    connections["main"].shards.close()


# -- servers that are away --------------------------------------------------------------------------------------------


def test_a_killed_server_refuses_and_comes_back():
    with sharded(SHARDS) as own, told(own) as orders:
        here, there = key_on("s1"), key_on("s2")

        def kill() -> None:
            with shard("orders", there), transaction.atomic(using="orders"):
                Order.objects.count()
                orders.processes["s2"].send_signal(signal.SIGQUIT)
                orders.processes["s2"].wait(60)
                Order.objects.count()

        with pytest.raises(ServerDown, match="the connection broke"):
            kill()
        began_s = time.monotonic()
        with pytest.raises(ServerDown, match="server s2 of database orders"), shard("orders", there):
            Order.objects.count()
        assert time.monotonic() - began_s < 0.75 * CONNECT_S, "less than a connection may take"
        with shard("orders", here):
            assert Order.objects.count() == 0
        assert at_work("s2") == 0
        orders.processes["s2"] = orders.place.start_again(orders.servers["s2"])
        until_s = time.monotonic() + 60
        while True:
            try:
                with shard("orders", there):
                    assert Order.objects.count() == 0
                break
            except (ServerDown, OperationalError):
                assert time.monotonic() < until_s
                time.sleep(0.05)


def test_until_its_rows_are_imported_a_block_works_on_the_source(place):
    with place.admin("s2") as admin:
        admin.execute("CREATE TABLE public.orders (customer_id bigint, id bigint, note text, count int)")
        admin.execute(f'GRANT ALL ON public.orders TO "{place.servers["s2"].role}"')  # type: ignore[arg-type]
        place.tell("UPDATE headway.catalog SET at_source = true")
        source = {"name": "old", "url": place.servers["s2"].url, "active_max": 2}
        key = key_on("s1", 77)
        with told(place, source=source):
            with shard("orders", key):
                Order.objects.create(customer_id=key, id=77, note="at the source")
            assert admin.execute("SELECT id, note FROM public.orders").fetchall() == [(77, "at the source")]
            place.tell("UPDATE headway.catalog SET at_source = false")
            wait_for(lambda: not client._databases["orders"].map.at_source, "the newer map")
            with shard("orders", key):
                assert not Order.objects.filter(id=77).exists()
        admin.execute("DROP TABLE public.orders")
