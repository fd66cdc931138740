"""Every way in goes on while shards are doubled: threads, SQLAlchemy, transactions over two shards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from harness import wait_for
from split_place import Splitting, splitting
from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from headway.errors import ShardMoved
from headway.sharding.keys import shard_of


class Model(DeclarativeBase):
    pass


class Order(Model):
    __tablename__ = "orders"

    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text, default="")


@pytest.fixture
def place() -> Iterator[Splitting]:
    with splitting() as found:
        yield found


class Busy:
    """Threads that do the same with ever new numbers until the split is over, and what they were promised."""

    def __init__(self) -> None:
        self.promised: dict[str, set[tuple[int, int]]] = {}
        self.failed: list[str] = []
        self.is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[int], list[tuple[int, int]]]) -> None:
        self.promised[name] = set()
        self._threads.append(threading.Thread(target=self._loop, args=(name, work)))
        self._threads[-1].start()

    def _loop(self, name: str, work: Callable[[int], list[tuple[int, int]]]) -> None:
        number = 0
        rest = iter(range(40))  # after the split as well, over all shards
        while not self.is_over.is_set() or next(rest, None) is not None:
            number += 1
            try:
                self.promised[name].update(work(number))
            except Exception as error:
                self.failed.append(f"{name}, {number}: {error!r}")
            self.is_over.wait(0.005)

    def end(self) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join(100)


def test_threads_sessions_and_pairs_lose_nothing_while_shards_are_doubled(place):
    database = place.database()
    busy = Busy()

    def by_thread(number: int) -> list[tuple[int, int]]:
        key = 3 * number
        database.sync.run(key, lambda c: c.execute("INSERT INTO orders VALUES (%s, %s, 'thread')", (key, number)))
        return [(key, number)]

    def by_session(number: int) -> list[tuple[int, int]]:
        key = 3 * number + 1

        def insert(session: Session) -> None:
            session.add(Order(customer_id=key, id=number, note="session"))

        database.sqlalchemy.run(key, insert)
        return [(key, number)]

    loop = asyncio.new_event_loop()

    def by_pair(number: int) -> list[tuple[int, int]]:
        return loop.run_until_complete(pair(number))

    async def pair(number: int) -> list[tuple[int, int]]:
        one, other = 9 * number + 2, 9 * number + 5
        statement = "INSERT INTO orders VALUES ($1, $2, 'pair')"
        while True:
            try:
                async with database.transaction(one, other) as (a, b):
                    await a.execute(statement, one, number)
                    await b.execute(statement, other, number)
            except ShardMoved:  # nothing of it is committed
                continue
            return [(one, number), (other, number)]

    busy.start("thread", by_thread)
    busy.start("session", by_session)
    busy.start("pair", by_pair)
    try:
        wait_for(lambda: all(len(rows) > 20 for rows in busy.promised.values()) or bool(busy.failed), 100, "all write")
        assert place.split(grace_s=4.0).shards == 8
    finally:
        busy.end()
        loop.run_until_complete(database.close())
        loop.close()
    assert busy.failed == []
    found = [(note, row) for shard, (note, *row) in place.rows("orders", "note, customer_id, id")]
    for name, promised in busy.promised.items():
        written = sorted(tuple(row) for note, row in found if note == name)
        assert written == sorted(promised)
    for shard, (customer, _) in place.rows("orders", "customer_id, id"):
        assert shard == shard_of(customer, 8, "int")
    assert place.leftovers() == []
