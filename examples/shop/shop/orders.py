"""Placing an order: all of it or nothing, once, and never more than there is."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from shop.database import Database
from shop.models import Customer, Order, OrderLine, Product

LINES_MAX = 20
QUANTITY_MAX = 99


class OrderRefused(Exception):
    """The order cannot be placed; nothing was changed."""


class UnknownProduct(OrderRefused):
    """A line names a product that does not exist."""


class OutOfStock(OrderRefused):
    """There is less of a product than was asked for."""


class KeyReused(OrderRefused):
    """The idempotency key belongs to an earlier order of this customer with other lines."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The order, and whether this call made it."""

    order: Order
    created: bool


def place_order(database: Database, email: str, quantities: Mapping[int, int], key: str) -> Placed:
    """Place one order in one transaction. With the same e-mail and `key` again: the order that was placed then.

    Every transaction locks in the same order (customer, key, products by number), so no two can wait for each other.
    """
    with database.writing() as session:
        customer = _customer(session, email)
        order = Order(reference=secrets.token_hex(12), customer=customer, idempotency_key=key, total_cents=0, lines=[])
        try:
            with session.begin_nested():
                session.add(order)
        except IntegrityError:
            # A second submit waits in the insert above until the first one has committed, then arrives here.
            return Placed(_same_order(session, customer, quantities, key), created=False)
        for product in _locked_products(session, quantities):
            quantity = quantities[product.id]
            if product.stock < quantity:
                raise OutOfStock(f"Only {product.stock} of {product.name} left.")
            product.stock -= quantity
            order.lines.append(OrderLine(product=product, quantity=quantity, price_cents=product.price_cents))
            order.total_cents += quantity * product.price_cents
        session.flush()
        session.refresh(order)
        return Placed(order, created=True)


def by_key(session: Session, email: str, key: str) -> Order | None:
    """The order that this customer placed with this key, if there is one."""
    return session.scalar(
        select(Order).join(Order.customer).where(Customer.email == email, Order.idempotency_key == key)
    )


def by_reference(session: Session, reference: str) -> Order | None:
    """The order with this name in its address."""
    return session.scalar(select(Order).where(Order.reference == reference))


def of_customer(session: Session, email: str, count_max: int = 100) -> list[Order]:
    """The customer's latest orders, newest first."""
    rows = select(Order).join(Order.customer).where(Customer.email == email).order_by(Order.id.desc()).limit(count_max)
    return list(session.scalars(rows))


def _customer(session: Session, email: str) -> Customer:
    known = select(Customer).where(Customer.email == email)
    if (customer := session.scalar(known)) is not None:
        return customer
    try:
        with session.begin_nested():
            session.add(customer := Customer(email=email))
        return customer
    except IntegrityError:  # somebody with this e-mail ordered for the first time in the same moment
        return session.scalars(known).one()


def _locked_products(session: Session, quantities: Mapping[int, int]) -> list[Product]:
    rows = select(Product).where(Product.id.in_(quantities)).order_by(Product.id).with_for_update()
    products = list(session.scalars(rows))
    if missing := set(quantities) - {product.id for product in products}:
        raise UnknownProduct(f"There is no product {min(missing)}.")
    return products


def _same_order(session: Session, customer: Customer, quantities: Mapping[int, int], key: str) -> Order:
    order = session.scalars(select(Order).where(Order.customer_id == customer.id, Order.idempotency_key == key)).one()
    if {line.product_id: line.quantity for line in order.lines} != dict(quantities):
        raise KeyReused("This Idempotency-Key was used for another order.")
    return order
