"""Systems side by side on two real servers, each with databases of its own: one is backed up, another one restored."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgresql_place import Place, in_memory
from psycopg.conninfo import make_conninfo

from headway.errors import DatabaseError
from headway.model.sharding import DATABASES_VARIABLE, RUN_VARIABLE, Join, ShardMap
from headway.sharding import settings
from headway.sharding.admin import AdminServer, connect
from headway.sharding.backup.manifest import Manifest
from headway.sharding.backup.record import Restore
from headway.sharding.backup.restore import Restorer
from headway.sharding.backup.take import take
from headway.sharding.catalog import read_map
from headway.sharding.client.database import Database
from headway.sharding.client.place import Places
from headway.sharding.client.told import told
from headway.sharding.postgresql import Server
from headway.sharding.shards import lay_out
from headway.sharding.survey import look_at_all
from headway.sharding.verify import Verified, compare
from headway.sharding.wanted import Layout

START = 1000  # what every account holds at first
ACCOUNTS = 40  # of the bank that is filled
SCHEMA = """
CREATE TYPE state AS ENUM ('open', 'closed');
CREATE TABLE countries (code text PRIMARY KEY);
INSERT INTO countries VALUES ('ch'), ('li');
CREATE TABLE accounts (
    customer_id bigint PRIMARY KEY, balance bigint NOT NULL, state state NOT NULL DEFAULT 'open',
    country text NOT NULL DEFAULT 'ch' REFERENCES countries
);
CREATE TABLE entries (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES accounts, amount bigint NOT NULL,
    number int GENERATED ALWAYS AS IDENTITY
);
CREATE TABLE notes (
    entry_id bigint NOT NULL REFERENCES entries, customer_id bigint NOT NULL, text text NOT NULL DEFAULT ''
);
CREATE FUNCTION not_below() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN IF NEW.balance < -1000000 THEN RAISE EXCEPTION ''too low''; END IF; RETURN NEW; END';
CREATE TRIGGER not_below BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION not_below();
"""
KEYS = {"accounts": "customer_id", "entries": "customer_id", "notes": "customer_id"}


@dataclass
class Bank:
    """One system: `orders`, in shards on two servers, with what a shard may hold."""

    folder: Path
    engines: Mapping[str, Server]
    database_name: str
    shards: int = 8
    schema: str = SCHEMA
    keys: Mapping[str, str] = field(default_factory=lambda: dict(KEYS))

    def admins(self) -> tuple[AdminServer, ...]:
        return tuple(
            AdminServer(
                name=name,
                admin=self._way(engine, self.database_name),
                replication=self._way(engine, self.database_name),
                url=f"postgresql://{engine.role}@127.0.0.1:{engine.port}/{self.database_name}",
                role=engine.role,
                owner=settings.SUPERUSER,
                database=self.database_name,
                is_ours=True,
            )
            for name, engine in self.engines.items()
        )

    def _way(self, engine: Server, name: str) -> str:
        return make_conninfo(host=str(engine.socket_folder), port=engine.port, user=settings.SUPERUSER, dbname=name)

    def create(self) -> None:
        for engine in self.engines.values():
            with psycopg.connect(self._way(engine, "postgres"), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {self.database_name} OWNER {engine.role}")  # type: ignore[call-overload]
        self.lay_out()

    def layout(self) -> Layout:
        file = self.folder / f"{self.database_name}.sql"
        file.write_text(self.schema)
        joins = {"notes": Join("entry_id", "entries", "id")} if "notes" in self.keys else {}
        ids = {"entries": "id"} if "entries" in self.keys else {}
        reference = ("countries",) if "countries" in self.schema else ()
        return Layout("shop", "orders", self.shards, self.keys, reference, file, joins=joins, ids=ids)

    def lay_out(self, *, restored: bool = False) -> ShardMap:
        return lay_out(self.layout(), self.admins(), restored=restored)[0]

    def at(self, server: str) -> psycopg.Connection[tuple[object, ...]]:
        """As the administrator."""
        return connect(next(one for one in self.admins() if one.name == server))

    def map(self) -> ShardMap:
        with self.at("s1") as catalog:
            return read_map(catalog)

    def verify(self) -> Verified:
        return compare(self.map().owners, look_at_all("orders", self.admins()))

    def client_url(self, server: str) -> str:
        """By which the app gets there."""
        engine = self.engines[server]
        return f"postgresql://{engine.role}:{engine.password}@127.0.0.1:{engine.port}/{self.database_name}"

    def client(self) -> Database:
        """The app's view, as a process of its own would have it."""
        run = self.folder / f"{self.database_name}-run"
        run.mkdir(mode=0o700, exist_ok=True)
        entry = {
            "kind": "sharded",
            "catalog": self.client_url("s1"),
            "logins": {name: {"user": one.role, "password": one.password} for name, one in self.engines.items()},
            "active_max": 6,
            "by_code_point": True,
            "reference": ["countries"],
        }
        environ = {DATABASES_VARIABLE: json.dumps({"orders": entry}), RUN_VARIABLE: str(run)}
        return Database("orders", Places(told("orders", environ)))

    def open_accounts(self, count: int) -> None:
        async def fill() -> None:
            database = self.client()
            for number in range(count):
                async with database.at(number) as connection:
                    await connection.execute("INSERT INTO accounts VALUES ($1, $2)", number, START)
            await database.close()

        asyncio.run(fill())

    def take(self, folder: Path, say: Any = lambda _line: None) -> Manifest:
        return take("shop", "orders", self.admins(), folder, say=say, stop=threading.Event())

    def total(self, query: str = "SELECT sum(balance) FROM {}.accounts") -> int:
        """A sum over all shards, where the map has them."""
        found = 0
        map_ = self.map()
        for name in self.engines:
            with self.at(name) as admin:
                for shard in map_.on(name):
                    row = admin.execute(query.format(f"orders_{shard:04d}")).fetchone()  # type: ignore[arg-type]
                    found += int(row[0] or 0) if row else 0
        return found


