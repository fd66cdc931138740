"""What changes while somebody watches: new orders for the event stream, stock for the WebSocket.

One task per process polls the database while it has listeners, however many they are. Polling sees what every other
process does, needs no connection of its own in between, and works on both databases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from shop.database import Database
from shop.models import Order, Product

POLL_S = 0.5
BACKLOG_MAX = 500  # news a listener may be behind before it is let go
ORDERS_MAX = 200
ORDERS_LATE = 50

log = logging.getLogger("shop.live")

News = dict[str, Any]


class Feed:
    """Hands what `poll` finds to everybody who listens. A listener that falls too far behind gets None, the end."""

    def __init__(self, source: Callable[[], Callable[[], list[News]]]) -> None:
        self._source = source  # reads how things are and makes a poll function for what comes after
        self._listeners: set[asyncio.Queue[News | None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[asyncio.Queue[News | None]]:
        """A queue of news from now on; None means that no more will come."""
        queue: asyncio.Queue[News | None] = asyncio.Queue(BACKLOG_MAX)
        self._listeners.add(queue)
        try:
            async with self._starting:
                if self._task is None:
                    self._task = asyncio.create_task(self._run(await run_in_threadpool(self._source)))
            yield queue
        finally:
            self._listeners.discard(queue)
            if not self._listeners:
                await self.close()

    async def close(self) -> None:
        """Stop polling and end every listener."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        for queue in list(self._listeners):
            self._end(queue)

    async def _run(self, poll: Callable[[], list[News]]) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                for news in await run_in_threadpool(poll):
                    for queue in list(self._listeners):
                        if queue.full():
                            self._end(queue)
                        else:
                            queue.put_nowait(news)
            except SQLAlchemyError as error:  # the database is away: the listeners wait with us
                log.warning("polling failed, trying again: %s", error)

    def _end(self, queue: asyncio.Queue[News | None]) -> None:
        self._listeners.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


def order_news(order: Order) -> News:
    """What the world may know about an order: how much, not whose."""
    return {
        "id": order.id,
        "total_cents": order.total_cents,
        "items": sum(line.quantity for line in order.lines),
        "placed_at": order.created_at.isoformat(),
    }


def orders_after(database: Database, order_id: int) -> list[News]:
    """News of the orders with higher numbers, oldest first."""
    with database.reading() as session:
        rows = select(Order).where(Order.id > order_id).order_by(Order.id).limit(ORDERS_MAX)
        return [order_news(order) for order in session.scalars(rows)]


def new_orders(database: Database) -> Callable[[], list[News]]:
    """A poll function for the orders that are placed from now on.

    Numbers are given out before the commit, so a lower one may appear after a higher one: the last ORDERS_LATE are
    looked at again.
    """
    with database.reading() as session:
        highest = session.scalar(select(func.max(Order.id))) or 0
    told = {news["id"] for news in orders_after(database, highest - ORDERS_LATE)}

    def poll() -> list[News]:
        nonlocal highest, told
        recent = orders_after(database, highest - ORDERS_LATE)
        found = [news for news in recent if news["id"] not in told]
        highest = max([highest, *(news["id"] for news in found)])
        told = {news["id"] for news in recent}
        return found

    return poll


def stock_of(database: Database, product_ids: list[int]) -> list[News]:
    """The stock of these products now."""
    with database.reading() as session:
        rows = session.execute(
            select(Product.id, Product.stock).where(Product.id.in_(product_ids)).order_by(Product.id)
        )
        return [{"product_id": product_id, "stock": stock} for product_id, stock in rows]


def stock_changes(database: Database) -> Callable[[], list[News]]:
    """A poll function for the products whose stock differs from the call before."""
    before = _stocks(database)

    def poll() -> list[News]:
        nonlocal before
        now = _stocks(database)
        changed = [product_id for product_id, stock in now.items() if before.get(product_id) != stock]
        before = now
        return [{"product_id": product_id, "stock": now[product_id]} for product_id in changed]

    return poll


def _stocks(database: Database) -> dict[int, int]:
    with database.reading() as session:
        return dict(session.execute(select(Product.id, Product.stock)).tuples().all())
