"""A sharded database on real servers, laid out by hand: what the app's client works on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from postgresql_place import Place, in_memory

from headway.model.sharding import (
    DATABASES_VARIABLE,
    MAP_CHANNEL,
    RUN_VARIABLE,
    ShardServer,
    TableKey,
    schema_name,
    spread,
)
from headway.sharding import settings
from headway.sharding.catalog import create_catalog
from headway.sharding.client.database import Database
from headway.sharding.client.place import Places
from headway.sharding.client.told import told
from headway.sharding.keys import shard_sql
from headway.sharding.postgresql import Server
from headway.sharding.url import without_password

CONNECT_S = 20  # what a connection may take in these tests, see `patient`
TABLES = """
CREATE TABLE "{schema}".orders (
    customer_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL DEFAULT '', count int NOT NULL DEFAULT 0,
    PRIMARY KEY (customer_id, id),
    CONSTRAINT headway_shard CHECK ({slot} = {shard})
);
"""


@dataclass
class Sharded:
    """`orders`, in `shards` schemas on two servers; the app's role owns nothing."""

    place: Place
    shards: int
    servers: dict[str, Server] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def admin(self, name: str) -> psycopg.Connection[tuple[object, ...]]:
        server = self.servers[name]
        return psycopg.connect(
            host=str(server.socket_folder),
            port=server.port,
            user=settings.SUPERUSER,
            dbname=server.database,
            autocommit=True,
        )

    def create(self) -> None:
        names = tuple(self.servers)
        owners = spread(self.shards, names)
        for name in names:
            with self.admin(name) as connection:
                role = self.servers[name].role
                for shard in [shard for shard, owner in enumerate(owners) if owner == name]:
                    self.make_shard(connection, shard, role)
        with self.admin(names[0]) as connection:
            servers = [ShardServer(name, without_password(server.url)) for name, server in self.servers.items()]
            keys = {"orders": TableKey("customer_id", "int")}
            create_catalog(connection, system="shop", database="orders", servers=servers, owners=owners, keys=keys)
            connection.execute(f"GRANT USAGE ON SCHEMA headway TO {role}")
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA headway TO {role}")
            connection.execute(f"GRANT INSERT, DELETE ON headway.decisions TO {role}")

    def make_shard(self, connection: psycopg.Connection[tuple[object, ...]], shard: int, role: str) -> None:
        schema = schema_name("orders", shard)
        slot = shard_sql("customer_id", self.shards, "int")
        connection.execute(f'CREATE SCHEMA "{schema}"')
        connection.execute(TABLES.format(schema=schema, slot=slot, shard=shard))  # type: ignore[arg-type]
        connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO {role}')  # type: ignore[arg-type]
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "{schema}" TO {role}')  # type: ignore[arg-type]

    def environ(self, **more: object) -> dict[str, str]:
        """What Headway would tell an app."""
        run = self.place.folder / "app"
        run.mkdir(mode=0o700, exist_ok=True)
        entry = {
            "kind": "sharded",
            "catalog": self.servers["s1"].url,
            "logins": {
                name: {"user": server.role, "password": server.password} for name, server in self.servers.items()
            },
            "active_max": 4,
            "by_code_point": True,
            **more,
        }
        return {DATABASES_VARIABLE: json.dumps({"orders": entry}), RUN_VARIABLE: str(run)}

    def database(self, **more: object) -> Database:
        """The app's view, as a process of its own would have it."""
        return Database("orders", Places(told("orders", self.environ(**more))))

    def tell(self, statement: str) -> None:
        """Change the catalog, as a move would."""
        with self.admin("s1") as connection, connection.transaction():
            connection.execute(statement)  # type: ignore[arg-type]
            connection.execute("UPDATE headway.catalog SET epoch = epoch + 1")
            connection.execute(f"SELECT pg_notify('{MAP_CHANNEL}', '')")


@contextmanager
def sharded(shards: int = 16, servers: int = 2) -> Iterator[Sharded]:
    """Servers that are gone afterwards."""
    with in_memory() as place:
        found = Sharded(place, shards)
        for number in range(1, servers + 1):
            found.servers[f"s{number}"], found.processes[f"s{number}"] = place.start(f"orders.s{number}")
        found.create()
        yield found


# What a transaction does that is to be seen at work: its beginning and its end, by the server's clock.
AT_WORK = "SELECT extract(epoch FROM clock_timestamp()), pg_sleep({}), extract(epoch FROM clock_timestamp())"


def at_once(spans: Iterable[tuple[float, float]]) -> int:
    """How many were at work at one moment, at most. Who looks at the server now and then sees one that has ended
    beside the one that followed it."""
    moments = sorted(moment for began_s, ended_s in spans for moment in ((began_s, 1), (ended_s, -1)))
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most
