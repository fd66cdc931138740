"""What is asked of the shard of a customer. Until the switch of the import all of them are in `main`."""

from __future__ import annotations

from anyio import from_thread
from shop.models import Order, OrderLine
from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, lazyload, selectinload

from headway import database
from sharded.models import Reservation

orders = database("orders")
# What belongs to an order but stays in `main` is not joined on the shard.
ORDERS = select(Order).options(lazyload(Order.customer), selectinload(Order.lines).options(lazyload(OrderLine.product)))


def orders_of(customer_id: int, *wanted: ColumnElement[bool], count_max: int = 1) -> list[Order]:
    """Orders of a customer, newest first; their customer and products are not with them."""

    def read(shard: Session) -> list[Order]:
        rows = ORDERS.where(Order.customer_id == customer_id, *wanted).order_by(Order.id.desc()).limit(count_max)
        return list(shard.scalars(rows))

    return orders.sqlalchemy.run(customer_id, read)


def write_order(reserved: Reservation) -> Order:
    """Place the order that the stock was taken for."""

    def write(shard: Session) -> Order:
        lines = [OrderLine(product_id=p, quantity=quantity, price_cents=price) for p, quantity, price in reserved.lines]
        order = Order(
            reference=reserved.reference,
            customer_id=reserved.customer_id,
            idempotency_key=reserved.idempotency_key,
            total_cents=reserved.total_cents,
            lines=lines,
        )
        shard.add(order)
        shard.flush()
        return order

    return orders.sqlalchemy.run(reserved.customer_id, write)


def order_after_all(reserved: Reservation) -> Order | None:
    """The order that was placed with this key, when whoever was to write it is gone.

    It is asked for by an INSERT that is taken back. That waits for one which is being committed just now, and where
    the orders have left a moment ago it is refused and done again at their new place. A SELECT does neither.
    """

    same = {"customer_id": reserved.customer_id, "idempotency_key": reserved.idempotency_key}

    def look(shard: Session) -> Order | None:
        try:
            with shard.begin_nested() as attempt:
                shard.execute(insert(Order).values(reference=reserved.reference, total_cents=0, **same))
                attempt.rollback()
        except IntegrityError:
            return shard.scalar(ORDERS.filter_by(**same))
        return None

    return orders.sqlalchemy.run(reserved.customer_id, look)


def customer_of(reference: str) -> int | None:
    """Whose order this is, by asking all shards at once. For the code in threads."""
    rows = from_thread.run(orders.everywhere, "SELECT customer_id FROM orders WHERE reference = $1", reference)
    return rows[0]["customer_id"] if rows else None
