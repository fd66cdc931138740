"""One shard on one of two real servers, writers that never stop, and an account of what they were promised."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from postgresql_place import Place, die_with_parent, in_memory, wait_for

from headway.model.sharding import FENCED, ShardServer, TableKey, schema_name, spread
from headway.sharding import layout, settings
from headway.sharding.catalog import create_catalog, read_map
from headway.sharding.move.mover import Mover
from headway.sharding.move.nouns import Bounds, MoveProgress, MoveResult, MoveServer
from headway.sharding.move.sessions import Connection
from headway.sharding.postgresql import Server
from headway.sharding.url import without_password

SHARD = 0
SCHEMA = schema_name("orders", SHARD)
# What a client meets of a move: it rolls back, reads the map again and repeats the whole transaction.
MOVED = {FENCED, "42501", "42P01", "3F000"}
KEPT = 10  # of each writer's rows in `queue`
TABLES = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, writer int NOT NULL, seq int NOT NULL,
                     note text NOT NULL DEFAULT '');
CREATE TABLE counts (writer int PRIMARY KEY, seq int NOT NULL);
CREATE TABLE queue (writer int, seq int, PRIMARY KEY (writer, seq));
CREATE INDEX events_by_writer ON events (writer, seq);
"""
CHILD = Path(__file__).with_name("move_child.py")


