"""The engine and its two kinds of transaction.

PostgreSQL is the database; SQLite is there so that the shop starts without one, and is made from the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select, text
from sqlalchemy.orm import Session

from shop.models import Product, Table
from shop.settings import ROOT

# Each process keeps up to this many connections: replicas x 10 must stay below the server's max_connections.
POOL_SIZE = 5
POOL_OVERFLOW = 5
POOL_TIMEOUT_S = 10
SQLITE_BUSY_S = 30


class Database:
    """One engine with its pool; connects when first used."""

    def __init__(self, url: str) -> None:
        self.engine = _sqlite_engine(url) if url.startswith("sqlite") else _postgresql_engine(url)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A short transaction that only reads."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits at the end of the block, or rolls back when the block raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection(execution_options={"shop_writes": True})
            yield session

    def answers(self) -> bool:
        """True when a query comes back; raises what the driver raises otherwise."""
        with self.reading() as session:
            return bool(session.scalar(text("select 1")) == 1)

    def prepare(self) -> None:
        """Make and seed the SQLite file if it is new. PostgreSQL is prepared by schema.sql, not by the app."""
        if self.engine.dialect.name != "sqlite":
            return
        with self.writing() as session:  # the write lock makes one of several starting processes do it
            connection = session.connection()
            Table.metadata.create_all(connection)
            if session.scalar(select(func.count(Product.id))) == 0:
                seed = (ROOT / "schema.sql").read_text().partition("-- Seed\n")[2]
                connection.exec_driver_sql(seed)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def _postgresql_engine(url: str) -> Engine:
    # Platforms hand out postgres:// and postgresql://; both mean "any driver", ours is psycopg 3.
    given = make_url(url)
    return create_engine(
        given.set(drivername="postgresql+psycopg"),
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,  # a restarted database costs one extra round trip instead of a failed request
    )


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW, connect_args={"timeout": SQLITE_BUSY_S}
    )

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("pragma foreign_keys = on")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # SQLite has no row locks: a transaction that will write takes the whole file at its start instead.
        writes = connection.get_execution_options().get("shop_writes", False)
        connection.exec_driver_sql("begin immediate" if writes else "begin")

    return engine
