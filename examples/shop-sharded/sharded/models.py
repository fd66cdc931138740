"""Two tables of `main` more than the plain shop has."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shop.models import OrderId, Table
from sqlalchemy import JSON, DateTime, ForeignKey, String, func
from sqlalchemy.orm import Mapped, mapped_column


class Reservation(Table):
    """Stock that has been taken for an order, until the order is known to be on its shard or not to come."""

    __tablename__ = "reservations"

    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(80), primary_key=True)
    reference: Mapped[str] = mapped_column(String(32))
    lines: Mapped[list[list[int]]] = mapped_column(JSON)  # product, quantity, price in cents

    @property
    def total_cents(self) -> int:
        """What the order costs."""
        return sum(quantity * price_cents for _product, quantity, price_cents in self.lines)


class OrderNews(Table):
    """What the event stream tells of an order."""

    __tablename__ = "order_news"

    id: Mapped[int] = mapped_column(OrderId, primary_key=True)
    total_cents: Mapped[int]
    items: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    def told(self) -> Mapping[str, Any]:
        """As `shop.live.order_news` tells of an order; the number is that of the news."""
        placed_at = self.created_at.isoformat()
        return {"id": self.id, "total_cents": self.total_cents, "items": self.items, "placed_at": placed_at}
