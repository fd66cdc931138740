"""Orders by their customer: an order and its lines are on the customer's shard, all else stays in `main`.

These four functions take the place of those in `shop.orders`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from shop import orders as plain
from shop.database import Database
from shop.models import Customer, Order, Product
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from sharded import reservations, shards

TRIES_MAX = 5


def place_order(main: Database, email: str, quantities: Mapping[int, int], key: str) -> plain.Placed:
    """Take the stock in `main`, then write the order on its shard. With the same e-mail and `key` again: that order."""
    with main.writing() as session:
        customer = plain._customer(session, email)
    for _ in range(TRIES_MAX):
        for earlier in shards.orders_of(customer.id, Order.idempotency_key == key):
            return _same(main, customer, earlier, quantities)
        reserved = reservations.reserve(main, customer.id, key, quantities)
        if reserved is None:  # a second submit: waits here until the first one has ended, however it does
            reservations.settle(main, customer.id, key)
            continue
        order = reservations.write(main, reserved)
        if order is not None and order.reference != reserved.reference:
            return _same(main, customer, order, quantities)
        if order is not None:
            return plain.Placed(_completed(main, customer, order), created=True)
    raise plain.OrderRefused("The same order is being placed elsewhere. Try again.")


def by_key(session: Session, email: str, key: str) -> Order | None:
    """The order that this customer placed with this key, if there is one."""
    customer = _by_email(session, email)
    found = [] if customer is None else shards.orders_of(customer.id, Order.idempotency_key == key)
    return next(iter(_complete(session, customer, found)), None)


def by_reference(session: Session, reference: str) -> Order | None:
    """The order with this name in its address; those of the plain shop do not say whose they are."""
    says_whose = re.match(r"(\d{1,9})-", reference)
    customer_id = int(says_whose[1]) if says_whose else shards.customer_of(reference)
    customer = None if customer_id is None else session.get(Customer, customer_id)
    found = [] if customer is None else shards.orders_of(customer.id, Order.reference == reference)
    return next(iter(_complete(session, customer, found)), None)


def of_customer(session: Session, email: str, count_max: int = 100) -> list[Order]:
    """The customer's latest orders, newest first."""
    customer = _by_email(session, email)
    found = [] if customer is None else shards.orders_of(customer.id, count_max=count_max)
    return _complete(session, customer, found)


def _by_email(session: Session, email: str) -> Customer | None:
    return session.scalar(select(Customer).where(Customer.email == email))


def _same(main: Database, customer: Customer, order: Order, quantities: Mapping[int, int]) -> plain.Placed:
    if {line.product_id: line.quantity for line in order.lines} != dict(quantities):
        raise plain.KeyReused("This Idempotency-Key was used for another order.")
    return plain.Placed(_completed(main, customer, order), created=False)


def _completed(main: Database, customer: Customer, order: Order) -> Order:
    with main.reading() as session:
        return _complete(session, customer, [order])[0]


def _complete(session: Session, customer: Customer | None, orders: Iterable[Order]) -> list[Order]:
    """The orders of a customer, with this customer and the products, which are in `main`."""
    orders = list(orders)
    wanted = {line.product_id for order in orders for line in order.lines}
    products = {product.id: product for product in session.scalars(select(Product).where(Product.id.in_(wanted)))}
    for order in orders:
        set_committed_value(order, "customer", customer)
        for line in order.lines:
            set_committed_value(line, "product", products[line.product_id])
    return orders