def restorer(bank: Bank, stop: threading.Event | None = None) -> Restorer:
    return Restorer(
        "orders",
        bank.admins(),
        lambda: bank.lay_out(restored=True),
        say=lambda _line: None,
        stop=stop or threading.Event(),
    )


def restore(bank: Bank, folder: Path, *, replace: bool = False) -> Restore:
    one = restorer(bank)
    return one.resume(one.begin(folder, replace=replace))


def before(bank: Bank) -> list[str]:
    """What is put aside, on all servers."""
    found: list[str] = []
    for name in bank.engines:
        with bank.at(name) as admin:
            rows = admin.execute("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'headway_before%'")
            found += [str(row[0]) for row in rows]
    return found


def plain(bank: Bank, server: str, script: str) -> None:
    with psycopg.connect(bank.client_url(server), autocommit=True) as app:
        app.execute(script)  # type: ignore[arg-type]


class Transfers:
    """Money that goes from account to account, most of it over two shards, without a pause."""

    def __init__(self, bank: Bank, accounts: int, tasks: int = 4) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._bank, self._accounts, self._tasks = bank, accounts, tasks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Transfers:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(100)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        database = self._bank.client()
        await asyncio.gather(*(self._one(database, number) for number in range(self._tasks)))
        await database.close()

    async def _one(self, database: Database, seed: int) -> None:
        chance = random.Random(seed)
        while not self._stop.is_set():
            # Always in one order: two that wait for each other on two servers are seen by neither.
            a, b = sorted(chance.sample(range(self._accounts), 2))
            amount = chance.randint(-50, 50)
            try:
                async with database.transaction(a, b) as (x, y):
                    for connection, key, change in ((x, a, -amount), (y, b, amount)):
                        await connection.execute(
                            "UPDATE accounts SET balance = balance + $2 WHERE customer_id = $1", key, change
                        )
                        await connection.execute(
                            "INSERT INTO entries (customer_id, amount) VALUES ($1, $2)", key, change
                        )
                self.done += 1
                await asyncio.sleep(0.003)
            except (DatabaseError, OSError) as error:
                self.failed.append(repr(error))
                await asyncio.sleep(0.01)
            except Exception as error:  # deadlocks between transfers of the same accounts
                if getattr(error, "sqlstate", None) not in ("40P01", "40001"):
                    self.failed.append(repr(error))


@contextmanager
def two_engines() -> Iterator[tuple[Place, dict[str, Server]]]:
    """Two servers that are gone afterwards."""
    with in_memory() as place:
        yield place, {name: place.start(f"orders.{name}")[0] for name in ("s1", "s2")}


_numbers = itertools.count()


def another(running: tuple[Place, dict[str, Server]], **more: Any) -> Bank:
    """A system of its own, laid out and empty."""
    place, servers = running
    found = Bank(place.folder, servers, f"bank{next(_numbers)}", **more)
    found.create()
    return found


@contextmanager
def small_disk(folder: Path, size: str, mode: str = "755") -> Iterator[Path]:
    """A disk of its own. Skips where nobody may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
