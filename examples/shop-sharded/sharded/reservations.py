"""Stock and order are in two databases, which have no transaction in common: how neither stays without the other.

The stock is taken in `main` together with a row of `reservations`. Whoever writes the order then keeps this row locked;
when that process dies, PostgreSQL opens the lock. So a row that nobody holds is nobody's work any more, and whoever
finds it settles it: either its order is on the shard, or the stock goes back. That is the second submit of the same
form, or `sweep`.

What this does not cover: `main` is restarted while an order is being written, and somebody settles it before it is.
Then the order is there and its stock was given back.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from shop import orders as plain
from shop.database import Database
from shop.models import Order, Product
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sharded import shards
from sharded.models import OrderNews, Reservation

SWEPT_MAX = 1000
NEWS_KEPT = timedelta(days=1)


def reserve(main: Database, customer_id: int, key: str, quantities: Mapping[int, int]) -> Reservation | None:
    """Take the stock of all lines, or raise OrderRefused. None: there is a reservation with this key already."""
    # Who has the reference finds the shard: it begins with the customer's number.
    reference = f"{customer_id}-{secrets.token_hex(10)}"
    reserved = Reservation(customer_id=customer_id, idempotency_key=key, reference=reference, lines=[])
    with main.writing() as session:
        try:
            with session.begin_nested():
                session.add(reserved)
        except IntegrityError:
            return None
        lines = []
        for product in plain._locked_products(session, quantities):
            quantity = quantities[product.id]
            if product.stock < quantity:
                raise plain.OutOfStock(f"Only {product.stock} of {product.name} left.")
            product.stock -= quantity
            lines.append([product.id, quantity, product.price_cents])
        reserved.lines = lines
    return reserved


def write(main: Database, reserved: Reservation) -> Order | None:
    """Write the order on its shard, and end the reservation. None: somebody has settled it just before."""
    customer_id, key = reserved.customer_id, reserved.idempotency_key
    try:
        with main.writing() as session:
            held = _locked(session, customer_id, key)
            if held is None or held.reference != reserved.reference:
                return None
            order = shards.write_order(held)
            _end(session, held, order)
            return order
    except Exception:
        # The order may be there all the same, or another one with this key.
        settle(main, customer_id, key)
        for found in shards.orders_of(customer_id, Order.idempotency_key == key):
            return found
        raise


def settle(main: Database, customer_id: int, key: str) -> None:
    """End a reservation, if it is there, as soon as nobody holds it."""
    with main.writing() as session:
        held = _locked(session, customer_id, key)
        if held is not None:
            _end(session, held, shards.order_after_all(held))


def sweep(main: Database) -> None:
    """Settle what those have left who died, and forget old news."""
    with main.reading() as session:
        free = select(Reservation.customer_id, Reservation.idempotency_key).with_for_update(skip_locked=True)
        found = session.execute(free.limit(SWEPT_MAX)).tuples().all()
    for customer_id, key in found:
        settle(main, customer_id, key)
    with main.writing() as session:
        session.execute(delete(OrderNews).where(OrderNews.created_at < datetime.now(UTC) - NEWS_KEPT))


def _locked(session: Session, customer_id: int, key: str) -> Reservation | None:
    return session.get(Reservation, (customer_id, key), with_for_update=True)


def _end(session: Session, held: Reservation, order: Order | None) -> None:
    """The stock is the order's, or goes back when another one or none was placed with this key."""
    if order is not None and order.reference == held.reference:
        items = sum(quantity for _product, quantity, _price in held.lines)
        session.add(OrderNews(total_cents=held.total_cents, items=items))
    else:
        for product_id, quantity, _price in held.lines:  # in the order of their numbers, as they were taken
            given_back = update(Product).where(Product.id == product_id)
            session.execute(given_back.values(stock=Product.stock + quantity))
    session.delete(held)
