"""A publication that ends while its tables are written to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest

from headway.sharding.admin import AdminServer, Connection, connect
from headway.sharding.publication import drop_publication

_TABLES = """
CREATE TABLE goods (id int PRIMARY KEY, count int);
INSERT INTO goods SELECT n, 0 FROM generate_series(0, 9) n;
CREATE TABLE "Odd name" (id int PRIMARY KEY, count int) PARTITION BY RANGE (id);
CREATE TABLE odd_first PARTITION OF "Odd name" FOR VALUES FROM (0) TO (100);
INSERT INTO "Odd name" SELECT n, 0 FROM generate_series(0, 9) n;
"""
_WRITES = ("UPDATE goods SET count = count + 1 WHERE id = %s", 'UPDATE "Odd name" SET count = count + 1 WHERE id = %s')


def _publish(connection: Connection) -> None:
    connection.execute('CREATE PUBLICATION link FOR TABLE goods, "Odd name"')


def _count(connection: Connection, what: str) -> int:
    row = connection.execute(what.encode()).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def shop(main: AdminServer) -> AdminServer:
    with connect(main) as connection:
        connection.execute(_TABLES.encode())
    return main


def test_nobody_who_writes_meets_its_end(shop: AdminServer) -> None:
    met: list[str] = []
    written = [0] * 4
    stop = threading.Event()

    def write(number: int) -> None:
        with connect(shop) as connection:
            while not stop.is_set():
                try:
                    connection.execute(_WRITES[number % 2].encode(), (number,))
                except psycopg.Error as error:
                    met.append(str(error))
                    return
                written[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with connect(shop) as connection:
        for _ in range(400):
            _publish(connection)
            drop_publication(connection, "link")
        assert _count(connection, "SELECT count(*) FROM pg_publication") == 0
    stop.set()
    for thread in threads:
        thread.join(30)
    assert met == []
    assert min(written) > 0


def _who_writes(shop: AdminServer, connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute(_WRITES[0].encode(), (1,))


def _who_builds(shop: AdminServer, connection: Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("LOCK TABLE goods IN SHARE UPDATE EXCLUSIVE MODE")


@pytest.mark.parametrize("holds", [_who_writes, _who_builds])
def test_who_keeps_a_table_does_not_keep_it(
    shop: AdminServer, holds: Callable[[AdminServer, Connection], None]
) -> None:
    with connect(shop) as other, connect(shop) as connection:
        _publish(connection)
        holds(shop, other)
        began_s = time.monotonic()
        drop_publication(connection, "link")
        assert time.monotonic() - began_s < 60
        assert _count(connection, "SELECT count(*) FROM pg_publication") == 0
        other.execute("COMMIT")


def test_what_is_not_there_is_no_error_and_what_has_no_tables_goes(shop: AdminServer) -> None:
    with connect(shop) as connection:
        drop_publication(connection, "link")
        _publish(connection)
        connection.execute('ALTER PUBLICATION link DROP TABLE goods, "Odd name"')
        drop_publication(connection, "link")
        assert _count(connection, "SELECT count(*) FROM pg_publication") == 0
