"""The tables, as SQLAlchemy sees them; schema.sql, which makes a PostgreSQL database, says the same."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, DateTime, ForeignKey, Integer, String, Text, UniqueConstraint, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# SQLite numbers rows by itself for a column of type INTEGER only.
OrderId = BigInteger().with_variant(Integer(), "sqlite")


class Table(DeclarativeBase):
    """The shop's tables."""


class Product(Table):
    """Something to sell; `stock` never falls below zero."""

    __tablename__ = "products"
    __table_args__ = (CheckConstraint("price_cents >= 0"), CheckConstraint("stock >= 0"))

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(String(120))
    category: Mapped[str] = mapped_column(String(40), index=True)
    description: Mapped[str] = mapped_column(Text)
    price_cents: Mapped[int]
    stock: Mapped[int]
    image: Mapped[str | None] = mapped_column(String(120))


class Customer(Table):
    """Somebody who ordered, known by e-mail."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Order(Table):
    """A placed order. `reference` is the random name in its address: who knows it may read the order."""

    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("total_cents >= 0"), UniqueConstraint("customer_id", "idempotency_key"))

    id: Mapped[int] = mapped_column(OrderId, primary_key=True)
    reference: Mapped[str] = mapped_column(String(32), unique=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    idempotency_key: Mapped[str] = mapped_column(String(80))
    total_cents: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    customer: Mapped[Customer] = relationship(lazy="joined", innerjoin=True)
    lines: Mapped[list[OrderLine]] = relationship(lazy="selectin", order_by="OrderLine.product_id")


class OrderLine(Table):
    """So many of one product at the price of that day."""

    __tablename__ = "order_lines"
    __table_args__ = (CheckConstraint("quantity > 0"), CheckConstraint("price_cents >= 0"))

    order_id: Mapped[int] = mapped_column(OrderId, ForeignKey("orders.id", ondelete="CASCADE"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), primary_key=True, index=True)
    quantity: Mapped[int]
    price_cents: Mapped[int]
    product: Mapped[Product] = relationship(lazy="joined", innerjoin=True)
