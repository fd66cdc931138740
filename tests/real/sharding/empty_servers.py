"""Servers with an empty database, as Headway gets to them, and what is on them."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg.conninfo import make_conninfo

from headway.sharding import settings
from headway.sharding.admin import AdminServer, connect
from headway.sharding.postgresql import Server


def empty_servers(engines: Sequence[Server], database: str) -> tuple[AdminServer, ...]:
    """Each with an empty database of this name."""
    found = []
    for number, engine in enumerate(engines, 1):
        way = {"host": str(engine.socket_folder), "port": engine.port, "user": settings.SUPERUSER}
        with psycopg.connect(**way, dbname="postgres", autocommit=True) as admin:  # type: ignore[arg-type]
            admin.execute(f"CREATE DATABASE {database} OWNER {engine.role}")  # type: ignore[call-overload]
        admin_way = make_conninfo(**way, dbname=database)  # type: ignore[arg-type]
        found.append(
            AdminServer(
                name=f"s{number}",
                admin=admin_way,
                replication=admin_way,
                url=f"postgresql://{engine.role}@127.0.0.1:{engine.port}/{database}",
                role=engine.role,
                owner=settings.SUPERUSER,
                database=database,
                is_ours=True,
            )
        )
    return tuple(found)


def schemas(server: AdminServer) -> list[str]:
    """The shards that are on a server."""
    with connect(server) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^orders_' ORDER BY 1").fetchall()
    return [str(row[0]) for row in rows]
