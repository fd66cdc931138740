"""Four shards on two real servers that become eight, writers that never stop, and an account of what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from client_place import Sharded
from postgresql_place import die_with_parent, in_memory
from psycopg.conninfo import make_conninfo

from headway.errors import DatabaseError, HeadwayError
from headway.model.sharding import schema_name
from headway.sharding import settings
from headway.sharding.admin import AdminServer
from headway.sharding.catalog import read_map
from headway.sharding.client.database import Database
from headway.sharding.shards import lay_out
from headway.sharding.split.nouns import SplitBounds, SplitProgress, SplitResult
from headway.sharding.split.splitter import Splitter
from headway.sharding.wanted import Layout

# The last is how asyncpg says that the connection ended in the middle of a COMMIT.
_BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, DatabaseError, asyncpg.InternalClientError)
CHILD = Path(__file__).with_name("split_child.py")
# Time enough for a process that does all of it at once, on a busy machine, to hear of each new map.
GRACE_S = 4.0
BOUNDS = {"chunk_rows": 200, "grace_s": 1.0, "readers_max_s": 2.0}
SCHEMA = """
CREATE TABLE orders (
    customer_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL DEFAULT '', count int NOT NULL DEFAULT 0,
    twice int GENERATED ALWAYS AS (count * 2) STORED, PRIMARY KEY (customer_id, id)
);
CREATE TABLE lines (
    customer_id bigint NOT NULL, order_id bigint NOT NULL, number bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (customer_id, order_id, number),
    FOREIGN KEY (customer_id, order_id) REFERENCES orders ON DELETE CASCADE
);
CREATE TABLE audit (
    customer_id bigint NOT NULL, number bigserial, id bigint NOT NULL, PRIMARY KEY (customer_id, number)
);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO audit (customer_id, id) VALUES (NEW.customer_id, NEW.id); RETURN NULL; END';
CREATE TRIGGER note AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION noted();
"""
KEYS = {"orders": "customer_id", "lines": "customer_id", "audit": "customer_id"}


class Splitting(Sharded):
    """`orders` with what a shard may hold: foreign keys, triggers, identities, generated columns."""

    def database(self, **more: object) -> Database:
        """With patience: a split takes its time on a busy machine."""
        return super().database(**({"wait_s": 60} | more))

    def admins(self) -> list[AdminServer]:
        return [
            AdminServer(
                name=name,
                admin=self._way(name),
                replication=self._way(name),
                url=f"postgresql://{server.role}@127.0.0.1:{server.port}/{server.database}",
                role=server.role,
                owner=settings.SUPERUSER,
                database=server.database,
                is_ours=True,
            )
            for name, server in self.servers.items()
        ]

    def _way(self, name: str) -> str:
        server = self.servers[name]
        return make_conninfo(
            host=str(server.socket_folder), port=server.port, user=settings.SUPERUSER, dbname=server.database
        )

    def layout(self, shards: int = 0) -> Layout:
        file = self.place.folder / "schema.sql"
        file.write_text(SCHEMA)
        return Layout("shop", "orders", shards or self.shards, KEYS, (), file)

    def create(self) -> None:
        lay_out(self.layout(), self.admins())

    def splitter(self, told: list[SplitProgress] | None = None, **bounds: Any) -> Splitter:
        note = told.append if told is not None else lambda _: None
        return Splitter(
            "orders", self.admins(), progress=note, stop=threading.Event(), bounds=SplitBounds(**(BOUNDS | bounds))
        )

    def split(self, **bounds: Any) -> SplitResult:
        splitter = self.splitter(**bounds)
        return splitter.resume(splitter.begin())

    def child(self, split_id: int, nth: int) -> subprocess.Popen[str]:
        told = [{name: getattr(one, name) for name in one.__dataclass_fields__} for one in self.admins()]
        return subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(told), str(split_id), str(nth)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=die_with_parent(),
        )

    def kill(self, name: str) -> None:
        """As a power cut would; then start it again, from the thread that stays."""
        process = self.processes[name]
        process.kill()
        process.wait(60)
        self.processes[name] = self.place.start_again(self.servers[name])

    def rows(self, table: str, columns: str) -> list[tuple[int, tuple[Any, ...]]]:
        """Every row of all shards with the shard it is in."""
        with self.admin("s1") as catalog:
            map_ = read_map(catalog)
        found = []
        for shard, owner in enumerate(map_.owners):
            with self.admin(owner) as admin:
                place = f'"{schema_name("orders", shard)}".{table}'
                found += [(shard, tuple(row)) for row in admin.execute(f"SELECT {columns} FROM {place}")]
        return found

    def leftovers(self) -> list[str]:
        """What a split would have left."""
        found = []
        for name in self.servers:
            with self.admin(name) as admin:
                found += [
                    f"{name}: {row[0]}"
                    for row in admin.execute(
                        "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%\\_half' UNION ALL "
                        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'headway%' UNION ALL "
                        "SELECT nspname FROM pg_namespace n JOIN pg_description ON objoid = n.oid "
                        "WHERE nspname LIKE 'orders%' UNION ALL "
                        "SELECT conname FROM pg_constraint WHERE NOT convalidated"
                    )
                ]
        return found


@contextmanager
def splitting(shards: int = 4) -> Iterator[Splitting]:
    """Servers that are gone afterwards."""
    with in_memory() as place:
        found = Splitting(place, shards)
        for number in (1, 2):
            found.servers[f"s{number}"], found.processes[f"s{number}"] = place.start(f"orders.s{number}")
        found.create()
        yield found


@dataclass
class Account:
    """What the database has promised a writer: key and id -> count; None: deleted."""

    promised: dict[tuple[int, int], int | None] = field(default_factory=dict)
    doubtful: set[tuple[int, int]] = field(default_factory=set)
    acknowledged: int = 0
    seen_wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@contextmanager
def writing(place: Splitting, writers: int, seed: int, base: int) -> Iterator[Account]:
    """Writers through the app's client: they insert, count up and delete."""
    account = Account()
    stop = threading.Event()

    async def write(number: int) -> None:
        database = place.database()
        chance = random.Random(seed * 100 + number)
        mine: list[tuple[int, int]] = []
        serial = base
        while not stop.is_set():
            deed = chance.random()
            if deed < 0.4 or not mine:
                serial += 1
                row = (chance.randrange(2000) * writers + number, serial)
                deeds = [("INSERT INTO orders (customer_id, id, count) VALUES ($1, $2, 0)", row)]
                deeds.append(("INSERT INTO lines (customer_id, order_id) VALUES ($1, $2)", row))
                after: int | None = 0
            else:
                row = chance.choice(mine)
                before = account.promised[row]
                assert before is not None
                if deed < 0.9:
                    deeds = [("UPDATE orders SET count = count + 1 WHERE customer_id = $1 AND id = $2", row)]
                    after = before + 1
                else:
                    deeds = [("DELETE FROM orders WHERE customer_id = $1 AND id = $2", row)]
                    after = None

            async def do(connection: Any, deeds: Any = deeds) -> list[str]:
                return [await connection.execute(statement, *given) for statement, given in deeds]

            try:
                done = await database.run(row[0], do)
            except _BROKEN as error:
                account.refused.append(repr(error))
                account.doubtful.add(row)
                if row in mine:
                    mine.remove(row)
                await asyncio.sleep(0.01)
                continue
            if not all(word.endswith(" 1") for word in done):
                account.seen_wrong.append(f"{row}: {done}")
            account.promised[row] = after
            account.acknowledged += 1
            if after == 0:
                mine.append(row)
            elif after is None:
                mine.remove(row)
            await asyncio.sleep(0.004)
        await database.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(write(number) for number in range(writers)))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    try:
        yield account
    finally:
        stop.set()
        thread.join(100)
        assert not thread.is_alive()