@dataclass
class Shop:
    """The servers, the catalog on the first of them, and the shard."""

    place: Place
    servers: dict[str, Server]
    processes: dict[str, subprocess.Popen[bytes]]
    told: list[MoveProgress] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    # Starts servers beside the test. It stays: a server dies with the thread that started it.
    nurse: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def way(self, name: str, database: str = "") -> str:
        """The administrator's connection string."""
        server = self.servers[name]
        return (
            f"host={server.socket_folder} port={server.port} user={settings.SUPERUSER} "
            f"dbname={database or server.database}"
        )

    def admin(self, name: str) -> Connection:
        return psycopg.connect(self.way(name), autocommit=True)

    @property
    def move_servers(self) -> dict[str, MoveServer]:
        return {
            name: MoveServer(name, self.way(name), self.way(name), server.role) for name, server in self.servers.items()
        }

    def mover(self, **bounds: Any) -> Mover:
        self.stop = threading.Event()
        return Mover(
            "orders",
            self.way("s1"),
            self.move_servers,
            progress=self.told.append,
            stop=self.stop,
            bounds=Bounds(**bounds),
        )

    def owner(self) -> str:
        with self.admin("s1") as catalog:
            return read_map(catalog).owners[SHARD]

    def other(self) -> str:
        return "s2" if self.owner() == "s1" else "s1"

    def move(self, **bounds: Any) -> MoveResult:
        """There, or back."""
        mover = self.mover(**bounds)
        return mover.resume(mover.begin(SHARD, self.other()))

    def create(self) -> None:
        self.make_shard("s1")
        with self.admin("s1") as catalog:
            servers = [ShardServer(name, without_password(server.url)) for name, server in self.servers.items()]
            create_catalog(
                catalog,
                system="shop",
                database="orders",
                servers=servers,
                owners=spread(1, ("s1",)),
                keys={"events": TableKey("writer", "int")},
            )
            role = self.servers["s1"].role
            catalog.execute(f"GRANT USAGE ON SCHEMA headway TO {role}")  # type: ignore[arg-type]
            catalog.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA headway TO {role}")  # type: ignore[arg-type]

    def make_shard(self, name: str) -> None:
        with self.admin(name) as admin, admin.transaction():
            admin.execute(layout.create_shard(SCHEMA))  # type: ignore[arg-type]
            admin.execute(f'SET LOCAL search_path = "{SCHEMA}"')  # type: ignore[arg-type]
            admin.execute(TABLES)
            admin.execute(layout.grant(SCHEMA, self.servers[name].role))  # type: ignore[arg-type]

    def fill(self, rows: int) -> None:
        with self.admin(self.owner()) as admin:
            admin.execute(
                f'INSERT INTO "{SCHEMA}".events (writer, seq, note) '  # type: ignore[arg-type]
                "SELECT -1, n, repeat(md5(n::text), 3) FROM generate_series(1, %s) n",
                (rows,),
            )
            admin.execute(f'ANALYZE "{SCHEMA}".events')  # type: ignore[arg-type]

    def kill(self, name: str) -> None:
        """As a power cut would, but for the disk; then start it again."""
        process = self.processes[name]
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        self.start_again(name)

    def start_again(self, name: str) -> None:
        self.processes[name] = self.place.start_again(self.servers[name])

    def child(self, *arguments: str) -> subprocess.Popen[str]:
        """A mover in a process of its own."""
        told = {
            "catalog": self.way("s1"),
            "servers": {
                name: {"name": one.name, "admin": one.admin, "replication": one.replication, "app_role": one.app_role}
                for name, one in self.move_servers.items()
            },
        }
        return subprocess.Popen(
            [sys.executable, str(CHILD), json.dumps(told), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=die_with_parent(),
        )

    def condition(self) -> str:
        """What both servers are at, for a move that hangs."""
        told = [str(self.told[-1:])]
        for name in self.servers:
            with self.admin(name) as admin:
                for question in (
                    "SELECT pid, application_name, backend_type, state, wait_event, xact_start, left(query, 90) "
                    "FROM pg_stat_activity WHERE backend_type NOT IN ('checkpointer', 'walwriter')",
                    "SELECT slot_name, active_pid, restart_lsn, confirmed_flush_lsn, xmin, catalog_xmin "
                    "FROM pg_replication_slots",
                    "SELECT srrelid::regclass, srsubstate, srsublsn FROM pg_subscription_rel",
                    "SELECT * FROM pg_stat_subscription",
                    "SELECT locktype, relation::regclass, transactionid, mode, pid FROM pg_locks WHERE NOT granted",
                    "SELECT * FROM pg_prepared_xacts",
                ):
                    told += [f"{name}: {row}" for row in admin.execute(question).fetchall()]
        return "\n".join([*told, self.place.log.read_text()[-3000:]])

    def leftovers(self) -> list[str]:
        """What a move may not leave behind, on either server."""
        found: list[str] = []
        for name in self.servers:
            with self.admin(name) as admin:
                rows = admin.execute(
                    "SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL "
                    "SELECT 'publication ' || pubname FROM pg_publication UNION ALL "
                    "SELECT 'subscription ' || subname FROM pg_subscription UNION ALL "
                    "SELECT 'origin ' || roname FROM pg_replication_origin UNION ALL "
                    "SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE 'headway%' UNION ALL "
                    "SELECT 'function ' || proname FROM pg_proc WHERE proname LIKE 'headway_fence%' UNION ALL "
                    "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE '%moved%' UNION ALL "
                    "SELECT 'comment ' || description FROM pg_description WHERE description LIKE 'headway:%'"
                ).fetchall()
                found += [f"{name}: {row[0]}" for row in rows]
                if name != self.owner():
                    there = admin.execute("SELECT to_regnamespace(%s)", (SCHEMA,)).fetchone()
                    found += [f"{name}: schema {SCHEMA}"] if there != (None,) else []
        with self.admin("s1") as catalog:
            found += [f"fenced {row}" for row in catalog.execute("SELECT shard FROM headway.shard_map WHERE fenced")]
            found += [
                f"open move {row}" for row in catalog.execute("SELECT id FROM headway.moves WHERE ended_at IS NULL")
            ]
        return found


@contextmanager
def shop() -> Iterator[Shop]:
    """Servers that are gone afterwards."""
    with in_memory() as place:
        found = Shop(place, {}, {})
        for name in ("s1", "s2"):
            found.servers[name], found.processes[name] = place.start(f"orders.{name}")
        found.create()
        yield found


@dataclass
class Writer:
    """A client that follows the rule, and keeps an account: `acked` is what it was promised, in order."""

    shop: Shop
    number: int
    pause_s: float = 0.0  # between two transactions
    server: str = ""  # as of the map read last
    acked: int = 0
    repeated: int = 0
    worst_gap_s: float = 0.0
    faults: list[str] = field(default_factory=list)

    def live(self, stopping: threading.Event) -> None:
        """A client that ends before it is told to is a fault."""
        try:
            self.run(stopping)
        except Exception as error:
            self.faults.append(f"writer {self.number} has ended: {error!r}")

    def run(self, stopping: threading.Event) -> None:
        """Write until told to stop, and then until it is known what became of the last write."""
        last_s = time.monotonic()
        catalog: Connection | None = None
        connections: dict[str, Connection] = {}
        unsure = False
        while unsure or not stopping.is_set():
            server = ""
            try:
                if catalog is None:
                    catalog = psycopg.connect(self.shop.servers["s1"].url, autocommit=True, connect_timeout=20)
                    server = self._server(catalog)
                server = server or self.server or self._server(catalog)
                if server not in connections:
                    connections[server] = psycopg.connect(
                        self.shop.servers[server].url, options=f"-c search_path={SCHEMA}", connect_timeout=20
                    )
                connection = connections[server]
                if unsure:
                    # The server died at the commit: only it knows.
                    self.acked = max(self.acked, self._known(connection))
                    unsure = False
                    continue
                self._transaction(connection, self.acked + 1)
                unsure = True
                connection.commit()
                unsure = False
                self.acked += 1
                now_s = time.monotonic()
                self.worst_gap_s, last_s = max(self.worst_gap_s, now_s - last_s), now_s
                if self.pause_s:
                    stopping.wait(self.pause_s)
            except psycopg.Error as error:
                code = error.sqlstate or ""
                self.server = ""
                if code in MOVED:
                    self.repeated += 1
                    try:
                        connections[server].rollback()
                    except psycopg.OperationalError:  # it died since
                        connections.pop(server).close()
                elif isinstance(error, psycopg.OperationalError):
                    for broken in (catalog, *connections.values()):
                        if broken is not None:
                            broken.close()
                    catalog, connections = None, {}
                    time.sleep(0.02)
                else:
                    self.faults.append(f"{code} {error}")
                    return
        for opened in (catalog, *connections.values()):
            if opened is not None:
                opened.close()

    def _server(self, catalog: Connection) -> str:
        """By the map; while the shard is about to be handed over a client waits, a second at most."""
        deadline_s = time.monotonic() + 1
        while True:
            row = catalog.execute("SELECT server, fenced FROM headway.shard_map WHERE shard = %s", (SHARD,)).fetchone()
            assert row is not None
            if not row[1] or time.monotonic() > deadline_s:
                self.server = str(row[0])
                return self.server
            time.sleep(0.005)

    def _known(self, connection: Connection) -> int:
        row = connection.execute("SELECT seq FROM counts WHERE writer = %s", (self.number,)).fetchone()
        connection.rollback()
        return int(row[0]) if row else 0  # type: ignore[call-overload]

    def _transaction(self, connection: Connection, seq: int) -> None:
        row = connection.execute("SELECT seq FROM counts WHERE writer = %s", (self.number,)).fetchone()
        seen = int(row[0]) if row else 0  # type: ignore[call-overload]
        if seen != self.acked:
            self.faults.append(f"writer {self.number} was promised {self.acked} and sees {seen}")
        connection.execute("INSERT INTO events (writer, seq) VALUES (%s, %s)", (self.number, seq))
        connection.execute(
            "INSERT INTO counts VALUES (%s, %s) ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq",
            (self.number, seq),
        )
        connection.execute("INSERT INTO queue VALUES (%s, %s)", (self.number, seq))
        connection.execute("DELETE FROM queue WHERE writer = %s AND seq <= %s", (self.number, seq - KEPT))


@contextmanager
def writing(shop: Shop, writers: int = 4, pause_s: float = 0.0) -> Iterator[list[Writer]]:
    """Writers at work; afterwards every one of them has what it was promised, once, and nothing else."""
    stopping = threading.Event()
    with shop.admin(shop.owner()) as admin:
        for table in ("events", "counts", "queue"):
            admin.execute(f'DELETE FROM "{SCHEMA}".{table} WHERE writer >= 0')  # type: ignore[arg-type]
    clients = [Writer(shop, number, pause_s) for number in range(writers)]
    threads = [threading.Thread(target=client.live, args=(stopping,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: all(client.acked for client in clients), "every writer writes")
        yield clients
    finally:
        stopping.set()
        for thread in threads:
            thread.join(100)
    assert not any(thread.is_alive() for thread in threads)
    audit(shop, clients)


def audit(shop: Shop, clients: list[Writer]) -> None:
    """Compare the account with the rows."""
    assert [client.faults for client in clients if client.faults] == []
    with shop.admin(shop.owner()) as admin:
        for client in clients:
            kept = [
                row[0]
                for row in admin.execute(
                    f'SELECT seq FROM "{SCHEMA}".events WHERE writer = %s ORDER BY seq',
                    (client.number,),  # type: ignore[arg-type]
                )
            ]
            assert kept == list(range(1, client.acked + 1)), f"writer {client.number}: {client.acked} acknowledged"
            queue = [
                row[0]
                for row in admin.execute(
                    f'SELECT seq FROM "{SCHEMA}".queue WHERE writer = %s ORDER BY seq',
                    (client.number,),  # type: ignore[arg-type]
                )
            ]
            assert queue == list(range(max(1, client.acked - KEPT + 1), client.acked + 1))
