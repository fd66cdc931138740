"""Reading products: search, paging, one product, the whole list for an export."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from shop.database import Database
from shop.models import Product

PER_PAGE = 12
PER_PAGE_MAX = 100
EXPORT_BATCH = 200


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search."""

    products: list[Product]
    total: int
    number: int
    per_page: int

    @property
    def last(self) -> int:
        """The number of the last page; an empty search has one, empty page."""
        return max(1, -(-self.total // self.per_page))


def search(session: Session, text: str = "", category: str = "", number: int = 1, per_page: int = PER_PAGE) -> Page:
    """Products whose name or description contains `text`, in the order of their numbers."""
    wanted = select(Product)
    if text:
        wanted = wanted.where(
            or_(Product.name.icontains(text, autoescape=True), Product.description.icontains(text, autoescape=True))
        )
    if category:
        wanted = wanted.where(Product.category == category)
    total = session.scalar(select(func.count()).select_from(wanted.subquery())) or 0
    rows = session.scalars(wanted.order_by(Product.id).offset((number - 1) * per_page).limit(per_page))
    return Page(list(rows), total, number, per_page)


def categories(session: Session) -> list[str]:
    """The names of all categories, sorted."""
    return list(session.scalars(select(Product.category).distinct().order_by(Product.category)))


def products_csv(database: Database) -> Iterator[str]:
    """All products as CSV, a batch at a time.

    Each batch is its own query, so that a reader on a slow line holds no connection while it reads.
    """
    yield _csv_row("id", "sku", "name", "category", "price_cents", "stock")
    last = 0
    while True:
        with database.reading() as session:
            rows = session.scalars(
                select(Product).where(Product.id > last).order_by(Product.id).limit(EXPORT_BATCH)
            ).all()
            batch = [_csv_row(p.id, p.sku, p.name, p.category, p.price_cents, p.stock) for p in rows]
        if not rows:
            return
        last = rows[-1].id
        yield "".join(batch)


def _csv_row(*values: object) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()