def settle(place: Splitting, account: Account) -> None:
    """Every acknowledged write is found exactly once, on the shard of its key."""
    from headway.sharding.keys import shard_of

    rows = place.rows("orders", "customer_id, id, count, twice")
    with place.admin("s1") as catalog:
        shards = read_map(catalog).shards
    found: dict[tuple[int, int], int] = {}
    for shard, (customer, number, count, twice) in rows:
        assert shard == shard_of(customer, shards, "int"), (shard, customer)
        assert (customer, number) not in found, f"{customer}, {number} is there twice"
        assert twice == 2 * count
        found[customer, number] = count
    assert account.seen_wrong == []
    for row, count in account.promised.items():
        if row not in account.doubtful:
            assert found.get(row) == count, (row, count, found.get(row))
    lines = [row for _, row in place.rows("lines", "customer_id, order_id")]
    assert len(lines) == len(set(lines))
    assert set(lines) <= set(found)
    for shard, (customer, _) in place.rows("audit", "customer_id, id"):
        assert shard == shard_of(customer, shards, "int")
    audited = [row for _, row in place.rows("audit", "customer_id, id")]
    assert len(audited) == len(set(audited)), "a trigger of the app has fired twice"


def carry_on(place: Splitting, split_id: int) -> SplitResult:
    """As the controller does: again and again, whatever does not answer."""
    deadline_s = time.monotonic() + 90
    while True:
        try:
            return place.splitter(grace_s=GRACE_S).resume(split_id)
        except HeadwayError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
